"""`betadiffusion app`: the explorer in a browser."""

import errno
import os
import socket
from pathlib import Path

from betadiffusion.cli.loading import load_pipeline


def app(runs: tuple[Path, ...], *, port: int = 7860, host: str = "127.0.0.1") -> None:
    """Open a trained run in the browser: its dial, edits, interpolations, new images, and a comparison with others.

    It needs gradio: pip install "betadiffusion[app]".

    Args:
        runs: folders of runs; the first has the tabs, any two can be compared.
        port: to listen on.
        host: address to listen on; the default is for this machine alone, 0.0.0.0 is for the whole network, without a
            password.
    """
    if not runs:
        raise ValueError("a run is missing: give the folder of one, or of several to compare")
    if len(set(runs)) < len(runs):
        raise ValueError("a run is given twice")
    if not 1 <= port <= 65535:
        raise ValueError(f"--port must be from 1 to 65535, not {port}")
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise ValueError('the explorer needs gradio: pip install "betadiffusion[app]"')
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        another = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise ValueError(f"port {port} of {host} cannot be had ({error.strerror}): give another {another}") from None
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a text encoder is at hand since training; nothing is fetched
    pipelines = [(run, load_pipeline(run)) for run in runs]
    from betadiffusion.app.server import serve

    serve(pipelines, host, port)

"""Serves the explorer on one machine: nothing is fetched from elsewhere, and files only from a folder of its own."""

import os
import re
import signal
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline

LOCAL = ("127.0.0.1", "localhost", "::1")

# What the page asks for. gradio serves more (recordings, proxies, its own editor), which is refused.
SERVED = re.compile(
    r"/(gradio_api/(queue/(join|data)|cancel|upload|upload_progress|heartbeat/\w+|startup-events|reset|app_id|info|"
    r"call/[\w-]+(/\w+)?|file=.*)|config|theme\.css|manifest\.json|favicon\.ico|(static|assets|svelte)/.*)?"
)


class OnlyServed:
    """ASGI middleware: 404 for paths outside `SERVED`."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes on what is served."""
        from starlette.responses import PlainTextResponse

        served = scope["type"] != "http" or SERVED.fullmatch(scope["path"])
        app = self.app if served else PlainTextResponse("not found", 404)
        await app(scope, receive, send)


def serve(runs: Sequence[tuple[Path, BetaDiffusionPipeline]], host: str, port: int) -> None:
    """Serves the runs until Ctrl-C or SIGTERM."""
    for _, pipeline in runs:
        pipeline.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory(prefix="betadiffusion-") as folder:
        settings = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
        os.environ |= settings  # before gradio is imported
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        blocks, address = _launch(runs, host, port)
        print(f"the explorer: {address} (Ctrl-C ends it)", flush=True)
        try:
            stop.wait()
        except KeyboardInterrupt:
            pass
        finally:
            blocks.close(verbose=False)


def _launch(runs: Sequence[tuple[Path, BetaDiffusionPipeline]], host: str, port: int) -> tuple[Any, str]:
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from betadiffusion.app.page import Page
    from betadiffusion.app.runs import Run
    from betadiffusion.app.uploads import MOST_BYTES

    page = Page([Run(path, pipeline) for path, pipeline in runs])
    middleware = [Middleware(OnlyServed)]
    if host in LOCAL:  # no other name may lead here, whatever a foreign page makes of its own
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]"]))
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # the system's own
    theme = gr.themes.Default(primary_hue="blue", **fonts)
    try:
        _, address, _ = page.blocks.launch(
            server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, inbrowser=False, share=False,
            ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False, run_history=False, footer_links=[],
            allowed_paths=[], max_file_size=MOST_BYTES, state_session_capacity=1_000, theme=theme, css=page.css,
            app_kwargs={"middleware": middleware},
        )  # fmt: skip
    except OSError as error:  # another process was quicker
        raise ValueError(f"port {port} of {host} is in use by now: give another --port") from error
    return page.blocks, address

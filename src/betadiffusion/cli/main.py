"""The command `betadiffusion`: picks the command, runs it, and turns errors of use into one sentence.

Exit codes: 0 done, 1 training failed, 2 wrong use, 128 + n stopped by signal n.
"""

import ctypes
import difflib
import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence

from betadiffusion import __version__
from betadiffusion.cli import commands, compare, data, editing, explorer, features, parsing
from betadiffusion.training.errors import Interrupted, TrainingError

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": commands.demo,
    "train": commands.train,
    "sample": commands.sample,
    "reconstruct": commands.reconstruct,
    "directions": editing.directions,
    "edit": editing.edit,
    "interpolate": editing.interpolate,
    "evaluate": commands.evaluate,
    "compare": compare.compare,
    "probe": features.probe,
    "features": features.features,
    "report": commands.report,
    "data": data.data,
    "app": explorer.app,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line, without the program's name, and returns the exit code."""
    _keep_freed_memory()
    if argv is None:
        sys.path.append(os.getcwd())  # for package.module:function, as with python -m
    try:
        _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return 0
    except Interrupted as error:
        code, message = 128 + error.signal_number, str(error)
    except KeyboardInterrupt:
        code, message = 128 + signal.SIGINT, "interrupted"
    except TrainingError as error:
        code, message = 1, str(error)
    except BrokenPipeError:  # who reads what is printed has seen enough
        _print_no_more()
        return 128 + signal.SIGPIPE
    except OSError as error:
        code, message = 2, f"{error.filename or 'a file'} cannot be read or written ({error.strerror or error})"
    except ValueError as error:
        from betadiffusion.data import DataError

        if type(error) not in (ValueError, DataError):  # JSONDecodeError and the like come from a defect
            raise
        code, message = 2, str(error)
    except Exception as error:
        from safetensors import SafetensorError

        if not isinstance(error, SafetensorError):
            raise
        code, message = 2, f"a file cannot be read or written ({error})"
    try:
        sys.stdout.flush()
    except OSError:
        _print_no_more()
    print(f"betadiffusion: {message}", file=sys.stderr)
    return code


def _print_no_more() -> None:
    """Sends what is left to print nowhere, so that Python does not try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _keep_freed_memory() -> None:
    """Has glibc keep up to 1 GiB of freed memory: every training step wants the same blocks, and up to a tenth of its
    time on a CPU went into getting them back from the kernel, page by page. Nothing where the C library is another."""
    trim_threshold, mmap_threshold = -1, -3  # names of mallopt's parameters
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(trim_threshold, 2**30)
        for size in (2**25, 2**30):  # an older glibc refuses more than the first
            libc.mallopt(mmap_threshold, size)


def _run(argv: list[str]) -> None:
    if argv in (["-h"], ["--help"]):
        print(_overview())
    elif argv == ["--version"]:
        print(__version__)
    elif not argv:
        raise ValueError(f"a command is missing: {', '.join(COMMANDS)}; see betadiffusion --help")
    elif argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise ValueError(f"unknown command {argv[0]!r}: {hint}")
    else:
        command = COMMANDS[argv[0]]
        command(**parsing.parse(argv[0], command, argv[1:]))


def _overview() -> str:
    lines = [f"  {name:12} {inspect.getdoc(command).splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: betadiffusion COMMAND [options]",
            "",
            "One image encoder with a dial, and the diffusion that walks any point of it back to a sharp image.",
            "",
            "commands:",
            *lines,
            "",
            "betadiffusion COMMAND --help explains each; betadiffusion --version prints the version.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

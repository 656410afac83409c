"""Files and folders of a run: written whole or not at all, held by one process."""

import dataclasses
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from betadiffusion.atomic import atomic, remove


def read_settings(run: Path) -> dict[str, Any]:
    """What config.yaml of a run holds; ValueError where there is none, or it is not that of a run."""
    file = run / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{run} is not the folder of a run: it has no config.yaml")
    try:
        values = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict) or not values:
        raise ValueError(f"{file} is not the configuration of a run: it has no keys")
    return values


@contextmanager
def sole(folder: Path) -> Iterator[None]:
    """Held by one process at a time, until it ends in whatever way; ValueError where another one has the folder.

    A folder that was not there and that nothing has been written to is gone again.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder} is in use: another process trains there; wait, or use another --out") from error
        try:
            yield
        finally:
            if new and [path.name for path in folder.iterdir()] == [".lock"]:
                shutil.rmtree(folder)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON to a temporary name and renames it."""
    write_text(path, json.dumps(value, indent=1))


def write_text(path: Path, text: str) -> None:
    """Writes a text to a temporary name and renames it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes bytes to a temporary name and renames it."""
    with atomic(path) as partial:
        partial.write_bytes(data)


def write_folder(path: Path, fill: Callable[[Path], Any]) -> None:
    """Calls fill(temporary folder), then puts that folder at `path`, in place of what was there."""
    with atomic(path) as partial:
        partial.mkdir()
        fill(partial)
        remove(path)


def flat(config: Any, section: str = "") -> dict[str, Any]:
    """Every value of nested dataclasses by its dotted key."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        key, value = f"{section}{field.name}", getattr(config, field.name)
        values |= flat(value, f"{key}.") if dataclasses.is_dataclass(value) else {key: value}
    return values


def plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as dictionaries, lists and strings, as JSON would give them back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

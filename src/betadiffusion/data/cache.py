"""Arrays unpacked once from a compressed file into the cache, and from then on memory-mapped."""

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from betadiffusion.data.protocols import DataError

VERSION = 1  # of the unpacking; a new one makes the old caches unused


def cache_folder(cache_dir: Path | None) -> Path:
    """`cache_dir`, or betadiffusion in $XDG_CACHE_HOME or ~/.cache."""
    return cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "betadiffusion"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held by one process at a time; the system lets go of it when the process ends in whatever way."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unpacked(
    path: Path,
    shape: tuple[int, ...],
    blocks: Callable[[], Iterator[np.ndarray]],
    cache_dir: Path | None = None,
    progress: bool = True,
) -> np.ndarray:
    """The uint8 array of this shape whose rows `blocks` reads from the file at `path`, block by block.

    They are written into the cache by the first call, and mapped into memory by every one, until the file changes.
    DataError: too few or too many rows, too little disk.
    """
    folder, stat = cache_folder(cache_dir), path.stat()
    identity = json.dumps([VERSION, str(path.resolve()), stat.st_size, stat.st_mtime_ns, shape])
    cache = folder / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(cache.with_suffix(".lock")):
            try:
                return np.asarray(np.load(cache, mmap_mode="r"))
            except (OSError, ValueError):  # not there, or damaged
                _write(path, shape, blocks, cache, progress)
        return np.asarray(np.load(cache, mmap_mode="r"))
    except OSError as error:
        raise DataError(f"The cache of unpacked images in {folder} cannot be written ({error.strerror}).") from error


def _write(
    path: Path, shape: tuple[int, ...], blocks: Callable[[], Iterator[np.ndarray]], cache: Path, progress: bool
) -> None:
    bytes_free = shutil.disk_usage(cache.parent).free
    if math.prod(shape) > bytes_free:
        raise DataError(
            f"Unpacking {path} needs {math.prod(shape) / 1e9:.1f} GB in {cache.parent}, which has "
            f"{bytes_free / 1e9:.1f} GB free: choose another disk by setting XDG_CACHE_HOME."
        )
    partial = cache.with_suffix(".partial")  # the lock makes us its only writer
    try:
        with (
            open(partial, "wb") as file,
            tqdm(total=shape[0], desc=f"unpacking {path.name}", unit="img", disable=not progress) as bar,
        ):
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            begin = file.tell()
            for block in blocks():
                file.write(np.ascontiguousarray(block, np.uint8))
                bar.update(len(block))
            if file.tell() - begin != math.prod(shape):
                raise DataError(f"{path} does not hold the {shape[0]} images that its header promises.")
        os.replace(partial, cache)
    finally:
        partial.unlink(missing_ok=True)

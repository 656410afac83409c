"""LSUN: an lmdb folder of WebP or JPEG files for each category (F. Yu et al., "LSUN", 2015)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from betadiffusion.data.files import Source, load_source, locate
from betadiffusion.data.protocols import DataError, ImageSet

NAME = "lsun"
DATA = "data.mdb"
PARTS = {"train": "train", "val": "valid", "test": "test"}


def detect(path: Path) -> bool:
    """Whether a folder or .zip holds an lmdb's data."""
    return locate(path, DATA) is not None


def load(path: Path, size: int | None, channels: int | None, cache_dir: Path | None, progress: bool) -> ImageSet:
    """One lmdb folder, such as bedroom_val_lmdb, in the order of its keys; its name tells the partition.

    Default size: 64. DataError: the package lmdb is missing, the file is damaged, and what `load_files` raises.
    """
    data = locate(path, DATA)
    if not isinstance(data, Path):
        raise DataError(f"{path} is no folder with {DATA} in it: unpack LSUN's zip and give one of its folders.")
    with _opened(data) as environment:

        def read(name: str) -> bytes:
            with environment.begin() as transaction:
                return transaction.get(name.encode("latin-1"))

        with environment.begin() as transaction:
            names = [key.decode("latin-1") for key in transaction.cursor().iternext(values=False)]
        if not names:
            raise DataError(f"{data} holds no images.")
        stat = data.stat()
        source = Source(data.parent.resolve().name, data.parent, names, [(stat.st_size, stat.st_mtime_ns)], read)
        images = load_source(source, size or 64, channels, cache_dir, progress)
    part = re.search("(?:^|_)(train|val|test)_lmdb$", source.name)
    images.partition = np.full(len(images), PARTS[part[1]]) if part else None
    return images


@contextmanager
def _opened(data: Path) -> Iterator[Any]:
    """The lmdb environment of a data.mdb."""
    try:
        import lmdb
    except ImportError as error:
        raise DataError("An lmdb folder needs the package lmdb: run pip install 'betadiffusion[data]'.") from error
    try:
        with lmdb.open(str(data.parent), readonly=True, lock=False, readahead=False) as environment:
            pages = environment.info()["last_pgno"] + 1
            if pages * environment.stat()["psize"] > data.stat().st_size:  # reading past its end would kill the process
                raise DataError(f"{data} is cut short: it holds fewer than its {pages} pages.")
            yield environment
    except lmdb.Error as error:
        raise DataError(f"{data} is not a whole lmdb file ({error}).") from error

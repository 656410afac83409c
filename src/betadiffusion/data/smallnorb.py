"""`smallnorb`: small NORB (LeCun, Huang and Bottou, 2004, cs.nyu.edu/~ylclab/data/norb-v1.0-small)."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from betadiffusion.data.arrays import ArrayImages, fit
from betadiffusion.data.protocols import DataError

NAME = "smallnorb"
FACTORS = {"category": 5, "instance": 10, "elevation": 9, "azimuth": 18, "lighting": 6}
PARTS = {"train": "training", "test": "testing"}
TYPES = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}  # the format's magic numbers


def detect(path: Path) -> bool:
    """Whether `path` is a folder with small NORB's files of images, gzipped or not."""
    return any(_find(path, part, "dat") for part in PARTS.values())


def load(
    path: Path, size: int | None, channels: int | None, cache_dir: Path | None = None, progress: bool = True
) -> ArrayImages:
    """The images of the first camera, train and then test, by default as (1, 64, 64), held in memory.

    Both parts together are 48,600 images: every combination of category (5), instance (10), elevation (9), azimuth (18)
    and lighting (6), each instance in one part; `labels` are the categories, and `partition` says "train" or "test".
    DataError: a file that is missing, cut short or damaged, or files that do not fit one another.
    """
    size, channels = size or 64, channels or 1
    arrays, tables, partition = [], [], []
    for name, part in PARTS.items():
        if _find(path, part, "dat"):
            images, table = _load_part(path, part)
            arrays.append(fit(images, size, channels))
            tables.append(table)
            partition += [name] * len(table)
    if not arrays:
        raise DataError(f"{path} holds no files smallnorb-*-training-dat.mat or -testing-dat.mat.")
    table = np.concatenate(tables)
    return ArrayImages(
        NAME,
        np.concatenate(arrays),
        labels=table[:, 0],
        partition=np.array(partition),
        factor_names=tuple(FACTORS),
        factor_sizes=tuple(FACTORS.values()),
        factors=table,
    )


def _find(path: Path, part: str, kind: str) -> Path | None:
    return min(path.glob(f"smallnorb-*-{part}-{kind}.mat*"), default=None)


def _load_part(path: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, H, W) of the first camera, and factors (N, 5), of a part of the set."""
    files = {kind: _find(path, part, kind) for kind in ("dat", "cat", "info")}
    if None in files.values():
        raise DataError(f"{path} holds {files['dat'].name}, but not both of its -cat.mat and -info.mat files.")
    images, category, info = (read_matrix(file) for file in files.values())
    shapes = images.shape, category.shape, info.shape
    if images.dtype != np.uint8 or images.ndim != 4 or shapes[1:] != ((len(images),), (len(images), 4)):
        raise DataError(f"The {part} files in {path} hold matrices of {shapes}, not (N, 2, H, W), (N,) and (N, 4).")
    return images[:, 0], np.column_stack([category, info // [1, 1, 2, 1]]).astype(np.int64)  # azimuth: 0, 2, ..., 34


def read_matrix(file: Path) -> np.ndarray:
    """A matrix in NORB's binary format, gzipped or not, of bytes or of int32. DataError where it is not whole.

    Little-endian: a magic number for the type, the number of dimensions, the dimensions (at least 3 are written, 1 for
    those that are not there), and the values.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            data = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read, perhaps it is cut short ({error}).") from error
    magic, dimensions = np.frombuffer(data[:8].ljust(8, b"\0"), "<u4").tolist()
    if magic not in TYPES or not 1 <= dimensions <= 8:
        raise DataError(f"{file} is not a matrix of bytes or int32 in NORB's format (it begins with {data[:8].hex()}).")
    start = 8 + 4 * max(3, dimensions)
    shape = np.frombuffer(data[8:start].ljust(start - 8, b"\0"), "<u4")[:dimensions].tolist()
    if len(data) - start != math.prod(shape) * TYPES[magic].itemsize:
        raise DataError(f"{file} is cut short or damaged: its header promises {shape} values.")
    return np.frombuffer(data, TYPES[magic], offset=start).reshape(shape)

"""`coil20`: the Columbia Object Image Library (Nene, Nayar and Murase, 1996), 20 objects seen from 72 sides."""

import re
from pathlib import Path

import numpy as np

from betadiffusion.data.arrays import ArrayImages
from betadiffusion.data.files import load_files, locate
from betadiffusion.data.protocols import DataError

NAME = "coil20"
FILE = re.compile(r"(?:.*/)?obj(\d+)__(\d+)\.png")
FIRST = "obj1__0.png"


def detect(path: Path) -> bool:
    """Whether a folder or .zip, or the only folder in it, has a file obj1__0.png."""
    return locate(path, FIRST) is not None


def load(
    path: Path, size: int | None, channels: int | None, cache_dir: Path | None = None, progress: bool = True
) -> ArrayImages:
    """The images obj<object>__<azimuth>.png of a folder or .zip, in the order of their names, by default (1, 64, 64).

    Factors: object (20) and azimuth (72, in steps of 5 degrees). Where only some are there, their numbers are counted
    from 0 without gaps, and a combination may be missing. DataError: a file of another name, and as `load_files`.
    """
    images = load_files(path, size or 64, channels, cache_dir, progress)
    matches = [FILE.fullmatch(name) for name in images.names]
    if None in matches:
        raise DataError(f"{path} holds {images.names[matches.index(None)]}, which is not named like {FIRST}.")
    numbers = np.array([[int(match[1]), int(match[2])] for match in matches])
    values, table = zip(*(np.unique(column, return_inverse=True) for column in numbers.T), strict=True)
    return ArrayImages(
        NAME,
        images.array,
        images.skipped,
        images.names,
        labels=table[0],
        factor_names=("object", "azimuth"),
        factor_sizes=tuple(len(column) for column in values),
        factors=np.stack(table, axis=1),
    )

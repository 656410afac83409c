"""`dsprites-npz`: the original dSprites (Matthey et al., 2017, github.com/google-deepmind/dsprites-dataset).

The images are black or white: they are unpacked once, at one bit a pixel, into a memory-mapped array in the cache
(378 MB). The file's pickled metadata are never read.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from betadiffusion.data.cache import unpacked
from betadiffusion.data.npz import NpzArray
from betadiffusion.data.protocols import DataError
from betadiffusion.data.readers import file_of, find
from betadiffusion.data.rendered import StoredGrid, grid_sizes

NAME = "dsprites-npz"
PATTERN = "dsprites*.npz"
FACTORS = ("color", "shape", "scale", "orientation", "x", "y")


def detect(path: Path) -> bool:
    """Whether `path` is dSprites' .npz file, or a folder with it."""
    return find(path, PATTERN) is not None


def load(
    path: Path, size: int | None, channels: int | None, cache_dir: Path | None = None, progress: bool = True
) -> StoredGrid:
    """The 737,280 images of dSprites, by default as (1, 64, 64), 0 or 255; its color of one value is no factor.

    DataError: the file is cut short, or its arrays are not those of dSprites.
    """
    file = file_of(path, PATTERN)
    images = NpzArray(file, "imgs")
    try:
        with np.load(file, allow_pickle=False) as archive:
            classes = archive["latents_classes"]
    except Exception as error:  # zipfile, zlib and numpy, each in its own way
        raise DataError(f"{file} is not dSprites, or it is cut short ({error}).") from error
    if len(images.shape) != 3 or classes.shape != (images.shape[0], 6):
        raise DataError(f"{file} holds imgs {images.shape} and latents_classes {classes.shape}: not those of dSprites.")
    sizes = zip(FACTORS, grid_sizes(classes, file), strict=True)
    count, *frame = images.shape
    pixels = frame[0] * frame[1]

    def blocks() -> Iterator[np.ndarray]:
        for block in images.blocks():
            if block.max() > 1:
                raise DataError(f"{file} holds a pixel of {block.max()}, where dSprites' are 0 or 1.")
            yield np.packbits(block.reshape(len(block), -1), axis=1)

    array = unpacked(file, (count, (pixels + 7) // 8), blocks, cache_dir, progress)

    def read(indices: np.ndarray) -> np.ndarray:
        return 255 * np.unpackbits(array[indices], axis=1, count=pixels).reshape(-1, *frame)

    factors = {name: values for name, values in sizes if name != "color"}
    return StoredGrid(NAME, factors, read, size or 64, channels or 1)

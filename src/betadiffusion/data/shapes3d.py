"""`shapes3d`: 3dshapes.h5, the original 3D Shapes (Burgess and Kim, 2018, github.com/google-deepmind/3d-shapes).

Its images are compressed in chunks that cut across thousands of them (h5py's choice for this shape is 15,000 x 4 x 4 x
1), so that one image alone costs a good part of a second. They are therefore unpacked once, chunk by chunk, into a
memory-mapped array in the cache: 5.9 GB in about a minute. From then on 10,000 random images take well under a second.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from betadiffusion.data.cache import unpacked
from betadiffusion.data.protocols import DataError
from betadiffusion.data.readers import file_of, find
from betadiffusion.data.rendered import StoredGrid, grid_sizes

NAME = "shapes3d"
PATTERN = "*.h5"
FACTORS = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")


def detect(path: Path) -> bool:
    """Whether `path` is an .h5 file, or a folder with one."""
    return find(path, PATTERN) is not None


def load(
    path: Path, size: int | None, channels: int | None, cache_dir: Path | None = None, progress: bool = True
) -> StoredGrid:
    """The images of 3dshapes.h5, 480,000 of 10 x 10 x 10 x 8 x 4 x 15 factors, by default as (3, 64, 64).

    DataError: h5py is not installed, the file is no HDF5 or cut short, or its arrays are not those of 3D Shapes.
    """
    try:
        import h5py
    except ImportError as error:
        raise DataError("Reading .h5 files needs h5py: pip install 'betadiffusion[data]'.") from error
    file = file_of(path, PATTERN)
    try:
        with h5py.File(file, "r") as archive:
            images, labels = archive["images"], archive["labels"][:]
            shape, rows = images.shape, (images.chunks or (4096,))[0]
            if images.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or labels.shape != (len(images), 6):
                raise DataError(f"{file} holds images {shape} and labels {labels.shape}: not those of 3D Shapes.")
    except (OSError, KeyError, AttributeError) as error:
        raise DataError(f"{file} is not 3dshapes.h5, or it is cut short ({error}).") from error

    def blocks() -> Iterator[np.ndarray]:
        try:
            with h5py.File(file, "r") as archive:
                for start in range(0, len(archive["images"]), rows):
                    yield archive["images"][start : start + rows]
        except OSError as error:
            raise DataError(f"{file} is damaged ({error}).") from error

    factors = dict(zip(FACTORS, grid_sizes(labels, file), strict=True))
    array = unpacked(file, shape, blocks, cache_dir, progress)
    return StoredGrid(NAME, factors, array.__getitem__, size or 64, channels or 3)

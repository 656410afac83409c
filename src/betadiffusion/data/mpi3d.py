"""`mpi3d`: mpi3d_toy.npz, mpi3d_realistic.npz, mpi3d_real.npz (Gondal et al., 2019, github.com/rr-learning).

An uncompressed file is mapped into memory where it lies; a compressed one is unpacked once into the cache (12.7 GB).
"""

from pathlib import Path

from betadiffusion.data.cache import unpacked
from betadiffusion.data.npz import NpzArray
from betadiffusion.data.protocols import DataError
from betadiffusion.data.readers import file_of, find
from betadiffusion.data.rendered import StoredGrid

PATTERN = "*mpi3d*.npz"
NAME = "mpi3d"
OTHERS = {"object_size": 2, "camera_height": 3, "background_color": 3, "horizontal_axis": 40, "vertical_axis": 40}
KINDS = {1_036_800: 6, 460_800: 4}  # images: how many colors and shapes; the first release had 4 of each


def detect(path: Path) -> bool:
    """Whether `path` is a .npz file of MPI3D, or a folder with one."""
    return find(path, PATTERN) is not None


def load(
    path: Path, size: int | None, channels: int | None, cache_dir: Path | None = None, progress: bool = True
) -> StoredGrid:
    """The images of one MPI3D file, 1,036,800 of 6 x 6 x 2 x 3 x 3 x 40 x 40 factors, by default as (3, 64, 64).

    DataError: the file is cut short, or does not hold that many images (or 460,800, of 4 colors and 4 shapes).
    """
    file = file_of(path, PATTERN)
    images = NpzArray(file, "images")
    if len(images.shape) != 4 or images.shape[3] != 3 or images.shape[0] not in KINDS:
        counts = " or ".join(map(str, KINDS))
        raise DataError(f"{file} holds images {images.shape}, not MPI3D's ({counts}, H, W, 3).")
    kinds = KINDS[images.shape[0]]
    array = images.mapped()
    if array is None:
        array = unpacked(file, images.shape, images.blocks, cache_dir, progress)
    factors = {"object_color": kinds, "object_shape": kinds, **OTHERS}
    return StoredGrid(file.stem, factors, array.__getitem__, size or 64, channels or 3)

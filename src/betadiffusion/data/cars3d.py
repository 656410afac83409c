"""`cars3d`: the rendered cars of "Deep Visual Analogy-Making" (Reed et al., 2015), one .mat file for each car."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from betadiffusion.data.arrays import fit
from betadiffusion.data.protocols import DataError
from betadiffusion.data.rendered import StoredGrid

NAME = "cars3d"
ELEVATIONS, AZIMUTHS = 4, 24


def detect(path: Path) -> bool:
    """Whether `path` is a folder with files car_*.mat, or has one as its part cars or data/cars."""
    return bool(_files(path))


def load(
    path: Path, size: int | None, channels: int | None, cache_dir: Path | None = None, progress: bool = True
) -> StoredGrid:
    """The images of all cars in a folder, in the order of their names, by default as (3, 64, 64), held in memory.

    Factors: elevation (4), azimuth (24), object (183, or as many as there are files). DataError: a file that cannot be
    read, or whose array `im` is not (H, W, 3, 24, 4) uint8.
    """
    size, channels = size or 64, channels or 3
    files = _files(path)
    if not files:
        raise DataError(f"{path} holds no files car_*.mat.")
    array = np.empty((ELEVATIONS, AZIMUTHS, len(files), size, size, channels), np.uint8)
    for i, file in enumerate(tqdm(files, desc="reading cars", unit="car", disable=not progress)):
        views = _read(file).transpose(4, 3, 0, 1, 2)  # (elevation, azimuth, H, W, 3)
        images = fit(views.reshape(-1, *views.shape[2:]), size, channels)
        array[:, :, i] = images.transpose(0, 2, 3, 1).reshape(ELEVATIONS, AZIMUTHS, size, size, channels)
    flat = array.reshape(-1, size, size, channels)
    factors = {"elevation": ELEVATIONS, "azimuth": AZIMUTHS, "object": len(files)}
    return StoredGrid(NAME, factors, flat.__getitem__, size, channels)


def _files(path: Path) -> list[Path]:
    folders = (path, path / "cars", path / "data" / "cars")
    return next((files for folder in folders if (files := sorted(folder.glob("car_*.mat")))), [])


def _read(file: Path) -> np.ndarray:
    from scipy.io import loadmat

    try:
        views = loadmat(file, variable_names=["im"])["im"]
    except Exception as error:  # a broken file makes scipy raise nearly anything
        raise DataError(f"{file} is not a .mat file of a car, or it is cut short ({error}).") from error
    if views.dtype != np.uint8 or views.ndim != 5 or views.shape[2:] != (3, AZIMUTHS, ELEVATIONS):
        raise DataError(f"The array im in {file} is {views.dtype} {views.shape}, not uint8 (H, W, 3, 24, 4).")
    return views

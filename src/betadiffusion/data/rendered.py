"""Grids: sets in which every combination of the factors is one image, rendered or stored."""

import math
from collections.abc import Callable

import numpy as np

from betadiffusion.data.arrays import fit
from betadiffusion.data.protocols import DataError


class GridSet:
    """The grid of all factor combinations, the last factor fastest; a sub-class gives the images."""

    name: str
    factor_names: tuple[str, ...]
    factor_sizes: tuple[int, ...]

    def __len__(self) -> int:
        return math.prod(self.factor_sizes)

    def factors(self, indices: np.ndarray) -> np.ndarray:
        """The factors of the images at `indices`, (B,), as (B, K) int64; DataError outside [0, N)."""
        try:
            return np.stack(np.unravel_index(np.asarray(indices, np.int64), self.factor_sizes), axis=-1)
        except ValueError as error:
            raise DataError(f"An index into {self.name} lies outside 0..{len(self) - 1}.") from error

    def index(self, factors: np.ndarray) -> np.ndarray:
        """The inverse of `factors`: (B, K) to (B,) int64; DataError where a factor is out of range."""
        try:
            return np.ravel_multi_index(tuple(np.moveaxis(np.asarray(factors, np.int64), -1, 0)), self.factor_sizes)
        except ValueError as error:
            raise DataError(f"A factor of {self.name} lies outside its {self.factor_sizes} values.") from error


class RenderedSet(GridSet):
    """A grid whose images a sub-class draws when they are asked for."""

    def __init__(self, size: int, channels: int) -> None:
        self.image_shape = (channels, size, size)
        self.skipped: list[str] = []


class StoredGrid(GridSet):
    """A grid whose images are read when they are asked for, and then cut square and resized.

    read: from indices (B,) to images (B, H, W) or (B, H, W, 3) uint8.
    """

    def __init__(
        self,
        name: str,
        factors: dict[str, int],
        read: Callable[[np.ndarray], np.ndarray],
        size: int,
        channels: int,
    ) -> None:
        self.name = name
        self.factor_names = tuple(factors)
        self.factor_sizes = tuple(factors.values())
        self.image_shape = (channels, size, size)
        self.skipped: list[str] = []
        self._read = read

    def images(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, (B,), as (B, C, H, W) uint8."""
        channels, size, _ = self.image_shape
        return fit(self._read(np.asarray(indices, np.int64)), size, channels)


def grid_sizes(table: np.ndarray, source: object) -> list[int]:
    """How many values each column of a table of factors, (N, K), takes.

    DataError unless its rows are all combinations of them in rising order, the last column fastest.
    """
    values, ranks = zip(*(np.unique(column, return_inverse=True) for column in table.T), strict=True)
    sizes = [len(column) for column in values]
    if math.prod(sizes) != len(table) or (np.ravel_multi_index(ranks, sizes) != np.arange(len(table))).any():
        raise DataError(f"The factors in {source} are not all combinations of their values, in order.")
    return sizes

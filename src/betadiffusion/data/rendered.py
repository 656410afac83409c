"""What the rendered sets share: every combination of their factors is one image."""

import math

import numpy as np

from betadiffusion.data.protocols import DataError


class RenderedSet:
    """The grid of all factor combinations, the last factor fastest; a sub-class draws the images."""

    name: str
    factor_names: tuple[str, ...]
    factor_sizes: tuple[int, ...]

    def __init__(self, size: int, channels: int) -> None:
        self.image_shape = (channels, size, size)
        self.skipped: list[str] = []

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

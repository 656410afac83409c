"""What an image set and a factor set are."""

from typing import Protocol, runtime_checkable

import numpy as np


class DataError(ValueError):
    """The data cannot be used; the message is one sentence that says what, where and what to do."""


@runtime_checkable
class ImageSet(Protocol):
    """N images of one shape, read by index.

    name: e.g. "shapes", "fashion-mnist" or the folder's name.
    image_shape: (C, H, W).
    skipped: the files that could not be read, each "name (reason)".
    """

    name: str
    image_shape: tuple[int, int, int]
    skipped: list[str]

    def __len__(self) -> int: ...

    def images(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, (B,) int64 in [0, N), as (B, C, H, W) uint8."""
        ...


@runtime_checkable
class FactorSet(ImageSet, Protocol):
    """An image set whose images are each made from K known factors; factor k takes values 0..factor_sizes[k]-1."""

    factor_names: tuple[str, ...]
    factor_sizes: tuple[int, ...]

    def factors(self, indices: np.ndarray) -> np.ndarray:
        """The factors of the images at `indices`, (B,), as (B, K) int64."""
        ...

    def index(self, factors: np.ndarray) -> np.ndarray:
        """The inverse of `factors`: (B, K) to (B,) int64."""
        ...

"""What an image set, a factor set, an attribute set and a caption set are."""

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

    A set may also have `labels`, (N,) int64 classes, `label_names`, what label 0, 1, ... is called, and `partition`,
    (N,) strings "train", "valid" or "test", where its publishers divided it; absent or None where there are none. It
    may have `groupings`: by name further classes (N,) int64 with their names, as UTKFace's groups of age.
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
    """An image set whose images are each made from K known factors; factor k takes values 0..factor_sizes[k]-1.

    Not every combination need be there: N may be less than the product of the sizes.
    """

    factor_names: tuple[str, ...]
    factor_sizes: tuple[int, ...]

    def factors(self, indices: np.ndarray) -> np.ndarray:
        """The factors of the images at `indices`, (B,), as (B, K) int64."""
        ...

    def index(self, factors: np.ndarray) -> np.ndarray:
        """The inverse of `factors`: (B, K) to (B,) int64; DataError where a combination is not in the set."""
        ...


@runtime_checkable
class AttributeSet(ImageSet, Protocol):
    """An image set with A attributes that each image has or has not."""

    attribute_names: tuple[str, ...]

    def attributes(self, indices: np.ndarray) -> np.ndarray:
        """The attributes of the images at `indices`, (B,), as (B, A) bool."""
        ...


@runtime_checkable
class CaptionSet(ImageSet, Protocol):
    """An image set with one or several captions of each image, `caption_counts`, (N,) integers, of them."""

    caption_counts: np.ndarray

    def captions(self, indices: np.ndarray) -> list[list[str]]:
        """The captions of each of the images at `indices`, (B,)."""
        ...

"""A part of an image set, and how a set is divided."""

import numpy as np

from betadiffusion.data.arrays import find
from betadiffusion.data.protocols import AttributeSet, CaptionSet, DataError, FactorSet, ImageSet


def split(n: int, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint (train, held_out) index arrays, int64, that cover range(n); the same ones for the same arguments.

    Both are in random order, so that the first few are a random sample. DataError unless 0 <= held_out < n.
    """
    if not 0 <= held_out < n:
        raise DataError(f"{held_out} images cannot be held out of {n}: some must be left for training.")
    order = np.random.default_rng(seed).permutation(n)
    return order[held_out:], order[:held_out]


class Subset:
    """The images of `base` at `indices`, (M,) integers in any order, with all that is known of them.

    `labels`, (M,) int64, `label_names` and `partition`, (M,) strings, are the base's, or None; so are the groupings,
    none or more. It is a factor, attribute or caption set where `base` is one. DataError where an index lies outside.
    """

    # Set only where the base has them: isinstance(..., FactorSet), AttributeSet and CaptionSet look for them.
    attribute_names: tuple[str, ...]
    caption_counts: np.ndarray
    factor_names: tuple[str, ...]
    factor_sizes: tuple[int, ...]

    def __init__(self, base: ImageSet, indices: np.ndarray) -> None:
        self.base = base
        self.indices = np.asarray(indices, np.int64)
        if self.indices.size and not 0 <= self.indices.min() <= self.indices.max() < len(base):
            raise DataError(f"An index of the subset lies outside the {len(base)} images of {base.name}.")
        self.name = base.name
        self.image_shape = base.image_shape
        self.skipped = base.skipped
        labels, partition = getattr(base, "labels", None), getattr(base, "partition", None)
        self.labels: np.ndarray | None = None if labels is None else labels[self.indices]
        self.label_names: tuple[str, ...] | None = getattr(base, "label_names", None)
        groupings = getattr(base, "groupings", {}).items()
        self.groupings = {name: (classes[self.indices], names) for name, (classes, names) in groupings}
        self.partition: np.ndarray | None = None if partition is None else partition[self.indices]
        if isinstance(base, AttributeSet):
            self.attribute_names = base.attribute_names
        if isinstance(base, CaptionSet):
            self.caption_counts = base.caption_counts[self.indices]
        if isinstance(base, FactorSet):
            self.factor_names, self.factor_sizes = base.factor_names, base.factor_sizes
        self._kept: np.ndarray | None = None
        self._missing = np.empty(0, bool)

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, (B,) in [0, M), as (B, C, H, W) uint8."""
        if self._kept is None:
            return self.base.images(self.indices[indices])
        missing = np.unique(indices[self._missing[indices]])
        for start in range(0, len(missing), 1024):  # of which a renderer has a few numbers a pixel in memory
            some = missing[start : start + 1024]
            self._kept[some] = self.base.images(self.indices[some])
            self._missing[some] = False
        return self._kept[indices]

    def attributes(self, indices: np.ndarray) -> np.ndarray:
        """The attributes of the images at `indices`, (B,) in [0, M), as (B, A) bool."""
        return self.base.attributes(self.indices[indices])

    def captions(self, indices: np.ndarray) -> list[list[str]]:
        """The captions of each of the images at `indices`, (B,) in [0, M)."""
        return self.base.captions(self.indices[indices])

    def factors(self, indices: np.ndarray) -> np.ndarray:
        """The factors of the images at `indices`, (B,) in [0, M), as (B, K) int64."""
        return self.base.factors(self.indices[indices])

    def index(self, factors: np.ndarray) -> np.ndarray:
        """Where in the subset the images of `factors`, (B, K), are, (B,) int64; DataError where one is not in it."""
        return find(self.indices, self.base.index(factors), self.name)

    def keep(self) -> "Subset":
        """Keeps every image in memory once it is asked for, unless the base has all as an `array`; returns itself."""
        if not hasattr(self.base, "array"):
            self._kept = np.empty((len(self), *self.image_shape), np.uint8)
            self._missing = np.ones(len(self), bool)
        return self

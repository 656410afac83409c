"""The images that one repetition of an evaluation looks at, with all that is known of them."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from betadiffusion.data import AttributeSet, DataError, FactorSet, ImageSet, Subset
from betadiffusion.data.sources import place
from betadiffusion.training.config import RunConfig
from betadiffusion.training.runs import split_indices

LEAST = 20


@dataclass(frozen=True)
class Pool:
    """Images to fit on, the first `count`, and to test on, the rest; in random order, each once."""

    images: Subset
    count: int
    seed: int

    @cached_property
    def factors(self) -> np.ndarray | None:
        """Factors (N, K) int64, where they are known."""
        return self.images.factors(np.arange(len(self.images))) if isinstance(self.images, FactorSet) else None

    @cached_property
    def attributes(self) -> np.ndarray | None:
        """Binary attributes (N, A) bool, where they are known."""
        return self.images.attributes(np.arange(len(self.images))) if isinstance(self.images, AttributeSet) else None

    @property
    def labels(self) -> np.ndarray | None:
        """Class labels (N,) int64, where they are known."""
        return self.images.labels

    @property
    def test(self) -> Subset:
        """The images to test on."""
        return Subset(self.images, np.arange(self.count, len(self.images)))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the choice of images and with what is known of them."""
        digest = hashlib.sha256(f"{self.images.name} {self.images.image_shape} {self.count} {self.seed}".encode())
        for known in (self.images.indices, self.factors, self.attributes, self.labels):
            digest.update(b"|" if known is None else np.ascontiguousarray(known).tobytes())
        return digest.hexdigest()[:16]


def candidates(source: ImageSet, split: str, config: RunConfig | None) -> np.ndarray:
    """Indices of the images that `split` names: "heldout" (all but the run's training images), "all", or a partition.

    config: of the run, where it was trained on this source; else None, and every image is held out. DataError where
    the source has no such partition.
    """
    everything = np.arange(len(source))
    if split == "all":
        return everything
    if split == "heldout":
        return everything if config is None else np.setdiff1d(everything, training_images(source, config))
    partition = getattr(source, "partition", None)
    if partition is None or split not in partition:
        known = "none" if partition is None else ", ".join(sorted(set(partition)))
        raise DataError(f"{source.name} has no partition {split!r}; it has: {known}. Use heldout or all.")
    return np.flatnonzero(partition == split)


def training_images(source: ImageSet, config: RunConfig) -> np.ndarray:
    """Indices of the images of `source` that a run was trained on."""
    return split_indices(len(source), config.data, config.seed)[0]


def trained_on(config: RunConfig, source: str) -> bool:
    """Whether a run was trained on the data that `source` names."""
    return place(source) == place(config.data.source)


def draw(source: ImageSet, indices: np.ndarray, count: int, test_count: int, seed: int) -> Pool:
    """A pool of count + test_count of the images at `indices`, drawn without repeats.

    Where there are fewer, all of them, divided alike; DataError below 20. Rendered images are drawn once.
    """
    if len(indices) < LEAST:
        hint = "use --split all" if len(source) >= LEAST else "give more images"
        raise DataError(f"{source.name} leaves {len(indices)} images to evaluate on, fewer than {LEAST}: {hint}.")
    total = min(len(indices), count + test_count)
    count = round(total * count / (count + test_count))
    chosen = np.random.default_rng(seed).permutation(indices)[:total]
    return Pool(Subset(source, chosen).keep(), count, seed)

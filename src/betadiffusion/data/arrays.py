"""Images held in one array."""

import numpy as np


class ArrayImages:
    """An image set over one (N, C, H, W) uint8 array, in memory or memory-mapped.

    skipped: the files left out, each "name (reason)"; names: the files of the N images, if they came from files;
    labels: (N,) int64 class labels, if known.
    """

    def __init__(
        self,
        name: str,
        array: np.ndarray,
        skipped: list[str] | None = None,
        names: list[str] | None = None,
        labels: np.ndarray | None = None,
    ) -> None:
        self.name = name
        self.array = array
        self.skipped = skipped or []
        self.names = names
        self.labels = labels
        self.image_shape: tuple[int, int, int] = array.shape[1:]

    def __len__(self) -> int:
        return len(self.array)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, (B,), as (B, C, H, W) uint8."""
        return self.array[indices]

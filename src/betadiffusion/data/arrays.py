"""Images held in arrays."""

import numpy as np
from PIL import Image

from betadiffusion.data.decode import square
from betadiffusion.data.protocols import DataError


class ArrayImages:
    """An image set over one (N, C, H, W) uint8 array, in memory or memory-mapped.

    skipped: the files left out, each "name (reason)"; names: the files of the N images, if they came from files.
    labels: (N,) int64 class labels, if known, and label_names what label 0, 1, ... is called, if they have names.
    partition: (N,) of "train", "valid", "test", if there is an official one.
    attribute_names, attributes: A names and (N, A) bool make it an attribute set.
    factor_names, factor_sizes, factors: K names, K numbers of values and (N, K) integers make it a factor set.
    DataError where one of them does not fit the N images.
    """

    # Set only where they are known: isinstance(..., FactorSet) and AttributeSet look for them.
    attribute_names: tuple[str, ...]
    factor_names: tuple[str, ...]
    factor_sizes: tuple[int, ...]

    def __init__(
        self,
        name: str,
        array: np.ndarray,
        skipped: list[str] | None = None,
        names: list[str] | None = None,
        labels: np.ndarray | None = None,
        label_names: tuple[str, ...] | None = None,
        partition: np.ndarray | None = None,
        attribute_names: tuple[str, ...] | None = None,
        attributes: np.ndarray | None = None,
        factor_names: tuple[str, ...] | None = None,
        factor_sizes: tuple[int, ...] | None = None,
        factors: np.ndarray | None = None,
    ) -> None:
        self.name = name
        self.array = array
        self.skipped = skipped or []
        self.names = names
        self.labels = labels
        self.label_names = label_names
        self.partition = None if partition is None else np.asarray(partition)
        self.image_shape: tuple[int, int, int] = array.shape[1:]
        for kind, values in (("labels", labels), ("partition", partition), ("attributes", attributes)):
            if values is not None and len(values) != len(array):
                raise DataError(f"The {kind} of {name} are {len(values)} for its {len(array)} images.")
        if attribute_names is not None:
            self.attribute_names = tuple(attribute_names)
            self._attributes = np.asarray(attributes, bool).reshape(len(array), len(attribute_names))
        if factor_names is not None:
            self.factor_names, self.factor_sizes = tuple(factor_names), tuple(factor_sizes)
            self._factors = np.asarray(factors, np.int64).reshape(len(array), len(factor_names))
            self._keys = self._flat(self._factors)
            if len(np.unique(self._keys)) < len(array):
                raise DataError(f"Two images of {name} have the same factors.")

    def __len__(self) -> int:
        return len(self.array)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, (B,), as (B, C, H, W) uint8."""
        return self.array[indices]

    def attributes(self, indices: np.ndarray) -> np.ndarray:
        """The attributes of the images at `indices`, (B,), as (B, A) bool."""
        return self._attributes[indices]

    def factors(self, indices: np.ndarray) -> np.ndarray:
        """The factors of the images at `indices`, (B,), as (B, K) int64."""
        return self._factors[indices]

    def index(self, factors: np.ndarray) -> np.ndarray:
        """Where the images of `factors`, (B, K), are, (B,) int64; DataError where a combination is not in the set."""
        return find(self._keys, self._flat(factors), self.name)

    def _flat(self, factors: np.ndarray) -> np.ndarray:
        """One number for each row of factors (B, K)."""
        try:
            return np.ravel_multi_index(tuple(np.asarray(factors, np.int64).T), self.factor_sizes)
        except ValueError as error:
            raise DataError(f"A factor of {self.name} lies outside its {self.factor_sizes} values.") from error


def find(keys: np.ndarray, wanted: np.ndarray, name: str) -> np.ndarray:
    """The first place of each of `wanted`, (B,), in `keys`, (N,), as (B,) int64; DataError where one is not there."""
    order = np.argsort(keys, kind="stable")
    places = order[np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)]
    if not np.array_equal(keys[places], wanted):
        raise DataError(f"The set {name} does not hold every combination of factors asked for.")
    return places


def fit(images: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Images (B, H, W) or (B, H, W, 3) uint8 as (B, channels, size, size): cut square, resized, see `decode.square`."""
    images = images if images.ndim == 4 else images[..., None]
    if images.shape[1:] == (size, size, channels):
        return images.transpose(0, 3, 1, 2)
    fitted = np.empty((len(images), channels, size, size), np.uint8)
    for i, image in enumerate(images):
        fitted[i] = square(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image), size, channels)
    return fitted

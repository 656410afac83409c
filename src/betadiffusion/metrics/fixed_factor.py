"""Rows of a factor set that share the value of one factor: what the FactorVAE and BetaVAE scores compare."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from betadiffusion.metrics.arrays import as_matrix, codes_and_factors, varying

CHUNK = 8192  # rows encoded at once


class Factors(Protocol):
    """What these scores need of a set: its length, the factors (B, K) and images of rows (B,), or their codes."""

    def __len__(self) -> int: ...

    def factors(self, indices: np.ndarray) -> Any: ...

    def images(self, indices: np.ndarray) -> Any: ...


Encode = Callable[[Any], Any]


class CodedFactors:
    """The factors of a whole set, those that vary, and codes (..., d) of its rows by index (...).

    A set of no more than `rows` images is encoded once; of a larger one, rows are encoded as they are asked for.
    Raises ValueError for codes that are not finite, factors that are not integers, or no factor that varies.
    """

    def __init__(self, dataset: Factors, encode: Encode, rows: int) -> None:
        self._dataset, self._encode = dataset, encode
        everything = np.arange(len(dataset))
        _, table = codes_and_factors(everything[:, None], dataset.factors(everything))
        self.table = table[:, varying(table)]
        self._order = np.argsort(self.table, axis=0, kind="stable")
        self._sorted = np.take_along_axis(self.table, self._order, axis=0)
        self._codes = self._encoded(everything) if len(everything) <= rows else None

    def _encoded(self, indices: np.ndarray) -> np.ndarray:
        chunks = np.split(indices, range(CHUNK, len(indices), CHUNK))
        return np.concatenate([as_matrix(self._encode(self._dataset.images(chunk)), "codes") for chunk in chunks])

    def codes(self, indices: np.ndarray) -> np.ndarray:
        """Codes (..., d) of the rows `indices` (...)."""
        flat = self._encoded(indices.ravel()) if self._codes is None else self._codes[indices.ravel()]
        return flat.reshape(*indices.shape, -1)

    def draw(
        self, count: int, size: int, pairs: bool, generator: np.random.Generator
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield, in chunks of B that add up to `count`, a factor (B,), rows (B, 1 or size) and partners (B, size).

        The factor is uniform; so is the row, alone or with `pairs` one for each partner; the partner is uniform among
        the rows with the row's value of that factor.
        """
        step = max(1, CHUNK // size)
        for start in range(0, count, step):
            factor = generator.integers(self.table.shape[1], size=min(step, count - start))
            rows = generator.integers(len(self.table), size=(len(factor), size if pairs else 1))
            partners = np.empty((len(factor), size), np.int64)
            for k in range(self.table.shape[1]):
                values = self.table[rows[factor == k], k]
                low = np.searchsorted(self._sorted[:, k], values, side="left")
                high = np.searchsorted(self._sorted[:, k], values, side="right")
                places = generator.integers(low, high, size=(len(values), size))
                partners[factor == k] = self._order[places, k]
            yield factor, rows, partners

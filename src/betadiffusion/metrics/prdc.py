"""Fidelity and diversity of generated features, by nearest neighbours."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils import gen_even_slices

from betadiffusion.metrics.arrays import as_matrix

SLICES = 8  # of a matrix of distances, or more where it is large
BLOCK = 1 << 24  # distances at a time


class PrecisionRecall(NamedTuple):
    """Share of the fake rows among the real ones, and of the real rows among the fake ones, both in [0, 1]."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """How crowded the real rows' balls are with fake ones (1 is usual, more possible), and the share not empty."""

    density: float
    coverage: float


def precision_recall(real: Any, fake: Any, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, Eq. 1-2; the same numbers as the package `prdc`).

    real (N, d), fake (M, d): features, numpy or torch; about 10,000 of each. A set is seen as balls around its rows
    that reach to the k-th nearest other row; a row counts when it lies strictly inside a ball of the other set.
    Both fall with fewer rows, and one stray row widens a ball: compare at equal sizes only.
    Raises ValueError for NaN, infinity, different features, or sets of no more than k rows.
    """
    real, fake = _points(real, fake, k)
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    precise, recalled = [], np.zeros(len(real), dtype=bool)
    for places, distances in _blocks(real, fake):
        precise.append((distances < real_radii[:, None]).any(axis=0))
        recalled |= (distances < fake_radii[places]).any(axis=1)
    return PrecisionRecall(float(np.concatenate(precise).mean()), float(recalled.mean()))


def density_coverage(real: Any, fake: Any, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, Eq. 3-4; the same numbers as the package `prdc`).

    real (N, d), fake (M, d): features, numpy or torch; about 10,000 of each. Only real rows have balls, to their k-th
    nearest other row: density is the mean number of balls, divided by k, that a fake row lies strictly inside of.
    Two sets of one distribution have a coverage of about 1 - 2^-k when they are large and of equal size.
    Raises ValueError for NaN, infinity, different features, or sets of no more than k rows.
    """
    real, fake = _points(real, fake, k)
    radii = _radii(real, k)
    balls, nearest = [], np.full(len(real), np.inf)
    for _, distances in _blocks(real, fake):
        balls.append((distances < radii[:, None]).sum(axis=0))
        nearest = np.minimum(nearest, distances.min(axis=1))
    return DensityCoverage(float(1 / k * np.concatenate(balls).mean()), float((nearest < radii).mean()))


def _points(real: Any, fake: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sets, checked; in float32 where they came so, since then distances are rounded (and tie) as `prdc`'s are."""
    checked = []
    for name, values in (("real", real), ("fake", fake)):
        matrix = as_matrix(values, name)
        if not 0 < k < len(matrix):
            raise ValueError(f"The {k}-th nearest neighbour needs more than {k} rows, but {name} has {len(matrix)}.")
        single = str(getattr(values, "dtype", "")).endswith("float32")
        checked.append(matrix.astype(np.float32) if single else matrix)
    if checked[0].shape[1] != checked[1].shape[1]:
        raise ValueError(f"Both sets must have the same features, not {checked[0].shape[1]} and {checked[1].shape[1]}.")
    return checked[0], checked[1]


def _blocks(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Distances of all rows of x (N, d) to some of y (M, d) at a time (N, m), with the place of those of y.

    The cut of all but large sets is `prdc`'s own: equal distances then tie, or differ by rounding, as they do there.
    """
    for places in gen_even_slices(len(y), min(len(y), max(SLICES, -(-len(x) * len(y) // BLOCK)))):
        yield places, euclidean_distances(x, y[places])


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    """Distance of each row (N, d) to its k-th nearest other row: (N,)."""
    nearest = np.empty((len(points), 0), dtype=points.dtype)
    for places, distances in _blocks(points, points):
        rows = np.arange(places.start, places.stop)
        distances[rows, rows - places.start] = 0  # exactly
        nearest = np.hstack([nearest, distances])
        if nearest.shape[1] > k:
            nearest = np.partition(nearest, k, axis=1)[:, : k + 1]
    return nearest.max(axis=1)

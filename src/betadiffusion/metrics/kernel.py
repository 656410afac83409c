"""The kernel distance between two sets of features (Binkowski et al. 2018): KID, when they are Inception's."""

from typing import Any, NamedTuple

import numpy as np

from betadiffusion.metrics.arrays import as_matrix

ROWS = 512  # of a kernel matrix at a time


class KernelDistance(NamedTuple):
    """A kernel distance and its standard error over new draws of both sets; nan where that cannot be known."""

    value: float
    standard_error: float


def kernel_distance(a: Any, b: Any, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> float:
    """Squared maximum mean discrepancy of features a (N, d) and b (M, d), numpy or torch, with a cubic kernel.

    The unbiased estimate (it may be slightly below zero), in float64, is averaged over `subsets` random subsets of
    `subset_size` rows, drawn without replacement; no more than the smaller set has. Unbiased for every size, but
    only distances in the same features compare. See `kernel_distance_and_error` for its error.
    Raises ValueError for NaN, infinity, different features, or sets and subsets with fewer than two rows.
    """
    return kernel_distance_and_error(a, b, subsets, subset_size, seed).value


def kernel_distance_and_error(
    a: Any, b: Any, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """The distance of `kernel_distance` with its standard error, from the spread over the subsets.

    The error is right for sets of one size that differ, and up to about twice too large for unequal sizes or for sets
    of one distribution. It is nan with one subset, or with subsets that are the whole of a set: they do not show how
    sets vary. The literature often prints the spread itself, which is that of a distance on `subset_size` rows.
    """
    a, b = as_matrix(a, "a"), as_matrix(b, "b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"Both sets must have the same features, not {a.shape[1]} and {b.shape[1]}.")
    rows = min(len(a), len(b))
    size = min(subset_size, rows)
    if size < 2 or subsets < 1:
        raise ValueError(f"A kernel distance needs a subset of 2 rows, not {subsets} of {size}.")
    rng = np.random.default_rng(seed)
    picks = [[rng.choice(len(x), size, replace=False) for x in (a, b)] for _ in range(subsets)]
    if len(a) ** 2 + len(b) ** 2 + len(a) * len(b) < 3 * subsets * size**2:  # every kernel value once is cheaper
        in_a, in_b = (_members(x, pick) for x, pick in zip((a, b), zip(*picks, strict=True), strict=True))
        distances = _distances(a, b, in_a, in_b)
    else:
        every = np.ones((size, 1))
        distances = np.concatenate([_distances(a[i], b[j], every, every) for i, j in picks])
    if subsets == 1 or size == rows:
        return KernelDistance(float(distances.mean()), float("nan"))
    # Given N rows, subsets of m vary by c/m - c/N, their complete average by c/N; the mean of S subsets by both
    variance = distances.var(ddof=1) * (1 / subsets + size / (rows - size))
    return KernelDistance(float(distances.mean()), float(np.sqrt(variance)))


def _members(x: np.ndarray, picks: tuple[np.ndarray, ...]) -> np.ndarray:
    """1 where a row of x is in a subset, else 0: (N, S)."""
    members = np.zeros((len(x), len(picks)))
    for s, pick in enumerate(picks):
        members[pick, s] = 1
    return members


def _cubic(products: np.ndarray, dim: int) -> np.ndarray:
    # k(x, y) = (x . y / d + 1)^3
    base = products / dim + 1
    return base * base * base


def _sums(x: np.ndarray, y: np.ndarray, in_x: np.ndarray, in_y: np.ndarray) -> np.ndarray:
    """Sum over each subset's rows of x (N, d) and of y (M, d) of their kernel: (S,)."""
    total = np.zeros(in_x.shape[1])
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        total += np.sum(in_x[rows] * (_cubic(x[rows] @ y.T, x.shape[1]) @ in_y), axis=0)
    return total


def _within(x: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Mean kernel between different rows of each subset: (S,)."""
    size = members[:, 0].sum()
    own = _cubic(np.sum(x * x, axis=1), x.shape[1]) @ members
    return (_sums(x, x, members, members) - own) / (size * (size - 1))


def _distances(a: np.ndarray, b: np.ndarray, in_a: np.ndarray, in_b: np.ndarray) -> np.ndarray:
    # MMD^2_u = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean k(a_i, b_j)
    between = _sums(a, b, in_a, in_b) / (in_a[:, 0].sum() * in_b[:, 0].sum())
    return _within(a, in_a) + _within(b, in_b) - 2 * between

"""The Fréchet distance between two sets of features, seen as Gaussians (Heusel et al. 2017, Eq. 6).

It is called FID only with Inception's features; `betadiffusion.metrics.features.frechet_name` gives the right name.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from betadiffusion.metrics.arrays import as_matrix


@dataclass(eq=False)
class FeatureStatistics:
    """Mean (d,), covariance (d, d) with divisor count - 1, and the number of rows, all in float64.

    Raises ValueError for shapes that do not fit, values that are not finite, or fewer than two rows.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"Feature statistics need at least 2 rows, not {self.count}.")
        self.mean = as_matrix([self.mean], "mean")[0]
        self.covariance = as_matrix(self.covariance, "covariance")
        if self.covariance.shape != (self.mean.size, self.mean.size):
            raise ValueError(f"{self.mean.size} features have a square covariance, not one of {self.covariance.shape}.")

    @classmethod
    def from_features(cls, features: Any) -> "FeatureStatistics":
        """Statistics of features (N, d), N >= 2."""
        x = as_matrix(features, "features")
        mean = x.mean(axis=0)
        centred = x - mean
        return cls(mean, centred.T @ centred / max(len(x) - 1, 1), len(x))

    def update(self, features: Any) -> None:
        """Take in further features (M, d), M >= 1, as if all rows had come at once (Chan et al. 1979)."""
        x = as_matrix(features, "features")
        if x.shape[1] != self.mean.size:
            raise ValueError(f"These statistics are of {self.mean.size} features, the new rows have {x.shape[1]}.")
        total, mean = self.count + len(x), x.mean(axis=0)
        centred, shift = x - mean, mean - self.mean
        # S = S_a + S_b + n_a n_b / (n_a + n_b) * delta delta^T, S the sum of squared deviations
        scatter = (self.count - 1) * self.covariance + centred.T @ centred
        scatter += self.count * len(x) / total * np.outer(shift, shift)
        self.mean = self.mean + shift * len(x) / total
        self.covariance = scatter / (total - 1)
        self.count = total
        self.__dict__.pop("root", None)

    @cached_property
    def root(self) -> np.ndarray:
        """A matrix R (d, d) with R R^T = covariance, computed once."""
        values, vectors = np.linalg.eigh(self.covariance)
        return vectors * np.sqrt(values.clip(min=0))


def frechet_from_statistics(reference: FeatureStatistics, other: FeatureStatistics) -> float:
    """Fréchet distance between two Gaussians; symmetric, but only `reference`'s root is computed (and kept).

    Warns once when either has no more rows than features: the covariance is singular and the distance biased upwards.
    Raises ValueError when the numbers of features differ.
    """
    dim = reference.mean.size
    if other.mean.size != dim:
        raise ValueError(f"Both sets must have the same features, not {dim} and {other.mean.size}.")
    if min(reference.count, other.count) <= dim:
        warnings.warn(
            f"The Fréchet distance on {dim} features needs more than {dim} rows on each side, not {reference.count} "
            f"and {other.count}: a covariance is singular and the distance biased upwards.",
            RuntimeWarning,
            stacklevel=2,
        )
    # d^2 = |m_a - m_b|^2 + tr(A) + tr(B) - 2 tr((A^1/2 B A^1/2)^1/2); R^T B R has the same eigenvalues
    values = np.linalg.eigvalsh(reference.root.T @ other.covariance @ reference.root)
    overlap = np.sqrt(values.clip(min=0)).sum()
    distance = np.sum((reference.mean - other.mean) ** 2) - 2 * overlap
    return max(0.0, float(distance + np.trace(reference.covariance) + np.trace(other.covariance)))


def frechet_distance(a: Any, b: Any) -> float:
    """Squared Fréchet distance between features a (N, d) and b (M, d), numpy or torch, N and M >= 2.

    See `frechet_from_statistics` for the warning and the errors; use it when many sets meet one reference.
    """
    a, b = as_matrix(a, "a"), as_matrix(b, "b")
    return frechet_from_statistics(FeatureStatistics.from_features(a), FeatureStatistics.from_features(b))

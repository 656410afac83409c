"""The mutual information gap, and the mutual information between single codes and single factors."""

from typing import Any

import numpy as np

from betadiffusion.metrics.arrays import codes_and_factors


def _entropy(labels: np.ndarray) -> float:
    """Entropy in nats of non-negative integers (N,)."""
    counts = np.bincount(labels)
    p = counts[counts > 0] / labels.size
    return float(-np.sum(p * np.log(p)))


def _labels(factors: np.ndarray) -> list[np.ndarray]:
    """Each factor (column) as integers from 0."""
    return [np.unique(column, return_inverse=True)[1] for column in factors.T]


def equal_width_bins(values: np.ndarray, bins: int) -> np.ndarray:
    """Index from 1 of the equal-width bin between the minimum and maximum of values (N,), as numpy.histogram cuts."""
    return np.digitize(values, np.linspace(values.min(), values.max(), bins + 1)[:-1])


def mutual_information(codes: Any, factors: Any, bins: int = 20) -> np.ndarray:
    """Mutual information (d, K) in nats between each binned code and each factor.

    codes (N, d) float, cut into `bins` equal widths each; factors (N, K) integer; numpy or torch.
    The estimate is biased upwards by about (bins - 1) (values - 1) / 2N: few rows make any code look informed.
    Raises ValueError for NaN, infinity, other shapes, numbers of rows that differ, or no integer factor that varies.
    """
    codes, factors = codes_and_factors(codes, factors)
    labels = _labels(factors)
    factor_entropies = [_entropy(label) for label in labels]
    information = np.empty((codes.shape[1], factors.shape[1]))
    for i, code in enumerate(codes.T):
        binned = equal_width_bins(code, bins)
        code_entropy = _entropy(binned)
        for k, label in enumerate(labels):
            # I(c; v) = H(c) + H(v) - H(c, v)
            joint = _entropy(binned * (label.max() + 1) + label)
            information[i, k] = max(0.0, code_entropy + factor_entropies[k] - joint)
    return information


def mig(codes: Any, factors: Any, bins: int = 20) -> float:
    """Mutual information gap in [0, 1] (Chen et al. 2018, Eq. 6; the estimator of disentanglement_lib).

    MIG = mean over factors v of (I(best code; v) - I(second best; v)) / H(v), with I as `mutual_information`.
    codes (N, d) float, usually posterior means at N = 10,000; factors (N, K) integer; numpy or torch.
    A factor that never varies is left out; with one latent the second best is 0.
    Pitfalls: an outlier widens every bin of its code; a factor of more than `bins` values cannot reach 1; a factor
    written in two codes scores 0 even if no other factor is in them.
    Raises ValueError as `mutual_information`.
    """
    return gap(information_shares(codes, factors, bins))


def information_shares(codes: Any, factors: Any, bins: int = 20) -> np.ndarray:
    """`mutual_information` as shares (d, K) of each factor's entropy; NaN for a factor that never varies."""
    information = mutual_information(codes, factors, bins)
    entropies = np.array([_entropy(label) for label in _labels(codes_and_factors(codes, factors)[1])])
    return np.divide(information, entropies, out=np.full_like(information, np.nan), where=entropies > 0)


def gap(shares: np.ndarray) -> float:
    """The mutual information gap of `information_shares`."""
    shares = np.sort(shares, axis=0)
    return float(np.nanmean(shares[-1] - shares[-2] if len(shares) > 1 else shares[-1]))

"""How well single latents stand for single factors of variation."""

from typing import Any

import numpy as np

from betadiffusion.metrics.arrays import as_matrix


def _entropy(labels: np.ndarray) -> float:
    """Entropy in nats of non-negative integers (N,)."""
    counts = np.bincount(labels)
    p = counts[counts > 0] / labels.size
    return float(-np.sum(p * np.log(p)))


def _labels(factors: np.ndarray) -> list[np.ndarray]:
    """Each factor (column) as integers from 0."""
    return [np.unique(column, return_inverse=True)[1] for column in factors.T]


def _binned(code: np.ndarray, bins: int) -> np.ndarray:
    """Index of the equal-width bin between the code's minimum and maximum, as numpy.histogram cuts them."""
    return np.digitize(code, np.linspace(code.min(), code.max(), bins + 1)[:-1])


def mutual_information(codes: Any, factors: Any, bins: int = 20) -> np.ndarray:
    """Mutual information (d, K) in nats between each binned code and each factor.

    codes (N, d) float, cut into `bins` equal widths each; factors (N, K) integer; numpy or torch.
    Raises ValueError for NaN, infinity, other shapes, or numbers of rows that differ.
    """
    codes, factors = as_matrix(codes, "codes"), as_matrix(factors, "factors")
    if len(codes) != len(factors):
        raise ValueError(f"codes and factors must have the same number of rows, not {len(codes)} and {len(factors)}.")
    labels = _labels(factors)
    factor_entropies = [_entropy(label) for label in labels]
    information = np.empty((codes.shape[1], factors.shape[1]))
    for i, code in enumerate(codes.T):
        binned = _binned(code, bins)
        code_entropy = _entropy(binned)
        for k, label in enumerate(labels):
            # I(c; v) = H(c) + H(v) - H(c, v)
            joint = _entropy(binned * (label.max() + 1) + label)
            information[i, k] = max(0.0, code_entropy + factor_entropies[k] - joint)
    return information


def mig(codes: Any, factors: Any, bins: int = 20) -> float:
    """Mutual information gap in [0, 1] (Chen et al. 2018, Eq. 6; the estimator of disentanglement_lib).

    codes (N, d) float, usually posterior means at N = 10,000; factors (N, K) integer; numpy or torch.
    A factor that never varies is left out; with one latent the second best is 0.
    Raises ValueError as `mutual_information`, and when no factor varies.
    """
    information = np.sort(mutual_information(codes, factors, bins), axis=0)
    entropies = np.array([_entropy(label) for label in _labels(as_matrix(factors, "factors"))])
    varies = entropies > 0
    if not varies.any():
        raise ValueError("The mutual information gap needs a factor that varies, but every factor is constant.")
    gap = information[-1] - information[-2] if len(information) > 1 else information[-1]
    # MIG = mean over factors v of (I(best; v) - I(second; v)) / H(v)
    return float(np.mean(gap[varies] / entropies[varies]))

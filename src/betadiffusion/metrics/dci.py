"""Disentanglement, completeness and informativeness."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from betadiffusion.metrics.arrays import train_and_test, varying


@dataclass(frozen=True, eq=False)
class DCI:
    """Three scores in [0, 1] and the importance (d, K) of each code for each factor, whose columns sum to 1."""

    disentanglement: float
    completeness: float
    informativeness: float
    importance: np.ndarray


def dci(codes: Any, factors: Any, test_codes: Any, test_factors: Any, importance: str = "gbt", seed: int = 0) -> DCI:
    """Disentanglement, completeness, informativeness (Eastwood and Williams 2018, sec. 2, as disentanglement_lib).

    With R the importance of each code for each factor: disentanglement is the mean over codes of 1 - the entropy of
    R's row, to base K, weighted by the rows' sums; completeness the same of columns, to base d; informativeness the
    test accuracy of the models that R comes from, mean over factors.
    codes (N, d) float, usually posterior means, factors (N, K) integer, N = 10,000; 5,000 to test; numpy or torch.
    importance: "gbt", scikit-learn's gradient boosting with its defaults, one model per factor, as published (minutes
    for factors of many values); "forest", 10 bagged trees, each on 0.3 of the rows and with leaves of at least 5, over
    20 times faster: it ranks representations as gbt does, but its numbers are others, so name it beside them.
    A factor that never varies is left out, its importance 0; a single factor, or a single code, has entropy 0.
    Pitfalls: with few rows for each value the trees overfit and give importance to codes that know nothing (perfect
    codes beside five of noise score 0.8 at N = 1,500 on dSprites' factors); duplicated codes lower completeness alone.
    Raises ValueError for NaN, infinity, other shapes, factors that are not integers, an unknown importance, or no
    factor that varies.
    """
    codes, factors, test_codes, test_factors = train_and_test(codes, factors, test_codes, test_factors)
    weights, accuracies = np.zeros((codes.shape[1], factors.shape[1])), []
    varies = varying(factors)
    for k in np.flatnonzero(varies):
        model = _classifier(importance, seed).fit(codes, factors[:, k])
        weights[:, k] = model.feature_importances_
        accuracies.append(model.score(test_codes, test_factors[:, k]))
    used = weights[:, varies]
    return DCI(_concentration(used), _concentration(used.T), float(np.mean(accuracies)), weights)


def _classifier(importance: str, seed: int) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

    if importance == "gbt":
        return GradientBoostingClassifier(random_state=seed)
    if importance == "forest":
        return RandomForestClassifier(10, max_features=None, min_samples_leaf=5, max_samples=0.3, random_state=seed)
    raise ValueError(f"importance must be gbt or forest, not {importance!r}.")


def _concentration(weights: np.ndarray) -> float:
    """Mean of 1 - entropy of each row of weights (rows, columns), weighted by the rows' sums; 0 if all are 0."""
    p = weights + 1e-11  # as in the reference, so that a row of zeros is uniform
    p /= p.sum(axis=1, keepdims=True)
    entropy = -np.sum(p * np.log(p), axis=1) / np.log(max(weights.shape[1], 2))
    return float(np.sum((1 - entropy) * weights.sum(axis=1)) / max(weights.sum(), 1e-11))

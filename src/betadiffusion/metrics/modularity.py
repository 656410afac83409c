"""Modularity and explicitness: does each code know one factor only, and can all factors be read off."""

from typing import Any

import numpy as np

from betadiffusion.metrics.arrays import codes_and_factors, train_and_test, varying
from betadiffusion.metrics.mig import mutual_information


def modularity(codes: Any, factors: Any, bins: int = 20) -> float:
    """Modularity in [0, 1] (Ridgeway and Mozer 2018, sec. 3, as disentanglement_lib computes it).

    Per code, 1 - sum over the other factors of I^2 / (I_best^2 (K - 1)), I as `mutual_information`; then the mean.
    codes (N, d) float, usually posterior means at N = 10,000; factors (N, K) integer; numpy or torch.
    A code that knows nothing counts as 0; a factor that never varies is left out; a single factor is modular by itself.
    Pitfalls: dead codes lower it, so it falls with the number of latents; duplicated codes leave it as it is; noise
    that knows all factors equally little scores near 0, but a little of one factor suffices for 1.
    Raises ValueError as `mutual_information`.
    """
    codes, factors = codes_and_factors(codes, factors)
    squares = mutual_information(codes, factors[:, varying(factors)], bins) ** 2
    best = squares.max(axis=1)
    alive = best > 1e-24  # an information of 1e-12 nats is rounding
    others = (squares.sum(axis=1) - best)[alive] / (best[alive] * max(squares.shape[1] - 1, 1))
    return float(np.sum(1 - others) / len(best))


def explicitness(codes: Any, factors: Any, test_codes: Any, test_factors: Any) -> float:
    """Explicitness in [0, 1], 0.5 by chance (Ridgeway and Mozer 2018, sec. 3, as disentanglement_lib computes it).

    Per factor a one-versus-rest logistic regression on all codes, standardised by the training set's mean and
    deviation; its AUROC on the test set, mean over the factor's values, then over factors.
    codes (N, d) float, usually posterior means, factors (N, K) integer, N = 10,000; 5,000 to test; numpy or torch.
    Left out: a factor that never varies, a value that the test set lacks, or that only the test set has.
    Constant codes, copies of codes and rescaling do not matter.
    Pitfalls: AUROCs crowd near 1, and a perfect code of 40 ordered values stays at 0.94, as lines separate its ends
    alone; scikit-learn's later default, multinomial regression, scores up to 0.05 higher.
    Raises ValueError for NaN, infinity, other shapes, factors that are not integers, or no value left to test.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.multiclass import OneVsRestClassifier

    codes, factors, test_codes, test_factors = train_and_test(codes, factors, test_codes, test_factors)
    mean, scale = codes.mean(axis=0), np.where(varying(codes), codes.std(axis=0), 1)
    codes, test_codes = (codes - mean) / scale, (test_codes - mean) / scale
    scores = []
    for k in np.flatnonzero(varying(factors)):
        model = OneVsRestClassifier(LogisticRegression(solver="liblinear")).fit(codes, factors[:, k])
        targets = test_factors[:, k, None] == model.classes_
        tested = varying(targets)
        if tested.any():
            scores.append(roc_auc_score(targets[:, tested], model.predict_proba(test_codes)[:, tested]))
    if not scores:
        raise ValueError("Explicitness needs a factor that varies in both sets and shares values between them.")
    return float(np.mean(scores))

"""The separated attribute predictability score."""

from typing import Any

import numpy as np

from betadiffusion.metrics.arrays import train_and_test, varying


def sap(codes: Any, factors: Any, test_codes: Any, test_factors: Any) -> float:
    """Separated attribute predictability in [0, 1) (Kumar et al. 2018, sec. 3, as disentanglement_lib computes it).

    Per factor the gap between the two codes that predict it best, each alone, then the mean. A code's score is the
    test accuracy of a class-balanced linear SVM, C = 0.01, one value of the factor against the rest.
    codes (N, d) float, usually posterior means, factors (N, K) integer, N = 10,000; 5,000 to test; numpy or torch.
    A factor that never varies is left out; a single latent is compared with a constant one.
    Pitfalls: a code that knows nothing still predicts one value in n, so 1 - 1/n is the most a factor of n values can
    give, and a line on one code separates few of n > 2 values: perfect codes score 0.5 on two values, far less on 40.
    The SVM is regularised: scaling a code can change its score a little.
    Raises ValueError for NaN, infinity, other shapes, factors that are not integers, or no factor that varies.
    """
    from sklearn.svm import LinearSVC

    codes, factors, test_codes, test_factors = train_and_test(codes, factors, test_codes, test_factors)
    if codes.shape[1] == 1:
        codes, test_codes = np.pad(codes, ((0, 0), (0, 1))), np.pad(test_codes, ((0, 0), (0, 1)))
    gaps = []
    for k in np.flatnonzero(varying(factors)):
        accuracies = []
        for i in range(codes.shape[1]):
            svm = LinearSVC(C=0.01, class_weight="balanced", dual=False).fit(codes[:, [i]], factors[:, k])
            accuracies.append(svm.score(test_codes[:, [i]], test_factors[:, k]))
        second, best = np.sort(accuracies)[-2:]
        gaps.append(best - second)
    return float(np.mean(gaps))

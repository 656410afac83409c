"""The BetaVAE score: can a linear classifier tell which factor a set of pairs has in common."""

import numpy as np

from betadiffusion.metrics.fixed_factor import CodedFactors, Encode, Factors


def beta_vae_score(
    dataset: Factors,
    encode: Encode,
    seed: int = 0,
    *,
    pairs: int = 64,
    train_points: int = 10_000,
    test_points: int = 5_000,
) -> float:
    """BetaVAE score in [0, 1] (Higgins et al. 2017, sec. 3, as disentanglement_lib computes it).

    A point: the mean |difference| of the codes of `pairs` pairs of images, each pair sharing its value of one random
    factor; the score is the accuracy with which a one-versus-rest logistic regression on further points names it.
    dataset, encode: as in `factor_vae_score`. Factors that never vary are left out.
    Pitfalls: chance is 1/K; it reaches 1 long before codes are disentangled (rotated codes often do); the classifier
    is regularised, so that tiny codes score less.
    Raises ValueError for NaN, factors that are not integers, or fewer than two factors that vary.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    generator = np.random.default_rng(seed)
    coded = CodedFactors(dataset, encode, (train_points + test_points) * 2 * pairs)
    if coded.table.shape[1] < 2:
        raise ValueError("The BetaVAE score needs two factors that vary, but the set has one.")

    def points(count: int) -> tuple[np.ndarray, np.ndarray]:
        features, labels = [], []
        for factor, rows, partners in coded.draw(count, pairs, pairs=True, generator=generator):
            features.append(np.abs(coded.codes(rows) - coded.codes(partners)).mean(axis=1))
            labels.append(factor)
        return np.concatenate(features), np.concatenate(labels)

    model = OneVsRestClassifier(LogisticRegression(solver="liblinear")).fit(*points(train_points))
    return float(model.score(*points(test_points)))

"""What simple classifiers read from frozen codes."""

from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from betadiffusion.metrics.arrays import as_matrix

CHUNK = 1024  # test codes at a time


def linear_probe(codes: Any, labels: Any, test_codes: Any, test_labels: Any) -> float:
    """Accuracy in [0, 1] on test codes of a linear classifier trained on frozen codes.

    codes (N, d), test_codes (M, d) float, labels (N,), test_labels (M,) any integers; numpy or torch. As in MAE
    (He et al. 2022, App. A.1) codes are standardised, by the training codes' mean and deviation, before multinomial
    logistic regression; but for its SGD, over crops of images, L-BFGS finds the optimum, so that no rate, schedule or
    seed matters: the loss, summed over images, has |weights|^2 / 2 added (on 10,000 codes next to nothing). Raises
    ValueError for NaN, rows or widths that do not match, or a single class.
    """
    x, y, test_x, test_y = _checked(codes, labels, test_codes, test_labels)
    if len(np.unique(y)) < 2:
        raise ValueError("A linear probe needs labels of two classes or more, but all are the same.")
    scaler = StandardScaler().fit(x)
    classifier = LogisticRegression(max_iter=1000, tol=1e-3)
    classifier.fit(scaler.transform(x).astype(np.float32), y)
    return float(classifier.score(scaler.transform(test_x).astype(np.float32), test_y))


def knn_probe(
    codes: Any, labels: Any, test_codes: Any, test_labels: Any, k: int = 20, temperature: float = 0.07
) -> float:
    """Accuracy in [0, 1] of the vote of the k nearest codes, by cosine similarity (DINO, Caron et al. 2021, App. F.1).

    codes (N, d), test_codes (M, d) float, labels (N,), test_labels (M,) any integers; numpy or torch. Each of k (or
    all N, if fewer) neighbours votes with exp(similarity / temperature). Nothing is centred or scaled: a large mean
    makes all codes alike. Raises ValueError for NaN, rows or widths that do not match, k or temperature not positive.
    """
    x, y, test_x, test_y = _checked(codes, labels, test_codes, test_labels)
    if k < 1 or not temperature > 0:
        raise ValueError(f"k and temperature must be positive, not {k} and {temperature}.")
    classes, y = np.unique(y, return_inverse=True)
    train, votes_for = _directions(x), torch.from_numpy(y)
    guesses = []
    for test in _directions(test_x).split(CHUNK):
        similarity, nearest = (test @ train.T).topk(min(k, len(train)), dim=1)
        # weight = exp( cos / T ), taken against the nearest so that no small T overflows
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = torch.zeros(len(test), len(classes)).scatter_add_(1, votes_for[nearest], weights)
        guesses.append(votes.argmax(dim=1))
    return float(np.mean(classes[torch.cat(guesses).numpy()] == test_y))


def _directions(x: np.ndarray) -> torch.Tensor:
    return F.normalize(torch.from_numpy(x), dim=1).float()


def _labels(values: Any, codes: np.ndarray, name: str) -> np.ndarray:
    labels = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if labels.shape != (len(codes),) or labels.dtype.kind not in "iub":
        raise ValueError(f"{name} must be {len(codes)} integers, not {labels.dtype} of shape {labels.shape}.")
    return labels.astype(np.int64)


def _checked(codes: Any, labels: Any, test_codes: Any, test_labels: Any) -> tuple[np.ndarray, ...]:
    x, test_x = as_matrix(codes, "codes"), as_matrix(test_codes, "test_codes")
    if x.shape[1] != test_x.shape[1]:
        raise ValueError(f"codes and test_codes must have the same width, not {x.shape[1]} and {test_x.shape[1]}.")
    return x, _labels(labels, x, "labels"), test_x, _labels(test_labels, test_x, "test_labels")

"""Total AUROC difference: attributes that one latent alone detects."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from betadiffusion.metrics.arrays import codes_and_factors
from betadiffusion.metrics.mig import mutual_information

DETECTED = 0.75  # an attribute's best AUROC is at least this
SHARED = 0.2  # and at most this share of its entropy is known from another attribute
THRESHOLDS = {"nashae": 101, "disdiff": 11}
LEAST_RANGE = 0.2  # of a code that the published thresholds look at


@dataclass(frozen=True, eq=False)
class TAD:
    """score: sum of gaps; captured: the number of attributes it sums over; auroc (d, A), the better sign's."""

    score: float
    captured: int
    auroc: np.ndarray


def tad(codes: Any, attributes: Any, variant: str = "exact") -> TAD:
    """Total AUROC difference (Yeats et al. 2022, NashAE, sec. 4) with the number of attributes captured.

    An attribute is captured when the best latent's AUROC, of either sign, is at least 0.75 and no other attribute
    takes more than 0.2 of its entropy, max I(a; b) / H(a). TAD = sum over these of best - second best AUROC.
    codes (N, d) float, usually posterior means, N = 10,000; attributes (N, A) of 0 and 1; numpy or torch.
    variant, the estimator of the published rows: "exact" by ranks (InfoDiffusion, which standardises the codes and
    averages five folds of 8,000), "nashae" by 101 thresholds, "disdiff" by 11 thresholds between a code's least and
    greatest value; the latter two overestimate, and take codes whose range is at most 0.2 for chance: they were made
    for codes in [0, 1], and depend on scale.
    A constant code or attribute has AUROC 0.5, and such an attribute is never captured; a single latent's second best
    is 0.5. Pitfalls: it is a sum, so compare it only over the same attributes and with the number captured; an
    attribute in two latents adds nothing.
    Raises ValueError for NaN, infinity, other shapes, an unknown variant, attributes that are not 0 and 1 or all
    constant.
    """
    codes, attributes = codes_and_factors(codes, attributes, ("codes", "attributes"))
    if attributes.min() < 0 or attributes.max() > 1:
        raise ValueError(f"attributes must be 0 or 1, not from {attributes.min()} to {attributes.max()}.")
    if variant == "exact":
        auroc = _by_ranks(codes, attributes)
    elif variant in THRESHOLDS:
        auroc = _by_thresholds(codes, attributes, THRESHOLDS[variant])
    else:
        raise ValueError(f"variant must be exact, nashae or disdiff, not {variant!r}.")
    constant = attributes.min(axis=0) == attributes.max(axis=0)
    auroc[:, constant] = 0.5
    ranked = np.sort(auroc if len(auroc) > 1 else np.pad(auroc, ((0, 1), (0, 0)), constant_values=0.5), axis=0)
    information = mutual_information(attributes, attributes, bins=2)
    entropy = information.diagonal().copy()
    np.fill_diagonal(information, 0)
    kept = ~constant & (ranked[-1] >= DETECTED) & (information.max(axis=0) <= SHARED * entropy)
    return TAD(float((ranked[-1] - ranked[-2])[kept].sum()), int(kept.sum()), auroc)


def _by_ranks(codes: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """AUROC (d, A) of the better sign; ties count half."""
    from scipy.stats import rankdata

    positive = attributes.sum(axis=0)
    pairs = np.maximum(positive * (len(attributes) - positive), 1)
    ranks = rankdata(codes, axis=0).T @ attributes
    auroc = (ranks - positive * (positive + 1) / 2) / pairs
    return np.maximum(auroc, 1 - auroc)


def _by_thresholds(codes: np.ndarray, attributes: np.ndarray, count: int) -> np.ndarray:
    """The same from upper sums over `count` thresholds, in float32 as published so that ties fall alike."""
    codes, targets = codes.astype(np.float32), attributes.T.astype(np.float32)
    positive = np.maximum(targets.sum(axis=1, keepdims=True), 1)
    negative = np.maximum(len(codes) - positive, 1)
    steps = (np.arange(count) * (1 / (count - 1))).astype(np.float32)
    auroc = np.full((codes.shape[1], len(targets)), 0.5)
    for i, code in enumerate(codes.T):
        if code.max() - code.min() <= LEAST_RANGE:
            continue
        above = code[:, None] >= steps * (code.max() - code.min()) + code.min()
        hits = targets @ above.astype(np.float32)  # counts: exact in float32 below 2^24 rows
        true, false = np.float64(hits) / positive, (above.sum(axis=0) - np.float64(hits)) / negative
        # both rates fall with the threshold; of each step the rectangle takes the higher side
        width = false[:, :-1] - false[:, 1:]
        auroc[i] = np.maximum((true[:, :-1] * width).sum(axis=1), ((1 - true[:, 1:]) * width).sum(axis=1))
    return auroc

"""The interventional robustness score."""

from typing import Any

import numpy as np

from betadiffusion.metrics.arrays import codes_and_factors, varying
from betadiffusion.metrics.mig import equal_width_bins

QUANTILE = 0.99


def irs(codes: Any, factors: Any, bins: int = 20) -> float:
    """Interventional robustness in [0, 1] (Suter et al. 2019, as disentanglement_lib computes it).

    Per code and factor, 1 - mean over the factor's values v of Q99(|z - E[z|v]| given v) / max |z - E[z]|; per code the
    best factor; then the mean over codes, weighted by their greatest deviation max |z - E[z]|.
    codes (N, d) float, usually posterior means at N = 10,000; factors (N, K) integer; numpy or torch.
    A factor is cut into `bins` equal widths, which joins values when it has more. Constant codes are left out, and
    factors that never vary; constant codes alone score 0.
    Pitfalls: the weights make it depend on each code's scale; duplicated codes are not punished; values held by few
    rows look robust; the maximum is an outlier's, so that random normal codes score well above 0.
    Raises ValueError for NaN, infinity, other shapes, factors that are not integers, or no factor that varies.
    """
    codes, factors = codes_and_factors(codes, factors)
    codes = codes[:, varying(codes)]
    if codes.shape[1] == 0:
        return 0.0
    greatest = np.abs(codes - codes.mean(axis=0)).max(axis=0)
    spread = []
    for factor in factors[:, varying(factors)].T:
        binned = equal_width_bins(factor, bins)
        groups = [codes[binned == value] for value in np.unique(binned)]
        # the paper takes the maximum in place of the quantile
        inner = [np.quantile(np.abs(group - group.mean(axis=0)), QUANTILE, axis=0) for group in groups]
        spread.append(np.mean(inner, axis=0))
    robustness = 1 - np.min(spread, axis=0) / greatest
    return float(np.average(robustness, weights=greatest))

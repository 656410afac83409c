"""What a code keeps, from posteriors N(mean, sigma^2): rate, active units, and the aggregated posterior by channel.

means (N, d) of N images, numpy or torch; sigma a number, or of shape (N,) or (N, d), positive. A spatial latent counts
as d dimensions; move the places to the rows for one aggregated posterior per channel.
"""

from typing import Any

import numpy as np
import torch
from scipy.stats import norm

from betadiffusion.gaussian import standard_normal_kl
from betadiffusion.metrics.arrays import as_matrix

FINENESS = 32  # bins per sigma
REACH = 8  # sigmas, beyond which a Gaussian is nothing
CHUNK = 1 << 22  # values at a time


def _sigmas(sigma: Any, means: np.ndarray) -> np.ndarray:
    """Sigma as (1, 1), (N, 1) or (N, d), checked."""
    if hasattr(sigma, "detach"):
        sigma = sigma.detach().cpu().double()
    values = np.asarray(sigma, dtype=np.float64)
    if values.shape not in ((), means.shape[:1], means.shape):
        raise ValueError(f"sigma must be a number, or one for each of {means.shape}, not of shape {values.shape}.")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError("sigma must be positive and finite.")
    return values.reshape(values.shape + (1,) * (2 - values.ndim))


def rate(means: Any, sigma: Any) -> float:
    """Mean over images of KL( N(mean, sigma^2 I) || N(0, I) ), summed over dimensions, in nats.

    Raises ValueError for NaN, shapes that do not fit, or a sigma that is not positive.
    """
    means = as_matrix(means, "means")
    sigmas = np.broadcast_to(_sigmas(sigma, means), means.shape).copy()
    return float(standard_normal_kl(torch.from_numpy(means), torch.from_numpy(sigmas)).mean())


def active_units(means: Any, threshold: float = 0.01) -> int:
    """Number of dimensions of means (N, d) whose variance over the images is above `threshold` (Burda et al. 2016)."""
    # A_u = Var_x( E_{u ~ q(u|x)}[u] ) > 0.01
    return int((as_matrix(means, "means").var(axis=0) > threshold).sum())


def aggregated_kl(means: Any, sigma: Any) -> np.ndarray:
    """KL( N(m, v) || N(0, 1) ) in nats, (d,), of the Gaussian with each channel's aggregated mean m and variance v.

    It is 0 for a channel that looks standard normal in its first two moments. Raises ValueError as `rate`.
    """
    means = as_matrix(means, "means")
    mean = means.mean(axis=0)
    # Var z = Var E[z|x] + E Var[z|x]
    variance = means.var(axis=0) + np.mean(_sigmas(sigma, means) ** 2, axis=0)
    return 0.5 * (mean**2 + variance - 1 - np.log(variance))


def aggregated_posterior(means: Any, sigma: Any, grid: Any) -> np.ndarray:
    """Density (d, G) of each channel's aggregated posterior, 1/N sum_i N(z; mean_i, sigma_i^2), at grid (G,).

    grid: rising, evenly spaced. A sigma below the grid's spacing is widened to it, since the grid cannot show less: the
    density then still integrates to 1 over a grid that covers it. A single sigma is fast, with the means in fine bins:
    the error is at most 5e-5 / sigma (the peak of one Gaussian is 0.4 / sigma). One per image is summed exactly.
    Raises ValueError as `rate`, and for a grid that is not evenly spaced.
    """
    means, points = as_matrix(means, "means"), as_matrix([grid], "grid")[0]
    steps = np.diff(points)
    if len(steps) == 0 or not steps[0] > 0 or not np.allclose(steps, steps[0], rtol=1e-3):
        raise ValueError("grid must rise in even steps, by 2 points or more.")
    sigmas = np.maximum(_sigmas(sigma, means), steps.mean())
    if sigmas.size == 1:
        return _binned(means, sigmas.item(), points)
    # p(z) = 1/N sum_i N(z; mean_i, sigma_i^2)
    density = np.zeros((means.shape[1], len(points)))
    rows = max(1, CHUNK // density.size)
    sigmas = np.broadcast_to(sigmas, means.shape)
    for start in range(0, len(means), rows):
        m, s = (x[start : start + rows, :, None] for x in (means, sigmas))
        density += norm.pdf(points, m, s).sum(axis=0)
    return density / len(means)


def _binned(means: np.ndarray, sigma: float, points: np.ndarray) -> np.ndarray:
    """Density (d, G) of the mixture at points (G,), each mean shared linearly by the two bins beside it."""
    width = sigma / FINENESS
    low = points[0] - REACH * sigma
    bins = int((points[-1] + REACH * sigma - low) / width) + 2
    places = (means - low) / width
    left = np.floor(places)
    inside = (left >= 0) & (left < bins - 1)
    # a Gaussian between two bins is interpolated: error <= width^2 / 8 max |N''| = (1/32)^2 / 8 * 0.4 / sigma
    index = np.where(inside, left, 0).astype(np.int64) + bins * np.arange(means.shape[1])
    right = np.where(inside, places - left, 0)
    size = bins * means.shape[1]
    counts = np.bincount(index.ravel(), (inside - right).ravel(), size)
    counts += np.bincount(index.ravel() + 1, right.ravel(), size)
    centres = low + width * np.arange(bins)
    return counts.reshape(-1, bins) @ norm.pdf(points, centres[:, None], sigma) / len(means)

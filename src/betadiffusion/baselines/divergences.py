"""What baselines say of the aggregated posterior q(z): divergences from samples, in nats where they have a unit.

Latents are (B, ...), flattened here to D dimensions; everything is computed in float32, under autocast too. Memory goes
with B^2 D where samples are compared in pairs.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Normal

Kernel = Literal["rbf", "imq"]
Estimator = Literal["mws", "mss"]


def mmd(x: Tensor, y: Tensor, kernel: Kernel = "rbf", unbiased: bool = False, bandwidth: float | None = None) -> Tensor:
    """Squared maximum mean discrepancy of samples x (B, ...) and y (M, ...): ().

    kernel: "rbf", exp(-|x-y|^2 / C), or "imq", C / (C + |x-y|^2) (Tolstikhin et al. 2018), with C = `bandwidth`, or by
    default 2 D, the mean of |x-y|^2 under N(0, I). The biased form (Gretton et al. 2012, Eq. 5) is never negative, and
    what InfoVAE lowers; the unbiased one (Eq. 3) leaves out pairs of a sample with itself, and needs two of each.
    ValueError for another kernel.
    """
    x, y = x.flatten(1).float(), y.flatten(1).float()
    within_x, within_y, between = (
        _kernel(a, b, kernel, bandwidth or 2 * x.shape[1]) for a, b in ((x, x), (y, y), (x, y))
    )
    if not unbiased:
        return within_x.mean() + within_y.mean() - 2 * between.mean()

    def pairs(matrix: Tensor) -> Tensor:
        return (matrix.sum() - matrix.diagonal().sum()) / (len(matrix) * (len(matrix) - 1))

    return pairs(within_x) + pairs(within_y) - 2 * between.mean()


def _kernel(x: Tensor, y: Tensor, kernel: Kernel, scale: float) -> Tensor:
    distance = (x[:, None] - y).square().sum(2)
    if kernel == "rbf":
        return (-distance / scale).exp()
    if kernel == "imq":
        return scale / (scale + distance)
    raise ValueError(f"unknown kernel '{kernel}'; choose rbf or imq")


def log_aggregate(z: Tensor, mean: Tensor, sigma: Tensor, count: int, estimator: Estimator) -> tuple[Tensor, Tensor]:
    """log q(z) and log prod_d q(z_d), (B,) each, at draws z (B, ...) of the posteriors N(mean, sigma^2) of a batch.

    The batch is drawn without replacement from a data set of `count` images, at least B, over which q averages.
    "mws": minibatch-weighted sampling, 1/(count B) sum_j q(z|x_j), a lower bound (Chen et al. 2018, Eq. 5): where the
    batch is the data set, exact but for -log count. "mss": stratified (their App. C.2), unbiased in q: a sample's own
    posterior has its weight in the data set, 1/count, and the rest is shared among the others alike, which is the mean
    of their weights over the order of the batch, and exact where the batch is the data set.
    ValueError for another estimator.
    """
    z, mean, sigma = (a.flatten(1).float() for a in (z, mean, sigma))
    batch = len(z)
    count = max(count, batch)
    if estimator == "mws":
        weights = z.new_full((batch, batch), 1 / (count * batch))
    elif estimator == "mss":
        weights = z.new_full((batch, batch), (count - 1) / (count * max(batch - 1, 1)))
        weights.fill_diagonal_(1 / count)
    else:
        raise ValueError(f"unknown estimator '{estimator}'; choose mws or mss")
    pairs, log_weights = Normal(mean, sigma).log_prob(z[:, None]), weights.log()
    joint = (pairs.sum(2) + log_weights).logsumexp(1)
    return joint, (pairs + log_weights[:, :, None]).logsumexp(1).sum(1)


def decomposition(
    z: Tensor, mean: Tensor, sigma: Tensor, count: int, estimator: Estimator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mutual information, total correlation and dimension-wise KL, (B,) each, whose means add up to the KL to N(0, I).

    Chen et al. 2018, Eq. 2, by one draw z of every posterior; arguments as in `log_aggregate`.
    """
    joint, product = log_aggregate(z, mean, sigma, count, estimator)
    z, mean, sigma = (a.flatten(1).float() for a in (z, mean, sigma))
    log_q = Normal(mean, sigma).log_prob(z).sum(1)
    log_p = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    return log_q - joint, joint - product, product - log_p


def permute_dimensions(z: Tensor, u: Tensor) -> Tensor:
    """z (B, D) with every dimension permuted over the batch by itself: samples of prod_d q(z_d) (Kim and Mnih 2018).

    u (B, D): uniform numbers, which decide the permutations.
    """
    return z.gather(0, u.argsort(dim=0))


def covariance(z: Tensor) -> Tensor:
    """The covariance (D, D) of samples z (B, ...), divided by B."""
    z = z.flatten(1)
    with torch.autocast(z.device.type, enabled=False):
        centred = z.float() - z.float().mean(0)
        return centred.T @ centred / len(z)


def distance_from_white(matrix: Tensor, off_diagonal: float, diagonal: float) -> Tensor:
    """off_diagonal sum_{i != j} C_ij^2 + diagonal sum_i (C_ii - 1)^2 of a covariance C (D, D) (Kumar et al. 2018)."""
    variances = matrix.diagonal()
    others = matrix.square().sum() - variances.square().sum()
    return off_diagonal * others + diagonal * (variances - 1).square().sum()

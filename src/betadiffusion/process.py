"""The path z_t = f(x,t) + sigma(t) eps between the levels, and its posterior (Eqs. 13 to 17, corrected)."""

from typing import NamedTuple

from torch import Tensor


class Posterior(NamedTuple):
    """Mean, shaped like z_t, and variance of a Gaussian with covariance `variance` I."""

    mean: Tensor
    variance: Tensor


def diffuse(mean: Tensor, sigma: Tensor, eps: Tensor) -> Tensor:
    """z_t ~ q(z_t | x) (Eq. 13): mean f(x,t) and eps (B, ...), sigma broadcastable to them."""
    return mean + sigma * eps


def forward_step(z_s: Tensor, f_s: Tensor, f_t: Tensor, sigma_s: Tensor, sigma_t: Tensor, eps: Tensor) -> Tensor:
    """z_t ~ q(z_t | z_s, x) for s < t (Eq. 14): the Markov chain whose marginals are Eq. 13."""
    # z_t = z_s + f_t - f_s + sqrt(sigma_t^2 - sigma_s^2) eps                                           (Eq. 14)
    return z_s + f_t - f_s + (sigma_t.square() - sigma_s.square()).clamp(min=0).sqrt() * eps


def posterior(z_t: Tensor, f_t: Tensor, f_s: Tensor, sigma_t: Tensor, sigma_s: Tensor) -> Posterior:
    """q(z_s | z_t, x) for s < t (Eqs. 15, 16): z_t, f_t, f_s (B, ...), sigmas broadcastable, sigma_s <= sigma_t.

    Eq. 16 prints x where f(x,t) is meant (erratum 1); the mean here is the corrected one.
    """
    a = (sigma_s / sigma_t).square()
    # N( a z_t + (1-a) f_t + (f_s - f_t),  sigma_s^2 (1-a) I )                                  (Eq. 16, corrected)
    return Posterior(a * z_t + (1 - a) * f_t + (f_s - f_t), sigma_s.square() * (1 - a))

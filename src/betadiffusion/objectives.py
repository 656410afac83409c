"""Training objectives, one value per sample; only the trainer averages over the batch."""

from typing import NamedTuple

from torch import Tensor

from betadiffusion.gaussian import log_density, standard_normal_kl, sum_over_sample
from betadiffusion.schedules import Weights


class VAETerms(NamedTuple):
    """Eq. 4 and its parts for one batch, each (B,): nats, but `squared_error`, summed over pixels in [-1, 1]."""

    loss: Tensor
    reconstruction: Tensor  # -log p(x|z)
    rate: Tensor  # KL(q(z|x) || p(z))
    squared_error: Tensor


def multi_beta_objective(
    x: Tensor, x_hat: Tensor, mean: Tensor, sigma: Tensor, pixel_sigma: Tensor, weights: Weights
) -> VAETerms:
    """Negative objective of Eq. 4: x, x_hat (B,C,H,W); mean (B,...); sigma, pixel_sigma and weights (B,)."""
    # w_rec [ D/2 log(2 pi s^2) + |x - x_hat|^2 / (2 s^2) ] + w_kl KL( N(f, sigma^2 I) || N(0, I) )      (Eq. 4)
    reconstruction = -log_density(x, x_hat, pixel_sigma)
    rate = standard_normal_kl(mean, sigma)
    loss = weights.rec * reconstruction + weights.kl * rate
    return VAETerms(loss, reconstruction, rate, sum_over_sample((x - x_hat).square()))


def optimal_pixel_sigma(squared_error: Tensor, pixels: int) -> Tensor:
    """The s that minimises Eq. 4 at a level, the root mean squared error: squared_error (B,) summed, returns ()."""
    return (squared_error.mean() / pixels).sqrt()


def denoising_loss(
    eps_hat: Tensor, eps: Tensor, velocity_hat: Tensor, velocity: Tensor, eps_scale: Tensor, velocity_scale: Tensor
) -> Tensor:
    """Eq. 19 with the change of encoding as a velocity delta / tau (erratum 4), per dimension: all (B, ...); (B,).

    Each error is measured in units of the scale that its target has once the Gaussian part of it is known (see
    `nn.preconditioning`), so that neither output nor any level drowns another.
    """
    eps_error = ((eps_hat - eps) / eps_scale).square()
    velocity_error = ((velocity_hat - velocity) / velocity_scale).square()
    return (eps_error + velocity_error).flatten(1).mean(1)

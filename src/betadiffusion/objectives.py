"""Training objectives, one value per sample; only the trainer averages over the batch."""

from typing import Literal, NamedTuple

from torch import Tensor

from betadiffusion.gaussian import log_density, standard_normal_kl, sum_over_sample
from betadiffusion.schedules import Weights

MIN_SNR_GAMMA = 5.0  # Hang et al. 2023


class VAETerms(NamedTuple):
    """Eq. 4 and its parts for one batch, each (B,): nats, but `squared_error`, summed over pixels in [-1, 1]."""

    loss: Tensor
    reconstruction: Tensor  # -log p(x|z)
    rate: Tensor  # KL(q(z|x) || p(z))
    squared_error: Tensor


def multi_beta_objective(
    x: Tensor,
    x_hat: Tensor,
    mean: Tensor,
    sigma: Tensor,
    pixel_sigma: Tensor,
    weights: Weights,
    free: Tensor | None = None,
) -> VAETerms:
    """Negative objective of Eq. 4: x, x_hat (B,C,H,W); mean (B,...); sigma, pixel_sigma and weights (B,).

    `free` (B,): nats that each latent dimension has for nothing, in the loss alone.
    """
    # w_rec [ D/2 log(2 pi s^2) + |x - x_hat|^2 / (2 s^2) ] + w_kl KL( N(f, sigma^2 I) || N(0, I) )      (Eq. 4)
    reconstruction = -log_density(x, x_hat, pixel_sigma)
    rate = standard_normal_kl(mean, sigma)
    paid = rate if free is None else standard_normal_kl(mean, sigma, free)
    loss = weights.rec * reconstruction + weights.kl * paid
    return VAETerms(loss, reconstruction, rate, sum_over_sample((x - x_hat).square()))


def optimal_pixel_sigma(squared_error: Tensor, pixels: int) -> Tensor:
    """The s that minimises Eq. 4 at a level, the root mean squared error: squared_error (B,) summed, returns ()."""
    return (squared_error.mean() / pixels).sqrt()


def scaled_error(guess: Tensor, target: Tensor, scale: Tensor | float) -> Tensor:
    """Squared error in units of a scale, per dimension: guess and target (B, ...), scale broadcast to them; (B,).

    Eq. 19 is the sum of two. With the scale that a target has once the Gaussian part of it is known (see
    `nn.preconditioning`), and the change of encoding as a velocity delta / tau (erratum 4), neither output nor any
    level drowns another.
    """
    return ((guess - target) / scale).square().flatten(1).mean(1)


def snr_weight(weighting: Literal["sigma", "min_snr"], snr: Tensor) -> Tensor:
    """Weight w(t), not normalised, of a level's errors in units of what is left over, from snr = V f / sigma^2 >= 0.

    Such an error of eps is (1 + 1/snr) times the plain one, as V f / (V f + sigma^2) is left over of eps.
    "sigma": |f_hat - f|^2 / sigma^2, the plain error of eps. "min_snr": that of f in units of V f, times
    min(snr, 5) (Hang et al. 2023, sec. 3.4).
    """
    # |f_hat - f|^2 / sigma^2 = |eps_hat - eps|^2 = snr / (1 + snr) of the error in units of what is left over
    plain = snr / (1 + snr)
    return plain if weighting == "sigma" else snr.clamp(max=MIN_SNR_GAMMA) / (1 + snr)

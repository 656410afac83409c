"""Refinement: an image fed back through one VAE while beta falls in small steps (beta-Selectable VAE).

Each step improves how well x_t agrees with its own reconstruction at a lower beta. That is no likelihood: it says
nothing of how probable an image is, and one that is its own reconstruction stays as it is (docs/formalism.md).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from betadiffusion.gaussian import Generators, expand_as, randn
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.objectives import multi_beta_objective


class Refined(NamedTuple):
    """After a step: its level, the images (B,C,H,W), and Eq. 4 of what went in, at that level (B,), to be high."""

    level: float
    images: Tensor
    elbo: Tensor


def refine(
    vae: MultiBetaVAE,
    x: Tensor,
    levels: Tensor,
    *,
    ascents: int = 0,
    rate: float = 0.1,
    generator: Generators | None = None,
) -> Iterator[Refined]:
    """Feeds images x (B,C,H,W) in [-1, 1] through the VAE at each of the falling `levels` (N,), and yields each step.

    First variant, `ascents` 0: x <- g(z, t), z drawn of q(z|x;t), or its mean without a `generator`. Second variant:
    the mean is first improved by so many steps of gradient ascent on Eq. 4, each `rate` times sigma(t)^2 / w_kl times
    the gradient (a Newton step where the posterior is that of a Gaussian), with the same draw throughout. Raises
    ValueError for `ascents` at a level whose KL weighs nothing, as level 0 of schedules "sinusoidal" and "linear".
    """
    if ascents and not bool((vae.schedule(levels).kl > 0).all()):
        raise ValueError("an ascent on Eq. 4 needs a KL that weighs something: leave out level 0, or ascents")
    for level in levels.tolist():
        t = torch.full((len(x),), level, device=x.device)
        with torch.no_grad():
            mean, sigma = vae.posterior(x, t)
        noise = torch.zeros_like(mean) if generator is None else sigma * randn(mean.shape, mean, generator)
        step = rate * sigma.square() / expand_as(vae.schedule(t).kl, mean)
        for _ in range(ascents):
            mean = mean.detach().requires_grad_()
            mean = mean + step * torch.autograd.grad(elbo(vae, x, mean, sigma, noise, t).sum(), mean)[0]
        with torch.no_grad():
            score = elbo(vae, x, mean, sigma, noise, t)
            x = vae.decode(mean + noise, t).clamp(-1, 1)
        yield Refined(level, x, score)


def elbo(vae: MultiBetaVAE, x: Tensor, mean: Tensor, sigma: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Eq. 4, to be high, of images x under q(z) = N(mean, sigma^2), with the draw mean + noise: (B,)."""
    x_hat = vae.decode(mean + noise, t)
    tau = vae.prior_scale(t)
    return -multi_beta_objective(x, x_hat, mean / tau, sigma / tau, vae.pixel_sigma(t), vae.schedule(t)).loss

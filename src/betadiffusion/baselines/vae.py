"""The VAE and the beta-VAE, and what all VAEs of one Gaussian code share."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn.functional import softplus

from betadiffusion.baselines.autoencoder import ImageAutoEncoder
from betadiffusion.gaussian import Generators, randn, standard_normal_kl
from betadiffusion.nn.likelihood import Likelihood, LikelihoodName

LEAST_SIGMA = 1e-4


def moments(encoded: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sigma of q(z|x), shaped like the latent, from what an encoder gives in twice as many channels."""
    mean, scale = encoded.chunk(2, dim=1)
    return mean, LEAST_SIGMA + softplus(scale)  # smooth, bounded below, and no exponential to overflow


def standard_scores(likelihood: Likelihood, x: Tensor, output: Tensor, rate: Tensor) -> dict[str, Any]:
    """Error, rate and ELBO of images x: the decoder's output at a draw of their posteriors, and their rates (B,)."""
    return {
        "mse": float((likelihood.image(output) - x).square().mean()),
        "rate": float(rate.mean()),
        "elbo": float(-(likelihood(x, output) + rate).mean()),
    }


class GaussianVAE(ImageAutoEncoder):
    """q(z|x) = N(mu(x), diag sigma(x)^2), p(z) = N(0, I): -log p(x|z) plus the subclass's `regulariser`."""

    def __init__(self, backbone: dict[str, Any], likelihood: LikelihoodName) -> None:
        super().__init__(backbone, likelihood, encoded=2)

    def posterior(self, x: Tensor, t: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and sigma of q(z|x) for images x (B,C,H,W), both shaped like the latent."""
        return moments(self.encoded(x))

    def encode_mean(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """mu(x), deterministic."""
        return self.posterior(x)[0]

    def encode_sample(self, x: Tensor, t: Tensor | None = None, generator: Generators | None = None) -> Tensor:
        """A draw of q(z|x)."""
        mean, sigma = self.posterior(x)
        return mean + sigma * randn(mean.shape, mean, generator)

    def reconstruct(self, x: Tensor, generator: Generators | None = None) -> Tensor:
        """Images decoded from the mean, or with `generator` from a draw of q(z|x)."""
        return self.decode(self.encode_mean(x) if generator is None else self.encode_sample(x, generator=generator))

    def sample(self, count: int, generator: Generators | None = None) -> Tensor:
        """Images (count,C,H,W) decoded from draws of the prior."""
        return self.decode(self.noise(count, self.latent_shape, generator))

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randn(batch, *self.latent_shape, generator=generator),)

    def regulariser(self, mean: Tensor, sigma: Tensor, z: Tensor, *draws: Tensor, **given: Any) -> Tensor:
        """What is added to -log p(x|z), (B,), in nats: mean, sigma and the draw z of q(z|x), shaped like the latent.

        What counts on the batch as a whole is the same for all its images. `draws` are those after eps.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, eps: Tensor, *draws: Tensor, **given: Any) -> Tensor:
        mean, sigma = self.posterior(x)
        z = mean + sigma * eps
        return (self.nll(x, self.decoded(z)) + self.regulariser(mean, sigma, z, *draws, **given)) / x[0].numel()

    def own_numbers(
        self, mean: Tensor, sigma: Tensor, z: Tensor, generator: torch.Generator, **given: Any
    ) -> dict[str, Any]:
        """What validation notes beside error, rate and ELBO, from the posteriors of a part of the held-out images."""
        return {}

    @torch.no_grad()
    def numbers(self, x: Tensor, generator: torch.Generator, **given: Any) -> dict[str, Any]:
        mean, sigma = self.posterior(x)
        z = mean + sigma * randn(mean.shape, mean, generator)
        scores = standard_scores(self.nll, x, self.decoded(z), standard_normal_kl(mean, sigma))
        return scores | self.own_numbers(mean, sigma, z, generator, **given)


class VAE(GaussianVAE):
    """-log p(x|z) + beta KL(q(z|x) || p(z)): the VAE (Kingma and Welling 2014), and with beta > 1 Higgins et al.'s."""

    @register_to_config
    def __init__(self, backbone: dict[str, Any], likelihood: LikelihoodName = "bernoulli", beta: float = 1.0) -> None:
        super().__init__(backbone, likelihood)

    def regulariser(self, mean: Tensor, sigma: Tensor, z: Tensor, *draws: Tensor, **given: Any) -> Tensor:
        return self.config.beta * standard_normal_kl(mean, sigma)

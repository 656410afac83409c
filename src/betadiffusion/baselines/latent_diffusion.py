"""Linear diffusion of the codes of a fixed VAE."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from betadiffusion.baselines.linear_diffusion import SAMPLE_STEPS, noise_draws
from betadiffusion.baselines.prior import LatentPrior, WithPrior
from betadiffusion.baselines.vae import GaussianVAE
from betadiffusion.gaussian import Generators, split, standard_normal_kl
from betadiffusion.nn.likelihood import LikelihoodName


class LatentDiffusion(WithPrior, GaussianVAE):
    """A VAE of next to no KL, then a diffusion of its codes divided by their standard deviation (Rombach et al. 2022).

    width and depth: of the denoiser, an MLP for vector latents, a transformer for grids.
    """

    sample_options = ("steps", "eta")
    evaluations = SAMPLE_STEPS + 1

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        likelihood: LikelihoodName = "learned",
        beta: float = 1e-6,
        width: int = 512,
        depth: int = 4,
    ) -> None:
        super().__init__(backbone, likelihood)
        self.prior = LatentPrior(self.latent_shape, width, depth)

    def regulariser(self, mean: Tensor, sigma: Tensor, z: Tensor) -> Tensor:
        return self.config.beta * standard_normal_kl(mean, sigma)

    @torch.no_grad()
    def prepare(self, stage: str, x: Tensor) -> None:
        super().prepare(stage, x)
        if stage == "prior":
            self.prior.calibrate(torch.zeros(()), self.encode_mean(x).std())

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        of_posterior = super().draw(batch, generator)
        if self.stage == "baseline":
            return of_posterior
        return *of_posterior, *noise_draws(batch, self.latent_shape, generator)

    def forward(self, x: Tensor, eps: Tensor, time: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        if self.stage == "baseline":
            return super().forward(x, eps)
        with torch.no_grad():
            mean, sigma = self.posterior(x)
        return self.prior(mean + sigma * eps, time, noise)

    def sample(
        self, count: int, generator: Generators | None = None, steps: int = SAMPLE_STEPS, eta: float = 0.0
    ) -> Tensor:
        """Images (count,C,H,W) decoded from codes by so many steps of DDIM; ValueError before stage "prior"."""
        self.check_prior()
        return self.decode(self.prior.sample(split(generator, count), steps, eta))

    @torch.no_grad()
    def numbers(self, x: Tensor, generator: torch.Generator) -> dict[str, Any]:
        if self.stage == "baseline":
            return super().numbers(x, generator)
        draws = (draw.to(x.device) for draw in self.draw(len(x), generator))
        return {"prior_loss": float(self(x, *draws).mean())}

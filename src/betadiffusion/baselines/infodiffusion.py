"""InfoDiffusion: a diffusion that is told a Gaussian code, whose prior is N(0, I)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from betadiffusion.baselines.conditioned_diffusion import ConditionedDiffusion
from betadiffusion.baselines.divergences import mmd
from betadiffusion.baselines.linear_diffusion import SAMPLE_STEPS, Prediction, noise_draws, noise_errors
from betadiffusion.baselines.vae import moments
from betadiffusion.gaussian import Generators, split, standard_normal_kl


class InfoDiffusion(ConditionedDiffusion):
    """A Gaussian code with the prior N(0, I) (Wang et al. 2023): noise error + code_mmd MMD + code_kl KL.

    The MMD is between the codes drawn for a batch and as many draws of the prior.
    """

    evaluations = SAMPLE_STEPS

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        unet_channels: Sequence[int] = (32, 64, 64),
        unet_layers: int = 1,
        unet_attention: Sequence[int] = (),
        steps: int = 50,
        prediction: Prediction = "epsilon",
        code_mmd: float = 0.1,
        code_kl: float = 0.0,
    ) -> None:
        super().__init__(backbone, unet_channels, unet_layers, unet_attention, steps, encoded=2)

    def posterior(self, x: Tensor, t: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and sigma of the code of images x (B,C,H,W)."""
        return moments(self.encoded(x))

    def encode_mean(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return self.posterior(x)[0]

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        of_code = torch.randn(2, batch, *self.latent_shape, generator=generator)
        return *of_code, *noise_draws(batch, self.image_shape, generator)

    def divergence(self, z: Tensor, drawn: Tensor) -> Tensor:
        """MMD of codes z and draws of the prior, by the kernel exp(-|a - b|^2 / d^2) of d dimensions."""
        return mmd(z, drawn, bandwidth=math.prod(self.latent_shape) ** 2)

    def forward(self, x: Tensor, eps: Tensor, drawn: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        mean, sigma = self.posterior(x)
        z = mean + sigma * eps
        error = noise_errors(self.unet, x, time, noise, self.condition(z), self.config.prediction)
        kl = standard_normal_kl(mean, sigma)
        return error + self.config.code_mmd * self.divergence(z, drawn) + self.config.code_kl * kl

    def sample(
        self, count: int, generator: Generators | None = None, steps: int = SAMPLE_STEPS, eta: float = 0.0
    ) -> Tensor:
        """Images (count,C,H,W): a code from N(0, I), then its image by so many steps of DDIM."""
        each = split(generator, count)
        return self.images(self.noise(count, self.latent_shape, each), each, steps, eta)

    @torch.no_grad()
    def numbers(self, x: Tensor, generator: torch.Generator) -> dict[str, Any]:
        mean, sigma = self.posterior(x)
        eps, drawn = torch.randn(2, *mean.shape, generator=generator).to(x.device)
        of_code = {"rate": float(standard_normal_kl(mean, sigma).mean())}
        of_code["mmd"] = float(self.divergence(mean + sigma * eps, drawn))
        return super().numbers(x, generator) | of_code

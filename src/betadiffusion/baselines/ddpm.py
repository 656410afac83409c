"""Diffusion of pixels, with no encoder."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from betadiffusion.baselines.base import Baseline
from betadiffusion.baselines.linear_diffusion import (
    SAMPLE_STEPS,
    Prediction,
    denoise,
    make_unet,
    noise_draws,
    noise_errors,
)
from betadiffusion.gaussian import Generators, split


class DDPM(Baseline):
    """Noise, or v, predicted in images by a U-Net (Ho et al. 2020), sampled by DDIM (Song et al. 2021)."""

    sample_options = ("steps", "eta")
    evaluations = SAMPLE_STEPS

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        unet_channels: Sequence[int] = (32, 64, 64),
        unet_layers: int = 1,
        unet_attention: Sequence[int] = (),
        prediction: Prediction = "epsilon",
    ) -> None:
        super().__init__()
        self.unet = make_unet(backbone, unet_channels, unet_layers, unet_attention)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return noise_draws(batch, self.image_shape, generator)

    def forward(self, x: Tensor, time: Tensor, eps: Tensor) -> Tensor:
        return noise_errors(self.unet, x, time, eps, prediction=self.config.prediction)

    def sample(
        self, count: int, generator: Generators | None = None, steps: int = SAMPLE_STEPS, eta: float = 0.0
    ) -> Tensor:
        """Images (count,C,H,W) by so many steps of DDIM; eta from 0, nothing but the first noise, to 1 as DDPM."""
        each = split(generator, count)
        noise = self.noise(count, self.image_shape, each)
        return denoise(self.unet, noise, steps, eta, each, clip=True, prediction=self.config.prediction)

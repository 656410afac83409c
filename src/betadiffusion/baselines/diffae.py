"""The diffusion autoencoder: a semantic code, the noise that holds the rest, and a diffusion of codes."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from betadiffusion.baselines.conditioned_diffusion import ConditionedDiffusion
from betadiffusion.baselines.linear_diffusion import SAMPLE_STEPS, Prediction, noise_draws, noise_errors
from betadiffusion.baselines.prior import LatentPrior, WithPrior
from betadiffusion.gaussian import Generators, split


class DiffusionAutoencoder(WithPrior, ConditionedDiffusion):
    """Code and noise hold an image exactly (Preechakul et al. 2022); the prior is a diffusion of standardised codes.

    width and depth: of the prior's denoiser, an MLP for vector codes, a transformer for grids.
    """

    evaluations = 2 * SAMPLE_STEPS  # of the code, then of its image

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        unet_channels: Sequence[int] = (32, 64, 64),
        unet_layers: int = 1,
        unet_attention: Sequence[int] = (),
        steps: int = 50,
        prediction: Prediction = "epsilon",
        width: int = 512,
        depth: int = 4,
    ) -> None:
        super().__init__(backbone, unet_channels, unet_layers, unet_attention, steps)
        self.prior = LatentPrior(self.latent_shape, width, depth)

    def encode_mean(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return self.encoded(x)

    @torch.no_grad()
    def prepare(self, stage: str, x: Tensor) -> None:
        super().prepare(stage, x)
        if stage == "prior":
            z = self.encode_mean(x)
            self.prior.calibrate(z.mean(0), z.std(0))

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        shape = self.latent_shape if self.stage == "prior" else self.image_shape
        return noise_draws(batch, shape, generator)

    def forward(self, x: Tensor, time: Tensor, eps: Tensor) -> Tensor:
        if self.stage == "prior":
            with torch.no_grad():
                z = self.encode_mean(x)
            return self.prior(z, time, eps)
        return noise_errors(self.unet, x, time, eps, self.condition(self.encode_mean(x)), self.config.prediction)

    def sample(
        self, count: int, generator: Generators | None = None, steps: int = SAMPLE_STEPS, eta: float = 0.0
    ) -> Tensor:
        """Images (count,C,H,W): a code from the prior, then its image, each by so many steps of DDIM.

        Raises ValueError before stage "prior".
        """
        self.check_prior()
        each = split(generator, count)
        return self.images(self.prior.sample(each, steps, eta), each, steps, eta)

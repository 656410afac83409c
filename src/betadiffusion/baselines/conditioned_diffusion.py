"""Diffusion of pixels that is told an image's code: what the diffusion autoencoder and InfoDiffusion share."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from betadiffusion.baselines.base import Baseline
from betadiffusion.baselines.linear_diffusion import checked_steps, denoise, make_unet, to_noise
from betadiffusion.gaussian import Generators, randn
from betadiffusion.nn.backbone import make_backbone
from betadiffusion.nn.condition import Embedded


class ConditionedDiffusion(Baseline):
    """The shared encoder, and a U-Net that predicts noise, or v, and is told the code beside the time.

    encoded: channels that the encoder gives for one of the code. steps: of DDIM, there and back, that `reconstruct`
    takes. Raises ValueError for more than 1000.
    """

    sample_options = ("steps", "eta")

    def __init__(
        self,
        backbone: dict[str, Any],
        unet_channels: Sequence[int],
        unet_layers: int,
        unet_attention: Sequence[int],
        steps: int,
        encoded: int = 1,
    ) -> None:
        super().__init__()
        checked_steps(steps)
        channels = encoded * backbone["latent_channels"]
        self.encoder, _ = make_backbone(**backbone, embedding_dim=1, encoded_channels=channels)
        self.unet = make_unet(backbone, unet_channels, unet_layers, unet_attention, conditioned=True)
        self.told = nn.Linear(math.prod(self.latent_shape), self.unet.condition_width)

    def encoded(self, x: Tensor) -> Tensor:
        """What the encoder gives for images x (B,C,H,W), float32."""
        return self.encoder(x, x.new_zeros(len(x), 1)).float()

    def encode_mean(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The code of images x (B,C,H,W)."""
        raise NotImplementedError

    def condition(self, z: Tensor) -> Embedded:
        """What the U-Net is told of codes z."""
        tokens = self.told(z.flatten(1))[:, None]
        return Embedded(tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool))

    def encode_noise(self, x: Tensor, z: Tensor, steps: int) -> Tensor:
        """What of images x their codes z do not say: the noise that DDIM makes of x (Preechakul et al. 2022, Eq. 8)."""
        return to_noise(self.unet, x, steps, self.condition(z), self.config.prediction)

    def reconstruct(self, x: Tensor, generator: Generators | None = None) -> Tensor:
        """Images from their code and their noise; nothing is drawn."""
        z, steps = self.encode_mean(x), self.config.steps
        noise, prediction = self.encode_noise(x, z, steps), self.config.prediction
        return denoise(self.unet, noise, steps, condition=self.condition(z), prediction=prediction)

    def images(self, z: Tensor, generators: Sequence[torch.Generator], steps: int, eta: float) -> Tensor:
        """Images (B,C,H,W) of codes z by DDIM, everything else of them drawn."""
        noise = randn((len(z), *self.image_shape), z, generators)
        prediction = self.config.prediction
        return denoise(self.unet, noise, steps, eta, generators, self.condition(z), clip=True, prediction=prediction)

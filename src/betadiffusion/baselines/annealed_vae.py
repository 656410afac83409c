"""The beta-VAE whose code is given capacity little by little (Burgess et al. 2018)."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from betadiffusion.baselines.vae import GaussianVAE
from betadiffusion.gaussian import standard_normal_kl
from betadiffusion.nn.likelihood import LikelihoodName


class AnnealedVAE(GaussianVAE):
    """-log p(x|z) + gamma |KL(q(z|x) || p(z)) - C|, C rising from 0 to `capacity` nats over `capacity_images`."""

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        likelihood: LikelihoodName = "bernoulli",
        gamma: float = 1000.0,
        capacity: float = 25.0,
        capacity_images: int = 6_400_000,
    ) -> None:
        super().__init__(backbone, likelihood)
        # C, a function of the images seen: `begin` sets it in every step; the averaged model takes over all buffers
        self.register_buffer("nats", torch.zeros(()), persistent=False)

    def begin(self, images: int) -> None:
        """Sets C for the step after so many images."""
        self.nats.fill_(self.config.capacity * min(1.0, images / self.config.capacity_images))

    def regulariser(self, mean: Tensor, sigma: Tensor, z: Tensor, *draws: Tensor, **given: Any) -> Tensor:
        # Burgess et al. 2018, Eq. 8
        return self.config.gamma * (standard_normal_kl(mean, sigma) - self.nats).abs()

    def own_numbers(
        self, mean: Tensor, sigma: Tensor, z: Tensor, generator: torch.Generator, **given: Any
    ) -> dict[str, Any]:
        return {"capacity": float(self.nats)}

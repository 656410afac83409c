"""Harder inputs for the autoencoder of beta-Diffusion: patches hidden from the encoder, noise mixed into the latent."""

import torch
from torch import Tensor

from betadiffusion.training.config import PretextConfig


def draw_pretext(
    config: PretextConfig, batch: int, latent_shape: tuple[int, int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """What `BetaDiffusionAutoencoder.forward` takes as `pretext`, for a batch, on the CPU.

    mask (batch,g,g), True where a patch is hidden, the same number in every image; share (batch,1,1,1), uniform from 0
    to `config.noise`; noise (batch,C,g,g).
    """
    _, height, width = latent_shape
    order = torch.rand(batch, height * width, generator=generator).argsort(dim=1).argsort(dim=1)
    mask = order < round(config.mask * height * width)
    share = config.noise * torch.rand(batch, 1, 1, 1, generator=generator)
    return mask.unflatten(1, (height, width)), share, torch.randn(batch, *latent_shape, generator=generator)

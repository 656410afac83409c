"""Baselines of two stages: first the codes, then, with all that made them frozen, a prior of the codes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from betadiffusion.baselines.base import Baseline
from betadiffusion.baselines.linear_diffusion import Prediction, denoise, noise_errors
from betadiffusion.gaussian import randn
from betadiffusion.nn.dit import LevelDiT
from betadiffusion.nn.mlp import LevelMLP

HEAD_DIM = 64
PREDICTION: Prediction = "v_prediction"  # predicted noise alone draws too wide, since codes cannot be clipped


class WithPrior(Baseline):
    """Stage "baseline" trains everything but `prior`, stage "prior" nothing else; until then there is no sampling."""

    prior: nn.Module

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("has_prior", torch.tensor(False))

    def prepare(self, stage: str, x: Tensor) -> None:
        super().prepare(stage, x)
        of_prior = stage == "prior"
        self.requires_grad_(not of_prior)
        self.prior.requires_grad_(of_prior)
        self.has_prior.fill_(of_prior)

    def train(self, mode: bool = True) -> "WithPrior":
        super().train(mode)
        if self.stage == "prior":
            for name, part in self.named_children():
                part.train(mode and name == "prior")
        return self

    def check_prior(self) -> None:
        """Raises ValueError where the prior has not been trained."""
        if not self.has_prior:
            raise ValueError("this model has no trained prior to sample from: train its stage 'prior' first")


class LatentPrior(nn.Module):
    """A linear diffusion of latents (C,h,w): an MLP for vectors, a transformer for grids, after `calibrate`."""

    def __init__(self, latent_shape: Sequence[int], width: int, depth: int) -> None:
        super().__init__()
        channels, side, _ = latent_shape
        made = {"width": width, "depth": depth, "dropout": 0.0, "outputs": 1}
        if side == 1:
            self.network: nn.Module = LevelMLP(latent_dim=channels, **made)
        else:
            self.network = LevelDiT(latent_channels=channels, head_dim=HEAD_DIM, **made)
        self.register_buffer("shift", torch.zeros(*latent_shape))
        self.register_buffer("scale", torch.ones(*latent_shape))

    def calibrate(self, shift: Tensor, scale: Tensor) -> None:
        """The diffusion is of (z - shift) / scale: both shaped like a latent, or numbers."""
        self.shift.copy_(shift)
        self.scale.copy_(scale)

    def forward(self, z: Tensor, time: Tensor, eps: Tensor) -> Tensor:
        """Error of v predicted in codes z (B,C,h,w), per value: (B,)."""
        return noise_errors(self.network, (z - self.shift) / self.scale, time, eps, prediction=PREDICTION)

    def sample(self, generators: Sequence[torch.Generator], steps: int, eta: float) -> Tensor:
        """A code for each generator."""
        z = randn((len(generators), *self.shift.shape), self.shift, generators)
        z = denoise(self.network, z, steps, eta, generators, prediction=PREDICTION)
        return z * self.scale + self.shift

"""Embedding of the level, added to every block of every network."""

import math

import torch
from torch import Tensor, nn

FREQUENCIES = 8


class LevelEmbedding(nn.Module):
    """Levels t (B,) in [0, 1] to (B, dim): an MLP of cos and sin of pi k t, k = 1..8.

    The frequencies are low on purpose: f(x,t) must be smooth in t, since the diffusion follows df/dt. (The usual
    embedding of 1,000 integer steps turns by up to a radian every thousandth.)
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        weight = self.mlp[0].weight
        angles = math.pi * t[:, None].to(weight) * torch.arange(1, FREQUENCIES + 1, device=weight.device)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))

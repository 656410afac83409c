"""The Gaussian part of both predictions in closed form, so that a network learns only what is not Gaussian.

With f and its velocity v = df/dt taken as jointly Gaussian, channel by channel, mean and variances known per level:

    E[eps | z] = sigma (z - E f) / (V f + sigma^2)            left over: variance V f / (V f + sigma^2)
    E[v | z]   = E v + C(f,v) (z - E f) / (V f + sigma^2)     left over: variance V v - C(f,v)^2 / (V f + sigma^2)

The network sees z standardised and predicts what is left over in units of its own scale, which is EDM's
preconditioning (Karras et al. 2022, sec. 5) for a path whose signal is learned.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from betadiffusion.levels import interpolate

FLOOR = 0.05  # least scale, relative: a channel that the level has shut is not worth the network's capacity


class Preconditioned(NamedTuple):
    """What `Preconditioning` gives for z_t (B,C,H,W): all shaped like it or broadcast to it."""

    z: Tensor  # standardised
    eps: Tensor  # Gaussian part of the prediction of eps
    velocity: Tensor
    eps_scale: Tensor  # scale of what is left over
    velocity_scale: Tensor


class Preconditioning(nn.Module):
    """Buffers: moments of f and v per channel at `knots` even levels (knots, C); log sigma at `sigma_knots` ones."""

    def __init__(self, channels: int, knots: int, sigma_knots: int) -> None:
        super().__init__()
        self.register_buffer("log_sigma", torch.zeros(sigma_knots))
        for name in ("f_mean", "v_mean", "covariance"):
            self.register_buffer(name, torch.zeros(knots, channels))
        for name in ("f_variance", "v_variance"):
            self.register_buffer(name, torch.ones(knots, channels))

    @torch.no_grad()
    def calibrate(self, log_sigma: Tensor, f: Tensor, v: Tensor) -> None:
        """Sets the moments from f and v (N, knots, C, H, W) of a sample of data, and log sigma (sigma_knots,)."""
        self.log_sigma.copy_(log_sigma)
        f, v = (x.transpose(0, 1).transpose(1, 2).flatten(2).double() for x in (f, v))  # (knots, C, N*H*W)
        self.f_mean.copy_(f.mean(2))
        self.v_mean.copy_(v.mean(2))
        self.f_variance.copy_(f.var(2))
        self.v_variance.copy_(v.var(2))
        self.covariance.copy_(((f - f.mean(2, keepdim=True)) * (v - v.mean(2, keepdim=True))).mean(2))

    def sigma(self, t: Tensor) -> Tensor:
        """sigma(t) of the frozen VAE, shaped like t."""
        return self._at(t, self.log_sigma).exp()

    def forward(self, z: Tensor, t: Tensor) -> Preconditioned:
        """z (B,C,H,W), t (B,) in [0, 1]."""
        sigma = self.sigma(t)[:, None, None, None]
        moments = (self.f_mean, self.v_mean, self.f_variance, self.v_variance, self.covariance)
        f_mean, v_mean, f_var, v_var, cov = (self._at(t, m)[:, :, None, None] for m in moments)
        total = f_var + sigma.square()
        centred = z - f_mean
        typical_v = self.v_variance.mean().sqrt()
        return Preconditioned(
            z=centred / total.sqrt(),
            eps=sigma * centred / total,
            velocity=v_mean + cov * centred / total,
            eps_scale=(f_var / total).sqrt().clamp(min=FLOOR),
            velocity_scale=(v_var - cov.square() / total).clamp(min=0).sqrt().clamp(min=FLOOR * typical_v),
        )

    @staticmethod
    def _at(t: Tensor, values: Tensor) -> Tensor:
        return interpolate(t.to(values), torch.linspace(0, 1, len(values), device=values.device), values)

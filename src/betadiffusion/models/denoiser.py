"""The denoiser between levels: two predictions, noise and change of encoding, from one network (paper sec. 4.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from betadiffusion.nn.dit import LevelDiT
from betadiffusion.nn.mlp import LevelMLP
from betadiffusion.nn.preconditioning import Preconditioning
from betadiffusion.nn.unet import LevelUNet


class DenoiserOutput(NamedTuple):
    """eps = E[eps | z_t] and delta = E[f_s - f_t | z_t], shaped like z_t."""

    eps: Tensor
    delta: Tensor


class NonlinearDenoiser(ModelMixin, ConfigMixin):
    """(z_t, t, s) -> (eps, delta); delta = (s - t) velocity, so that a step of any size trains (erratum 4).

    latent_shape is (C,H,W); `architecture` "mlp" for (C,1,1), "unet", or "dit" for a square grid of tokens, with heads
    of `head_dim`, by default 64; `knots` and `sigma_knots` are the sizes of the
    tables of the Gaussian part (`nn.preconditioning`), which `calibrate` fills from data before training.
    Raises ValueError for an architecture that does not exist or that does not fit the latent.
    """

    @register_to_config
    def __init__(
        self,
        latent_shape: Sequence[int] = (32, 1, 1),
        architecture: str = "mlp",
        width: int = 512,
        depth: int = 4,
        channels: Sequence[int] = (64, 128, 256, 256),
        layers_per_block: int = 2,
        attention_resolutions: Sequence[int] = (16, 8, 4),
        head_dim: int | None = None,
        activation: str = "silu",
        dropout: float = 0.0,
        knots: int = 33,
        sigma_knots: int = 65,
    ) -> None:
        super().__init__()
        latent_channels, height, width_ = latent_shape
        if architecture == "mlp":
            if (height, width_) != (1, 1):
                raise ValueError(f"architecture 'mlp' needs vector latents, not {tuple(latent_shape)}; use 'unet'")
            self.network: nn.Module = LevelMLP(latent_dim=latent_channels, width=width, depth=depth, dropout=dropout)
        elif architecture == "unet":
            self.network = LevelUNet(
                sample_size=height,
                latent_channels=latent_channels,
                channels=channels,
                layers_per_block=layers_per_block,
                attention_resolutions=attention_resolutions,
                head_dim=head_dim,
                activation=activation,
                dropout=dropout,
            )
        elif architecture == "dit":
            if height != width_:
                raise ValueError(f"architecture 'dit' needs a square grid, not {tuple(latent_shape)}")
            self.network = LevelDiT(
                latent_channels=latent_channels, width=width, depth=depth, head_dim=head_dim or 64, dropout=dropout
            )
        else:
            raise ValueError(f"unknown architecture '{architecture}'; choose mlp, unet or dit")
        self.preconditioning = Preconditioning(latent_channels, knots, sigma_knots)

    def forward(self, z: Tensor, t: Tensor, s: Tensor) -> DenoiserOutput:
        """z (B,C,H,W) at level t, to go to level s; t and s (B,) or () in [0, 1]; float32."""
        t, s = (level.to(device=z.device, dtype=torch.float32).expand(len(z)) for level in (t, s))
        given = self.preconditioning(z, t)
        eps, velocity = self.network(given.z, t).float().chunk(2, dim=1)
        velocity = given.velocity + given.velocity_scale * velocity
        return DenoiserOutput(given.eps + given.eps_scale * eps, (s - t)[:, None, None, None] * velocity)

    @torch.no_grad()
    def predict(self, z: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` without gradients, in the form that the samplers call."""
        return self(z, t, s)

    def sigma(self, t: Tensor) -> Tensor:
        """sigma(t) of the VAE whose levels this network walks, shaped like t."""
        return self.preconditioning.sigma(t)

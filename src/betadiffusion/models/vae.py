"""The multi-beta VAE: one encoder and one decoder for all levels (paper sec. 3, Eqs. 2 to 4)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.nn.functional import softplus

from betadiffusion.gaussian import Generators, expand_as, randn
from betadiffusion.nn.backbone import latent_side, make_backbone
from betadiffusion.nn.curves import LevelCurve, RisingLevelCurve, set_rising
from betadiffusion.nn.embedding import LevelEmbedding
from betadiffusion.schedules import Schedule, make_schedule

SIGMA_START = 0.1  # of sigma(0), and of every sigma of an image
LEAST_SIGMA = 1e-4


class VAEOutput(NamedTuple):
    """One pass at levels t (B,): images (B,C,H,W), mean shaped like the latent, sigma (B,) or like the mean,
    pixel_sigma (B,)."""

    x_hat: Tensor
    mean: Tensor
    sigma: Tensor
    pixel_sigma: Tensor


class MultiBetaVAE(ModelMixin, ConfigMixin):
    """q(z|x;t) = N(f(x,t), sigma(t)^2 I) and p(x|z;t) = N(g(z,t), s(t)^2 I) for every level t in [0, 1].

    With `sigma_from` "image" the posterior has a sigma of each image and dimension, as a beta-VAE's, which gives the
    axes of the latent a meaning that one sigma(t) cannot (docs/formalism.md); sigma(t) is then a table of its root mean
    square, for the diffusion, which `calibrate_sigma` makes.

    Images are (B,C,H,W) in [-1, 1]; latents (B, latent_channels, h, w), h = w = 1 with block "conv". With `boundary`
    f(x,1) = 0 and sigma(1) = 1 by construction (erratum 6). `schedule` names the weights of Eq. 4 ("sinusoidal",
    "linear", or "log_beta" over [beta_min, beta_max], by default up to a quarter of the number of pixel values, where
    the prior wins on images). `activation` "silu" or, as the paper prints, "sigmoid".
    With `level_channels` the decoder gets so many channels of the level's embedding beside the latent, for what all
    images of a level have in common: a vector knows no places, and a shift of whole channels cannot draw a mean image.
    `layers_per_block` (2 by default), `attention_resolutions` and `dropout` are those of block "resnet".
    Raises ValueError for a block, activation or size that does not exist.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        latent_channels: int = 32,
        block: str = "conv",
        channels: Sequence[int] = (32, 64, 128),
        layers_per_block: int | None = None,
        attention_resolutions: Sequence[int] = (),
        embedding_dim: int = 128,
        activation: str = "silu",
        dropout: float = 0.0,
        schedule: str = "sinusoidal",
        beta_min: float = 1.0,
        beta_max: float | None = None,
        boundary: bool = True,
        knots: int = 65,
        sigma_from: str = "level",
        level_channels: int = 0,
    ) -> None:
        super().__init__()
        if sigma_from not in ("image", "level"):
            raise ValueError(f"unknown sigma_from {sigma_from!r}; choose image or level")
        if not 0 <= level_channels <= embedding_dim:
            raise ValueError(f"level_channels is from 0 to embedding_dim, {embedding_dim}, not {level_channels}")
        self.encoder, self.decoder = make_backbone(
            sample_size=sample_size, in_channels=in_channels, latent_channels=latent_channels + level_channels,
            block=block, channels=channels, layers_per_block=layers_per_block,
            attention_resolutions=attention_resolutions, embedding_dim=embedding_dim, activation=activation,
            dropout=dropout,
            encoded_channels=2 * latent_channels if sigma_from == "image" else latent_channels,
        )  # fmt: skip
        self.embedding = LevelEmbedding(embedding_dim)
        if sigma_from == "level":
            self.sigma_curve: LevelCurve = RisingLevelCurve(knots, start=SIGMA_START, fixed_end=boundary)
        else:
            self.sigma_curve = LevelCurve(knots, start=SIGMA_START).requires_grad_(False)
        self.pixel_sigma_curve = LevelCurve(knots, start=0.3)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return self.config.in_channels, self.config.sample_size, self.config.sample_size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents."""
        side = latent_side(self.config.sample_size, self.config.block, self.config.channels)
        return self.config.latent_channels, side, side

    @property
    def schedule(self) -> Schedule:
        """The weights of Eq. 4 as a function of the level."""
        beta_max = self.config.beta_max or math.prod(self.image_shape) / 4
        return make_schedule(self.config.schedule, self.config.beta_min, beta_max)

    def encode_mean(self, x: Tensor, t: Tensor) -> Tensor:
        """f(x,t), deterministic: x (B,C,H,W) in [-1, 1], t (B,) or () in [0, 1]; latent, float32."""
        return self.posterior(x, t)[0]

    def posterior(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sigma of q(z|x;t), both shaped like the latent: arguments as in `encode_mean`."""
        t = self._levels(t, len(x))
        mean = self.encoder(x, self.embedding(t)).float()
        fading = (math.pi / 2 * t).cos()
        if self.config.sigma_from == "image":
            mean, scale = mean.chunk(2, dim=1)
            sigma = LEAST_SIGMA + softplus(scale + math.log(math.expm1(SIGMA_START)))
            sigma = sigma ** expand_as(fading, sigma) if self.config.boundary else sigma  # sigma(x,1) = 1
        else:
            sigma = expand_as(self.sigma(t), mean).expand_as(mean)
        # f(x,1) = 0 by construction
        return mean * expand_as(fading, mean) if self.config.boundary else mean, sigma

    def encode_sample(self, x: Tensor, t: Tensor, generator: Generators | None = None) -> Tensor:
        """z_t = f(x,t) + sigma(t) eps, eps drawn from `generator`: arguments as in `encode_mean`."""
        mean, sigma = self.posterior(x, t)
        return mean + sigma * randn(mean.shape, mean, generator)

    def decode(self, z: Tensor, t: Tensor) -> Tensor:
        """g(z,t), the mean image (B,C,H,W), float32, not clipped: z latent, t (B,) or () in [0, 1]."""
        embedding = self.embedding(self._levels(t, len(z)))
        level = embedding[:, : self.config.level_channels, None, None].to(z).expand(-1, -1, *z.shape[2:])
        return self.decoder(torch.cat([z, level], dim=1), embedding).float()

    def sigma(self, t: Tensor) -> Tensor:
        """Latent noise scale at levels t of any shape; rises with t. With sigma_from "image" the calibrated table."""
        return self.sigma_curve(t)

    def calibrate_sigma(self, rms: Tensor) -> None:
        """Sets sigma(t) to the root mean square of sigma over data: see `nn.curves.set_rising`.

        Raises ValueError where sigma is learned as a function of the level.
        """
        if self.config.sigma_from == "level":
            raise ValueError("sigma_from 'level' learns sigma(t): there is nothing to calibrate")
        set_rising(self.sigma_curve, rms)

    def pixel_sigma(self, t: Tensor) -> Tensor:
        """Pixel noise scale s(t), for pixels in [-1, 1], at levels t of any shape."""
        return self.pixel_sigma_curve(t)

    def forward(self, x: Tensor, t: Tensor, eps: Tensor) -> VAEOutput:
        """Encodes x at levels t (B,), adds sigma(t) eps (latent-shaped) and decodes: all that Eq. 4 needs."""
        if self.config.sigma_from == "image":
            mean, sigma = self.posterior(x, t)
        else:
            mean, sigma = self.encode_mean(x, t), self.sigma(t)
        return VAEOutput(self.decode(mean + expand_as(sigma, mean) * eps, t), mean, sigma, self.pixel_sigma(t))

    def _levels(self, t: Tensor, batch: int) -> Tensor:
        return t.to(device=self.device, dtype=torch.float32).expand(batch)

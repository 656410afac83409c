"""The multi-beta VAE: one encoder and one decoder for all levels (paper sec. 3, Eqs. 2 to 4)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn.functional import softplus

from betadiffusion.gaussian import Generators, expand_as, randn
from betadiffusion.nn.backbone import latent_side, make_backbone
from betadiffusion.nn.conv import ScaleShift
from betadiffusion.nn.curves import LevelCurve, RisingLevelCurve, set_rising
from betadiffusion.nn.embedding import LevelEmbedding
from betadiffusion.nn.precision import in_float32
from betadiffusion.schedules import Schedule, make_schedule

SIGMA_START = 0.1  # of sigma(0), and of every sigma of an image
LEAST_SIGMA = 1e-4


class VAEOutput(NamedTuple):
    """One pass at levels t (B,): images (B,C,H,W), mean and sigma of q(z|x;t) in units of the prior, whose KL is to
    N(0, I), shaped like the latent, pixel_sigma (B,)."""

    x_hat: Tensor
    mean: Tensor
    sigma: Tensor
    pixel_sigma: Tensor


class MultiBetaVAE(ModelMixin, ConfigMixin):
    """q(z|x;t) = N(f(x,t), sigma(t)^2 I) and p(x|z;t) = N(g(z,t), s(t)^2 I) for every level t in [0, 1].

    `sigma_from` says what p(z;t) is. With "level", as the paper has it, N(0, I). With "channel" N(0, diag tau(t)^2),
    tau learned for each channel: the same as a sigma of each channel in units of the prior, which gives the axes of the
    latent a meaning that one sigma(t) for all cannot (docs/formalism.md). With "image" the posterior has a sigma of
    each image and dimension, as a beta-VAE's; sigma(t) is then a table of its geometric mean, for the diffusion,
    which `calibrate_sigma` makes; with `channel_noise`, of "image" alone, its noise is that of each channel, brought to
    one sigma(t) by tau, as with "channel".

    Images are (B,C,H,W) in [-1, 1]; latents (B, latent_channels, h, w), h = w = 1 with block "conv". With `boundary`
    f(x,1) = 0 and sigma(1) = 1 by construction (erratum 6). `schedule` names the weights of Eq. 4 ("sinusoidal",
    "linear", or "log_beta" over [beta_min, beta_max], by default up to a quarter of the number of pixel values, where
    the prior wins on images). `activation` "silu" or, as the paper prints, "sigmoid".
    With `level_channels` the decoder gets so many channels of the level's embedding beside the latent, for what all
    images of a level have in common: a vector knows no places, and a shift of whole channels cannot draw a mean image.
    With `gates` the level scales and shifts each channel of the latent too, as it leaves the encoder and as it enters
    the decoder, so that a channel can be shut at one level and open at another.
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
        channel_noise: bool = False,
        gates: bool = False,
    ) -> None:
        super().__init__()
        if sigma_from not in ("channel", "image", "level"):
            raise ValueError(f"unknown sigma_from {sigma_from!r}; choose channel, image or level")
        if not 0 <= level_channels <= embedding_dim:
            raise ValueError(f"level_channels is from 0 to embedding_dim, {embedding_dim}, not {level_channels}")
        encoded_channels = 2 * latent_channels if sigma_from == "image" else latent_channels
        self.encoder, self.decoder = make_backbone(
            sample_size=sample_size, in_channels=in_channels, latent_channels=latent_channels + level_channels,
            block=block, channels=channels, layers_per_block=layers_per_block,
            attention_resolutions=attention_resolutions, embedding_dim=embedding_dim, activation=activation,
            dropout=dropout, encoded_channels=encoded_channels,
        )  # fmt: skip
        self.embedding = LevelEmbedding(embedding_dim)
        self.encoder_gate = ScaleShift(embedding_dim, encoded_channels) if gates else None
        self.decoder_gate = ScaleShift(embedding_dim, latent_channels) if gates else None
        for gate in filter(None, (self.encoder_gate, self.decoder_gate)):
            for parameter in gate.parameters():
                nn.init.zeros_(parameter)  # all channels are open at first
        curves = latent_channels if sigma_from == "channel" or (sigma_from == "image" and channel_noise) else None
        if sigma_from == "image":
            self.sigma_curve = LevelCurve(knots, SIGMA_START, curves).requires_grad_(False)
        else:
            self.sigma_curve = RisingLevelCurve(knots, SIGMA_START, boundary, curves)
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
        mean, sigma = self._posterior(x, t)
        tau = self.prior_scale(t)
        return tau * mean, tau * sigma

    def _posterior(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """`posterior` in units of the prior."""
        t = self._levels(t, len(x))
        embedding = self.embedding(t)
        encoded = self.encoder(x, embedding).float()
        if self.encoder_gate is not None:
            encoded = in_float32(self.encoder_gate, encoded, embedding)
        fading = (math.pi / 2 * t).cos()
        if self.config.sigma_from == "image":
            mean, scale = encoded.chunk(2, dim=1)
            sigma = LEAST_SIGMA + softplus(scale + math.log(math.expm1(SIGMA_START)))
            sigma = sigma ** expand_as(fading, sigma) if self.config.boundary else sigma  # sigma(x,1) = 1
        else:
            mean, sigma = encoded, self._curves(t).expand_as(encoded)
        # f(x,1) = 0 by construction
        return mean * expand_as(fading, mean) if self.config.boundary else mean, sigma

    def encode_sample(self, x: Tensor, t: Tensor, generator: Generators | None = None) -> Tensor:
        """z_t = f(x,t) + sigma(t) eps, eps drawn from `generator`: arguments as in `encode_mean`."""
        mean, sigma = self.posterior(x, t)
        return mean + sigma * randn(mean.shape, mean, generator)

    def decode(self, z: Tensor, t: Tensor) -> Tensor:
        """g(z,t), the mean image (B,C,H,W), float32, not clipped: z latent, t (B,) or () in [0, 1]."""
        return self._decode(z / self.prior_scale(t), t)

    def _decode(self, z: Tensor, t: Tensor) -> Tensor:
        """`decode` of a latent in units of the prior."""
        embedding = self.embedding(self._levels(t, len(z)))
        if self.decoder_gate is not None:
            z = in_float32(self.decoder_gate, z, embedding)
        level = embedding[:, : self.config.level_channels, None, None].to(z).expand(-1, -1, *z.shape[2:])
        return self.decoder(torch.cat([z, level], dim=1), embedding).float()

    def sigma(self, t: Tensor) -> Tensor:
        """Latent noise scale at levels t of any shape; rises with t. With sigma_from "image" the calibrated table."""
        return self.sigma_curve.geometric_mean(t)

    def prior_scale(self, t: Tensor) -> Tensor:
        """tau(t), the scale of p(z;t), for latents to be multiplied by: (1,1,1) or (C,1,1) after the shape of t."""
        # tau_c = sigma / sigma_c: in units of the prior the noise of channel c is sigma_c, and its own sigma for all
        return self.sigma(t)[..., None, None, None] / self._curves(t)

    def _curves(self, t: Tensor) -> Tensor:
        """sigma of each channel in units of the prior: (1,1,1) or (C,1,1) after the shape of t."""
        value = self.sigma_curve(t)
        return value[..., None, None, None] if value.ndim == t.ndim else value[..., None, None]

    def calibrate_sigma(self, sigma: Tensor) -> None:
        """Sets sigma(t), and with `channel_noise` tau(t), from the geometric means of sigma over data, in units of the
        prior: (knots, channels) on linspace(0, 1, knots), see `nn.curves.set_rising`.

        Raises ValueError where sigma is learned as a function of the level.
        """
        if self.config.sigma_from != "image":
            raise ValueError(f"sigma_from '{self.config.sigma_from}' learns sigma(t): there is nothing to calibrate")
        if self.config.boundary:  # none is above sigma(1), so that the rising curve ends there
            sigma = sigma.clamp(max=1)
        set_rising(self.sigma_curve, sigma if self.config.channel_noise else sigma.log().mean(1).exp())

    def pixel_sigma(self, t: Tensor) -> Tensor:
        """Pixel noise scale s(t), for pixels in [-1, 1], at levels t of any shape."""
        return self.pixel_sigma_curve(t)

    def forward(self, x: Tensor, t: Tensor, eps: Tensor) -> VAEOutput:
        """Encodes x at levels t (B,), adds sigma eps (eps latent-shaped) and decodes: all that Eq. 4 needs."""
        mean, sigma = self._posterior(x, t)
        return VAEOutput(self._decode(mean + sigma * eps, t), mean, sigma, self.pixel_sigma(t))

    def _levels(self, t: Tensor, batch: int) -> Tensor:
        return t.to(device=self.device, dtype=torch.float32).expand(batch)

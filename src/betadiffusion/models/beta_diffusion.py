"""beta-Diffusion's autoencoder: a vision transformer, a modulator that follows beta, and a decoder that does too."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from betadiffusion.gaussian import Generators, expand_as, randn
from betadiffusion.models.vae import VAEOutput
from betadiffusion.nn.curves import LevelCurve, RisingLevelCurve, set_rising
from betadiffusion.nn.dit import SIGMA_START, Modulator, TokenDecoder, to_grid
from betadiffusion.nn.vit import ViTEncoder, grid_side, load_encoder
from betadiffusion.schedules import LogBeta

SCRATCH = {
    "model_type": "vit", "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768,
}  # fmt: skip


class BetaDiffusionAutoencoder(ModelMixin, ConfigMixin):
    """q(z|x;t) = N(mu, sigma^2), mu = f_mu(h) s_mu(h; beta), sigma = f_sigma(h) s_sigma(h; beta), h = E(x).

    The level t in [0, 1] is log beta over [beta_min, beta_max]. Images are (B,C,S,S) in [-1, 1], latents
    (B,latent_channels,g,g), g = S / patch size; any S that the patch size divides can be encoded and decoded.
    `encoder`: a transformers configuration as a dictionary with its model_type (vit, deit, vit_mae, dinov2,
    dinov2_with_registers), by default a small ViT with an 8x8 grid; its weights are random here, see `from_encoder`.
    `image_mean` and `image_std`: the normalisation that it expects of images in [0, 1]. `train_encoder`: whether
    gradients reach it. `modulator_width` and `decoder_width` are by default the encoder's.
    `sigma_from` "image" is the seed's, which depends on x; with "level" sigma is a learned rising curve of the level
    alone, which the diffusion between levels needs, and with `boundary` mu(x,1) = 0 and sigma(1) = 1 by construction.
    With `balance` s(t) is learned too, for a loss of each level divided by 2 s(t)^2: the KL's weight beta / (2 s(t)^2)
    leaves every level its optimum and brings their gradients to one scale.
    Raises ValueError for an encoder, decoder, range or size that does not exist or does not fit.
    """

    @register_to_config
    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        image_mean: Sequence[float] = (0.5,),
        image_std: Sequence[float] = (0.5,),
        sample_size: int = 32,
        in_channels: int = 3,
        latent_channels: int = 16,
        modulator_depth: int = 1,
        modulator_width: int | None = None,
        decoder: str = "mlp",
        decoder_depth: int = 2,
        decoder_width: int | None = None,
        head_dim: int = 64,
        beta_min: float = 1.0,
        beta_max: float = 100.0,
        sigma_from: str = "image",
        sigma_min: float = 1e-3,
        boundary: bool = False,
        knots: int = 65,
        train_encoder: bool = True,
        balance: bool = False,
    ) -> None:
        super().__init__()
        if sigma_from not in ("image", "level"):
            raise ValueError(f"unknown sigma_from {sigma_from!r}; choose image or level")
        if boundary and sigma_from == "image":
            raise ValueError("boundary fixes sigma(1) = 1, which needs sigma_from 'level', not 'image'")
        LogBeta(beta_min, beta_max)  # refuses a range that is none
        if encoder is None:
            patch_size = max(1, sample_size // 8)
            encoder = SCRATCH | {"num_channels": in_channels, "image_size": sample_size, "patch_size": patch_size}
        self.encoder = ViTEncoder(encoder, image_mean, image_std, train_encoder)
        if in_channels not in (1, self.encoder.channels):
            raise ValueError(f"the encoder sees {self.encoder.channels} channels, the images have {in_channels}")
        self.grid = grid_side((sample_size, sample_size), self.encoder.patch_size)
        self.modulator = Modulator(
            features=self.encoder.width,
            latent_channels=latent_channels,
            width=modulator_width or self.encoder.width,
            depth=modulator_depth,
            head_dim=head_dim,
            sigma_min=sigma_min if sigma_from == "image" else None,
        )
        self.decoder = TokenDecoder(
            latent_channels=latent_channels,
            out_channels=in_channels,
            patch_size=self.encoder.patch_size,
            kind=decoder,
            width=decoder_width or self.encoder.width,
            depth=decoder_depth,
            head_dim=head_dim,
        )
        if sigma_from == "level":
            self.sigma_curve: LevelCurve = RisingLevelCurve(knots, start=0.1, fixed_end=boundary)
        else:
            self.sigma_curve = LevelCurve(knots, start=SIGMA_START).requires_grad_(False)
        self.pixel_sigma_curve = LevelCurve(knots, start=0.3) if balance else None

    def __getattr__(self, name: str) -> Any:
        """Modules before arguments of the same name, of which diffusers would give the argument (`encoder`)."""
        modules = self.__dict__.get("_modules", {})
        return modules[name] if name in modules else super().__getattr__(name)

    @classmethod
    def from_encoder(cls, name_or_path: str, **arguments: Any) -> "BetaDiffusionAutoencoder":
        """A new model around a pretrained encoder: configuration, weights and normalisation from a hub id or folder.

        arguments: those of the constructor, without `encoder`, `image_mean` and `image_std`. Raises ValueError where
        there is no such encoder.
        """
        encoder, weights, mean, std = load_encoder(name_or_path)
        model = cls(encoder=encoder, image_mean=mean, image_std=std, **arguments)
        model.encoder.network.load_state_dict(weights)
        return model

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return self.config.in_channels, self.config.sample_size, self.config.sample_size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, g, g) of the latents, a token per position, in raster order."""
        return self.config.latent_channels, self.grid, self.grid

    @property
    def schedule(self) -> LogBeta:
        """Weights (1, beta) of a level, and the level of a beta."""
        return LogBeta(self.config.beta_min, self.config.beta_max)

    def features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """h (B,N,D): patch tokens of the encoder for x (B,C,H,W) in [-1, 1]; without a graph where it is frozen.

        mask (B,g,g): patches that the encoder sees as the mean colour.
        """
        return self.encoder(x, mask)

    def posterior(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sigma of q(z|x;t), latents, float32: x (B,C,H,W) in [-1, 1], t (B,) or () in [0, 1]."""
        return self.posterior_of(self.features(x), t)

    def posterior_of(self, h: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """`posterior` from features h (B,N,D)."""
        t = self._levels(t, len(h))
        mean, sigma = self.modulator(h, t)
        mean = to_grid(mean)
        if sigma is not None:
            return mean, to_grid(sigma)
        if self.config.boundary:
            mean = mean * expand_as((math.pi / 2 * t).cos(), mean)
        return mean, expand_as(self.sigma(t), mean).expand_as(mean)

    def encode_mean(self, x: Tensor, t: Tensor) -> Tensor:
        """mu(x,t), deterministic: arguments as in `posterior`."""
        return self.posterior(x, t)[0]

    def encode_sample(self, x: Tensor, t: Tensor, generator: Generators | None = None) -> Tensor:
        """z = mu + sigma eps, eps drawn from `generator`: arguments as in `posterior`."""
        mean, sigma = self.posterior(x, t)
        return mean + sigma * randn(mean.shape, mean, generator)

    def decode(self, z: Tensor, t: Tensor) -> Tensor:
        """The mean image (B,C,H,W), float32, not clipped: z latent, t (B,) or () in [0, 1]."""
        return self.decoder(z, self._levels(t, len(z))).float()

    def sigma(self, t: Tensor) -> Tensor:
        """Latent noise scale of a level, any shape of t: the learned one, or, with sigma_from "image", the table that
        `calibrate_sigma` made (until then, sigma at initialisation)."""
        return self.sigma_curve(t)

    def prior_scale(self, t: Tensor) -> Tensor:
        """The scale of p(z;t), 1, for latents to be multiplied by: (1,1,1) after the shape of t."""
        return torch.ones(*t.shape, 1, 1, 1, device=self.device)

    def calibrate_sigma(self, sigma: Tensor) -> None:
        """Sets sigma(t) from the geometric means of sigma over data: (knots, channels), see `nn.curves.set_rising`.

        Raises ValueError where sigma is learned as a function of the level.
        """
        if self.config.sigma_from == "level":
            raise ValueError("sigma_from 'level' learns sigma(t): there is nothing to calibrate")
        if self.config.boundary:  # none is above sigma(1), so that the rising curve ends there
            sigma = sigma.clamp(max=1)
        set_rising(self.sigma_curve, sigma.log().mean(1).exp())

    def pixel_sigma(self, t: Tensor) -> Tensor:
        """Pixel noise scale s(t), any shape of t: sqrt(1/2), with which -log p(x|z) is |x - x_hat|^2 up to a constant,
        or with `balance` the learned one."""
        if self.pixel_sigma_curve is None:
            return torch.full_like(t, math.sqrt(0.5), dtype=torch.float32)
        return self.pixel_sigma_curve(t)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        eps: Tensor,
        features: Tensor | None = None,
        pretext: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> VAEOutput:
        """Encodes x at levels t (B,), adds sigma eps (latent-shaped) and decodes; `features` of x spare the encoder.

        pretext: mask (B,g,g), patches hidden from the encoder; share (B,1,1,1) and noise (latent-shaped), of which the
        decoder sees (1 - share) z + share noise.
        """
        mask, share, noise = pretext or (None, None, None)
        mean, sigma = self.posterior_of(self.features(x, mask) if features is None else features, t)
        z = mean + sigma * eps
        if share is not None:
            z = z.lerp(noise, share)
        return VAEOutput(self.decode(z, t), mean, sigma, self.pixel_sigma(t))

    def _levels(self, t: Tensor, batch: int) -> Tensor:
        return t.to(device=self.device, dtype=torch.float32).expand(batch)

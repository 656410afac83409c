"""Stage "decoder": the decoder of a trained VAE alone, on what the eye minds: L1, LPIPS, adversarial (paper sec. 4)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from betadiffusion.data import ImageSet
from betadiffusion.gaussian import expand_as
from betadiffusion.levels import uniform
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.samplers import sample
from betadiffusion.training.adversary import Adversary
from betadiffusion.training.config import DecoderConfig
from betadiffusion.training.images import load_images, pass_size
from betadiffusion.training.level_draws import spread_levels
from betadiffusion.training.models import Autoencoder, mean_of, seen
from betadiffusion.training.perceptual import Perceptual
from betadiffusion.training.pictures import save_grid
from betadiffusion.training.stored import fingerprint
from betadiffusion.training.vae_stage import PICTURES, VALIDATION_IMAGES, last_layer


class DecoderModel(nn.Module):
    """A VAE of which the decoder alone trains: codes z (B,C,h,w) at levels t (B,) to images."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False)
        vae.decoder.requires_grad_(True)

    def train(self, mode: bool = True) -> "DecoderModel":
        """The decoder's mode; what is frozen stays as in use, without dropout."""
        super().train(mode)
        for module in frozen(self.vae).values():
            module.eval()
        return self

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return self.vae.decode(z, t)


class DecoderStage:
    """Lowers `config` on images decoded from codes f(x,t) + sigma(t) eps, and from those `denoiser` walks back.

    Encoder, sigma(t), s(t) and the level's embedding are frozen. Raises ValueError for a `config` without a term to
    lower, and for codes to be walked back without a denoiser.
    """

    name = "decoder"

    def __init__(
        self,
        vae: Autoencoder,
        train: ImageSet,
        held_out: ImageSet,
        device: torch.device,
        config: DecoderConfig,
        denoiser: NonlinearDenoiser | None = None,
    ) -> None:
        if not (config.l1 or config.l2 or config.lpips):
            raise ValueError("stage 'decoder' needs decoder.l1, decoder.l2 or decoder.lpips: there is nothing to lower")
        if config.walked and denoiser is None:
            raise ValueError("decoder.walked needs a denoiser to walk with: run stage 'diffusion' or 'joint' first")
        self.config, self.train, self.device, self.count = config, train, device, len(train)
        self.model = DecoderModel(vae.to(device, memory_format=torch.channels_last))
        self.denoiser = None if denoiser is None else denoiser.to(device).eval().requires_grad_(False)
        self.held_out = load_images(held_out, np.arange(min(VALIDATION_IMAGES, len(held_out))), device)
        self.perceptual = Perceptual(config, vae.image_shape, device)
        self.opponent: Adversary | None = None
        if config.adversarial:
            self.last_layer = last_layer(vae)
            self.opponent = Adversary(vae.image_shape[0], config.channels, config.adversarial, config.start_images)
        with torch.no_grad():
            self.before = vae.eval().decode(*self._validation_codes(PICTURES))

    def begin(self, images: int) -> None:
        """Begins the training step after so many images."""
        if self.opponent is not None:
            self.opponent.begin(images)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Levels (batch,), eps, and whether a code is walked back (batch,)."""
        t = self.config.max_level * spread_levels(batch, generator)
        eps = torch.randn(batch, *self.model.vae.latent_shape, generator=generator)
        return t, eps, torch.rand(batch, generator=generator) < self.config.walked

    def losses(self, model: nn.Module, indices: np.ndarray, draws: tuple[Tensor, ...]) -> Tensor:
        """The configured terms of each image: (B,)."""
        x = load_images(self.train, indices, self.device)
        t, eps, walked = (d.to(self.device) for d in draws)
        x_hat = model(*self.codes(x, t, eps, walked))
        losses = self._reconstruction(x, x_hat)
        if self.opponent is not None and self.opponent.active:
            weight = self.model.vae.get_parameter(self.last_layer)
            losses = losses + self.opponent.term(x, x_hat, losses, weight)
        return losses

    def _reconstruction(self, x: Tensor, x_hat: Tensor) -> Tensor:
        return self.config.l2 * (x - x_hat).square().flatten(1).mean(1) + self.perceptual(x, x_hat)

    @torch.no_grad()
    def codes(self, x: Tensor, t: Tensor, eps: Tensor, walked: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of images x and the levels to decode them at: z = f(x,t) + sigma(t) eps at levels t (B,).

        Those of `walked` (B,), bool, are of the configured level instead, walked back to level 0.
        """
        vae, level = self.model.vae, self.config.walk_level
        t = torch.where(walked, level, t)
        z = mean_of(vae, seen(vae, x), t)
        z = z + expand_as(vae.sigma(t), z) * eps
        if walked.any():
            levels = uniform(self.config.walk_steps, level)
            z[walked] = sample(self.denoiser.predict, z[walked], levels, self.denoiser.sigma)
        return z, torch.where(walked, 0.0, t)

    def validate(self, model: DecoderModel, images: int, folder: Path) -> dict[str, float]:
        """On held-out images at level 0: the terms without the adversarial one, and mean errors; a grid of pictures."""
        x, size = self.held_out, pass_size(model.vae.image_shape)
        z, t = self._validation_codes(len(x))
        x_hat = torch.cat([model(*part) for part in zip(z.split(size), t.split(size), strict=True)])
        terms = [self._reconstruction(*part) for part in zip(x.split(size), x_hat.split(size), strict=True)]
        rows = {"original": x[:PICTURES], "level 0 before": self.before, "level 0": x_hat[:PICTURES]}
        if self.config.walked:
            rows["walked back"] = model(*self._validation_codes(PICTURES, walked=True))
        save_grid(folder / f"{images:012d}.png", rows)
        return {
            "loss": float(torch.cat(terms).mean()),
            "mse": float((x - x_hat).square().mean()),
            "l1": float((x - x_hat).abs().mean()),
        }

    def _validation_codes(self, count: int, walked: bool = False) -> tuple[Tensor, Tensor]:
        """Codes of the first held-out images at level 0, always the same; walked back to it, or drawn there."""
        x = self.held_out[:count]
        eps = torch.randn(len(x), *self.model.vae.latent_shape, generator=torch.Generator().manual_seed(0))
        size, t, chosen = pass_size(self.model.vae.image_shape), torch.zeros(len(x)), torch.full((len(x),), walked)
        parts = zip(*(v.to(self.device).split(size) for v in (x, t, eps, chosen)), strict=True)
        codes, levels = zip(*(self.codes(*part) for part in parts), strict=True)
        return torch.cat(codes), torch.cat(levels)


def frozen(vae: Autoencoder) -> nn.ModuleDict:
    """The parts of an autoencoder that stage "decoder" leaves alone: all but the decoder."""
    return nn.ModuleDict({name: module for name, module in vae.named_children() if name != "decoder"})


def encoder_fingerprint(vae: Autoencoder, calibrated: bool = True) -> str:
    """Tells encoders apart, whatever their decoders: 16 hex digits of a hash of all weights but the decoder's.

    Without `calibrated`, whatever their sigma(t) too, which may have been set after training.
    """
    parts = frozen(vae)
    if not calibrated:
        del parts["sigma_curve"]
    return fingerprint(parts)

"""Stage "diffusion": the denoiser between the levels of a frozen VAE (Eq. 19 with erratum 4)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from betadiffusion.data import ImageSet
from betadiffusion.gaussian import expand_as
from betadiffusion.levels import uniform
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.objectives import denoising_loss
from betadiffusion.process import diffuse
from betadiffusion.samplers import sample
from betadiffusion.training.images import load_images, pass_size
from betadiffusion.training.latent_cache import LatentCache
from betadiffusion.training.level_draws import spread_levels
from betadiffusion.training.models import Autoencoder, mean_of, seen
from betadiffusion.training.pictures import save_grid
from betadiffusion.training.vae_stage import PICTURES, VALIDATION_IMAGES

CALIBRATION_IMAGES, LEAST_CALIBRATION_IMAGES = 2_000, 64
VALIDATION_REPEATS = 8  # levels and noises per held-out image
WALK_LEVELS = (0.5, 0.8, 0.9)
HALF_STEP = 2e-3  # f bends little over it, and float32 still resolves the difference


class DiffusionStage:
    """Predicts eps and df/dt of z_t = f(x,t) + sigma(t) eps; f from `cache`, or from the encoder where that is None."""

    name = "diffusion"

    def __init__(
        self,
        model: NonlinearDenoiser,
        vae: Autoencoder,
        train: ImageSet,
        held_out: ImageSet,
        cache: LatentCache | None,
        device: torch.device,
    ) -> None:
        self.model, self.train, self.cache, self.device = model, train, cache, device
        self.vae = vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.count = len(train)
        self.held_out = load_images(held_out, np.arange(min(VALIDATION_IMAGES, len(held_out))), device)
        self._calibrate()

    def _calibrate(self) -> None:
        """Moments of f and df/dt per level, from the first training images (their order is random already)."""
        _, height, width = self.vae.latent_shape
        wanted = max(CALIBRATION_IMAGES // (height * width), LEAST_CALIBRATION_IMAGES)  # every position is a sample
        images = np.arange(min(wanted, self.count))
        parts = np.array_split(images, -(-len(images) // pass_size(self.vae.image_shape)))
        pairs = []
        for t in torch.linspace(0, 1, self.model.config.knots).tolist():
            means = [self._means(part, torch.full((len(part),), t)) for part in parts]
            pairs.append([torch.cat(values).cpu() for values in zip(*means, strict=True)])
        f, v = (torch.stack(values, dim=1) for values in zip(*pairs, strict=True))
        self.model.preconditioning.calibrate(self.vae.sigma_curve.log_values(), f, v)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Levels (batch,) and eps, as in stage "vae"."""
        return spread_levels(batch, generator), torch.randn(batch, *self.vae.latent_shape, generator=generator)

    def losses(self, model: nn.Module, indices: np.ndarray, draws: tuple[Tensor, ...]) -> Tensor:
        """Eq. 19, corrected, of each image: (B,)."""
        t, eps = draws
        f, velocity = self._means(indices, t)
        return self._loss(model, f, velocity, t.to(self.device), eps.to(self.device))

    def _loss(self, model: nn.Module, f: Tensor, velocity: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        z = diffuse(f, self.vae.sigma(t)[:, None, None, None], eps)
        eps_hat, delta_hat = model(z, t, t - 1)  # over a step of -1, delta is minus the velocity
        scale = self.model.preconditioning(z, t)
        return denoising_loss(eps_hat, eps, -delta_hat, velocity, scale.eps_scale, scale.velocity_scale)

    def _means(self, indices: np.ndarray, t: Tensor) -> tuple[Tensor, Tensor]:
        """f(x,t) and df/dt of training images on the device."""
        if self.cache is not None:
            f, velocity = self.cache.at(indices, t)
            return f.to(self.device), velocity.to(self.device)
        return encode_with_velocity(self.vae, load_images(self.train, indices, self.device), t.to(self.device))

    def validate(self, model: nn.Module, images: int, folder: Path) -> dict[str, float]:
        """Loss on held-out images with exact means; a grid of codes walked back to level 0, and of samples."""
        generator = torch.Generator().manual_seed(0)
        losses = []
        for _ in range(VALIDATION_REPEATS):
            t, eps = (d.to(self.device) for d in self.draw(len(self.held_out), generator))
            for part in torch.arange(len(t)).split(pass_size(self.vae.image_shape)):
                f, velocity = encode_with_velocity(self.vae, self.held_out[part], t[part])
                losses.append(self._loss(model, f, velocity, t[part], eps[part]))
        x = self.held_out[:PICTURES]
        rows, zero = {"original": x}, torch.zeros((), device=self.device)
        eps = torch.randn(len(x), *self.vae.latent_shape, generator=generator).to(self.device)
        for level in (*WALK_LEVELS, 1.0):
            t = torch.tensor(level)
            z = self.vae.encode_mean(x, t) + self.vae.sigma(t.to(self.device)) * eps
            rows[f"level {level:g}"] = self.vae.decode(z, t)
            z = sample(model.predict, z, uniform(10, level), model.sigma)
            rows[f"{level:g}, walked back"] = self.vae.decode(z, zero)
        save_grid(folder / f"{images:012d}.png", rows)
        return {"loss": float(torch.cat(losses).mean())}


@torch.no_grad()
def encode_with_velocity(vae: Autoencoder, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """f(x,t) and df/dt at levels t (B,), by central differences: two passes of the encoder."""
    centre = t.clamp(HALF_STEP, 1 - HALF_STEP)
    levels = torch.cat([centre - HALF_STEP, centre + HALF_STEP])
    given = seen(vae, x)
    before, after = mean_of(vae, torch.cat([given, given]), levels).chunk(2)
    velocity = (after - before) / (2 * HALF_STEP)
    return (before + after) / 2 + expand_as(t - centre, x) * velocity, velocity

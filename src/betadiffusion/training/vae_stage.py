"""Stage "vae": the multi-beta VAE on Eq. 4, at levels drawn afresh for every image (Algorithm 1)."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from betadiffusion.data import ImageSet
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.objectives import VAETerms, multi_beta_objective
from betadiffusion.training.images import load_images, pass_size
from betadiffusion.training.pictures import save_grid

VALIDATION_LEVELS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
VALIDATION_IMAGES = 256
PICTURES = 8


class VAEStage:
    """Eq. 4 in nats per pixel: the objective of an image, divided by its number of pixels and channels."""

    name = "vae"

    def __init__(self, model: MultiBetaVAE, train: ImageSet, held_out: ImageSet, device: torch.device) -> None:
        self.model, self.train, self.device = model, train, device
        self.count = len(train)
        self.held_out = load_images(held_out, np.arange(min(VALIDATION_IMAGES, len(held_out))), device)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Levels (batch,), spread evenly over [0, 1) from a random offset, and eps."""
        return spread_levels(batch, generator), torch.randn(batch, *self.model.latent_shape, generator=generator)

    def losses(self, model: nn.Module, indices: np.ndarray, draws: tuple[Tensor, ...]) -> Tensor:
        """Eq. 4 per pixel of each image: (B,)."""
        x = load_images(self.train, indices, self.device)
        return self._terms(model, x, *(d.to(self.device) for d in draws)).loss / x[0].numel()

    def _terms(self, model: nn.Module, x: Tensor, t: Tensor, eps: Tensor) -> VAETerms:
        out = model(x, t, eps)
        return multi_beta_objective(x, out.x_hat, out.mean, out.sigma, out.pixel_sigma, self.model.schedule(t))

    def validate(self, model: nn.Module, images: int, folder: Path) -> dict[str, float]:
        """Per level: rate in nats, mean squared error per pixel, objective per pixel; a grid of reconstructions."""
        x, numbers, rows = self.held_out, {}, {"original": self.held_out[:PICTURES]}
        generator = torch.Generator().manual_seed(0)
        eps = torch.randn(len(x), *self.model.latent_shape, generator=generator).to(self.device)
        for level in VALIDATION_LEVELS:
            t = torch.full((len(x),), level, device=self.device)
            parts = zip(*(tensor.split(pass_size(self.model.image_shape)) for tensor in (x, t, eps)), strict=True)
            terms = VAETerms(*map(torch.cat, zip(*(self._terms(model, *part) for part in parts), strict=True)))
            numbers[f"rate@{level}"] = float(terms.rate.mean())
            numbers[f"mse@{level}"] = float(terms.squared_error.mean()) / x[0].numel()
            numbers[f"objective@{level}"] = float(terms.loss.mean()) / x[0].numel()
            rows[f"level {level:g}"] = model(x[:PICTURES], t[:PICTURES], eps[:PICTURES]).x_hat
        save_grid(folder / f"{images:012d}.png", rows)
        return numbers


def spread_levels(batch: int, generator: torch.Generator) -> Tensor:
    """Levels (batch,) in [0, 1), each uniform, together even: one random offset, steps of 1/batch, wrapped around."""
    return (torch.rand(1, generator=generator) + torch.arange(batch) / batch) % 1

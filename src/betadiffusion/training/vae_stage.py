"""Stage "vae": an autoencoder on Eq. 4, at levels drawn afresh for every image (Algorithm 1)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from betadiffusion.data import ImageSet
from betadiffusion.gaussian import expand_as
from betadiffusion.models.vae import VAEOutput
from betadiffusion.objectives import VAETerms, multi_beta_objective
from betadiffusion.training.adversary import Adversary
from betadiffusion.training.config import LevelsConfig, PathConfig, PerceptualConfig, PretextConfig
from betadiffusion.training.feature_cache import FeatureCache
from betadiffusion.training.images import load_images, pass_size
from betadiffusion.training.level_draws import LevelDraw, spread_levels
from betadiffusion.training.models import Autoencoder, mean_of, posterior_of, seen
from betadiffusion.training.perceptual import Perceptual
from betadiffusion.training.pictures import save_grid
from betadiffusion.training.pretext import draw_pretext

VALIDATION_LEVELS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
BETA_LEVELS = tuple(i / 8 for i in range(9))  # of beta-Diffusion: even in log beta
VALIDATION_IMAGES = 256
CURVED_STEP = 0.02  # between the three levels that tell how f bends
CURVED_SHARE = 4  # one image in so many has its path looked at
FREE_FROM, FREE_UNTIL = 0.3, 0.8  # of the training
CALIBRATION_IMAGES = 64  # each gives a sample per token and channel
PICTURES = 8


class VAEStage:
    """Eq. 4 in nats per pixel: the objective of an image, divided by its number of pixels and channels.

    `levels`: how they are drawn, uniformly by default. `perceptual` and `path`: terms beside Eq. 4, none by default.
    `features`: those of the training images under a frozen encoder, in its place. `pretext`: what beta-Diffusion does
    not see. `images`: of the whole training, over which `levels.start_power` goes to `levels.power`, and on which
    `levels.free_nats` depends; 0 for the last power, and nothing free.
    """

    name = "vae"

    def __init__(
        self,
        model: Autoencoder,
        train: ImageSet,
        held_out: ImageSet,
        device: torch.device,
        levels: LevelsConfig | None = None,
        perceptual: PerceptualConfig | None = None,
        features: FeatureCache | None = None,
        path: PathConfig | None = None,
        pretext: PretextConfig | None = None,
        images: int = 0,
    ) -> None:
        self.model, self.train, self.device, self.features = model, train, device, features
        self.curvature = 0.0 if path is None else path.curvature
        self.count = len(train)
        self.held_out = load_images(held_out, np.arange(min(VALIDATION_IMAGES, len(held_out))), device)
        self.pretext = pretext if pretext is not None and (pretext.mask or pretext.noise) else None
        levels = levels or LevelsConfig()
        self.level_draw = LevelDraw(levels, model.schedule, images)
        self.kl_warmup, self.kl_share = levels.kl_warmup_images, 1.0
        self.images, self.done, self.free_nats = images, 1.0, levels.free_nats
        self.perceptual: Perceptual | None = None
        self.opponent: Adversary | None = None
        if perceptual is not None and (perceptual.l1 or perceptual.lpips):
            self.perceptual = Perceptual(perceptual, model.image_shape, device)
        if perceptual is not None and perceptual.adversarial:
            self.last_layer = last_layer(model)
            self.opponent = Adversary(
                model.image_shape[0], perceptual.channels, perceptual.adversarial, perceptual.start_images
            )

    def begin(self, images: int) -> None:
        """Begins the training step after so many images."""
        self.level_draw.begin(images)
        self.kl_share = min(1.0, images / self.kl_warmup) if self.kl_warmup else 1.0
        self.done = images / self.images if self.images else 1.0
        if self.opponent is not None:
            self.opponent.begin(images)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Levels (batch,), spread evenly over their distribution from a random offset, eps, and those of a pretext;
        last, with a curvature penalty, its weight on each image (batch,), of mean 1."""
        t = self.level_draw(spread_levels(batch, generator))
        draws = [t, torch.randn(batch, *self.model.latent_shape, generator=generator)]
        if self.pretext is not None:
            draws += draw_pretext(self.pretext, batch, self.model.latent_shape, generator)
        if self.curvature:
            i = torch.arange(batch)  # alike in the shares of several processes, which are strided
            looked_at = (i % CURVED_SHARE == i // CURVED_SHARE % CURVED_SHARE).float()
            draws.append(looked_at / looked_at.mean())
        return tuple(draws)

    def losses(self, model: nn.Module, indices: np.ndarray, draws: tuple[Tensor, ...]) -> Tensor:
        """Eq. 4 per pixel of each image, and the terms beside it: (B,)."""
        x = load_images(self.train, indices, self.device)
        t, eps, *pretext = (d.to(self.device) for d in draws)
        share = pretext.pop() if self.curvature else None
        given: dict[str, Any] = {"pretext": tuple(pretext)} if pretext else {}
        if self.features is not None:
            given["features"] = self.features.at(indices, self.device)
        out = model(x, t, eps, **given)
        terms, pixels = self._terms(x, t, out, self.kl_share, self._free(t)), x[0].numel()
        losses = terms.loss / pixels
        extra = 0.0 if self.perceptual is None else self.perceptual(x, out.x_hat)
        if self.perceptual is not None:
            losses = losses + extra
        if self.opponent is not None and self.opponent.active:
            weights = self.model.schedule(t)
            reconstruction = weights.rec * terms.reconstruction / pixels + extra
            weight = self.model.get_parameter(self.last_layer)
            losses = losses + self.opponent.term(x, out.x_hat, reconstruction, weight)
        if share is not None and len(few := share.nonzero()[:, 0]):
            some = given["features"][few] if "features" in given else x[few]
            if hasattr(self.model, "features") and "features" not in given:
                some = self.model.features(some)
            bend = share[few] * curvature(self.model, some, t[few])
            losses = losses.index_add(0, few, bend.to(losses), alpha=self.curvature)
        return losses

    def _free(self, t: Tensor) -> Tensor | None:
        """Nats that a latent dimension has for nothing now, (B,) at levels t (B,); None for none."""
        if not self.free_nats or not FREE_FROM <= self.done < FREE_UNTIL:
            return None
        return self.free_nats * (FREE_UNTIL - self.done) / (FREE_UNTIL - FREE_FROM) * (1 - t) ** 4

    def _terms(
        self, x: Tensor, t: Tensor, out: VAEOutput, kl_share: float = 1.0, free: Tensor | None = None
    ) -> VAETerms:
        weights = self.model.schedule(t)
        weights = weights._replace(kl=kl_share * weights.kl)
        if self.model.config.get("balance", False):
            # |x - x_hat|^2 / (2 s^2) + beta / (2 s^2) KL: beta-Diffusion's loss of a level in units of its own error
            weights = weights._replace(kl=weights.kl / (2 * out.pixel_sigma.detach().square()))
        return multi_beta_objective(x, out.x_hat, out.mean, out.sigma, out.pixel_sigma, weights, free)

    def validate(self, model: nn.Module, images: int, folder: Path) -> dict[str, float]:
        """Per level: rate in nats, mean squared error per pixel, objective per pixel; a grid of reconstructions."""
        x, numbers, rows = self.held_out, {}, {"original": self.held_out[:PICTURES]}
        generator = torch.Generator().manual_seed(0)
        eps = torch.randn(len(x), *self.model.latent_shape, generator=generator).to(self.device)
        size = pass_size(self.model.image_shape)
        given = [{"features": seen(model, part)} if hasattr(model, "features") else {} for part in x.split(size)]
        for level, name, label in self._validation_levels():
            terms, pictures = [], []
            for part, noise, known in zip(x.split(size), eps.split(size), given, strict=True):
                t = torch.full((len(part),), level, device=self.device)
                out = model(part, t, noise, **known)
                terms.append(self._terms(part, t, out))
                pictures.append(out.x_hat[:PICTURES])
            every = VAETerms(*map(torch.cat, zip(*terms, strict=True)))
            numbers[f"rate@{name}"] = float(every.rate.mean())
            numbers[f"mse@{name}"] = float(every.squared_error.mean()) / x[0].numel()
            numbers[f"objective@{name}"] = float(every.loss.mean()) / x[0].numel()
            rows[label] = torch.cat(pictures)[:PICTURES]
        save_grid(folder / f"{images:012d}.png", rows)
        return numbers

    def _validation_levels(self) -> Iterator[tuple[float, str, str]]:
        """Level, its name in the numbers and its label in pictures: beta-Diffusion's are values of beta."""
        if not hasattr(self.model, "features"):
            yield from ((level, str(level), f"level {level:g}") for level in VALIDATION_LEVELS)
            return
        for level in BETA_LEVELS:
            beta = f"{float(self.model.schedule(torch.tensor(level)).kl):.3g}"
            yield level, f"beta={beta}", f"beta {beta}"

    @torch.no_grad()
    def calibrate(self, model: Autoencoder) -> None:
        """Sets the diffusion's noise where sigma depends on the image: sigma's geometric means over training images."""
        if model.config.get("sigma_from") != "image":
            return
        images = np.arange(min(CALIBRATION_IMAGES, self.count))  # their order is random already
        levels = torch.linspace(0, 1, model.config.knots)
        total = torch.zeros(len(levels), model.latent_shape[0])
        for part in np.array_split(images, -(-len(images) // pass_size(model.image_shape))):
            h = seen(model, load_images(self.train, part, self.device))
            for row, t in zip(total, levels, strict=True):
                sigma = posterior_of(model, h, t)[1] / model.prior_scale(t)
                row += len(part) * sigma.log().mean((0, 2, 3)).cpu()
        model.calibrate_sigma((total / len(images)).exp().to(self.device))


def curvature(model: Autoencoder, given: Tensor, t: Tensor) -> Tensor:
    """Mean of (d^2 f/dt^2)^2 / sigma(t)^2 over latent dimensions, (B,), by differences at three levels around t (B,).

    `given`: images, or a ViT's features of them. In float32, since lower precision does not resolve the difference;
    sigma has no gradient of it, else it would be least where sigma is largest.
    """
    centre = t.clamp(CURVED_STEP, 1 - CURVED_STEP)
    levels = torch.cat([centre - CURVED_STEP, centre, centre + CURVED_STEP])
    with torch.autocast(given.device.type, enabled=False):
        given = torch.cat([given] * 3).float()
        f = mean_of(model, given, levels)
    before, here, after = f.chunk(3)
    bend = (before - 2 * here + after) / CURVED_STEP**2
    return (bend / expand_as(model.sigma(centre).detach(), f)).square().flatten(1).mean(1)


def last_layer(model: Autoencoder) -> str:
    """Name of the weight that makes the image: of the decoder's last linear map or convolution."""
    return [f"decoder.{name}" for name, weight in model.decoder.named_parameters() if weight.ndim > 1][-1]

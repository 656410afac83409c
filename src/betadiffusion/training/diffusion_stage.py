"""Stage "diffusion": the denoiser between the levels of a frozen VAE (Eq. 19 with erratum 4)."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import group_norm
from torch.overrides import TorchFunctionMode

from betadiffusion.data import ImageSet
from betadiffusion.gaussian import expand_as
from betadiffusion.levels import interpolate, uniform
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.samplers import sample
from betadiffusion.training.conditions import Conditions
from betadiffusion.training.config import DiffusionConfig
from betadiffusion.training.denoising import EncodingPath, denoising_errors, levels_to_go_to
from betadiffusion.training.images import load_images, pass_size
from betadiffusion.training.latent_cache import LatentCache
from betadiffusion.training.level_draws import logit_normal, spread_levels
from betadiffusion.training.level_weights import LearnedUncertainty, LossRecord, level_weights, training_part
from betadiffusion.training.models import Autoencoder, mean_of, seen
from betadiffusion.training.pictures import save_grid
from betadiffusion.training.vae_stage import PICTURES, VALIDATION_IMAGES

CALIBRATION_IMAGES, LEAST_CALIBRATION_IMAGES = 2_000, 64
VALIDATION_REPEATS = 8  # levels and noises per held-out image
WALK_LEVELS = (0.5, 0.8, 0.9)
HALF_STEP = 2e-3  # f bends little over it, and float32 still resolves the difference


class DiffusionStage:
    """Predicts what `model` is made for, of z_t = f(x,t) + sigma(t) eps; f from `cache`, or encoded where that is None.

    `options`: weights, levels and how df/dt is had, by default `DiffusionConfig`'s. `conditions`: those of
    the training and of the held-out images, for a model that is asked for something. `calibrate`: set the moments
    that the model counts on, from training images. `images`: of the whole training, which a flow map begins with short
    steps; 0 where it does not. What only training needs is `model.in_training`, until `finish` takes it off. Raises
    ValueError for options that do not go together.
    """

    name = "diffusion"

    def __init__(
        self,
        model: NonlinearDenoiser,
        vae: Autoencoder,
        train: ImageSet,
        held_out: ImageSet,
        cache: LatentCache | None,
        device: torch.device,
        options: DiffusionConfig | None = None,
        conditions: Sequence[Conditions] | None = None,
        calibrate: bool = True,
        images: int = 0,
    ) -> None:
        self.images, self.done = images, 1.0
        self.model, self.train, self.cache, self.device = model, train, cache, device
        self.conditions, self.held_out_conditions = conditions or (None, None)
        self.prediction: str = model.config.prediction
        self.options = dataclasses.replace(options or DiffusionConfig(), prediction=self.prediction)
        self.in_training = training_part(self.options)
        if self.in_training is not None:
            model.in_training = self.in_training  # trained, averaged and kept in checkpoints with it
        self.vae = vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.count = len(train)
        self.held_out = load_images(held_out, np.arange(min(VALIDATION_IMAGES, len(held_out))), device)
        if calibrate:
            self._calibrate()
        self.weights = level_weights(self.options.weighting, model.preconditioning).to(device)

    def _calibrate(self) -> None:
        """Moments of f and df/dt per level, from the first training images (their order is random already)."""
        _, height, width = self.vae.latent_shape
        wanted = max(CALIBRATION_IMAGES // (height * width), LEAST_CALIBRATION_IMAGES)  # every position is a sample
        images = np.arange(min(wanted, self.count))
        parts = np.array_split(images, -(-len(images) // pass_size(self.vae.image_shape)))
        pairs = []
        paths = [self._path(part) for part in parts]
        for t in torch.linspace(0, 1, self.model.config.knots).tolist():
            means = [path(torch.full((len(part),), t)) for path, part in zip(paths, parts, strict=True)]
            pairs.append([torch.cat(values).cpu() for values in zip(*means, strict=True)])
        f, v = (torch.stack(values, dim=1) for values in zip(*pairs, strict=True))
        self.model.preconditioning.calibrate(self.vae.sigma_curve.mean_log_values(), f, v)

    def begin(self, images: int) -> None:
        """Begins the training step after so many images."""
        self.done = images / self.images if self.images else 1.0

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Levels t and s (batch,) and eps, and what is drawn of the conditions where there are any."""
        t = self._levels(spread_levels(batch, generator))
        eps = torch.randn(batch, *self.vae.latent_shape, generator=generator)
        draws = t, levels_to_go_to(self.prediction, t, generator, self.done), eps
        return draws if self.conditions is None else (*draws, self.conditions.draw(batch, generator))

    def _levels(self, u: Tensor) -> Tensor:
        """Levels from numbers u uniform in [0, 1)."""
        if self.options.levels == "logit_normal":
            return logit_normal(u, self.options.logit_mean, self.options.logit_scale)
        return self.in_training.draw(u) if isinstance(self.in_training, LossRecord) else u

    def losses(self, model: nn.Module, indices: np.ndarray, draws: tuple[Tensor, ...]) -> Tensor:
        """Errors of the outputs of each image, added up as the options say: (B,)."""
        t, s, eps, *of_conditions = draws
        condition = self.conditions.at(indices, *of_conditions) if of_conditions else None
        errors = self._errors(model, self.model, self._path(indices), t, s, eps, condition)
        t = t.to(self.device)
        if isinstance(self.in_training, LearnedUncertainty):
            return self.in_training(errors, t)
        knots = torch.linspace(0, 1, len(self.weights), device=self.device)
        losses = interpolate(t, knots, self.weights) * errors.sum(1)
        return self.in_training.divide(losses, t) if self.in_training is not None else losses

    def end(self, reduce: Callable[[Tensor, str], Tensor]) -> None:
        """Ends a training step: what was noted of its losses goes into the record."""
        if isinstance(self.in_training, LossRecord):
            self.in_training.update(reduce)

    def finish(self, trained: NonlinearDenoiser) -> NonlinearDenoiser:
        """The denoiser alone, as it is saved."""
        if self.in_training is not None:
            del trained.in_training
        return trained

    def _errors(
        self,
        model: nn.Module,
        plain: NonlinearDenoiser,
        path: EncodingPath,
        t: Tensor,
        s: Tensor,
        eps: Tensor,
        condition: Tensor | None,
    ) -> Tensor:
        """As `denoising_errors`; `plain` is the model itself, where `model` may be wrapped."""
        t, s, eps = (draw.to(self.device) for draw in (t, s, eps))
        condition = None if condition is None else condition.to(self.device)
        return denoising_errors(model, plain, path, self.vae.sigma(t), t, s, eps, condition)

    def _path(self, indices: np.ndarray) -> EncodingPath:
        """f(x,t) and df/dt of training images, on the device, as a function of their levels."""
        if self.cache is not None:
            cache = self.cache
            return lambda t: tuple(means.to(self.device) for means in cache.at(indices, t.cpu()))
        return self._encoded(load_images(self.train, indices, self.device))

    def _encoded(self, x: Tensor) -> EncodingPath:
        exact, given = self.options.velocity == "exact", seen(self.vae, x)
        return lambda t: encode_with_velocity(self.vae, given, t.to(self.device), exact)

    def validate(self, model: nn.Module, images: int, folder: Path) -> dict[str, float]:
        """Errors on held-out images at even levels, exact means; a grid of codes walked back to 0, and of samples.

        Each image is asked for by its own condition, of several captions the first.
        """
        generator = torch.Generator().manual_seed(0)
        losses, condition = [], None
        if self.held_out_conditions is not None:
            condition = self.held_out_conditions.in_full(np.arange(len(self.held_out)))
        parts = torch.arange(len(self.held_out)).split(pass_size(self.vae.image_shape))
        paths = [self._encoded(self.held_out[part]) for part in parts]
        for _ in range(VALIDATION_REPEATS):
            x, t = self.held_out, spread_levels(len(self.held_out), generator)
            eps = torch.randn(len(x), *self.vae.latent_shape, generator=generator)
            s = levels_to_go_to(self.prediction, t, generator)
            for i, part in enumerate(parts):
                asked = None if condition is None else condition[part]
                errors = self._errors(model, model, paths[i], t[part], s[part], eps[part], asked)
                losses.append(errors.sum(1))
        x = self.held_out[:PICTURES]
        rows, zero = {"original": x}, torch.zeros((), device=self.device)
        predict = partial(model.predict, condition=None if condition is None else condition[: len(x)].to(self.device))
        eps = torch.randn(len(x), *self.vae.latent_shape, generator=generator).to(self.device)
        for level in (*WALK_LEVELS, 1.0):
            t = torch.tensor(level)
            z = self.vae.encode_mean(x, t) + self.vae.sigma(t.to(self.device)) * eps
            rows[f"level {level:g}"] = self.vae.decode(z, t)
            z = sample(predict, z, uniform(10, level), model.sigma)
            rows[f"{level:g}, walked back"] = self.vae.decode(z, zero)
        save_grid(folder / f"{images:012d}.png", rows)
        return {"loss": float(torch.cat(losses).mean())}


class _ContiguousGroupNorm(TorchFunctionMode):
    """GroupNorm of contiguous tensors: forward-mode differentiation has it in no other layout."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is group_norm:
            args = (args[0].contiguous(), *args[1:])
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def encode_with_velocity(vae: Autoencoder, given: Tensor, t: Tensor, exact: bool = False) -> tuple[Tensor, Tensor]:
    """f(x,t) and df/dt at levels t (B,): by central differences, two passes of the encoder, or `exact`ly.

    given: `seen(vae, x)` of images x.
    """
    if exact:  # forward-mode, which the fused kernels of attention do not have
        with sdpa_kernel(SDPBackend.MATH), _ContiguousGroupNorm():
            return torch.func.jvp(lambda level: mean_of(vae, given, level), (t,), (torch.ones_like(t),))
    centre = t.clamp(HALF_STEP, 1 - HALF_STEP)
    levels = torch.cat([centre - HALF_STEP, centre + HALF_STEP])
    before, after = mean_of(vae, torch.cat([given, given]), levels).chunk(2)
    velocity = (after - before) / (2 * HALF_STEP)
    return (before + after) / 2 + expand_as(t - centre, velocity) * velocity, velocity

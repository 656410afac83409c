"""What can be evaluated: anything with `encode_mean(x, t)`: the model of a run, a baseline, a plain callable."""

import hashlib
import inspect
import math
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from tqdm import tqdm

from betadiffusion.baselines.presets import is_baseline
from betadiffusion.baselines.runs import load_baseline
from betadiffusion.data import ImageSet
from betadiffusion.training.images import load_images, pass_size
from betadiffusion.training.runs import load_config, load_vae

DEAD = 1e-5  # a code that varies by less than this (standard deviation) is rounding, as f(x,1) = 0 is


class Codes(NamedTuple):
    """Means (N, d) and noise scale of posteriors, float32: a number, (N, d), or None where the model has none.

    Both in units of the prior, N(0, I).
    """

    mean: np.ndarray
    sigma: float | np.ndarray | None


@dataclass(frozen=True)
class Encoder:
    """A model under evaluation.

    model: has encode_mean(x, t): x (B,C,H,W) in [-1, 1], t (B,) to codes (B, ...). has_levels: whether t matters.
    """

    name: str
    model: Any
    image_shape: tuple[int, int, int]
    has_levels: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def has_scale(self) -> bool:
        """Whether the model also has a noise scale and a decoder, and so a rate and a distortion."""
        has_sigma = hasattr(self.model, "sigma") or hasattr(self.model, "posterior")
        return has_sigma and hasattr(self.model, "decode") and hasattr(self.model, "latent_shape")

    @property
    def has_decoder(self) -> bool:
        """Whether codes come back as images in one pass; a diffusion of pixels, which has no `decode`, takes many."""
        return self.has_scale or (hasattr(self.model, "decode") and hasattr(self.model, "reconstruct"))

    @property
    def has_scale_per_dimension(self) -> bool:
        """Whether in units of the prior its noise scale depends on the dimension too, and not on the level alone."""
        return self.has_scale and (
            not hasattr(self.model, "sigma") or getattr(self.model.config, "sigma_from", "level") != "level"
        )

    @torch.no_grad()
    def prior_scale(self, level: float) -> Tensor:
        """The scale of the model's prior at a level, to multiply its latents by; 1 where the prior is N(0, I)."""
        if not hasattr(self.model, "prior_scale"):
            return torch.ones((), device=self.device)
        return self.model.prior_scale(torch.tensor(level, device=self.device))

    @torch.no_grad()
    def means(self, x: Tensor, level: float) -> Tensor:
        """encode_mean of x (B,C,H,W) in [-1, 1] at one level."""
        return torch.as_tensor(self.model.encode_mean(x, torch.full((len(x),), level, device=x.device)))

    @torch.no_grad()
    def codes(self, images: ImageSet, level: float, progress: bool = False) -> Codes:
        """The codes of all images at a level; ValueError where the model returns anything else than codes."""
        size, tau, means, sigmas = pass_size(self.image_shape), self.prior_scale(level), [], []
        starts = tqdm(range(0, len(images), size), desc=f"encoding at {level:g}", leave=False, disable=not progress)
        for start in starts:
            indices = np.arange(start, min(start + size, len(images)))
            x = load_images(images, indices, self.device)
            if self.has_scale_per_dimension:
                mean, sigma = self.model.posterior(x, torch.full((len(x),), level, device=x.device))
                mean = mean / tau
                sigmas.append((sigma / tau).float().flatten(1).cpu().numpy())
            else:
                mean = self.means(x, level)
            if mean.ndim < 2 or len(mean) != len(indices):
                raise ValueError(f"{self.name} gives codes of shape {tuple(mean.shape)} for {len(indices)} images")
            means.append(mean.float().flatten(1).cpu().numpy())
        matrix = np.concatenate(means)
        dead = matrix.std(axis=0) < DEAD
        constants = matrix[:, dead].mean(axis=0)
        matrix[:, dead] = np.where(np.abs(constants) < DEAD, 0, constants)
        return Codes(matrix, np.concatenate(sigmas) if sigmas else self._sigma(level))

    def _sigma(self, level: float) -> float | None:
        return float(self.model.sigma(torch.tensor(level).to(self.device))) if self.has_scale else None

    @torch.no_grad()
    def fingerprint(self, images: ImageSet) -> str:
        """16 hex digits that change with the model and with the first images: of a few codes, and of these decoded."""
        x = load_images(images, np.arange(min(8, len(images))), self.device)
        digest = hashlib.sha256(x.cpu().numpy().tobytes())
        for level in (0.25, 0.75) if self.has_levels else (0.0,):
            parts = [mean := self.means(x, level)]
            if self.has_scale:
                t = torch.tensor(level, device=self.device)
                parts += [self.model.decode(mean, t), *([self.model.sigma(t)] if hasattr(self.model, "sigma") else [])]
            for part in parts:
                digest.update(part.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


class Function:
    """A plain function as a model: of images alone, or of images and levels."""

    def __init__(self, function: Any, takes_level: bool) -> None:
        self.function, self.takes_level = function, takes_level

    def encode_mean(self, x: Tensor, t: Tensor) -> Tensor:
        """The function's codes."""
        return self.function(x, t) if self.takes_level else self.function(x)


class Pixels:
    """The picture itself, averaged down to side x side: what any encoder has to beat."""

    def __init__(self, side: int) -> None:
        self.side = side

    def encode_mean(self, x: Tensor, t: Tensor) -> Tensor:
        """Pixels (B, C * side * side), at every level the same."""
        return adaptive_avg_pool2d(x, self.side).flatten(1)


def load_run(run: Path, device: torch.device) -> Encoder:
    """The trained VAE or baseline of a run; ValueError where there is none, or where it has no encoder."""
    if is_baseline(load_config(run).model):
        model = load_baseline(run).eval().to(device, memory_format=torch.channels_last)
        if not hasattr(model, "encode_mean"):
            raise ValueError(f"{run} is a run of model {load_config(run).model!r}, which has no encoder to evaluate")
        return Encoder(run.resolve().name, model, model.image_shape, has_levels=model.has_levels, device=device)
    vae = load_vae(run).eval().to(device, memory_format=torch.channels_last)
    return Encoder(run.resolve().name, vae, vae.image_shape, device=device)


def load_function(name: str, image_shape: tuple[int, int, int], device: torch.device) -> Encoder:
    """The model that "package.module:attribute" names.

    The attribute is an object with `encode_mean(x, t)`, a function of (x) or (x, t), or a class or function without
    arguments that makes one of these. A torch module is put in eval mode on `device`. ValueError where it is none.
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ValueError(f"--model must be package.module:function, not {name!r}")
    try:
        found = getattr(import_module(module), attribute)
    except ImportError as error:
        raise ValueError(f"--model {name}: {module} cannot be imported ({error})") from error
    except AttributeError as error:
        raise ValueError(f"--model {name}: {module} has no {attribute}") from error
    if inspect.isclass(found) or (callable(found) and not hasattr(found, "encode_mean") and _required(found) == 0):
        found = found()
    if isinstance(found, torch.nn.Module):
        found = found.eval().to(device)
    if hasattr(found, "encode_mean"):
        return Encoder(name, found, image_shape, device=device)
    if not callable(found) or _required(found) not in (1, 2):
        raise ValueError(f"--model {name} must have encode_mean(x, t) or be a function of images x, or of x and levels")
    takes_level = _required(found) == 2
    return Encoder(name, Function(found, takes_level), image_shape, takes_level, device)


def random_encoder(run: Path, seed: int, device: torch.device) -> Encoder:
    """The run's own network with weights that were never trained."""
    trained = load_run(run, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(trained.model).from_config(trained.model.config).eval()
        model = model.to(device, memory_format=torch.channels_last)
    return Encoder("random weights", model, trained.image_shape, trained.has_levels, device)


def feature_encoder(encoder: Encoder, name: str) -> Encoder:
    """What the model's backbone sees before any bottleneck: its features, averaged over the tokens."""

    def pooled(x: Tensor) -> Tensor:
        return encoder.model.features(x).mean(dim=1)

    return Encoder(name, Function(pooled, takes_level=False), encoder.image_shape, False, encoder.device)


def pixel_encoder(image_shape: tuple[int, int, int], dimensions: int, device: torch.device) -> Encoder:
    """Pixels averaged down to the smallest grid with at least so many values."""
    channels, size, _ = image_shape
    side = min(size, math.ceil(math.sqrt(dimensions / channels)))
    return Encoder(f"pixels, {side}x{side}", Pixels(side), image_shape, has_levels=False, device=device)


def _required(function: Any) -> int:
    """How many arguments a call cannot do without, or takes by position when it is a torch module."""
    if isinstance(function, torch.nn.Module):
        function = function.forward
    parameters = inspect.signature(function).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.default is p.empty and p.kind in positional for p in parameters)

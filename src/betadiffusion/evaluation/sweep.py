"""One repetition of an evaluation: one encoder, one pool of images, many levels; each level encodes the pool once.

What a level gave is on disk before the next begins, so that an interrupted evaluation goes on where it stopped.
"""

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from betadiffusion import metrics
from betadiffusion.evaluation.encoders import Codes, Encoder
from betadiffusion.evaluation.names import CHOOSERS
from betadiffusion.evaluation.pool import Pool
from betadiffusion.evaluation.scores import Coded, Numbers, compute
from betadiffusion.gaussian import randn
from betadiffusion.metrics.images import decibels
from betadiffusion.training.files import write_json
from betadiffusion.training.images import load_images, pass_size

PICTURES = 2_000  # reconstructions behind every distortion
GRID = np.linspace(-4, 4, 161)  # of the densities of the aggregated posterior
VERSION = 1  # of the numbers; a new one makes the old files unused
CHANNELS = 6  # drawn of it: those that vary most at the fixed level
Measure = Callable[[Tensor, Tensor], Any]  # of pictures (B,C,H,W) in [-1, 1], pairwise, to (B,)


class Repetition:
    """The numbers of one encoder on one pool, by level and name; computed when asked for, then read from disk.

    folder: where they are kept. pictures: measures of reconstructions beside the squared error, by name.
    fixed: the level that is chosen beforehand.
    """

    def __init__(
        self, encoder: Encoder, pool: Pool, folder: Path, fixed: float, pictures: dict[str, Measure] | None = None
    ) -> None:
        self.encoder, self.pool, self.fixed, self.pictures = encoder, pool, fixed, pictures or {}
        self.folder = folder / f"{VERSION}-{encoder.fingerprint(pool.images)}-{pool.fingerprint}"
        self.best: float | None = None
        self._codes: dict[float, Codes] = {}

    def sweep(self, levels: Iterable[float], names: list[str], progress: bool) -> None:
        """Takes the fixed level and `levels`, each in one pass; `best` is that with the greatest first chooser."""
        chooser = next((name for name in CHOOSERS if name in names), None)
        greatest = -np.inf
        ordered = [self.fixed, *(level for level in levels if level != self.fixed)]
        for level in tqdm(
            ordered, desc=f"{self.encoder.name}, seed {self.pool.seed}", unit="level", disable=not progress
        ):
            numbers = self.at(level, names)
            if chooser is not None and numbers[chooser] > greatest:
                greatest = numbers[chooser]
                self.best = level
            self._codes = {k: v for k, v in self._codes.items() if k in (self.fixed, self.best)}

    def at(self, level: float, names: list[str]) -> Numbers:
        """All numbers of a level: those of the code itself, of its reconstructions, and the scores named."""
        file = self.folder / f"level-{level:.6f}.json"
        kept: dict[str, Numbers] = json.loads(file.read_text()) if file.is_file() else {}
        wanted: dict[str, Callable[[], Numbers]] = {"code": lambda: self._code(level)}
        if self.encoder.has_scale:
            wanted |= {f"posterior, latents of {self.fixed:g}": lambda: self._posterior(level)}
        if self.encoder.has_decoder:
            for name, measure in ({"mse": _squared_error} | self.pictures).items():
                weights = getattr(measure, "weights_sha256", "")  # of LPIPS
                wanted[f"{name} {weights}".rstrip()] = partial(self._picture, level, name, measure)
        wanted |= {name: lambda name=name: compute(name, Coded(self.pool, self.codes(level).mean)) for name in names}
        missing = [name for name in wanted if name not in kept]
        for name in missing:
            kept[name] = wanted[name]()
        if missing:
            write_json(file, kept)
        return {"level": level} | {key: value for name in wanted for key, value in kept[name].items()}

    def codes(self, level: float) -> Codes:
        """Codes of the whole pool; those of the fixed and the best level are held, with the last ones."""
        if level not in self._codes:
            self._codes[level] = self.encoder.codes(self.pool.images, level)
        return self._codes[level]

    def _code(self, level: float) -> Numbers:
        mean, sigma = self.codes(level)
        numbers: Numbers = {"dimensions": mean.shape[1], "active_units": metrics.active_units(mean)}
        if sigma is not None:
            numbers |= {
                "rate": metrics.rate(mean, sigma),
                "sigma": float(np.sqrt(np.mean(np.square(sigma)))),
                "aggregated_kl": float(np.mean(metrics.aggregated_kl(mean, sigma))),
            }
        return numbers

    def _posterior(self, level: float) -> Numbers:
        """Densities on `GRID` of the aggregated posterior of a few latents, the same ones at every level."""
        latents = np.argsort(-self.codes(self.fixed).mean.var(axis=0), kind="stable")[:CHANNELS]
        mean, sigma = self.codes(level)
        if isinstance(sigma, np.ndarray):
            sigma = sigma[:, latents]
        densities = metrics.aggregated_posterior(mean[:, latents], sigma, GRID)
        return {"latents": latents.tolist(), "densities": np.asarray(densities).round(4).tolist()}

    @torch.no_grad()
    def _picture(self, level: float, name: str, measure: Measure) -> Numbers:
        """A measure between test images and their reconstructions from a draw of q(z|x;t), mean over both."""
        test, size, total = self.pool.test, pass_size(self.encoder.image_shape), 0.0
        count, generator = min(PICTURES, len(test)), torch.Generator().manual_seed(self.pool.seed)
        for start in range(0, count, size):
            indices = np.arange(start, min(start + size, count))
            x = load_images(test, indices, self.encoder.device)
            x_hat = self._reconstruction(x, indices, level, generator)
            total += float(torch.as_tensor(measure(x, x_hat.clamp(-1, 1) if name != "mse" else x_hat)).sum())
        value = total / count
        if name == "mse":
            return {"mse": value, "psnr": decibels(value)}
        return {name: value}

    def _reconstruction(self, x: Tensor, tested: np.ndarray, level: float, generator: torch.Generator) -> Tensor:
        """Test images x (B,C,H,W), at the places `tested`, from draws of their codes, or as the model does it."""
        model, device = self.encoder.model, self.encoder.device
        if not self.encoder.has_scale:
            return model.reconstruct(x, generator)
        mean, sigma = self.codes(level)
        places = self.pool.count + tested
        known = (torch.from_numpy(mean[places]), torch.as_tensor(sigma).expand(mean.shape)[places])
        f, s = (part.reshape(-1, *model.latent_shape).to(device) for part in known)
        z = self.encoder.prior_scale(level) * (f + s * randn(f.shape, f, generator))
        return model.decode(z, torch.tensor(level).to(device))


def _squared_error(x: Tensor, x_hat: Tensor) -> Tensor:
    return (x - x_hat).double().square().flatten(1).mean(dim=1)

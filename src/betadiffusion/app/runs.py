"""A trained run, opened to be explored: its pipeline, a few held-out images, its directions, its report's curve."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from betadiffusion.data import DataError, Subset, load
from betadiffusion.data.decode import square
from betadiffusion.pipelines.directions import Direction
from betadiffusion.pipelines.directions import load as load_directions
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.training.runs import load_config, split_indices
from betadiffusion.training.stored import fingerprint

HELD_OUT = 24  # images to pick from


@dataclass(frozen=True)
class Curve:
    """Rate in nats and squared error per value, in units of [-1, 1], over rising levels: lists of one length."""

    levels: list[float]
    rates: list[float]
    errors: list[float]

    def at(self, level: float) -> tuple[float, float]:
        """Rate and error at a level, the error between two levels as its logarithm lies."""
        error = np.exp(np.interp(level, self.levels, np.log(self.errors)))
        return float(np.interp(level, self.levels, self.rates)), float(error)


@dataclass(frozen=True)
class Run:
    """A finished run's folder and its pipeline, which nothing here changes."""

    path: Path
    pipeline: BetaDiffusionPipeline

    @cached_property
    def held_out(self) -> np.ndarray:
        """The first held-out images (N,C,H,W) uint8, none where the data are not at hand."""
        config, shape = load_config(self.path), self.pipeline.vae.image_shape
        try:
            source = load(config.data.source, size=shape[-1], channels=config.data.channels)
        except DataError:
            return np.empty((0, *shape), np.uint8)
        indices = split_indices(len(source), config.data, config.seed)[1][:HELD_OUT]
        return Subset(source, indices).images(np.arange(len(indices)))

    @cached_property
    def curve(self) -> Curve | None:
        """That of report.json; None where there is no report."""
        report = self.path / "report.json"
        if not report.is_file():
            return None
        rows = json.loads(report.read_text())["levels"]
        return Curve(*([row[key] for row in rows] for key in ("level", "rate", "mse")))

    @cached_property
    def directions(self) -> dict[float, list[Direction]]:
        """What `betadiffusion directions` has found, by level."""
        found = load_directions(self.path / "directions", fingerprint(self.pipeline.vae))
        return {level: [each for each in found if each.level == level] for level in {each.level: 0 for each in found}}

    def fit(self, image: np.ndarray) -> Tensor:
        """An image (C,H,W) uint8 of any run as a batch of one of this run's shape."""
        channels, size, _ = self.pipeline.vae.image_shape
        if image.shape != (channels, size, size):
            colour = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
            image = square(Image.fromarray(np.ascontiguousarray(colour)), size, channels)
        return torch.from_numpy(np.array(image))[None]

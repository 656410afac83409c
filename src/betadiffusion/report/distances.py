"""Frechet distances to real images: of reconstructions by level, before and after walking back, and of samples."""

import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from betadiffusion.clocks import Clock
from betadiffusion.data import Subset
from betadiffusion.metrics import FeatureStatistics, distortion, frechet_from_statistics
from betadiffusion.metrics.features import FeatureExtractor
from betadiffusion.metrics.images import decibels
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.pipelines.walk_levels import walk_levels
from betadiffusion.report.generate import (
    Sampler,
    default_sampler,
    grid_levels,
    reconstructions,
    samples,
    seed_for,
    walk_default,
)
from betadiffusion.training.config import RunConfig

SAMPLERS = [
    *(Sampler(method, steps) for method in ("multistep", "euler") for steps in (5, 10, 20, 50)),
    *(Sampler("heun", steps) for steps in (10, 25)),
    *(Sampler("eta=1", steps) for steps in (20, 200)),
    *(Sampler("algorithm2", steps) for steps in (20, 200)),
]
SPACINGS: tuple[Clock, ...] = ("fitted", "uniform", "log_snr", "rate_linear")
FAR = 3.0  # times its level-0 distance: where the VAE alone has lost the picture


class Judge:
    """Distance of images, uint8 (N,C,H,W), to a reference set of real ones; `floor` is that of other real ones.

    extractor: the features; reference (M,C,H,W) and images (N,C,H,W): real, uint8, without an image in common.
    """

    def __init__(self, extractor: FeatureExtractor, reference: np.ndarray, images: np.ndarray) -> None:
        self.extractor = extractor
        self.reference = FeatureStatistics.from_features(extractor(torch.from_numpy(reference)))
        self.images = images
        self.floor = self(torch.from_numpy(images))

    @classmethod
    def from_split(cls, extractor: FeatureExtractor, train: Subset, held_out: Subset, count: int) -> "Judge":
        """Of the first `count` held-out images and twice as many training ones, or as many as there are."""
        reference, images = (
            split.images(np.arange(min(n, len(split)))) for split, n in ((train, 2 * count), (held_out, count))
        )
        return cls(extractor, reference, images)

    def __call__(self, images: Tensor) -> float:
        """Squared Frechet distance; biased upwards where N is small, alike for all sets of one size."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of that bias, which the report states
            return frechet_from_statistics(self.reference, FeatureStatistics.from_features(self.extractor(images)))


def level_distances(
    pipeline: BetaDiffusionPipeline, judge: Judge, config: RunConfig, progress: bool
) -> list[dict[str, float]]:
    """By level of the configured grid the distance of the judge's real images, and their PSNR in dB: VAE alone, and
    walked back to 0."""
    rows, real = [], torch.from_numpy(judge.images)
    for level in tqdm(grid_levels(config), desc="report: walks back", disable=not progress):
        alone, walked = reconstructions(pipeline, judge.images, level, seed_for(config, "codes"))
        distance = judge(alone)
        row = {"level": level, "vae": distance, "walked": judge(walked) if level > 0 else distance}
        rows.append(row | {"vae_psnr": _psnr(real, alone), "walked_psnr": _psnr(real, walked)})
    return rows


def _psnr(real: Tensor, images: Tensor) -> float:
    """In dB, of the mean error of all images (N,C,H,W) uint8 together; infinite where they are equal."""
    return decibels(distortion(real, images).per_pixel)


def walk_back(rows: list[dict[str, float]]) -> dict[str, float] | None:
    """The first level where the VAE alone is at least 3 times as far as at level 0, and what walking back does."""
    for row in rows:
        times = row["vae"] / rows[0]["vae"]
        if times >= FAR:
            return {**row, "times_level_zero": times, "divided_by": row["vae"] / row["walked"]}
    return None


def sampler_distances(
    pipeline: BetaDiffusionPipeline, judge: Judge, config: RunConfig, progress: bool
) -> list[dict[str, Any]]:
    """One row for each of `SAMPLERS` that the denoiser serves, all from the same noise; the seconds are for all images,
    decoding included."""
    served = [sampler for sampler in SAMPLERS if pipeline.denoiser.predicts_noise or not sampler.adds_noise]
    rows = tqdm(served, desc="report: samplers", disable=not progress)
    return [_row(pipeline, judge, sampler, config) for sampler in rows]


def spacing_distances(
    pipeline: BetaDiffusionPipeline,
    judge: Judge,
    rows: list[dict[str, Any]],
    config: RunConfig,
) -> list[dict[str, Any]]:
    """The pipeline's own method with 20 evaluations, on each of `SPACINGS`; rows: the sampler table, with its own."""
    sampler, own = default_sampler(pipeline, 20), walk_default("clock")
    spaced = []
    for clock in SPACINGS:
        levels = walk_levels(pipeline.denoiser, pipeline.vae.schedule, clock, sampler.steps)
        row = sampler_row(rows, sampler) if clock == own else _row(pipeline, judge, sampler, config, levels)
        spaced.append({"spacing": clock, **row})
    return spaced


def sampler_row(rows: list[dict[str, Any]], sampler: Sampler) -> dict[str, Any] | None:
    """The row of a sampler in the sampler table; None where the denoiser does not serve it."""
    return next((row for row in rows if (row["method"], row["steps"]) == (sampler.method, sampler.steps)), None)


def _row(
    pipeline: BetaDiffusionPipeline, judge: Judge, sampler: Sampler, config: RunConfig, levels: Tensor | None = None
) -> dict[str, Any]:
    started = time.perf_counter()
    images = samples(pipeline, sampler, len(judge.images), config, levels)
    seconds = time.perf_counter() - started
    distance = judge(images)
    return {
        "method": sampler.method,
        "steps": sampler.steps,
        "evaluations": sampler.evaluations,
        "seconds": seconds,
        "distance": distance,
        "above_floor": distance - judge.floor,
    }

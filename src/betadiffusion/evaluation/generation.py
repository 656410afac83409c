"""Distances of a run's samples to real images, each with all that it depends on."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from betadiffusion.data import ImageSet, Subset
from betadiffusion.metrics.features import FeatureExtractor
from betadiffusion.metrics.reference import reference_features
from betadiffusion.metrics.result import generation_metrics
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline

BATCH = 250


def sampled(pipeline: BetaDiffusionPipeline, count: int, seed: int, progress: bool) -> np.ndarray:
    """New images (count, C, H, W) uint8 by the pipeline's own sampler."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in tqdm(range(0, count, BATCH), desc="sampling", unit_scale=BATCH, unit="img", disable=not progress):
        images = pipeline(min(BATCH, count - start), generator=generator, output_type="pt").images
        parts.append((images * 255).round().to(torch.uint8).numpy())
    return np.concatenate(parts)


def generation(
    pipeline: BetaDiffusionPipeline,
    extractor: FeatureExtractor,
    reference: ImageSet,
    reference_name: str,
    names: list[str],
    count: int,
    seed: int,
    progress: bool,
    cache_dir: Path | None = None,
) -> list[dict[str, Any]]:
    """The distances named, of `count` samples to as many images of `reference`, drawn by `seed`."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(reference))[:count])
    real = Subset(reference, chosen).materialise()
    pixels = real.images(np.arange(len(real)))
    known = reference_features(extractor, pixels, reference_name, seed, cache_dir, progress)
    fake = sampled(pipeline, count, seed, progress)
    return [result.as_dict() for result in generation_metrics(extractor, fake, known, names, seed, progress)]

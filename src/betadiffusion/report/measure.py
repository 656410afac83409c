"""Every number of the report, from a pipeline and the images it has not seen."""

import math
import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from betadiffusion.data import FactorSet, Subset
from betadiffusion.metrics.features import EfficientNetLite0, FeatureExtractor, frechet_name
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.report.classifier import known_factors, train_classifier
from betadiffusion.report.context import context
from betadiffusion.report.curves import MIG_BINS, MIG_IMAGES, level_curves
from betadiffusion.report.distances import Judge, level_distances, sampler_distances, spacing_distances, walk_back
from betadiffusion.report.generate import default_sampler, seed_for
from betadiffusion.training.config import RunConfig

FIXED_LEVEL = 0.5  # at which MIG is also given, since the best of many levels is chosen on MIG itself (erratum 5)
FEATURE_BATCH = 32  # larger batches are slower on a CPU: their buffers no longer fit its caches


def measure(
    pipeline: BetaDiffusionPipeline,
    train: Subset,
    held_out: Subset,
    config: RunConfig,
    progress: bool = True,
    extractor: FeatureExtractor | None = None,
) -> dict[str, Any]:
    """Numbers of a trained pipeline, fit for JSON, the same ones for the same seed (but for the seconds).

    "levels" and "terminal" are explained at `curves.level_curves`, "frechet", "samplers" and "spacings" in
    `distances`; all are over the first `config.report.count` held-out images, or as many as there are; the Frechet
    reference is twice as many training images. extractor: the features, by default those of `config.report.features`.
    """
    started = time.perf_counter()
    count = min(config.report.count, len(held_out))
    coded = min(MIG_IMAGES, len(held_out)) if isinstance(held_out, FactorSet) else count
    images = held_out.images(np.arange(max(coded, count)))
    factors = held_out.factors(np.arange(len(images))) if isinstance(held_out, FactorSet) else None
    curves = level_curves(pipeline, images, factors, count, seed_for(config, "levels"), progress)
    rates = [row["rate"] for row in curves]

    extractor = extractor or make_extractor(train, held_out, config, pipeline.device)
    judge = Judge.from_split(extractor, train, held_out, count)
    by_level = level_distances(pipeline, judge, config, progress)
    walk = default_sampler(pipeline)
    samplers = sampler_distances(pipeline, judge, config, progress)
    terminal = ("rate", "mean_std", "sigma", "aggregate_kl", "aggregate_kl_max")
    numbers = {
        "context": context(pipeline, train, held_out, config),
        "images": count,
        "levels": curves,
        "rate_falls": all(low < high for high, low in pairwise(rates)),
        "terminal": {name: curves[-1][name] for name in terminal},
        "factors": None if factors is None else _factors(curves, held_out.factor_names, len(factors)),
        "frechet": {
            "name": frechet_name(extractor),
            "features": extractor.name,
            "weights_sha256": getattr(extractor, "weights_sha256", None),
            "images": count,
            "reference_images": judge.reference.count,
            "floor": judge.floor,
            "walk": {"method": walk.method, "steps": walk.steps, "evaluations": walk.evaluations},
            "levels": by_level,
            "walk_back": walk_back(by_level),
        },
        "samplers": samplers,
        "spacings": spacing_distances(pipeline, judge, samplers, config),
    }
    numbers["seconds"] = time.perf_counter() - started
    return finite(numbers)


def make_extractor(train: Subset, held_out: Subset, config: RunConfig, device: torch.device) -> FeatureExtractor:
    """The features that a configuration asks for: "auto" is a classifier where factors or labels are known."""
    if config.report.features == "classifier" or (
        config.report.features == "auto" and known_factors(train) is not None
    ):
        return train_classifier(train, held_out, config.seed, device)
    return EfficientNetLite0(size=config.report.feature_size, batch_size=FEATURE_BATCH, device=device)


def _factors(curves: list[dict[str, Any]], names: tuple[str, ...], images: int) -> dict[str, Any]:
    best = max(curves, key=lambda row: row["mig"])
    fixed = next(row for row in curves if row["level"] == FIXED_LEVEL)
    chosen = {key: {"level": row["level"], "mig": row["mig"]} for key, row in (("best", best), ("fixed", fixed))}
    return {"names": list(names), "images": images, "bins": MIG_BINS, **chosen}


def finite(value: Any) -> Any:
    """The same numbers with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

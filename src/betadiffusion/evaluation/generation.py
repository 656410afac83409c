"""Distances of a model's samples to real images, each with all that it depends on."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from betadiffusion.baselines.presets import is_baseline
from betadiffusion.baselines.runs import load_baseline
from betadiffusion.data import ImageSet, Subset
from betadiffusion.metrics.features import FeatureExtractor
from betadiffusion.metrics.reference import identity, reference_features
from betadiffusion.metrics.result import generation_metrics
from betadiffusion.report.generate import default_sampler
from betadiffusion.training.files import write_json
from betadiffusion.training.models import load_pipeline
from betadiffusion.training.runs import load_config
from betadiffusion.training.stored import fingerprint

BATCH = 250


@dataclass(frozen=True)
class Generative:
    """What makes new images: draw(count, generator) gives (count, C, H, W) in [0, 1].

    networks: those behind it. evaluations: passes of a network that an image costs, the decoder's among them.
    """

    draw: Callable[[int, torch.Generator], Tensor]
    networks: tuple[nn.Module, ...]
    evaluations: int


def load_generative(run: Path, device: torch.device) -> Generative | None:
    """What makes new images of a run: its pipeline by its own sampler, or a baseline; None where nothing does."""
    if is_baseline(load_config(run).model):
        model = load_baseline(run).eval().to(device)
        if not (hasattr(model, "sample") and getattr(model, "has_prior", True)):
            return None

        @torch.no_grad()
        def draw(count: int, generator: torch.Generator) -> Tensor:
            return (model.sample(count, generator).cpu() / 2 + 0.5).clamp(0, 1)

        return Generative(draw, (model,), model.evaluations)
    if not (run / "pipeline").is_dir():
        return None
    pipeline = load_pipeline(run).to(device)
    return Generative(
        lambda count, generator: pipeline(count, generator=generator, output_type="pt").images,
        (pipeline.vae, pipeline.denoiser),
        default_sampler(pipeline).evaluations + 1,
    )


def sampled(model: Generative, count: int, seed: int, progress: bool) -> np.ndarray:
    """New images (count, C, H, W) uint8."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in tqdm(range(0, count, BATCH), desc="sampling", unit_scale=BATCH, unit="img", disable=not progress):
        images = model.draw(min(BATCH, count - start), generator)
        parts.append((images * 255).round().to(torch.uint8).numpy())
    return np.concatenate(parts)


def generation(
    model: Generative,
    extractor: FeatureExtractor,
    reference: ImageSet,
    reference_name: str,
    names: list[str],
    count: int,
    seed: int,
    folder: Path,
    progress: bool,
) -> list[dict[str, Any]]:
    """The distances named, of `count` samples to as many images of `reference`, drawn by `seed`.

    They are kept in `folder` under the weights and settings that they come from, and not taken again.
    """
    count = min(count, len(reference))
    about = [*map(fingerprint, model.networks), identity(extractor), reference_name, count, seed, *names]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    file = folder / f"samples-{key}.json"
    if not (file.is_file() and extractor.weights_sha256):  # a plain function may have changed
        chosen = np.sort(np.random.default_rng(seed).permutation(len(reference))[:count])
        real = Subset(reference, chosen).keep()
        pixels = real.images(np.arange(len(real)))
        known = reference_features(extractor, pixels, reference_name, seed, None, progress)
        fake = sampled(model, count, seed, progress)
        results = generation_metrics(extractor, fake, known, names, seed, progress)
        write_json(file, [result.as_dict() for result in results])
    return json.loads(file.read_text())

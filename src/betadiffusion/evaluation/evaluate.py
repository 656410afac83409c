"""From options to every number of an evaluation: `evaluate` sweeps, `summarise` averages over repetitions."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import betadiffusion
from betadiffusion import metrics
from betadiffusion.data import AttributeSet, FactorSet, ImageSet, Subset, load
from betadiffusion.data.sources import place
from betadiffusion.evaluation.encoders import (
    Encoder,
    feature_encoder,
    load_function,
    load_run,
    pixel_encoder,
    random_encoder,
)
from betadiffusion.evaluation.generation import generation, load_generative
from betadiffusion.evaluation.names import CHOOSERS, CONTROLS, GENERATION, PICTURES, SCORES, SLOW
from betadiffusion.evaluation.pool import Pool, candidates, draw, trained_on, training_images
from betadiffusion.evaluation.scores import Numbers, possible
from betadiffusion.evaluation.summary import summarise
from betadiffusion.evaluation.sweep import GRID, Measure, Repetition
from betadiffusion.metrics.features import FeatureExtractor, make_features
from betadiffusion.metrics.lpips import LPIPS
from betadiffusion.report.context import cpu_model
from betadiffusion.report.measure import finite
from betadiffusion.training.config import RunConfig
from betadiffusion.training.runs import load_config
from betadiffusion.training.trainer import first_difference

MAY_DIFFER = ("seed", "out", "resume", "precision", "compile", "cpu", "trackers", "cache", "report", "stages")


@dataclass(frozen=True)
class Options:
    """What to evaluate on what; the fields are the options of `betadiffusion evaluate`, explained there."""

    runs: tuple[Path, ...] = ()
    model: str | None = None
    data: str | None = None
    size: int | None = None
    channels: int | None = None
    levels: int = 50
    fixed_level: float = 0.5
    metrics: tuple[str, ...] = ()
    chosen_metrics: tuple[str, ...] = ()
    count: int = 10_000
    test_count: int = 5_000
    split: str = "heldout"
    seeds: tuple[int, ...] = (0,)
    features: str = "effnet"
    samples: int = 10_000
    lpips: str | None = None
    preset: str | None = None
    cpu: bool = False


@dataclass(frozen=True)
class Plan:
    """Which numbers are taken where: at every level, only at the chosen levels, of reconstructions, of samples."""

    every: list[str]
    chosen: list[str]
    pictures: list[str]
    generation: list[str]

    @property
    def scores(self) -> list[str]:
        """All scores of codes."""
        return [*self.every, *self.chosen]


@dataclass(frozen=True)
class Subject:
    """One encoder and the images to evaluate it on.

    run: its folder, None for a plain callable. config: the run's, where it was trained on these very images.
    """

    encoder: Encoder
    source: ImageSet
    run: Path | None = None
    config: RunConfig | None = None

    @property
    def can_sample(self) -> bool:
        """Whether it can also make new images."""
        if self.run is None:
            return False
        model = self.encoder.model
        return (self.run / "pipeline").is_dir() or (hasattr(model, "sample") and getattr(model, "has_prior", True))


def check_scores(options: Options, pool: Pool) -> set[str]:
    """The scores that this data can have; ValueError for one that is asked for and is not among them."""
    can = possible(pool)
    for name in (*options.metrics, *options.chosen_metrics):
        if name in SCORES and name not in can:
            needs = {"targets": "labels or factors"}.get(SCORES[name].needs, SCORES[name].needs)
            if SCORES[name].varying > 1:
                needs = f"{needs}, {SCORES[name].varying} that vary"
            hint = "" if "labels" not in needs else "; where each class has a folder, the data are imagenet:PATH"
            raise ValueError(f"{name} needs images with known {needs}, and {pool.images.name} has none{hint}")
    return can


def make_plan(options: Options, pool: Pool, has_decoder: bool, can_sample: bool) -> Plan:
    """Sorts the names asked for; ValueError, before any work, for one that this data or this model cannot give."""
    can = check_scores(options, pool)
    for name in options.metrics:
        if name in PICTURES and not has_decoder:
            raise ValueError(f"--metrics {name} is of images decoded from codes in one pass, which this model has not")
        if name in GENERATION and not can_sample:
            raise ValueError(f"--metrics {name} is of samples: it needs a run whose stage 'diffusion' is finished")
    usual = {where: [n for n, s in SCORES.items() if s.where == where and n in can and n not in SLOW]
             for where in ("every", "chosen")}  # fmt: skip
    every = [name for name in options.metrics if name in SCORES] if options.metrics else usual["every"]
    chosen = list(options.chosen_metrics) if options.metrics or options.chosen_metrics else usual["chosen"]
    return Plan(
        every=every,
        chosen=[name for name in chosen if name not in every],
        pictures=[name for name in options.metrics if name in PICTURES],
        generation=[name for name in options.metrics if name in GENERATION],
    )


def evaluate(options: Options, out: Path, progress: bool = True, samples: bool = True) -> dict[str, Any]:
    """Every number of an evaluation, fit for JSON; `out` keeps what is finished, so that the same call goes on there.

    samples: whether those of samples are among them. Raises ValueError or DataError, before anything long, for
    options, data and models that do not go together.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
    check_alike(options.runs)
    extractor, measures = make_extractor(options, device) if samples else None, make_measures(options, device)
    rows: dict[str, list[Numbers]] = {name: [] for name in ("fixed", "best", *CONTROLS)}
    by_level: list[list[Numbers]] = []
    single: list[dict[str, Any]] = []
    generated: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    runs: list[int] = []  # of each repetition
    for number, subject in enumerate(subjects(options, device)):
        for seed in options.seeds:
            runs.append(number)
            pool = make_pool(subject, options, seed)
            plan = make_plan(options, pool, subject.encoder.has_decoder, subject.can_sample or not samples)
            repetition = Repetition(subject.encoder, pool, out, options.fixed_level, measures)
            levels = level_grid(options) if subject.encoder.has_levels else []
            repetition.sweep(levels, plan.every, progress)
            taken = {"fixed": repetition.at(repetition.fixed, plan.scores)}
            if repetition.best is not None and levels:
                taken["best"] = repetition.at(repetition.best, plan.scores)
            for name, control in controls(subject, repetition, seed, device).items():
                other = Repetition(control, pool, out, options.fixed_level)
                taken[name] = other.at(other.fixed, plan.scores)
            for name, numbers in taken.items():
                rows[name].append(numbers)
            by_level.append([repetition.at(level, plan.every) for level in levels])
            single += _single(subject.encoder.name, seed, by_level[-1], taken)
            if samples and plan.generation:
                found = _generation(subject, plan, options, extractor, seed, repetition.folder, progress)
                generated += [{"run": subject.encoder.name, **row} for row in found]
            about = context(options, plan, subject, pool, [*about.get("repetition_of", []), subject.encoder.name])
    summary = {
        "context": about,
        "chooser": next((name for name in CHOOSERS if name in about["plan"]["every"]), None),
        "levels": [summarise(numbers, runs) for numbers in zip(*by_level, strict=True)],
        "rows": {name: summarise(numbers, runs) for name, numbers in rows.items() if numbers},
        "generation": generated,
        "grid": GRID.tolist(),
        "repetitions": single,
    }
    return finite(summary)


def _single(run: str, seed: int, levels: list[Numbers], taken: dict[str, Numbers]) -> list[dict[str, Any]]:
    """Every single number of a repetition, unrounded; levels at which more was taken come once, with all of it."""
    named = {run: {row["level"]: row for row in [*levels, *(taken[k] for k in ("fixed", "best") if k in taken)]}}
    named |= {name: {row["level"]: row} for name, row in taken.items() if name not in ("fixed", "best")}
    return [
        {"run": run, "encoder": name, "seed": seed}
        | {key: value for key, value in row.items() if not isinstance(value, list)}
        for name, by_level in named.items()
        for row in by_level.values()
    ]


def check_alike(runs: tuple[Path, ...]) -> None:
    """ValueError for runs that are not repetitions of one training: of other data, or differently configured."""
    configs = [load_config(run) for run in runs]
    for run, config in zip(runs[1:], configs[1:], strict=True):
        if difference := first_difference(what_repeats(configs[0]), what_repeats(config)):
            raise ValueError(
                f"{run} is no repetition of {runs[0]}, which has {difference}: evaluate it by itself, or use `compare`"
            )


def what_repeats(config: RunConfig) -> dict[str, Any]:
    """What the configurations of repetitions have in common: all but seed and places, and how a run is carried out."""
    same = {key: value for key, value in asdict(config).items() if key not in MAY_DIFFER}
    same["data"]["source"] = str(place(config.data.source))
    for section, key in (("baseline", "base"), ("diffusion", "teacher")):  # a run's own repetitions have theirs
        same[section][key] = bool(same[section][key])
    for training in ("vae_training", "diffusion_training", "decoder_training"):
        for key in ("accumulation", "validate_images", "checkpoint_images", "keep_checkpoints"):
            del same[training][key]
    return same


def subjects(options: Options, device: torch.device) -> Iterable[Subject]:
    """The encoders to evaluate, one after the other, each with its images."""
    if options.model is not None:
        if options.data is None:
            raise ValueError("--model needs --data: the images to evaluate it on")
        source = load(options.data, options.size, options.channels)
        yield Subject(load_function(options.model, source.image_shape, device), source)
    for run in options.runs:
        config, encoder = load_config(run), load_run(run, device)
        data = options.data or config.data.source
        channels, size, _ = encoder.image_shape
        source = load(data, size, channels)
        yield Subject(encoder, source, run, config if trained_on(config, data) else None)


def make_pool(subject: Subject, options: Options, seed: int) -> Pool:
    """The images of one repetition."""
    indices = candidates(subject.source, options.split, subject.config)
    return draw(subject.source, indices, options.count, options.test_count, seed)


def make_extractor(options: Options, device: torch.device) -> FeatureExtractor | None:
    """The features of distances between sets of images, where one is asked for."""
    if not set(options.metrics) & set(GENERATION):
        return None
    try:
        return make_features(options.features, device=device)
    except ImportError as error:  # of an extra
        raise ValueError(str(error)) from error


def make_measures(options: Options, device: torch.device) -> dict[str, Measure]:
    """The measures of reconstructions that are asked for beside the squared error."""
    measures: dict[str, Measure] = {"ssim": metrics.ssim} if "ssim" in options.metrics else {}
    if "lpips" in options.metrics:
        if options.lpips is None:
            raise ValueError("--metrics lpips needs its weights: --lpips FILE.safetensors, or a hub id")
        measures["lpips"] = LPIPS(options.lpips, device=device)
    return measures


def level_grid(options: Options) -> list[float]:
    """Levels evenly spaced from 0 to 1, and the fixed one."""
    return sorted({*np.linspace(0, 1, options.levels).round(6).tolist(), options.fixed_level})


def controls(subject: Subject, repetition: Repetition, seed: int, device: torch.device) -> dict[str, Encoder]:
    """What stands beside the model: its network with random weights, pixels, and the features before its bottleneck."""
    dimensions = repetition.at(repetition.fixed, [])["dimensions"]
    others = {"pixels": pixel_encoder(subject.encoder.image_shape, dimensions, device)}
    if subject.run is not None:
        others["random weights"] = random_encoder(subject.run, seed, device)
    if hasattr(subject.encoder.model, "features"):
        named = {"features": subject.encoder, "features, random weights": others.get("random weights")}
        others |= {name: feature_encoder(encoder, name) for name, encoder in named.items() if encoder is not None}
    return others


def _generation(
    subject: Subject,
    plan: Plan,
    options: Options,
    extractor: FeatureExtractor | None,
    seed: int,
    folder: Path,
    progress: bool,
) -> list[dict[str, Any]]:
    """Distances of samples, kept in `folder` under the weights and settings that they come from."""
    assert subject.run is not None  # make_plan has looked
    assert extractor is not None
    model = load_generative(subject.run, subject.encoder.device)
    assert model is not None
    if subject.config is None:
        indices, part = candidates(subject.source, options.split, None), options.split
    else:
        indices, part = training_images(subject.source, subject.config), "training"
    reference, name = Subset(subject.source, indices), f"{subject.source.name}, {part} images"
    return generation(model, extractor, reference, name, plan.generation, options.samples, seed, folder, progress)


def context(options: Options, plan: Plan, subject: Subject, pool: Pool, names: list[str]) -> dict[str, Any]:
    """What the numbers depend on: data, counts, seeds, hardware, versions."""
    source = subject.source
    return {
        "encoders": sorted(set(names)),
        "repetition_of": names,
        "data": source.name,
        "image_shape": list(source.image_shape),
        "images": len(source),
        "split": options.split,
        "own_data": subject.config is not None,
        "count": pool.count,
        "test_count": len(pool.images) - pool.count,
        "factor_names": list(source.factor_names) if isinstance(source, FactorSet) else [],
        "attribute_names": list(source.attribute_names) if isinstance(source, AttributeSet) else [],
        "attribute_rates": [] if pool.attributes is None else pool.attributes.mean(axis=0).tolist(),
        "skipped": len(source.skipped),
        "plan": asdict(plan),
        "options": {k: [str(i) for i in v] if isinstance(v, tuple) else v for k, v in asdict(options).items()},
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if subject.encoder.device.type == "cuda" else None,
        "torch": torch.__version__,
        "betadiffusion": betadiffusion.__version__,
    }

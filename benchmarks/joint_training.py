"""Two stages against one: autoencoder and denoiser one after the other, or together with gradients stopped or shared.

    python benchmarks/joint_training.py --data shapes [--images 320000] [--seeds 0 1 2] [--weights 0.1 1] [--out DIR]

Every network of every row sees the same number of images; the seconds of training stand beside, the latent cache of the
two stages not among them. Joint training draws all levels alike, so two stages stand there with even levels too. Each
row of each seed is a run's folder below --out, which is resumed where it stopped and measured once. Prints the table of
means and standard errors, and writes it with all numbers as OUT/joint_training.json. Minutes per row and seed on 2 CPU
cores with the defaults; a step of joint training costs 1.4 to 1.8 times one of the autoencoder alone.

Columns: Frechet distance, in the report's features, of samples (20 evaluations), of held-out images at level 0 by
the VAE alone, and at level 0.8 alone and walked back; Eq. 4 per pixel on held-out images, mean of six levels, and the
rate in nats at levels 0, 0.5 and 0.9, where a path that has collapsed shows.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from betadiffusion.cli.checks import check
from betadiffusion.metrics.features import FeatureExtractor
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.report.distances import Judge
from betadiffusion.report.generate import default_sampler, reconstructions, samples, seed_for
from betadiffusion.report.measure import make_extractor
from betadiffusion.training.accelerator import make_accelerator
from betadiffusion.training.config import DataConfig, JointConfig, ReportConfig, RunConfig
from betadiffusion.training.files import write_json
from betadiffusion.training.models import image_size
from betadiffusion.training.runs import load_config, load_split, run

EVEN = "even levels"
WALK = 0.8
EVALUATIONS = 20
DISTANCES = ["samples", "level 0", f"level {WALK:g} alone", f"level {WALK:g} walked"]


def rows(weights: Iterable[float]) -> dict[str, tuple[list[str], JointConfig]]:
    """Name of each row, its stages, and how they train together."""
    two = (["vae", "diffusion"], JointConfig())
    named = {"two stages": two, f"two stages, {EVEN}": two, "joint, stopped": (["joint"], JointConfig())}
    for weight in weights:
        named[f"joint, shared, weight {weight:g}"] = (["joint"], JointConfig(stop_gradient=False, weight=weight))
    return named


def configured(options: argparse.Namespace, name: str, stages: list[str], joint: JointConfig, seed: int) -> RunConfig:
    """The run of a row and a seed."""
    data = DataConfig(options.data, options.size, limit=options.limit, held_out=options.held_out)
    folder = Path(options.out) / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    config = RunConfig(data=data, joint=joint, stages=stages, seed=seed, out=str(folder), cpu=options.cpu)
    config.vae.sigma_from = "level"  # which joint training needs
    config.report = ReportConfig(count=options.count)
    if EVEN in name:
        config.levels.start_power = config.levels.power
    for training in (config.vae_training, config.diffusion_training):
        training.images, training.validate_images = options.images, max(1, options.images // 4)
        training.warmup_images = min(training.warmup_images, options.images // 4)
        training.checkpoint_images = max(1, options.images // 8)
    check(config)
    return config


def extractor_of(config: RunConfig) -> FeatureExtractor:
    """The report's features for the data of a run."""
    train, held_out = load_split(config.data, image_size(config), config.seed)
    return make_extractor(train, held_out, config, make_accelerator(config).device)


def distances(folder: Path, extractor: FeatureExtractor) -> dict[str, float]:
    """Frechet distances of a finished run: of samples, and of held-out images at two levels."""
    config = load_config(folder)
    pipeline = BetaDiffusionPipeline.from_pretrained(folder / "pipeline").to(make_accelerator(config).device)
    train, held_out = load_split(config.data, pipeline.vae.image_shape[1], config.seed)
    count = min(config.report.count, len(held_out))
    judge = Judge.from_split(extractor, train, held_out, count)
    drawn = samples(pipeline, default_sampler(pipeline, EVALUATIONS), count, config)
    seed = seed_for(config, "codes")
    lowest, _ = reconstructions(pipeline, judge.images, 0.0, seed)
    pictures = (drawn, lowest, *reconstructions(pipeline, judge.images, WALK, seed))
    return dict(zip(DISTANCES, map(judge, pictures), strict=True))


def trained(folder: Path) -> dict[str, float]:
    """What a run noted of its autoencoder at the end, and how long it trained."""
    stages = [stage for stage in ("vae", "diffusion", "joint") if (folder / stage / "summary.json").is_file()]
    summaries = [json.loads((folder / stage / "summary.json").read_text()) for stage in stages]
    last = json.loads((folder / stages[0] / "history.json").read_text())[-1]
    objectives = [value for key, value in last.items() if key.startswith("objective@")]
    numbers = {"Eq. 4": float(np.mean(objectives)), "seconds": sum(summary["seconds"] for summary in summaries)}
    return numbers | {f"rate at {level:g}": last[f"rate@{level}"] for level in (0.0, 0.5, 0.9)}


def table(results: dict[str, list[dict[str, float]]], columns: list[str]) -> str:
    """Markdown: a row for each name, mean and standard error over seeds."""
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for name, seeds in results.items():
        cells = [f"{name} ({len(seeds)})"]
        for column in columns:
            values = np.array([numbers[column] for numbers in seeds])
            error = f" ± {values.std(ddof=1) / math.sqrt(len(values)):.2g}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.4g}{error}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measured(folder: Path, extractor: FeatureExtractor) -> dict[str, float]:
    """The numbers of a finished run, from its folder where they are known already."""
    file = folder / "measured.json"
    if not file.is_file():
        write_json(file, distances(folder, extractor) | trained(folder))
    return json.loads(file.read_text())


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that say which data to look at."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="shapes")
    parser.add_argument("--size", type=int, help="side of the images; 32 by default")
    parser.add_argument("--limit", type=int, default=22_000)
    parser.add_argument("--held-out", type=int, default=2_000)
    parser.add_argument("--count", type=int, default=1_000, help="images behind every distance")
    parser.add_argument("--images", type=int, default=320_000, help="that every network sees")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cpu", action="store_true")
    return parser


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--weights", type=float, nargs="+", default=[0.1, 1.0], help="of the shared denoising loss")
    parser.add_argument("--out", type=Path, default=Path("runs/joint"))
    options = parser.parse_args()
    extractor: FeatureExtractor | None = None  # one for all seeds, so that their distances are of one kind
    results: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        for name, (stages, joint) in rows(options.weights).items():
            config = configured(options, name, stages, joint, seed)
            folder = Path(config.out)
            if not (folder / "measured.json").is_file():
                run(config)
                extractor = extractor or extractor_of(dataclasses.replace(config, seed=options.seeds[0]))
            results.setdefault(name, []).append(measured(folder, extractor))
            print(f"seed {seed}, {name}: {results[name][-1]}", flush=True)
    columns = list(next(iter(results.values()))[0])
    print(table(results, columns))
    settings = {key: str(value) for key, value in vars(options).items()}
    write_json(options.out / "joint_training.json", {"settings": settings, "rows": results})


if __name__ == "__main__":
    main()

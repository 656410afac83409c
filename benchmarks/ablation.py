"""The choices of the diffusion, one at a time around the default: Frechet distances at equal training.

    python benchmarks/ablation.py runs/shapes [--group denoiser | vae] [--seeds 0 1 2] [--images 300000]
        [--vae-images 280000] [--count 1000] [--only TEXT ...] [--out ablation]

Group "denoiser" trains denoisers on the run's VAE and one latent cache: predictions, weightings, levels, sizes of the
network, images a step. Group "vae" trains the VAE too: sigma, boundary, curvature penalty, schedule of beta. Every
row, a choice and a seed, is trained on as many images and judged by 1,000 samples from the same noise, in the report's
features, at 4, 10, 20 and 50 evaluations, by whichever deterministic solver is best there (named in the table; the
choice is made on the same samples, alike for every row). Rows are kept in OUT/GROUP.json: what is there is not done
again. Prints a markdown table of means and standard errors over seeds, with images per second beside them, since
choices differ in passes per image.

On 2 CPU cores, for the demo's run, about 2 minutes a row: 42 rows of group "denoiser" in an hour and a half. A row of
group "vae" takes 6 minutes more.
"""

import argparse
import copy
import itertools
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from betadiffusion import samplers
from betadiffusion.data import Subset
from betadiffusion.nn.preconditioning import STEPS
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.report.distances import Judge
from betadiffusion.report.generate import Sampler, samples
from betadiffusion.report.measure import make_extractor
from betadiffusion.training.accelerator import make_accelerator
from betadiffusion.training.config import OptimisationConfig, RunConfig, with_keys
from betadiffusion.training.diffusion_stage import DiffusionStage
from betadiffusion.training.files import write_json
from betadiffusion.training.latent_cache import LatentCache
from betadiffusion.training.models import Autoencoder
from betadiffusion.training.runs import build_denoiser, build_vae, load_config, load_split, load_vae
from betadiffusion.training.trainer import Trainer
from betadiffusion.training.vae_stage import VAEStage

EVALUATIONS = (4, 10, 20, 50)
VARIABLES: tuple[samplers.Variable, ...] = ("t", "sigma", "standard")
Changes = dict[str, Any]
ONE_SIGMA: Changes = {"vae.sigma_from": "level"}  # in whose units a path's curvature is
CHOICES: dict[str, dict[str, Changes]] = {
    "denoiser": {
        "default": {},
        **{f"prediction {name}": {"diffusion.prediction": name} for name in ("any_step", "flow_map", "flow")},
        "prediction paper": {
            "diffusion.prediction": "paper",
            "diffusion.weighting": "uniform",
            "diffusion.levels": "uniform",
        },
        **{f"weighting {name}": {"diffusion.weighting": name} for name in ("uniform", "sigma")},
        "weighting learned": {"diffusion.weighting": "learned", "diffusion.levels": "uniform"},
        "levels logit_normal": {"diffusion.levels": "logit_normal"},
        "levels logit_normal, mean 1": {"diffusion.levels": "logit_normal", "diffusion.logit_mean": 1.0},
        "levels uniform": {"diffusion.levels": "uniform"},
        **{f"width {width}": {"denoiser.width": width} for width in (128, 512, 1024)},
        **{f"depth {depth}": {"denoiser.depth": depth} for depth in (2, 8)},
        **{f"steps of {size}": {"diffusion_training.batch_size": size} for size in (64, 128)},
    },
    "vae": {
        "default": {},
        **{f"sigma of the {one}": {"vae.sigma_from": one} for one in ("level", "channel")},
        "boundary learned": {"vae.boundary": False},
        **{f"curvature {weight:g}": ONE_SIGMA | {"path.curvature": weight} for weight in (1e-7, 1e-6)},
        **{f"beta {name}": {"vae.schedule": name} for name in ("sinusoidal", "linear")},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--group", choices=CHOICES, default="denoiser")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=300_000, help="of stage diffusion, in every row")
    parser.add_argument("--vae-images", type=int, help="of stage vae, in group vae; by default the run's own")
    parser.add_argument("--count", type=int, default=1_000, help="samples behind a distance")
    parser.add_argument("--limit", type=int, help="use only so many of the run's training images")
    parser.add_argument("--only", nargs="+", default=[""], help="choices whose names contain one of these")
    parser.add_argument("--out", type=Path, default=Path("ablation"))
    arguments = parser.parse_args()
    config = load_config(arguments.run)
    config.trackers = []
    if arguments.vae_images:
        config.vae_training.images = arguments.vae_images
    bench = Bench(arguments.run, config, arguments.images, arguments.count, arguments.limit, arguments.out)
    file = arguments.out / f"{arguments.group}.json"
    made_with = {
        "run": str(arguments.run),
        "images": arguments.images,
        "count": arguments.count,
        "limit": arguments.limit,
    } | ({"vae_images": config.vae_training.images} if arguments.group == "vae" else {})
    kept = json.loads(file.read_text()) if file.exists() else {"made_with": made_with, "rows": {}}
    if kept["made_with"] != made_with:
        raise SystemExit(f"{file} was made with {kept['made_with']}, not {made_with}: give another --out")
    choices = {
        name: changes
        for name, changes in CHOICES[arguments.group].items()
        if any(text in name for text in arguments.only)
    }
    for seed in arguments.seeds:
        for name, changes in choices.items():
            key = f"{name}, seed {seed}"
            if key not in kept["rows"]:
                kept["rows"][key] = bench.row(with_keys(config, changes), seed, arguments.group == "vae")
                write_json(file, kept)
            cells = ", ".join(f"{n}: {d:.2f} {m}" for n, (d, m) in kept["rows"][key]["distances"].items())
            print(f"{key}: {cells}", flush=True)
    print()
    print(table(kept["rows"], list(choices), arguments.seeds))


class Bench:
    """What all rows share: images, features, the run's VAE and its latent cache."""

    def __init__(self, run: Path, config: RunConfig, images: int, count: int, limit: int | None, folder: Path) -> None:
        self.run, self.images, self.count, self.folder = run, images, count, folder
        self.accelerator: Accelerator = make_accelerator(config)
        self.vae = load_vae(run).to(self.accelerator.device)
        self.train, self.held_out = load_split(config.data, self.vae.config.sample_size, config.seed)
        if limit:
            self.train = Subset(self.train, np.arange(limit))
        extractor = make_extractor(self.train, self.held_out, config, self.accelerator.device)
        self.judge = Judge.from_split(extractor, self.train, self.held_out, count)

    def row(self, config: RunConfig, seed: int, with_vae: bool) -> dict[str, Any]:
        """Trains what a row asks for and measures it: distances by evaluations, with the method; images per second."""
        with tempfile.TemporaryDirectory() as scratch:
            vae = self.trained_vae(config, seed, Path(scratch)) if with_vae else self.vae
            place = Path(scratch) if with_vae else self.folder
            cache = LatentCache.build(vae, self.train, config.cache.levels, place / "cache", quiet=True)
            torch.manual_seed(seed)
            stage = DiffusionStage(
                build_denoiser(config, vae), vae, self.train, self.held_out, cache, self.accelerator.device,
                config.diffusion, images=self.images,
            )  # fmt: skip
            trainer = self.trainer(stage, config.diffusion_training, self.images, Path(scratch), seed)
            pipeline = BetaDiffusionPipeline(vae=vae, denoiser=stage.finish(trainer.fit()))
        return {
            "distances": {str(n): self.best(pipeline, config, n) for n in EVALUATIONS},
            "loss": trainer.history[-1]["loss"],
            "images_per_second": self.images / trainer.seconds,
        }

    def trained_vae(self, config: RunConfig, seed: int, folder: Path) -> Autoencoder:
        """A VAE of the configuration, trained by stage "vae"."""
        torch.manual_seed(seed)
        model = build_vae(config, self.train.image_shape)
        options = {"levels": config.levels, "perceptual": config.perceptual, "path": config.path}
        options |= {"images": config.vae_training.images}
        stage = VAEStage(model, self.train, self.held_out, self.accelerator.device, **options)
        vae = self.trainer(stage, config.vae_training, config.vae_training.images, folder, seed).fit()
        stage.calibrate(vae)
        return vae

    def trainer(self, stage: Any, training: OptimisationConfig, images: int, folder: Path, seed: int) -> Trainer:
        """Trains once through, validating and saving at the end only."""
        settings = copy.copy(training)
        settings.images, settings.validate_images, settings.checkpoint_images = images, 10**12, 10**12
        return Trainer(stage, settings, folder / stage.name, accelerator=self.accelerator, seed=seed, identity={})

    def best(self, pipeline: BetaDiffusionPipeline, config: RunConfig, evaluations: int) -> tuple[float, str]:
        """Least distance at so many evaluations, and the solver that has it."""
        found = []
        for method, variable in itertools.product(samplers.METHODS, VARIABLES):
            if method == "euler" and variable != "sigma" and config.diffusion.prediction in STEPS:
                continue  # a delta over the whole step goes with eps over the whole change of sigma
            steps = max(n for n in range(1, evaluations + 1) if samplers.evaluations(method, n) <= evaluations)
            drawn = samples(pipeline, Sampler(method, steps, variable), self.count, config)
            found.append((self.judge(drawn), f"{method}/{variable}"))
        return min(found)


def table(rows: dict[str, Any], names: list[str], seeds: list[int]) -> str:
    """Means and standard errors over seeds, with the solver that won most often."""
    lines = [
        "| choice | " + " | ".join(f"{n} evaluations" for n in EVALUATIONS) + " | images/s |",
        "| --- |" + " ---: |" * (len(EVALUATIONS) + 1),
    ]
    for name in names:
        given = [rows[f"{name}, seed {seed}"] for seed in seeds]
        cells = []
        for n in EVALUATIONS:
            distances, methods = zip(*(row["distances"][str(n)] for row in given), strict=True)
            error = f" ± {statistics.stdev(distances) / math.sqrt(len(distances)):.2f}" if len(distances) > 1 else ""
            cells.append(f"{statistics.mean(distances):.2f}{error} {statistics.mode(methods)}")
        rate = statistics.median(row["images_per_second"] for row in given)
        lines.append(f"| {name} | {' | '.join(cells)} | {rate:,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

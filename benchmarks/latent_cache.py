"""Stage "diffusion" with and without the latent cache, on the VAE of a run: images per second, and what it costs.

    python benchmarks/latent_cache.py runs/shapes [--images 200000] [--seeds 3] [--limit 4000]

Trains a denoiser with each, for every seed, in one process; prints images per second of both, their ratio, the seconds
that building the cache takes, and the Frechet distances of 1,000 samples (20 evaluations) in the report's
features. About 3 minutes on 2 CPU cores for the demo's run.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from betadiffusion.data import Subset
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.report.distances import Judge
from betadiffusion.report.generate import default_sampler, samples
from betadiffusion.report.measure import make_extractor
from betadiffusion.training.accelerator import make_accelerator
from betadiffusion.training.diffusion_stage import DiffusionStage
from betadiffusion.training.latent_cache import LatentCache
from betadiffusion.training.runs import build_denoiser, load_config, load_split, load_vae
from betadiffusion.training.trainer import Trainer

COUNT = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="use only so many of the run's training images")
    arguments = parser.parse_args()
    config = load_config(arguments.run)
    config.trackers = []
    accelerator = make_accelerator(config)
    vae = load_vae(arguments.run).to(accelerator.device)
    train, held_out = load_split(config.data, vae.config.sample_size, config.seed)
    if arguments.limit:
        train = Subset(train, np.arange(arguments.limit))
    extractor = make_extractor(train, held_out, config, accelerator.device)
    judge = Judge.from_split(extractor, train, held_out, COUNT)
    training = dataclasses.replace(
        config.diffusion_training, images=arguments.images, validate_images=10**12, checkpoint_images=10**12
    )
    rates: dict[str, list[float]] = {"cache": [], "no cache": []}
    distances: dict[str, list[float]] = {"cache": [], "no cache": []}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        cache = LatentCache.build(vae, train, config.cache.levels, Path(folder, "cache"), quiet=True)
        print(f"building the cache: {time.perf_counter() - started:.1f} s for {len(train)} x {config.cache.levels}")
        for seed in range(arguments.seeds):
            for name, given in (("cache", cache), ("no cache", None)):
                torch.manual_seed(seed)
                stage = DiffusionStage(build_denoiser(config, vae), vae, train, held_out, given, accelerator.device)
                place = Path(folder, f"{name}-{seed}")
                trainer = Trainer(stage, training, place, accelerator=accelerator, seed=seed, identity={})
                pipeline = BetaDiffusionPipeline(vae=vae, denoiser=trainer.fit())
                rates[name].append(arguments.images / trainer.seconds)
                drawn = samples(pipeline, default_sampler(pipeline, 20), COUNT, config)
                distances[name].append(judge(drawn))
                print(
                    f"seed {seed}, {name}: {rates[name][-1]:.0f} images/s, distance {distances[name][-1]:.2f}",
                    flush=True,
                )
    print(f"ratio of images per second: {np.median(rates['cache']) / np.median(rates['no cache']):.2f}")
    for name, values in distances.items():
        spread = f" +- {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        print(f"distance, {name}: {np.mean(values):.2f}{spread} over {len(values)} seeds")


if __name__ == "__main__":
    main()

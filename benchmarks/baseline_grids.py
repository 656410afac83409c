"""Every baseline on one data set: held-out images, what it makes of them, and what it makes of nothing, on one page.

    python benchmarks/baseline_grids.py --data fashion-mnist [--images 60000] [--slow-images 30000] [--out DIR]

Trains configs/baselines/NAME.yaml with so many images a stage (`--slow-images` of pixels' diffusion and VQ, where an
image costs ten times as much), or goes on with what is there, and draws OUT/baselines.png, a row of reconstructions and
one of samples for each as far as it has them. Prints what validation noted at the end. On 2 CPU cores about 25 minutes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from betadiffusion.baselines.presets import PRESETS
from betadiffusion.baselines.runs import load_baseline, run
from betadiffusion.cli.commands import train as train_command
from betadiffusion.cli.parsing import parse
from betadiffusion.evaluation.compare import shortened
from betadiffusion.training.config import DataConfig, RunConfig
from betadiffusion.training.images import load_images
from betadiffusion.training.models import image_size
from betadiffusion.training.pictures import save_grid
from betadiffusion.training.runs import load_split

CONFIGS = Path(__file__).parents[1] / "configs" / "baselines"
SLOW = {"ddpm", "diffae", "infodiffusion", "vq_vae", "disco", "disdiff"}
SHOWN = 8


def configured(name: str, options: argparse.Namespace) -> RunConfig:
    """The committed configuration of a baseline with the data and the budget of this page."""
    config = parse("train", train_command, ["--config", str(CONFIGS / f"{name}.yaml")])["config"]
    config.data = DataConfig(options.data, limit=options.limit)
    config.out, config.seed = str(options.out / name), options.seed
    images = options.slow_images if name in SLOW else options.images
    config = shortened(config, dict.fromkeys(config.stages, images))
    if PRESETS[name].by_class and options.data != "shapes":
        config.condition.classes = None  # the data's own labels
    if config.baseline.base:
        config.baseline.base = str(options.out / Path(config.baseline.base).name)
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--limit", type=int, default=22_000)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--slow-images", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(PRESETS))
    parser.add_argument("--out", type=Path, default=Path("runs/baselines"))
    options = parser.parse_args()
    rows: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, Any]] = {}
    for name in options.only:
        config = configured(name, options)
        last = Path(config.out) / config.stages[-1]
        if not (last / "summary.json").is_file() or not (Path(config.out) / "baseline" / "model").is_dir():
            print(f"{name}: {', '.join(config.stages)}", flush=True)
            run(config)
        numbers[name] = {}
        for stage in config.stages:
            numbers[name] |= json.loads((Path(config.out) / stage / "history.json").read_text())[-1]
        held_out = load_split(config.data, image_size(config), config.seed)[1]
        x = load_images(held_out, np.arange(SHOWN), torch.device("cpu"))
        rows.setdefault("held-out images", x)
        model, generator = load_baseline(Path(config.out)).eval(), torch.Generator().manual_seed(0)
        with torch.no_grad():
            told: dict[str, Any] = {}
            if PRESETS[name].by_class:
                told["labels"] = torch.from_numpy(held_out.labels[:SHOWN])
            if hasattr(model, "reconstruct"):
                rows[f"{name}, reconstructed"] = model.reconstruct(x, **told)
            if hasattr(model, "sample"):
                rows[f"{name}, samples"] = model.sample(SHOWN, generator)
            rows |= {f"{name}, {label}": images for label, images in model.pictures(x).items()}
        save_grid(options.out / "baselines.png", rows)
    for name, found in numbers.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items()))


if __name__ == "__main__":
    main()

"""What the levels of one VAE cost each other: a trained one goes on at a single level, with some of its weights.

    python benchmarks/level_tuning.py RUN [--level 0.5714] [--images 25000] [--rate 1e-3] [--out DIR]

For each group of weights a copy of the run's VAE is trained at that level alone, the others held fast: all weights, the
encoder's, the decoder's, or only what knows the level (embedding, scales and shifts of layers, gates). Prints Eq. 4,
rate and PSNR of held-out images at the level before and after, and writes OUT/level_tuning.json. A minute a group on
one CPU core for the demo's VAE.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.training.accelerator import make_accelerator
from betadiffusion.training.config import LevelsConfig
from betadiffusion.training.files import write_json
from betadiffusion.training.images import load_images
from betadiffusion.training.models import load_vae
from betadiffusion.training.runs import load_config, load_split
from betadiffusion.training.trainer import Trainer
from betadiffusion.training.vae_stage import VAEStage
from selectable_vae import Numbers, measure

GROUPS: dict[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "encoder": lambda name: name.startswith("encoder"),
    "decoder": lambda name: name.startswith(("decoder", "pixel_sigma")),
    "level": lambda name: any(part in name for part in ("embedding", "modulation", "gate", "pixel_sigma")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--level", type=float, default=4 / 7)
    parser.add_argument("--images", type=int, default=25_000)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak rate; the VAE's own rose to 2e-3")
    parser.add_argument("--count", type=int, default=2_000, help="held-out images to measure on")
    parser.add_argument("--out", type=Path, default=Path("runs/level-tuning"))
    options = parser.parse_args()
    config = load_config(options.run)
    config.trackers = []
    accelerator, vae = make_accelerator(config), load_vae(options.run)
    train, held_out = load_split(config.data, vae.config.sample_size, config.seed)
    x = load_images(held_out, np.arange(min(options.count, len(held_out))), torch.device("cpu"))
    training = copy.copy(config.vae_training)
    training.images, training.learning_rate = options.images, options.rate
    training.validate_images = training.checkpoint_images = 10**12  # at the end only
    levels = LevelsConfig(distribution="grid", values=[options.level])
    rows: dict[str, Numbers] = {"before": measure(vae.eval(), x, options.level).numbers}
    show("before", rows["before"])
    for group, member in GROUPS.items():
        model: MultiBetaVAE = copy.deepcopy(vae).train()
        for name, weight in model.named_parameters():
            weight.requires_grad_(weight.requires_grad and member(name))
        stage = VAEStage(model, train, held_out, accelerator.device, levels=levels, images=options.images)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(stage, training, Path(folder), accelerator=accelerator, seed=config.seed, identity={})
            rows[group] = measure(trainer.fit().cpu().eval(), x, options.level).numbers
        show(group, rows[group])
    settings = {key: str(value) for key, value in vars(options).items()}
    write_json(options.out / "level_tuning.json", {"settings": settings, "rows": rows})


def show(name: str, row: Numbers) -> None:
    """One line of the table."""
    print(
        f"{name:8} Eq. 4 {row['objective']:8.1f} nats, rate {row['rate']:5.1f}, PSNR {row['psnr']:.2f} dB", flush=True
    )


if __name__ == "__main__":
    main()

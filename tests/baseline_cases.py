"""Small baselines and images for tests."""

import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator

from betadiffusion.baselines.base import Baseline
from betadiffusion.baselines.presets import PRESETS
from betadiffusion.baselines.runs import build_baseline
from betadiffusion.baselines.stage import BaselineStage
from betadiffusion.training.config import OptimisationConfig, RunConfig
from betadiffusion.training.files import write_folder
from stage_cases import fit

SHAPE = (1, 16, 16)
CLASSES = ("left", "middle", "right")
TINY = {
    "codes": 16, "width": 32, "depth": 1, "unet_channels": [8, 16], "steps": 4, "directions": 4,
    "concepts": 3, "concept_width": 5,
}  # fmt: skip


class Mover(torch.nn.Module):
    """A decoder of two numbers: the row and the column of a bright spot, `reach` pixels for one."""

    def __init__(self, reach: float) -> None:
        super().__init__()
        self.reach = reach

    def forward(self, z, embedding):
        place = torch.arange(16.0) - 7.5
        row, column = self.reach * z[:, 0, 0], self.reach * z[:, 1, 0]
        image = (-(place[:, None] - row[:, :, None]).square() / 8 - (place - column[:, :, None]).square() / 8).exp()
        return 12 * image[:, None] - 6


def small(model, shape=SHAPE, **hyperparameters) -> Baseline:
    """A baseline of few channels with its paper's hyperparameters, but for those given."""
    config = RunConfig(model=model)
    config.vae.channels, config.vae.latent_channels = [16, 16], 4
    known = PRESETS[model].arguments
    if "base" in known and "base" not in hyperparameters:
        base = small("ddpm" if model == "disdiff" else "vae", shape)
        hyperparameters["base"] = saved(base, tempfile.mkdtemp())
    for key, value in ({key: value for key, value in TINY.items() if key in known} | hyperparameters).items():
        assert hasattr(config.baseline, key)
        setattr(config.baseline, key, value)
    return build_baseline(config, shape, CLASSES)


def saved(model, folder) -> str:
    """The folder of a run that has left this baseline."""
    write_folder(Path(folder) / "baseline" / "model", model.save_pretrained)
    return str(folder)


def trained(model, images, folder, stage="baseline", count=2_000, **options):
    """The averaged model after a stage on `images`, an image set; options are those of `OptimisationConfig`."""
    return fit(training(count, **options), folder, stage_of(model, images, stage)).ema


def training(count, **options):
    """An optimisation of few images; options are those of `OptimisationConfig`."""
    return OptimisationConfig(**{
        "images": count, "batch_size": 100, "warmup_images": 0, "ema_images": 500, "validate_images": count,
        "checkpoint_images": count, **options,
    })  # fmt: skip


def stage_of(model, images, stage="baseline"):
    """A stage on `images`, an image set, which also validates it."""
    labels = (images.labels, images.labels) if hasattr(model, "label_embedding") else None
    return BaselineStage(model, images, images, Accelerator(cpu=True).device, stage, labels)

"""A run of a baseline: out/config.yaml, out/baseline/model, and a folder for each of its stages."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from betadiffusion.baselines.base import Baseline
from betadiffusion.baselines.presets import BACKBONE, PRESETS, baseline_arguments
from betadiffusion.baselines.stage import BaselineStage
from betadiffusion.data import Subset
from betadiffusion.models.presets import vae_preset
from betadiffusion.training.accelerator import make_accelerator
from betadiffusion.training.conditions import make_conditions
from betadiffusion.training.config import RunConfig, chosen
from betadiffusion.training.files import write_folder
from betadiffusion.training.models import description, image_size, load_trained, settings
from betadiffusion.training.runs import alone, check_same_run, check_trained_within, fit, load_split

TRAINING = {"baseline": "vae_training", "prior": "diffusion_training"}  # a stage's section of the configuration


def run(config: RunConfig) -> Path:
    """Trains the stages of a baseline that `config.stages` names and saves it; returns the run's folder.

    Raises DataError or ValueError for data and settings that cannot be used, TrainingError and Interrupted as Trainer.
    """
    check_same_run(config)
    accelerator = make_accelerator(config)
    with alone(Path(config.out), accelerator):
        _run(config, accelerator)
    accelerator.end_training()
    return Path(config.out)


def _run(config: RunConfig, accelerator: Accelerator) -> None:
    out = Path(config.out)
    with accelerator.main_process_first():
        train, held_out = load_split(config.data, image_size(config), config.seed)
    torch.manual_seed(config.seed)  # initial weights
    labels, classes = labels_of(config, train, held_out) if PRESETS[config.model].by_class else (None, ())
    model = build_baseline(config, train.image_shape, classes)
    if config.baseline.base:
        check_trained_within(Path(config.baseline.base), config, train.base)
    for name in config.stages:
        if name != "baseline":
            model = load_baseline(out)
        stage = BaselineStage(model, train, held_out, accelerator.device, name, labels)
        identity = {"model": config.model, "baseline": settings(model)}
        model = stage.finish(fit(stage, getattr(config, TRAINING[name]), config, accelerator, identity)).cpu()
        if accelerator.is_main_process:
            write_folder(out / "baseline" / "model", model.save_pretrained)
        accelerator.wait_for_everyone()


def labels_of(
    config: RunConfig, train: Subset, held_out: Subset
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[str, ...]]:
    """The class of each training and each held-out image, and the names; DataError where there are none."""
    found = make_conditions(config.condition, (train, held_out), Path(config.out), torch.device("cpu"))
    return (found[0].values, found[1].values), tuple(found[0].spec.names)


def build_baseline(config: RunConfig, image_shape: tuple[int, int, int], classes: Sequence[str] = ("any",)) -> Baseline:
    """The baseline that a run's configuration asks for, untrained, for images (C, H, W).

    `classes`: names of those that a baseline by class knows.
    """
    channels, size, _ = image_shape
    plain = {"layers_per_block": None, "attention_resolutions": [], "activation": "silu", "dropout": 0.0}
    preset = vae_preset(config.vae.preset, **PRESETS[config.model].backbone | chosen(config.vae))
    backbone = plain | {key: value for key, value in preset.items() if key in (*BACKBONE, "block")}
    backbone |= {"sample_size": size, "in_channels": channels}
    backbone = {
        key: list(value) if isinstance(value, tuple) else value for key, value in backbone.items()
    }  # as in JSON
    arguments = baseline_arguments(config.model, config.baseline) | PRESETS[config.model].fixed
    if PRESETS[config.model].by_class:
        arguments["classes"] = list(classes)
    return class_of(config.model)(backbone=backbone, **arguments)


def load_baseline(run_folder: Path) -> Baseline:
    """The trained baseline of a run; ValueError where its first stage has not been finished there."""
    folder = run_folder / "baseline" / "model"
    if not folder.is_dir():
        raise ValueError(f"{run_folder} has no trained baseline yet: its training has not finished")
    return load_trained(class_named(description(folder)["_class_name"]), folder)


def class_of(model: str) -> type[Baseline]:
    """The class of a baseline by its name in configurations."""
    return _find(PRESETS[model].place)


def class_named(name: str) -> type[Baseline]:
    """A baseline's class by the class's own name."""
    return _find(next(preset.place for preset in PRESETS.values() if preset.place.endswith(f":{name}")))


def _find(place: str) -> type[Baseline]:
    module, _, name = place.partition(":")
    return getattr(import_module(f"betadiffusion.baselines.{module}"), name)

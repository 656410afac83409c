"""Codes of a set of images with all that is known of them, as a file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from tqdm import tqdm

from betadiffusion.atomic import atomic
from betadiffusion.data import AttributeSet, FactorSet, ImageSet
from betadiffusion.evaluation.encoders import Encoder
from betadiffusion.schedules import LogBeta
from betadiffusion.training.images import load_images, pass_size

DEFAULT_LEVEL = 0.5


def choose_level(model: Any, level: float | None, beta: float | None) -> float:
    """The level that a user names, or the level of the beta that they name.

    Raises ValueError for both at once, a level outside [0, 1], a beta outside the model's range, or a schedule whose
    weights are not (1, beta).
    """
    if level is not None and beta is not None:
        raise ValueError("give --level or --beta, not both")
    if beta is None:
        level = DEFAULT_LEVEL if level is None else level
        if not 0 <= level <= 1:
            raise ValueError(f"--level must be from 0 to 1, not {level}")
        return level
    schedule = model.schedule
    if not isinstance(schedule, LogBeta):
        raise ValueError("--beta needs a run whose schedule is log_beta, with weights (1, beta): give --level")
    if not schedule.beta_min <= beta <= schedule.beta_max:
        raise ValueError(f"a beta must be from {schedule.beta_min:g} to {schedule.beta_max:g}, not {beta:g}")
    return float(schedule.level(torch.tensor(beta, dtype=torch.float64)).clamp(0, 1))


def extract(
    encoder: Encoder, images: ImageSet, level: float | None
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Arrays by name, and names: of the image files, and of what their labels, factors and attributes mean.

    "codes" (N, C, h, w), posterior means as `decode` takes them, and where there is one "sigma" (() or like the codes)
    at a level, or with None the features (N, tokens, D) that the model has before its bottleneck; "labels" (N,),
    "factors" (N, K), "attributes" (N, A) where they are known.
    """
    if level is None:
        arrays = {"codes": _features(encoder, images)}
    else:
        mean, sigma = encoder.codes(images, level, progress=True)
        shape, tau = (len(mean), *encoder.model.latent_shape), encoder.prior_scale(level).cpu().numpy()
        arrays = {"codes": tau * mean.reshape(shape)}
        if sigma is not None:
            several = np.ndim(sigma) > 0
            arrays["sigma"] = tau * np.reshape(sigma, shape) if several else np.asarray(sigma, np.float32)
    everything = np.arange(len(images))
    labels = getattr(images, "labels", None)
    if labels is not None:
        arrays["labels"] = np.asarray(labels)
    if isinstance(images, FactorSet):
        arrays["factors"] = images.factors(everything)
    if isinstance(images, AttributeSet):
        arrays["attributes"] = images.attributes(everything)
    kinds = ("names", "label_names", "factor_names", "attribute_names")
    return arrays, {kind: list(found) for kind in kinds if (found := getattr(images, kind, None))}


def save(path: Path, arrays: dict[str, np.ndarray], names: dict[str, list[str]]) -> None:
    """Writes a .safetensors (names as JSON in its metadata) or a .npz (as arrays), under a temporary name first."""
    with atomic(path) as partial:
        if path.suffix == ".npz":
            with partial.open("wb") as file:
                np.savez(file, **arrays, **{name: np.array(values) for name, values in names.items()})
        else:
            whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
            save_file(whole, partial, metadata={name: json.dumps(values) for name, values in names.items()})


@torch.no_grad()
def _features(encoder: Encoder, images: ImageSet) -> np.ndarray:
    if not hasattr(encoder.model, "features"):
        raise ValueError(f"--raw needs a model with a ViT; {encoder.name} has no features before its bottleneck")
    size, parts = pass_size(encoder.image_shape), []
    for start in tqdm(range(0, len(images), size), desc="features", unit="pass"):
        indices = np.arange(start, min(start + size, len(images)))
        parts.append(encoder.model.features(load_images(images, indices, encoder.device)).float().cpu().numpy())
    return np.concatenate(parts)

"""Features of real images, computed once and kept on disk."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from betadiffusion.metrics.features import FeatureExtractor
from betadiffusion.metrics.frechet import FeatureStatistics
from betadiffusion.metrics.weights import file_sha256

VERSION = 1  # of what is kept; a new one makes the old files unused
BATCH = 1024


@dataclass(eq=False)
class Reference:
    """Features (N, dim), float32, of the real images that generated ones are measured against, and whose they are.

    split: the images, such as "utkface64 train"; seed: of their choice. `statistics` are computed, or read from beside
    the cached features, when first asked for.
    """

    features: np.ndarray
    split: str
    seed: int
    extractor: dict[str, str]
    cache: Path | None = None

    @cached_property
    def statistics(self) -> FeatureStatistics:
        """Mean and covariance of the features, in float64."""
        path = self.cache.with_suffix(".safetensors") if self.cache else None
        if path and (kept := _read_statistics(path, len(self.features))):
            return kept
        statistics = FeatureStatistics.from_features(self.features)
        if path:
            tensors = {"mean": statistics.mean, "covariance": statistics.covariance}
            _replace(path, lambda partial: save_file(tensors, partial, metadata={"sha256": _digest(tensors)}))
        return statistics


def identity(extractor: FeatureExtractor) -> dict[str, str]:
    """What tells features from others: their name, the hash of their weights, and how images are resized."""
    return {"features": extractor.name, "weights_sha256": extractor.weights_sha256, "resize": extractor.resize}


def reference_key(extractor: FeatureExtractor, images: np.ndarray, split: str, seed: int) -> str:
    """SHA-256 of all that a reference depends on: the features' identity, the images themselves, split and seed."""
    about = [VERSION, identity(extractor), images.shape, _image_digest(images), split, seed]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def image_features(extractor: FeatureExtractor, images: Any, progress: bool = True) -> np.ndarray:
    """Features, float32 (N, dim), of images, uint8 (N,C,H,W), numpy or torch, some at a time."""
    parts = []
    with tqdm(total=len(images), desc=f"{extractor.short_name} features", unit="img", disable=not progress) as bar:
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            parts.append(extractor(batch if isinstance(batch, torch.Tensor) else torch.tensor(batch)))
            bar.update(len(batch))
    return np.concatenate(parts).astype(np.float32, copy=False)


def reference_features(
    extractor: FeatureExtractor,
    images: np.ndarray,
    split: str,
    seed: int,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> Reference:
    """The features of real images, uint8 (N,C,H,W): those in the cache, or new ones, put there.

    split: what the images are, such as "utkface64 train"; seed: with which they were chosen from it. The cache
    (default: betadiffusion/reference in $XDG_CACHE_HOME or ~/.cache) is keyed by `reference_key`; a file in it that is
    damaged is made anew, and features whose `weights_sha256` is "" are never kept.
    Raises ValueError for images of another type or shape, and where the cache cannot be written.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
        raise ValueError(f"Reference images must be uint8 (N,C,H,W), not {images.dtype} of {images.shape}.")
    if not extractor.weights_sha256:
        return Reference(image_features(extractor, images, progress), split, seed, identity(extractor))
    folder = cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "betadiffusion/reference"
    cache = folder / reference_key(extractor, images, split, seed)[:32]
    features = _open(cache, len(images))
    if features is None:
        computed = image_features(extractor, images, progress)
        _write(cache, computed, {**identity(extractor), "split": split, "seed": seed})
        features = _open(cache, len(images))
    if features is None:
        raise ValueError(f"The cache {cache}.npy was just written but cannot be read.")
    return Reference(features, split, seed, identity(extractor), cache)


def _image_digest(images: np.ndarray) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(images), BATCH):
        digest.update(np.ascontiguousarray(images[start : start + BATCH]).data)
    return digest.hexdigest()


def _open(cache: Path, count: int) -> np.ndarray | None:
    """The features in the cache, memory-mapped; None where there are none that are whole."""
    path = cache.with_suffix(".npy")
    try:
        about = json.loads(cache.with_suffix(".json").read_text())
        if file_sha256(path) == about["sha256"]:
            features = np.load(path, mmap_mode="r")
            return features if len(features) == count else None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _write(cache: Path, features: np.ndarray, about: dict[str, Any]) -> None:
    """Features, then the JSON file with their hash: a cache with both, that fit, is whole."""

    def save(path: Path) -> None:
        with open(path, "wb") as file:  # numpy.save gives a path another suffix
            np.save(file, features)
        about["sha256"] = file_sha256(path)

    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        _replace(cache.with_suffix(".npy"), save)
        _replace(cache.with_suffix(".json"), lambda partial: partial.write_text(json.dumps(about, indent=1)))
    except OSError as error:
        raise ValueError(
            f"The cache of reference features in {cache.parent} cannot be written ({error.strerror}): choose another "
            "by setting XDG_CACHE_HOME."
        ) from error


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name and rename it."""
    partial = path.with_suffix(f"{path.suffix}.{os.getpid()}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _digest(tensors: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(tensors[name].tobytes() for name in sorted(tensors))).hexdigest()


def _read_statistics(path: Path, count: int) -> FeatureStatistics | None:
    """The statistics in a file; None where there are none that are whole."""
    try:
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in ("mean", "covariance")}
            if file.metadata()["sha256"] == _digest(tensors):
                return FeatureStatistics(**tensors, count=count)
    except (OSError, SafetensorError, KeyError, TypeError):
        pass
    return None

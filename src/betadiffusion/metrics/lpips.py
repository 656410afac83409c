"""Perceptual distance between images: LPIPS v0.1 (Zhang et al. 2018, Eq. 1) on AlexNet or VGG16."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from betadiffusion.metrics.images import image_pair
from betadiffusion.metrics.weights import file_sha256, weights_file

PREFIXES = {"alex": "AlexNet_0", "vgg": "VGG16_0"}
SMALLEST = {"alex": 31, "vgg": 16}  # side of an image that leaves one pixel after the last pooling
EPS = 1e-10


class LPIPS:
    """Distances (N,) between images a and b (N, 1 or 3, H, W): 0 for equal ones, near 1 for unrelated ones.

    weights: a local safetensors file, or a Hugging Face hub id ("owner/name", for its model.safetensors, or
    "owner/name/FILE"), with the convolutions `AlexNet_0.Conv_i` or `VGG16_0.Conv_i` (kernel, bias) and the linear
    layers `NetLinLayer_i.Conv_0.kernel`, all OIHW. net: "alex" (the usual one) or "vgg", by default the file's.
    Images are uint8 or floats in [-1, 1], not resized: distances at different sizes do not compare.
    Raises ValueError for weights that are not these, and for images that are too small or of another kind.
    """

    def __init__(
        self,
        weights: str | Path,
        net: str | None = None,
        batch_size: int = 32,
        device: torch.device | str = "cpu",
    ) -> None:
        path = weights_file(weights)
        try:
            tensors = load_file(path)
        except Exception as error:  # safetensors has an error of its own, not an OSError
            raise ValueError(f"{path} is not a safetensors file ({error}).") from error
        found = next((name for name, prefix in PREFIXES.items() if f"{prefix}.Conv_0.kernel" in tensors), None)
        if found is None or net not in (None, found):
            wanted = f"LPIPS weights for {net or 'alex or vgg'}"
            raise ValueError(f"{path} should hold {wanted}, but holds {found or 'those of neither'}.")
        self.net, self.batch_size, self.device = found, batch_size, torch.device(device)
        self.weights_sha256 = file_sha256(path)[:12]
        self.name = f"LPIPS v0.1 ({found})"
        stages = _alexnet() if found == "alex" else _vgg16()
        linear = [nn.Conv2d(_convolutions(stage)[-1].out_channels, 1, 1, bias=False) for stage in stages]
        _load(stages, linear, tensors, PREFIXES[found], path)
        self._stages, self._linear = (
            nn.ModuleList(layers).eval().requires_grad_(False).to(self.device) for layers in (stages, linear)
        )

    @torch.inference_mode()
    def __call__(self, a: Any, b: Any) -> np.ndarray:
        x, y = image_pair(a, b)
        if x.shape[1] not in (1, 3) or min(x.shape[2:]) < SMALLEST[self.net]:
            raise ValueError(
                f"LPIPS ({self.net}) needs images of 1 or 3 channels and at least {SMALLEST[self.net]} pixels a side, "
                f"not {tuple(x.shape[1:])}: its poolings leave nothing of smaller ones."
            )
        batches = zip(x.split(self.batch_size), y.split(self.batch_size), strict=True)
        return torch.cat([self.distances(p, q) for p, q in batches]).cpu().numpy()

    def _scaled(self, images: Tensor) -> Tensor:
        x = images.to(self.device, torch.float32).expand(-1, 3, -1, -1)
        x = x if images.is_floating_point() else x / 127.5 - 1
        shift = torch.tensor([-0.030, -0.088, -0.188], device=self.device).view(3, 1, 1)
        scale = torch.tensor([0.458, 0.448, 0.450], device=self.device).view(3, 1, 1)
        return (x - shift) / scale

    def distances(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of each pair of images a, b (N,C,H,W), uint8 or in [-1, 1], (N,), with gradients, in one batch."""
        x, y = self._scaled(a), self._scaled(b)
        total = torch.zeros(len(x), device=self.device)
        for stage, linear in zip(self._stages, self._linear, strict=True):
            x, y = stage(x), stage(y)
            # d = sum_l mean_hw w_l . (x_l / |x_l| - y_l / |y_l|)^2
            difference = x / (x.norm(dim=1, keepdim=True) + EPS) - y / (y.norm(dim=1, keepdim=True) + EPS)
            total += linear(difference.square()).mean(dim=(1, 2, 3))
        return total


def _alexnet() -> list[nn.Sequential]:
    """Krizhevsky 2014, cut after each rectified convolution."""
    return [
        nn.Sequential(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]


def _vgg16() -> list[nn.Sequential]:
    """Simonyan and Zisserman 2015, configuration D, cut before each pooling."""
    stages = []
    for (channels, width), depth in zip(pairwise([3, 64, 128, 256, 512, 512]), [2, 2, 3, 3, 3], strict=True):
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if stages else []
        for i in range(depth):
            layers += [nn.Conv2d(width if i else channels, width, 3, padding=1), nn.ReLU()]
        stages.append(nn.Sequential(*layers))
    return stages


def _convolutions(stage: nn.Sequential) -> list[nn.Conv2d]:
    return [layer for layer in stage if isinstance(layer, nn.Conv2d)]


def _load(
    stages: list[nn.Sequential], linear: list[nn.Conv2d], tensors: dict[str, Tensor], prefix: str, path: Path
) -> None:
    """Fill the layers from the file's tensors; ValueError unless it has each of them in its shape, and no other."""
    parameters = {f"NetLinLayer_{i}.Conv_0.kernel": layer.weight for i, layer in enumerate(linear)}
    for i, layer in enumerate(layer for stage in stages for layer in _convolutions(stage)):
        parameters |= {f"{prefix}.Conv_{i}.kernel": layer.weight, f"{prefix}.Conv_{i}.bias": layer.bias}
    wanted = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wrong := sorted(set(wanted.items()) ^ set(held.items())):
        name = wrong[0][0]
        raise ValueError(f"{path} must hold {name} as {wanted.get(name, 'nothing')}, not {held.get(name, 'nothing')}.")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])

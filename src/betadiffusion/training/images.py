"""Images on their way into a network."""

import math

import numpy as np
import torch
from torch import Tensor

from betadiffusion.data import ImageSet


def load_images(images: ImageSet, indices: np.ndarray, device: torch.device) -> Tensor:
    """Images at `indices` as floats (B,C,H,W) in [-1, 1] on a device, channels last."""
    batch = torch.from_numpy(images.images(indices)).to(device, non_blocking=True)
    return (batch.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def pass_size(image_shape: tuple[int, int, int]) -> int:
    """Images (C,H,W) in one pass without gradients: 256 up to 64x64 in colour, 21 at 256x256, so that memory holds."""
    return min(256, max(1, 2**22 // math.prod(image_shape)))

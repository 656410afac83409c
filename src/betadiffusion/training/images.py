"""Images on their way into a network."""

import numpy as np
import torch
from torch import Tensor

from betadiffusion.data import ImageSet


def load_images(images: ImageSet, indices: np.ndarray, device: torch.device) -> Tensor:
    """Images at `indices` as floats (B,C,H,W) in [-1, 1] on a device, channels last."""
    batch = torch.from_numpy(images.images(indices)).to(device, non_blocking=True)
    return (batch.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)

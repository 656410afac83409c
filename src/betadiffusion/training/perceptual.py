"""Terms of the reconstruction beside Eq. 4, of each image, with gradients: L1 and LPIPS."""

import torch
from torch import Tensor

from betadiffusion.metrics.lpips import LPIPS
from betadiffusion.training.config import PerceptualConfig


class Perceptual:
    """l1 |x - x_hat| per pixel + lpips LPIPS(x, x_hat) of images (B,C,H,W) in [-1, 1]: (B,).

    Raises ValueError for weights that cannot be had, and for images too small for them.
    """

    def __init__(self, config: PerceptualConfig, image_shape: tuple[int, int, int], device: torch.device) -> None:
        self.config = config
        self.lpips = LPIPS(config.lpips_weights, device=device) if config.lpips else None
        if self.lpips is not None:
            blank = torch.zeros(1, *image_shape)
            self.lpips(blank, blank)  # refuses images that it cannot see

    def __call__(self, x: Tensor, x_hat: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        if self.config.l1:
            total = total + self.config.l1 * (x - x_hat).abs().flatten(1).mean(1)
        if self.lpips is not None:
            total = total + self.config.lpips * self.lpips.distances(x, x_hat)
        return total

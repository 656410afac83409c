"""How far images are from others, one by one: pixels against pixels.

Images are uint8 (N,C,H,W) in 0..255, or floats in [-1, 1]; numpy or torch, both sets of one kind.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

BATCH = 256
WINDOW, SIGMA = 11, 1.5  # of SSIM


class Distortion(NamedTuple):
    """Squared error, mean over images, in units of [-1, 1]: summed over an image's values, and per value."""

    per_image: float
    per_pixel: float


def image_pair(a: Any, b: Any, bounded: bool = True) -> tuple[Tensor, Tensor]:
    """Two sets of images (N,C,H,W) as they are, on the CPU; `bounded`: floats must lie in [-1, 1].

    Raises ValueError for other shapes or types, sets that do not match, NaN, or floats out of range.
    """
    pair = []
    for name, images in (("a", a), ("b", b)):
        if isinstance(images, Tensor):
            x = images.detach().cpu()
        else:
            x = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        if x.ndim != 4 or 0 in x.shape or not (x.dtype == torch.uint8 or x.is_floating_point()):
            raise ValueError(f"{name} must be uint8 or float images (N,C,H,W), not {x.dtype} of {tuple(x.shape)}.")
        if x.is_floating_point():
            greatest = float(x.abs().max())  # NaN, if there is one
            if not greatest <= (1.0001 if bounded else float("inf")) or greatest == float("inf"):
                raise ValueError(f"{name} must hold floats in [-1, 1], but reaches {greatest:g}: scale or clamp it.")
        pair.append(x)
    x, y = pair
    if x.shape != y.shape or x.is_floating_point() != y.is_floating_point():
        raise ValueError(
            f"a and b must be images of one shape and kind, not {x.dtype} of {tuple(x.shape)} and {y.dtype} of "
            f"{tuple(y.shape)}."
        )
    return x, y


def _squared_errors(x: Tensor, y: Tensor) -> np.ndarray:
    """Mean squared error of each image (N,), as a share of the range's square."""
    batches = zip(x.split(BATCH), y.split(BATCH), strict=True)
    errors = torch.cat([(a.double() - b.double()).square().mean(dim=(1, 2, 3)) for a, b in batches])
    return (errors / (2 if x.is_floating_point() else 255) ** 2).numpy()


def psnr(a: Any, b: Any) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of each image of a (N,C,H,W) to that of b: (N,), infinite where they are equal.

    The peak is 255 for uint8 and 2 for floats, so that both give the same number. Raises ValueError as `image_pair`.
    """
    errors = _squared_errors(*image_pair(a, b))
    # PSNR = 10 log10( peak^2 / MSE )
    with np.errstate(divide="ignore"):
        return -10 * np.log10(errors)


def decibels(error: float) -> float:
    """PSNR of a mean squared error in units of [-1, 1], whose range is 2; infinite of 0."""
    return 10 * math.log10(4 / error) if error else math.inf


def distortion(a: Any, b: Any) -> Distortion:
    """Squared error between images a and b (N,C,H,W), in units of [-1, 1]: uint8 is scaled to that, floats may exceed.

    Raises ValueError as `image_pair`.
    """
    x, y = image_pair(a, b, bounded=False)
    per_pixel = float(4 * _squared_errors(x, y).mean())
    return Distortion(per_pixel * x[0].numel(), per_pixel)


def ssim(a: Any, b: Any) -> np.ndarray:
    """Structural similarity of each image of a (N,C,H,W) to that of b: (N,), 1 where they are equal.

    Wang et al. 2004, Eq. 13: Gaussian window of 11 pixels and sigma 1.5 inside the image only, K1 0.01, K2 0.03, the
    mean over places and channels (scikit-image's with `gaussian_weights` and without `use_sample_covariance`). It
    compares luminances, which begin at black: floats are scaled to 0..255 first, so that both kinds give one number.
    Raises ValueError as `image_pair`, and for images below 11 pixels.
    """
    x, y = image_pair(a, b)
    if min(x.shape[2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} x {WINDOW} pixels, not {x.shape[2]} x {x.shape[3]}.")
    mean = _window_mean()
    batches = zip(x.split(BATCH), y.split(BATCH), strict=True)
    return np.concatenate([_ssim(_bytes(p), _bytes(q), mean).numpy() for p, q in batches])


def _bytes(images: Tensor) -> Tensor:
    """Images in 0..255, float64."""
    return (images.double() + 1) * 127.5 if images.is_floating_point() else images.double()


def _window_mean() -> Callable[[Tensor], Tensor]:
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    weights /= weights.sum()

    def mean(x: Tensor) -> Tensor:
        """Weighted mean of x (N,C,H,W) over the window around each pixel: (N*C,1,H-10,W-10)."""
        rows = F.conv2d(x.reshape(-1, 1, *x.shape[2:]), weights.view(1, 1, 1, -1))
        return F.conv2d(rows, weights.view(1, 1, -1, 1))

    return mean


def _ssim(x: Tensor, y: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    # SSIM = (2 m_x m_y + C1)(2 s_xy + C2) / ( (m_x^2 + m_y^2 + C1)(s_x^2 + s_y^2 + C2) )
    values = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return values.reshape(len(x), -1).mean(dim=1)

"""The encoder's means f(x,t) of all training images on a grid of levels, read back at any level by interpolation.

Stage "diffusion" needs f and df/dt at a fresh level for every image of every step: two passes of the encoder. Here
the encoder runs once per image and knot; a cubic through the knots gives both.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from betadiffusion.data import Subset
from betadiffusion.training.images import load_images, pass_size
from betadiffusion.training.models import Autoencoder, mean_of, seen
from betadiffusion.training.stored import fingerprint, images_key, stored


class LatentCache:
    """Means (N, knots, C, h, w), float32, memory-mapped, so that what is not in use costs no memory."""

    def __init__(self, means: np.ndarray) -> None:
        if means.shape[1] < 4:
            raise ValueError(f"a cache needs at least 4 levels, not {means.shape[1]}")
        self.means, self.knots = means, knot_levels(means.shape[1])

    @staticmethod
    def gigabytes(vae: Autoencoder, images: int, knots: int) -> float:
        """Size of a cache of float32 means."""
        return images * knots * int(np.prod(vae.latent_shape)) * 4 / 1e9

    @classmethod
    def build(cls, vae: Autoencoder, images: Subset, knots: int, folder: Path, quiet: bool = False) -> "LatentCache":
        """Encodes all images at all knots into folder/means.npy, or opens it where the same VAE and images made it."""
        levels = knot_levels(knots)
        key = {"vae": fingerprint(vae), "images": images_key(images), "levels": levels.tolist()}
        vae = vae.to(memory_format=torch.channels_last)

        @torch.no_grad()
        def fill(means: np.ndarray) -> None:
            bar = tqdm(total=len(images) * knots, desc="latent cache", unit=" means", unit_scale=True, disable=quiet)
            size = pass_size(vae.image_shape)
            for start in range(0, len(images), size):
                x = load_images(images, np.arange(start, min(start + size, len(images))), vae.device)
                given = seen(vae, x)
                for k, t in enumerate(levels.float()):
                    means[start : start + size, k] = mean_of(vae, given, t).cpu().numpy()
                    bar.update(len(x))
            bar.close()

        return cls(stored(folder / "means.npy", key, (len(images), knots, *vae.latent_shape), np.float32, fill))

    def at(self, indices: np.ndarray, t: Tensor) -> tuple[Tensor, Tensor]:
        """f(x,t) and df/dt (B,C,h,w) of images at `indices` and levels t (B,), by a cubic in t through the knots."""
        t = t.double()
        first = (torch.searchsorted(self.knots, t, right=True) - 2).clamp(0, len(self.knots) - 4)  # four knots around t
        four = first[:, None] + torch.arange(4)
        rows = torch.from_numpy(self.means[indices[:, None], four.numpy()])
        weights, slopes = (w.to(rows)[..., None, None, None] for w in lagrange(self.knots[four], t))
        return (weights * rows).sum(1), (slopes * rows).sum(1)

    @torch.no_grad()
    def relative_error(self, vae: Autoencoder, images: Subset, count: int, seed: int) -> float:
        """Error of the interpolated mean against exact encoding at random levels: rms in units of sigma(t)."""
        random = np.random.default_rng(seed)
        indices = random.integers(0, len(images), count)
        t = torch.from_numpy(random.random(count, dtype=np.float32))
        size = pass_size(vae.image_shape)
        batches = zip(torch.from_numpy(indices).split(size), t.split(size), strict=True)
        exact = []
        for some, levels in batches:
            given = seen(vae, load_images(images, some.numpy(), vae.device))
            exact.append(mean_of(vae, given, levels).cpu())
        sigma = vae.sigma(t.to(vae.device)).detach().cpu()
        error = (self.at(indices, t)[0] - torch.cat(exact)).flatten(1) / sigma[:, None]
        return float(error.square().mean().sqrt())


def knot_levels(count: int) -> Tensor:
    """Rising levels (count,) from 0 to 1, float64, half way from even ones to Chebyshev's of the second kind: a cubic
    errs most at the ends, where there is no knot beyond."""
    even = torch.linspace(0, 1, count, dtype=torch.float64)
    chebyshev = (1 - (torch.pi * even).cos()) / 2
    return (even + chebyshev) / 2


def lagrange(knots: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (B,4) of the values at knots (B,4) in the cubic through them at t (B,), and their derivatives in t."""
    weights, slopes = [], []
    for j in range(4):
        others = knots[:, [k for k in range(4) if k != j]]
        a, b, c = (t[:, None] - others).unbind(1)
        scale = 1 / (knots[:, j, None] - others).prod(1)
        weights.append(scale * a * b * c)
        slopes.append(scale * (a * b + a * c + b * c))
    return torch.stack(weights, 1), torch.stack(slopes, 1)

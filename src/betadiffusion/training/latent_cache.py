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
        self.means = means

    @staticmethod
    def gigabytes(vae: Autoencoder, images: int, knots: int) -> float:
        """Size of a cache of float32 means."""
        return images * knots * int(np.prod(vae.latent_shape)) * 4 / 1e9

    @classmethod
    def build(cls, vae: Autoencoder, images: Subset, knots: int, folder: Path, quiet: bool = False) -> "LatentCache":
        """Encodes all images at all knots into folder/means.npy, or opens it where the same VAE and images made it."""
        key = {"vae": fingerprint(vae), "images": images_key(images), "knots": knots}
        vae = vae.to(memory_format=torch.channels_last)

        def fill(means: np.ndarray) -> None:
            bar = tqdm(total=len(images) * knots, desc="latent cache", unit=" means", unit_scale=True, disable=quiet)
            size = pass_size(vae.image_shape)
            for start in range(0, len(images), size):
                x = load_images(images, np.arange(start, min(start + size, len(images))), vae.device)
                given = seen(vae, x)
                for k, t in enumerate(torch.linspace(0, 1, knots)):
                    means[start : start + size, k] = mean_of(vae, given, t).cpu().numpy()
                    bar.update(len(x))
            bar.close()

        return cls(stored(folder / "means.npy", key, (len(images), knots, *vae.latent_shape), np.float32, fill))

    def at(self, indices: np.ndarray, t: Tensor) -> tuple[Tensor, Tensor]:
        """f(x,t) and df/dt (B,C,h,w) of images at `indices` and levels t (B,), by a cubic in t through the knots."""
        intervals = self.means.shape[1] - 1
        position = t.double().numpy() * intervals
        first = np.clip(np.floor(position).astype(np.int64) - 1, 0, intervals - 3)  # four knots around t
        rows = torch.from_numpy(self.means[indices[:, None], first[:, None] + np.arange(4)])
        weights, slopes = lagrange(torch.from_numpy(position - first))
        shape = (len(t), 4, 1, 1, 1)
        f = (weights.reshape(shape).to(rows) * rows).sum(1)
        return f, (slopes.reshape(shape).to(rows) * intervals * rows).sum(1)

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


def lagrange(u: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (B,4) of the cubic through knots 0, 1, 2, 3 at u (B,), and their derivatives in u."""
    weights, slopes = [], []
    for j in range(4):
        others = [k for k in range(4) if k != j]
        scale = 1.0 / np.prod([j - k for k in others])
        a, b, c = (u - k for k in others)
        weights.append(scale * a * b * c)
        slopes.append(scale * (a * b + a * c + b * c))
    return torch.stack(weights, 1), torch.stack(slopes, 1)

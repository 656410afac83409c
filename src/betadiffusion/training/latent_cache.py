"""The encoder's means f(x,t) of all training images on a grid of levels, read back at any level by interpolation.

Stage "diffusion" needs f and df/dt at a fresh level for every image of every step: two passes of the encoder. Here
the encoder runs once per image and knot; a cubic through the knots gives both.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from betadiffusion.data import Subset
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.training.files import write_text
from betadiffusion.training.images import load_images, pass_size


class LatentCache:
    """Means (N, knots, C, h, w), float32, memory-mapped, so that what is not in use costs no memory."""

    def __init__(self, means: np.ndarray) -> None:
        if means.shape[1] < 4:
            raise ValueError(f"a cache needs at least 4 levels, not {means.shape[1]}")
        self.means = means

    @staticmethod
    def gigabytes(vae: MultiBetaVAE, images: int, knots: int) -> float:
        """Size of a cache of float32 means."""
        return images * knots * int(np.prod(vae.latent_shape)) * 4 / 1e9

    @classmethod
    def build(cls, vae: MultiBetaVAE, images: Subset, knots: int, folder: Path, quiet: bool = False) -> "LatentCache":
        """Encodes all images at all knots into folder/means.npy, or opens it where the same VAE and images made it."""
        chosen = hashlib.sha256(images.indices.tobytes()).hexdigest()[:16]
        key = json.dumps({"vae": fingerprint(vae), "images": [images.name, len(images), chosen], "knots": knots})
        file, key_file = folder / "means.npy", folder / "key.json"
        if not (key_file.exists() and key_file.read_text() == key):
            folder.mkdir(parents=True, exist_ok=True)
            key_file.unlink(missing_ok=True)
            vae = vae.to(memory_format=torch.channels_last)
            shape = (len(images), knots, *vae.latent_shape)
            means = np.lib.format.open_memmap(file, "w+", np.float32, shape)
            bar = tqdm(total=len(images) * knots, desc="latent cache", unit=" means", unit_scale=True, disable=quiet)
            size = pass_size(vae.image_shape)
            for start in range(0, len(images), size):
                x = load_images(images, np.arange(start, min(start + size, len(images))), vae.device)
                for k, t in enumerate(torch.linspace(0, 1, knots)):
                    means[start : start + size, k] = encode(vae, x, t).cpu().numpy()
                    bar.update(len(x))
            bar.close()
            means.flush()
            write_text(key_file, key)  # last: a cache without its key is not one
        return cls(np.load(file, mmap_mode="r"))

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

    def relative_error(self, vae: MultiBetaVAE, images: Subset, count: int, seed: int) -> float:
        """Error of the interpolated mean against exact encoding at random levels: rms in units of sigma(t)."""
        random = np.random.default_rng(seed)
        indices = random.integers(0, len(images), count)
        t = torch.from_numpy(random.random(count, dtype=np.float32))
        size = pass_size(vae.image_shape)
        batches = zip(torch.from_numpy(indices).split(size), t.split(size), strict=True)
        exact = torch.cat([encode(vae, load_images(images, i.numpy(), vae.device), u).cpu() for i, u in batches])
        sigma = vae.sigma(t.to(vae.device)).detach().cpu()
        error = (self.at(indices, t)[0] - exact).flatten(1) / sigma[:, None]
        return float(error.square().mean().sqrt())


@torch.no_grad()
def encode(vae: MultiBetaVAE, x: Tensor, t: Tensor) -> Tensor:
    """f(x,t) without gradients."""
    return vae.encode_mean(x, t)


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


def fingerprint(vae: MultiBetaVAE) -> str:
    """First 16 hex digits of the SHA-256 of the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(vae.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

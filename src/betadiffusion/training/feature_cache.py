"""The features of all training images under a frozen encoder: the encoder runs once per image, not once per step."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from betadiffusion.data import Subset
from betadiffusion.training.images import load_images, pass_size
from betadiffusion.training.stored import fingerprint, images_key, stored

if TYPE_CHECKING:
    from betadiffusion.models.beta_diffusion import BetaDiffusionAutoencoder


class FeatureCache:
    """Features (N, tokens, width), float16 (a relative rounding of at most 2^-11), memory-mapped."""

    def __init__(self, features: np.ndarray) -> None:
        self.features = features

    @staticmethod
    def gigabytes(vae: "BetaDiffusionAutoencoder", images: int) -> float:
        """Size of a cache."""
        return images * int(np.prod(_shape(vae))) * 2 / 1e9

    @classmethod
    def build(
        cls, vae: "BetaDiffusionAutoencoder", images: Subset, folder: Path, quiet: bool = False
    ) -> "FeatureCache":
        """Encodes all images into folder/features.npy, or opens it where the same encoder and images made it.

        Raises ValueError where a feature is greater than float16 holds.
        """
        vae.encoder.eval()
        made_by = {"encoder": fingerprint(vae.encoder), "config": _encoder_settings(vae), "images": images_key(images)}

        def fill(features: np.ndarray) -> None:
            size = pass_size(vae.image_shape)
            bar = tqdm(total=len(images), desc="feature cache", unit=" images", unit_scale=True, disable=quiet)
            for start in range(0, len(images), size):
                x = load_images(images, np.arange(start, min(start + size, len(images))), vae.device)
                with torch.no_grad():
                    h = vae.features(x).half()
                if not h.isfinite().all():
                    raise ValueError("this encoder's features are too great for float16: set cache.features to false")
                features[start : start + size] = h.cpu().numpy()
                bar.update(len(x))
            bar.close()

        return cls(stored(folder / "features.npy", made_by, (len(images), *_shape(vae)), np.float16, fill))

    def at(self, indices: np.ndarray, device: torch.device) -> Tensor:
        """Features (B, tokens, width) of images at `indices`, float32, on a device."""
        return torch.from_numpy(self.features[indices]).to(device, non_blocking=True).float()


def _shape(vae: "BetaDiffusionAutoencoder") -> tuple[int, int]:
    """(tokens, width) of the features of an image."""
    _, height, width = vae.latent_shape
    return height * width, vae.encoder.width


def _encoder_settings(vae: "BetaDiffusionAutoencoder") -> dict[str, object]:
    return {key: vae.config[key] for key in ("encoder", "image_mean", "image_std")}

"""Features of images whose factors or labels are known: a small classifier of them, trained for the report.

ImageNet's features see little but texture in rendered scenes or 28-pixel garments: there they call a slightly soft
edge a catastrophe, and prefer the few typical images of Algorithm 2 to the real variety. These know what varies.
"""

import hashlib
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from betadiffusion.data import FactorSet, Subset

IMAGES, BATCH, PEAK_RATE = 50_000, 128, 4e-3
NOISE = 0.05  # greatest standard deviation of noise on training images, so that features do not hang on single pixels


class ClassifierFeatures(nn.Module):
    """Features (B, 64) from which linear heads tell every factor; see `train_classifier`."""

    short_name = "classifier"
    resize = "not resized"
    dim = 64

    def __init__(self, image_shape: tuple[int, int, int], classes: list[int]) -> None:
        super().__init__()
        widths = [image_shape[0], 32, 64, 128]
        blocks = [
            nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.GroupNorm(8, o), nn.SiLU())
            for i, o in pairwise(widths)
        ]
        flat = nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(widths[-1] * 16, self.dim), nn.LayerNorm(self.dim)
        self.features = nn.Sequential(*blocks, *flat)
        self.heads = nn.Linear(self.dim, sum(classes))
        self.classes = classes
        self.name = self.weights_sha256 = ""

    def logits(self, images: Tensor) -> list[Tensor]:
        """Per factor (B, its number of values), of images (B,C,H,W) in [-1, 1]."""
        return list(self.heads(F.silu(self.features(images))).float().split(self.classes, dim=1))

    @torch.no_grad()
    def forward(self, images: Tensor) -> np.ndarray:
        """Features, float32 (B, 64), of images, uint8 (B,C,H,W)."""
        return torch.cat([self.features(self.scaled(batch)) for batch in images.split(BATCH)]).float().cpu().numpy()

    def scaled(self, images: Tensor) -> Tensor:
        """uint8 images as floats in [-1, 1] on the classifier's device."""
        x = images.to(self.heads.weight.device).float() / 127.5 - 1
        return x.contiguous(memory_format=torch.channels_last)


def known_factors(images: Subset) -> np.ndarray | None:
    """Factors (N, K) of a factor set, or labels as one factor (N, 1), int64; None where neither is known."""
    if isinstance(images, FactorSet):
        return images.factors(np.arange(len(images)))
    return None if images.labels is None else images.labels[:, None]


def train_classifier(
    train: Subset, held_out: Subset, seed: int, device: torch.device, images: int = IMAGES
) -> ClassifierFeatures:
    """A classifier of all factors at once, trained on `images` training images, repeats counted (seconds on a CPU).

    Its `name` says its accuracy on held-out images; raises ValueError where no factors are known.
    """
    factors, test_factors = known_factors(train), known_factors(held_out)
    if factors is None or test_factors is None:
        raise ValueError(f"{train.name} has no factors or labels to train a classifier on; use report.features effnet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initial weights
        classes = [int(max(a.max(), b.max())) + 1 for a, b in zip(factors.T, test_factors.T, strict=True)]
        model = ClassifierFeatures(train.image_shape, classes).to(device, memory_format=torch.channels_last)
    targets = torch.from_numpy(factors).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    steps = -(-images // BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, steps)
    random = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        indices = random.integers(0, len(train), min(BATCH, len(train)))
        x = model.scaled(torch.from_numpy(train.images(indices)))
        noise = torch.randn(x.shape, generator=generator) * torch.rand(len(x), 1, 1, 1, generator=generator)
        logits = model.logits(x + NOISE * noise.to(device))
        losses = [F.cross_entropy(guess, targets[indices, k]) for k, guess in enumerate(logits)]
        torch.stack(losses).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
    model.eval().requires_grad_(False)
    accuracy = _accuracy(model, held_out, test_factors)
    weights = b"".join(value.cpu().numpy().tobytes() for value in model.state_dict().values())
    model.weights_sha256 = hashlib.sha256(weights).hexdigest()[:12]
    model.name = f"classifier of {train.name}, trained for this report (64 features, held-out accuracy {accuracy:.3f})"
    return model


@torch.no_grad()
def _accuracy(model: ClassifierFeatures, images: Subset, factors: np.ndarray) -> float:
    """Share of factors told right, over all held-out images."""
    right = []
    for batch in np.array_split(np.arange(len(images)), -(-len(images) // BATCH)):
        logits = model.logits(model.scaled(torch.from_numpy(images.images(batch))))
        guesses = torch.stack([guess.argmax(1) for guess in logits], dim=1).cpu().numpy()
        right.append((guesses == factors[batch]).mean(axis=1))
    return float(np.concatenate(right).mean())

"""The convolutional backbone of the paper's toy experiments (App. C.1.2), conditioned on the level in every block."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from betadiffusion.nn.precision import in_float32

ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "sigmoid": nn.Sigmoid}


class ScaleShift(nn.Linear):
    """h (B,C,H,W) to h * (1 + scale) + shift, channel by channel, both linear in an embedding (B, embedding_dim)."""

    def __init__(self, embedding_dim: int, channels: int) -> None:
        super().__init__(embedding_dim, 2 * channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = super().forward(embedding)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, h, 1 + scale)


class ConvBlock(nn.Module):
    """Convolution that halves (or doubles) the size, GroupNorm scaled and shifted by the level, activation."""

    def __init__(self, conv: nn.Module, channels: int, embedding_dim: int, activation: str) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.GroupNorm(max(1, channels // 16), channels)
        self.modulation = ScaleShift(embedding_dim, channels)
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.activation(self.modulation(self.norm(self.conv(x)), embedding))


class ConvEncoder(nn.Module):
    """Images (B, in_channels, S, S) to vectors (B, latent_channels, 1, 1): one halving a channel count, then all of it.

    Raises ValueError unless `image_size` is divisible by 2^len(channels).
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int,
        latent_channels: int,
        channels: Sequence[int],
        embedding_dim: int,
        activation: str,
    ) -> None:
        super().__init__()
        grid = final_grid(image_size, channels)
        sizes = zip([in_channels, *channels[:-1]], channels, strict=True)
        self.blocks = nn.ModuleList(
            ConvBlock(nn.Conv2d(i, o, 4, stride=2, padding=1), o, embedding_dim, activation) for i, o in sizes
        )
        self.head = nn.Conv2d(channels[-1], latent_channels, grid)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, embedding)
        return in_float32(self.head, x)  # bf16 would round f by a good part of sigma(0)


class ConvDecoder(nn.Module):
    """Vectors (B, latent_channels, 1, 1) to images (B, in_channels, S, S): `ConvEncoder` mirrored."""

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int,
        latent_channels: int,
        channels: Sequence[int],
        embedding_dim: int,
        activation: str,
    ) -> None:
        super().__init__()
        stem = nn.ConvTranspose2d(latent_channels, channels[-1], final_grid(image_size, channels))
        self.stem = ConvBlock(stem, channels[-1], embedding_dim, activation)
        outputs = [*reversed(channels[:-1]), channels[0]]
        self.blocks = nn.ModuleList(
            ConvBlock(nn.ConvTranspose2d(i, o, 4, stride=2, padding=1), o, embedding_dim, activation)
            for i, o in zip(reversed(channels), outputs, strict=True)
        )
        self.head = nn.Conv2d(channels[0], in_channels, 3, padding=1)

    def forward(self, z: Tensor, embedding: Tensor) -> Tensor:
        x = self.stem(z, embedding)
        for block in self.blocks:
            x = block(x, embedding)
        return self.head(x)


def final_grid(image_size: int, channels: Sequence[int]) -> int:
    """Side of the grid that one halving per channel count leaves; ValueError where it does not divide."""
    grid, rest = divmod(image_size, 2 ** len(channels))
    if rest or not grid:
        raise ValueError(f"image size {image_size} cannot be halved {len(channels)} times; use a multiple of "
                         f"{2 ** len(channels)} or fewer channels")  # fmt: skip
    return grid

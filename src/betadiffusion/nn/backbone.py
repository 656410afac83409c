"""The encoder and the decoder that all image autoencoders share, by the name of their block."""

from collections.abc import Sequence

from torch import nn

from betadiffusion.nn.conv import ConvDecoder, ConvEncoder
from betadiffusion.nn.resnet import ResnetDecoder, ResnetEncoder


def make_backbone(
    *,
    sample_size: int,
    in_channels: int,
    latent_channels: int,
    block: str,
    channels: Sequence[int],
    layers_per_block: int | None,
    attention_resolutions: Sequence[int],
    embedding_dim: int,
    activation: str,
    dropout: float,
    encoded_channels: int | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Encoder of images (B, in_channels, S, S) to latents (B, latent_channels, h, w), and decoder back.

    Both are called with an embedding (B, embedding_dim) too. h = w = 1 with block "conv". `encoded_channels`: what the
    encoder gives, where it is not a latent (mean and log-variance, for one). Raises ValueError for a block, activation
    or size that does not exist, and for arguments of the other block.
    """
    if activation not in ("silu", "sigmoid"):
        raise ValueError(f"unknown activation '{activation}'; choose silu or sigmoid")
    shared = {
        "image_size": sample_size,
        "in_channels": in_channels,
        "channels": channels,
        "embedding_dim": embedding_dim,
        "activation": activation,
    }
    encoded = encoded_channels or latent_channels
    if block == "conv":
        if layers_per_block is not None or len(attention_resolutions) or dropout:
            raise ValueError("layers_per_block, attention_resolutions and dropout need block 'resnet', not 'conv'")
        return ConvEncoder(latent_channels=encoded, **shared), ConvDecoder(latent_channels=latent_channels, **shared)
    if block == "resnet":
        shared |= {
            "layers_per_block": layers_per_block or 2,
            "attention_resolutions": attention_resolutions,
            "dropout": dropout,
        }
        return ResnetEncoder(latent_channels=encoded, **shared), ResnetDecoder(
            latent_channels=latent_channels, **shared
        )
    raise ValueError(f"unknown block '{block}'; choose conv or resnet")


def latent_side(sample_size: int, block: str, channels: Sequence[int]) -> int:
    """h = w of the latents."""
    return 1 if block == "conv" else sample_size // 2 ** (len(channels) - 1)

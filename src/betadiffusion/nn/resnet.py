"""Convolutional encoder and decoder of residual blocks, as in latent-diffusion, with the level added in every block."""

import math
from collections.abc import Sequence

from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, get_down_block, get_up_block
from torch import Tensor, nn

from betadiffusion.nn.conv import ACTIVATIONS
from betadiffusion.nn.precision import in_float32


def norm_groups(channels: Sequence[int]) -> int:
    """Number of GroupNorm groups, at most 32, that divides every entry of `channels` and leaves >= 4 channels in each.

    With a single channel in a group the normalisation would cancel the level, which is added as a constant per channel.
    """
    return max(1, math.gcd(128, *channels) // 4)


def attention_levels(size: int, levels: int, attention_resolutions: Sequence[int]) -> list[bool]:
    """Which of `levels` resolutions (size, size/2, size/4, ... pixels) attend.

    Raises ValueError when `size` cannot be halved that often or an attention resolution is not among them.
    """
    if size % 2 ** (levels - 1):
        raise ValueError(f"size {size} must be a multiple of {2 ** (levels - 1)} to be halved {levels - 1} times")
    sizes = [size >> level for level in range(levels)]
    if unknown := sorted(set(attention_resolutions) - set(sizes)):
        raise ValueError(f"attention_resolutions {unknown} do not occur in this network: choose from {sizes}")
    return [size in attention_resolutions for size in sizes]


def use_activation(module: nn.Module, activation: str) -> None:
    """Replace every SiLU in `module` by `activation` ("silu" or "sigmoid", which diffusers' blocks do not offer)."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}: choose from {list(ACTIVATIONS)}")
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.SiLU):
                setattr(parent, name, ACTIVATIONS[activation]())


class ResnetEncoder(nn.Module):
    """Encoder of n = len(channels) resolutions with `layers_per_block` residual blocks each, and a middle block.

    Every residual block adds the level's embedding (paper, Algorithm 3). Attention (one head) follows each block at
    `attention_resolutions` (pixels) and sits in the middle block, as in latent-diffusion's autoencoder.
    Raises ValueError for a size that cannot be halved n-1 times, or an unknown activation or attention resolution.
    """

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int,
        latent_channels: int,
        channels: Sequence[int],
        layers_per_block: int,
        attention_resolutions: Sequence[int],
        embedding_dim: int,
        activation: str,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        groups = norm_groups(channels)
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            get_down_block(
                "AttnDownBlock2D" if attend else "DownBlock2D",
                num_layers=layers_per_block,
                in_channels=channels[max(i - 1, 0)],
                out_channels=channels[i],
                temb_channels=embedding_dim,
                add_downsample=i < last,
                downsample_padding=0,
                resnet_eps=1e-6,
                resnet_act_fn="silu",
                resnet_groups=groups,
                attention_head_dim=channels[i],
                dropout=dropout,
            )
            for i, attend in enumerate(attention_levels(image_size, len(channels), attention_resolutions))
        )
        self.middle = _middle_block(channels[-1], embedding_dim, groups, dropout)
        self.out = _output_layers(channels[-1], latent_channels, groups)
        use_activation(self, activation)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B,in_channels,H,W), embedding (B,embedding_dim) -> (B,latent_channels,H/2^(n-1),W/2^(n-1))."""
        h = self.conv_in(x)
        for block in self.blocks:
            h, _ = block(h, embedding)
        return in_float32(self.out, self.middle(h, embedding))  # bf16 would round f by a good part of sigma(0)


class ResnetDecoder(nn.Module):
    """Mirror of `ResnetEncoder`, same arguments, with one more residual block per resolution as in latent-diffusion."""

    def __init__(
        self,
        *,
        image_size: int,
        in_channels: int,
        latent_channels: int,
        channels: Sequence[int],
        layers_per_block: int,
        attention_resolutions: Sequence[int],
        embedding_dim: int,
        activation: str,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        groups = norm_groups(channels)
        last = len(channels) - 1
        attend = attention_levels(image_size, len(channels), attention_resolutions)
        self.conv_in = nn.Conv2d(latent_channels, channels[-1], 3, padding=1)
        self.middle = _middle_block(channels[-1], embedding_dim, groups, dropout)
        self.blocks = nn.ModuleList(
            get_up_block(
                "AttnUpDecoderBlock2D" if attend[i] else "UpDecoderBlock2D",
                num_layers=layers_per_block + 1,
                in_channels=channels[min(i + 1, last)],
                prev_output_channel=channels[min(i + 1, last)],
                out_channels=channels[i],
                temb_channels=embedding_dim,
                add_upsample=i > 0,
                resnet_eps=1e-6,
                resnet_act_fn="silu",
                resnet_groups=groups,
                attention_head_dim=channels[i],
                dropout=dropout,
            )
            for i in reversed(range(len(channels)))
        )
        self.out = _output_layers(channels[0], in_channels, groups)
        use_activation(self, activation)

    def forward(self, z: Tensor, embedding: Tensor) -> Tensor:
        """z (B,latent_channels,h,w), embedding (B,embedding_dim) -> (B,in_channels,h*2^(n-1),w*2^(n-1))."""
        h = self.middle(self.conv_in(z), embedding)
        for block in self.blocks:
            h = block(h, embedding)
        return self.out(h)


def _middle_block(channels: int, embedding_dim: int, groups: int, dropout: float) -> UNetMidBlock2D:
    """Residual block, attention with one head, residual block."""
    return UNetMidBlock2D(
        channels,
        temb_channels=embedding_dim,
        dropout=dropout,
        resnet_groups=groups,
        attention_head_dim=channels,
    )


def _output_layers(channels: int, out_channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(groups, channels, eps=1e-6), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
    )

"""The denoiser's U-Net: one network, two outputs."""

from collections.abc import Sequence

from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from betadiffusion.nn.resnet import attention_levels, norm_groups, use_activation

HEADS = 8  # paper, Table 5


class LevelUNet(nn.Module):
    """diffusers' `UNet2DModel` on a latent grid, conditioned on the level in every block, with doubled output channels.

    Residual blocks are followed by attention at `attention_resolutions` (pixels of the latent grid, which has
    `sample_size` of them along a side); the middle block always attends. Each head has `head_dim` channels; None gives
    8 heads at every resolution (Table 5). The last layer starts at zero, so both outputs do.
    Raises ValueError for sizes, attention resolutions or heads that do not fit, and for an unknown activation.
    """

    def __init__(
        self,
        *,
        sample_size: int,
        latent_channels: int,
        channels: Sequence[int],
        layers_per_block: int,
        attention_resolutions: Sequence[int],
        head_dim: int | None = None,
        activation: str = "silu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        attend = attention_levels(sample_size, len(channels), attention_resolutions)
        for width in {channels[-1], *(c for c, a in zip(channels, attend, strict=True) if a)}:
            if width % (head_dim or HEADS):
                raise ValueError(f"{width} channels cannot be split into heads: not a multiple of {head_dim or HEADS}")
        self.net = UNet2DModel(
            sample_size=sample_size,
            in_channels=latent_channels,
            out_channels=2 * latent_channels,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attend),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attend)),
            block_out_channels=tuple(channels),
            layers_per_block=layers_per_block,
            dropout=dropout,
            attention_head_dim=head_dim,
            norm_num_groups=norm_groups(channels),
        )
        if head_dim is None:
            for module in self.net.modules():
                if isinstance(module, Attention):
                    module.heads = HEADS
                    module.scale = (module.inner_dim // HEADS) ** -0.5
        use_activation(self, activation)
        nn.init.zeros_(self.net.conv_out.weight)
        nn.init.zeros_(self.net.conv_out.bias)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """z (B,C,H,W), t (B,) in [0,1] -> (B,2C,H,W)."""
        # The sinusoidal embedding has its range in steps of 0..1000.
        return self.net(z, 1000 * t, return_dict=False)[0]

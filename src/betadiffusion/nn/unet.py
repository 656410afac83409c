"""The denoiser's U-Net: one network for all outputs."""

from collections.abc import Sequence

from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from betadiffusion.nn.condition import By, Embedded
from betadiffusion.nn.embedding import LevelEmbedding
from betadiffusion.nn.resnet import attention_levels, norm_groups, use_activation

HEADS = 8  # paper, Table 5


class LevelUNet(nn.Module):
    """diffusers' `UNet2DModel` on a latent grid, conditioned on the level in every block, for `outputs` predictions.

    Residual blocks are followed by attention at `attention_resolutions` (pixels of the latent grid, which has
    `sample_size` of them along a side); the middle block always attends. Each head has `head_dim` channels; None gives
    8 heads at every resolution (Table 5). The last layer starts at zero, so all outputs do. With `steps` the network is
    told the step t - s to the level to go to as well. A condition is added to the level's embedding ("adaln"), or read
    after each self-attention, by transformers in place of plain attention ("cross_attention": `UNet2DConditionModel`).
    Raises ValueError for sizes, attention resolutions or heads that do not fit, for an unknown activation and for a
    condition by "tokens", of which there are none.
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
        outputs: int = 2,
        steps: bool = False,
        condition_by: By | None = None,
    ) -> None:
        super().__init__()
        if condition_by == "tokens":
            raise ValueError("a U-Net has no tokens to append a condition's to; use 'adaln' or 'cross_attention'")
        attend = attention_levels(sample_size, len(channels), attention_resolutions)
        for width in {channels[-1], *(c for c, a in zip(channels, attend, strict=True) if a)}:
            if width % (head_dim or HEADS):
                raise ValueError(f"{width} channels cannot be split into heads: not a multiple of {head_dim or HEADS}")
        self.cross, self.adaln = condition_by == "cross_attention", condition_by == "adaln"
        self.condition_width = channels[-1] if self.cross else 4 * channels[0]
        kind = "CrossAttn" if self.cross else "Attn"
        made = {
            "sample_size": sample_size,
            "in_channels": latent_channels,
            "out_channels": outputs * latent_channels,
            "down_block_types": tuple(f"{kind}DownBlock2D" if a else "DownBlock2D" for a in attend),
            "up_block_types": tuple(f"{kind}UpBlock2D" if a else "UpBlock2D" for a in reversed(attend)),
            "block_out_channels": tuple(channels),
            "layers_per_block": layers_per_block,
            "dropout": dropout,
            "norm_num_groups": norm_groups(channels),
            "class_embed_type": "identity" if steps or self.adaln else None,  # a vector that is added to the level's
        }
        if self.cross:
            heads = tuple(c // head_dim if head_dim else HEADS for c in channels)  # the argument has the wrong name
            self.net = UNet2DConditionModel(**made, attention_head_dim=heads, cross_attention_dim=self.condition_width)
            for module in self.net.modules():
                if isinstance(module, BasicTransformerBlock):
                    nn.init.zeros_(module.attn2.to_out[0].weight)  # a condition says nothing at the start
                    nn.init.zeros_(module.attn2.to_out[0].bias)
        else:
            self.net = UNet2DModel(**made, attention_head_dim=head_dim)
            self._use_heads(head_dim)
        self.step_embedding = LevelEmbedding(4 * channels[0]) if steps else None
        use_activation(self, activation)
        nn.init.zeros_(self.net.conv_out.weight)
        nn.init.zeros_(self.net.conv_out.bias)

    def _use_heads(self, head_dim: int | None) -> None:
        if head_dim is None:
            for module in self.net.modules():
                if isinstance(module, Attention):
                    module.heads = HEADS
                    module.scale = (module.inner_dim // HEADS) ** -0.5

    def forward(self, z: Tensor, t: Tensor, step: Tensor | None = None, condition: Embedded | None = None) -> Tensor:
        """z (B,C,H,W), t (B,) in [0,1] -> (B,outputs*C,H,W)."""
        added = None if self.step_embedding is None else self.step_embedding(step)
        if self.adaln:
            vector = condition.tokens[:, 0]
            added = vector if added is None else added + vector
        told = {}
        if self.cross:
            told = {"encoder_hidden_states": condition.tokens, "encoder_attention_mask": condition.mask}
        # The sinusoidal embedding has its range in steps of 0..1000.
        return self.net(z, 1000 * t, class_labels=added, return_dict=False, **told)[0]

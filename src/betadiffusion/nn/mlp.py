"""Denoiser for vector latents: residual MLP blocks modulated by the level."""

from torch import Tensor, nn

from betadiffusion.nn.condition import By, CrossAttention, Embedded
from betadiffusion.nn.embedding import LevelEmbedding


class MLPBlock(nn.Module):
    """h + MLP( LayerNorm(h), scaled and shifted by the level ), zero at the start (adaLN-zero)."""

    def __init__(self, width: int, embedding_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(embedding_dim, 2 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width))
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        return h + self.mlp(self.norm(h) * (1 + scale) + shift)


class LevelMLP(nn.Module):
    """Latents (B, C, 1, 1) and levels t (B,) to (B, outputs * C, 1, 1), 0 at the start.

    With `steps` it is told the step t - s to the level to go to as well. A condition is added to the level's embedding
    ("adaln") or read before every block, the latent as the only query ("cross_attention").
    Raises ValueError for a condition by "tokens", of which there are none.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        width: int,
        depth: int,
        dropout: float,
        outputs: int = 2,
        steps: bool = False,
        condition_by: By | None = None,
    ) -> None:
        super().__init__()
        if condition_by == "tokens":
            raise ValueError("an MLP has no tokens to append a condition's to; use 'adaln' or 'cross_attention'")
        self.adaln, cross = condition_by == "adaln", condition_by == "cross_attention"
        self.condition_width = width // 4
        self.embedding = LevelEmbedding(width // 4)
        self.step_embedding = LevelEmbedding(width // 4) if steps else None
        self.stem = nn.Linear(latent_dim, width)
        self.blocks = nn.ModuleList(MLPBlock(width, width // 4, dropout) for _ in range(depth))
        self.cross = nn.ModuleList(CrossAttention(width, width // 4) for _ in range(depth if cross else 0))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs * latent_dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, z: Tensor, t: Tensor, step: Tensor | None = None, condition: Embedded | None = None) -> Tensor:
        embedding = self.embedding(t)
        if self.adaln:
            embedding = embedding + condition.tokens[:, 0]
        if self.step_embedding is not None:
            embedding = embedding + self.step_embedding(step)
        h = self.stem(z.flatten(1))
        for i, block in enumerate(self.blocks):
            if self.cross:
                h = self.cross[i](h[:, None], condition)[:, 0]
            h = block(h, embedding)
        return self.head(self.norm(h))[:, :, None, None]

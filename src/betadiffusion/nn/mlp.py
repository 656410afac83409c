"""Denoiser for vector latents: residual MLP blocks modulated by the level."""

from torch import Tensor, nn

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
    """Latents (B, C, 1, 1) and levels t (B,) to (B, 2C, 1, 1): two outputs from one network, both 0 at the start."""

    def __init__(self, *, latent_dim: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.embedding = LevelEmbedding(width // 4)
        self.stem = nn.Linear(latent_dim, width)
        self.blocks = nn.ModuleList(MLPBlock(width, width // 4, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2 * latent_dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        embedding = self.embedding(t)
        h = self.stem(z.flatten(1))
        for block in self.blocks:
            h = block(h, embedding)
        return self.head(self.norm(h))[:, :, None, None]

"""Transformers on a grid of tokens whose every block follows the level (DiT, Peebles & Xie 2023, sec. 3.2)."""

import math

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, scaled_dot_product_attention

from betadiffusion.nn.condition import By, CrossAttention, Embedded
from betadiffusion.nn.embedding import LevelEmbedding
from betadiffusion.nn.precision import in_float32

SIGMA_START = 0.3  # of the posterior: noise enough to matter, signal enough to learn from
SIGMA_MAX = 2.0  # the prior's is 1; no posterior gains by more


class SelfAttention(nn.Module):
    """Multi-head attention among tokens (B,N,width), those of them that a mask (B,N) has, where there is one.

    Raises ValueError where `head_dim` does not divide the width.
    """

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        if width % head_dim:
            raise ValueError(f"a width of {width} cannot be split into heads of {head_dim}: use a multiple of it")
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(h).unflatten(2, (3, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None])
        return self.out(attended.transpose(1, 2).flatten(2))


class Modulated(nn.Module):
    """h + gate * layer( LayerNorm(h) * (1 + scale) + shift ), all three from the level: h itself at the start."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 3 * width)
        self.layer = layer
        nn.init.zeros_(self.modulation.weight)  # adaLN-zero
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, embedding: Tensor, *given: Tensor | None) -> Tensor:
        shift, scale, gate = self.modulation(embedding)[:, None].chunk(3, dim=2)
        return h + gate * self.layer(torch.addcmul(shift, self.norm(h), 1 + scale), *given)


class DiTBlock(nn.Module):
    """Attention among tokens (left out where `head_dim` is None), then an MLP on each, both modulated by the level.

    With `cross` the tokens read those of a condition in between.
    """

    def __init__(self, width: int, head_dim: int | None, dropout: float, cross: bool = False) -> None:
        super().__init__()
        mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        layers = ([SelfAttention(width, head_dim)] if head_dim else []) + [mlp]
        self.branches = nn.ModuleList(Modulated(layer, width) for layer in layers)
        self.cross = CrossAttention(width, width) if cross else None

    def forward(
        self, h: Tensor, embedding: Tensor, mask: Tensor | None = None, condition: Embedded | None = None
    ) -> Tensor:
        *attention, mlp = self.branches
        for branch in attention:
            h = branch(h, embedding, mask)
        if self.cross is not None:
            h = self.cross(h, condition)
        return mlp(h, embedding)


class TokenNetwork(nn.Module):
    """Tokens (B,N,inputs) of a square grid and levels t (B,) to (B,N,outputs), by `depth` blocks of `width`.

    With `steps` it is told the step t - s (B,) to another level as well. A condition enters as `condition_by` says, its
    tokens of the same width: added to the level's embedding, read in every block, or appended to the network's own.
    Positions are sines and cosines made for the grid at hand. With `zero` the output is 0 at the start.
    Raises ValueError for a width that is no multiple of 4 or of `head_dim`, or tokens that fill no square grid.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        head_dim: int | None,
        zero: bool,
        dropout: float = 0.0,
        steps: bool = False,
        condition_by: By | None = None,
    ) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"a width of {width} has no sines and cosines of two coordinates: use a multiple of 4")
        self.embedding = nn.Sequential(LevelEmbedding(width), nn.SiLU())
        self.step_embedding = nn.Sequential(LevelEmbedding(width), nn.SiLU()) if steps else None
        self.stem = nn.Linear(inputs, width)
        cross = condition_by == "cross_attention"
        self.blocks = nn.ModuleList(DiTBlock(width, head_dim, dropout, cross) for _ in range(depth))
        self.condition_by = condition_by
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, outputs)
        if zero:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def trunk(self, tokens: Tensor, t: Tensor, step: Tensor | None = None, condition: Embedded | None = None) -> Tensor:
        """All but the last layer: (B,N,width)."""
        level, activation = self.embedding
        embedding = level(t)
        if self.condition_by == "adaln":
            embedding = embedding + condition.tokens[:, 0]
        embedding = activation(embedding)
        if self.step_embedding is not None:
            embedding = embedding + self.step_embedding(step)
        h, mask = self.stem(tokens), None
        h = h + positions(h)
        if self.condition_by == "tokens":
            mask = torch.cat([condition.mask.new_ones(h.shape[:2]), condition.mask], dim=1)
            h = torch.cat([h, condition.tokens.to(h)], dim=1)
        for block in self.blocks:
            h = block(h, embedding, mask, condition)
        h = h[:, : tokens.shape[1]]
        shift, scale = self.modulation(embedding)[:, None].chunk(2, dim=2)
        return torch.addcmul(shift, self.norm(h), 1 + scale)

    def forward(
        self, tokens: Tensor, t: Tensor, step: Tensor | None = None, condition: Embedded | None = None
    ) -> Tensor:
        return self.head(self.trunk(tokens, t, step, condition))


class Modulator(nn.Module):
    """Features h (B,N,features) and levels t (B,) to mean and sigma (B,N,latent_channels) of q(z|x;t), float32.

    mu = f_mu(h) * s_mu(h; beta), sigma = f_sigma(h) * s_sigma(h; beta): f linear, s from DiT blocks, 1 at the start.
    The logarithm of f_sigma * s_sigma is squashed, so that sigma stays in [sigma_min, SIGMA_MAX] whatever h is.
    With `sigma_min` None there are no f_sigma and s_sigma, and sigma is None.
    """

    def __init__(
        self, *, features: int, latent_channels: int, width: int, depth: int, head_dim: int, sigma_min: float | None
    ) -> None:
        super().__init__()
        self.f_mu = nn.Linear(features, latent_channels)
        self.f_sigma = None
        if sigma_min is not None:
            if not 0 < sigma_min < SIGMA_START:
                raise ValueError(f"sigma_min must lie between 0 and {SIGMA_START}, not {sigma_min}")
            self.f_sigma = nn.Linear(features, latent_channels)
            low, high = math.log(sigma_min), math.log(SIGMA_MAX)
            self.centre, self.reach = (low + high) / 2, (high - low) / 2
            start = self.centre + self.reach * math.atanh((math.log(SIGMA_START) - self.centre) / self.reach)
            nn.init.constant_(self.f_sigma.bias, start)
        outputs = latent_channels * (1 if sigma_min is None else 2)
        self.network = TokenNetwork(features, outputs, width=width, depth=depth, head_dim=head_dim, zero=True)

    def scales(self, h: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """s_mu and the logarithm of s_sigma, (B,N,latent_channels): 1 and 0 at the start."""
        out = in_float32(self.network.head, self.network.trunk(h, t))  # bf16 would round mu by a good part of sigma
        s_mu, *log_s_sigma = out.split(self.f_mu.out_features, dim=2)
        return 1 + s_mu, log_s_sigma[0] if log_s_sigma else None

    def forward(self, h: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        s_mu, log_s_sigma = self.scales(h, t)
        mean = in_float32(self.f_mu, h) * s_mu
        if log_s_sigma is None:
            return mean, None
        log_sigma = in_float32(self.f_sigma, h) + log_s_sigma
        # nearly the identity in the middle of the range, and smooth, so that no gradient stops at its ends
        return mean, (self.centre + self.reach * ((log_sigma - self.centre) / self.reach).tanh()).exp()


class TokenDecoder(nn.Module):
    """Latents (B,latent_channels,g,g) and levels t (B,) to images (B,out_channels,g*patch_size,g*patch_size).

    `kind` "mlp" works on each token alone, "attention" among tokens. Raises ValueError for any other.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        out_channels: int,
        patch_size: int,
        kind: str,
        width: int,
        depth: int,
        head_dim: int,
    ) -> None:
        super().__init__()
        if kind not in ("mlp", "attention"):
            raise ValueError(f"unknown decoder {kind!r}; choose mlp or attention")
        self.patch_size = patch_size
        self.network = TokenNetwork(
            latent_channels,
            out_channels * patch_size**2,
            width=width,
            depth=depth,
            head_dim=head_dim if kind == "attention" else None,
            zero=False,
        )

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return pixel_shuffle(to_grid(self.network(to_tokens(z), t)), self.patch_size)


class LevelDiT(nn.Module):
    """Denoiser for latents on a grid: (B,C,g,g) and levels t (B,) to (B,outputs*C,g,g), 0 at the start.

    With `steps` it is told the step t - s to the level to go to as well, and a condition as `TokenNetwork` is.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        width: int,
        depth: int,
        head_dim: int,
        dropout: float,
        outputs: int = 2,
        steps: bool = False,
        condition_by: By | None = None,
    ) -> None:
        super().__init__()
        self.network = TokenNetwork(
            latent_channels,
            outputs * latent_channels,
            width=width,
            depth=depth,
            head_dim=head_dim,
            zero=True,
            dropout=dropout,
            steps=steps,
            condition_by=condition_by,
        )
        self.condition_width = width

    def forward(self, z: Tensor, t: Tensor, step: Tensor | None = None, condition: Embedded | None = None) -> Tensor:
        return to_grid(self.network(to_tokens(z), t, step, condition))


def to_tokens(z: Tensor) -> Tensor:
    """(B,C,g,g) to (B,g*g,C), in raster order; ValueError where the grid is not square."""
    if z.shape[2] != z.shape[3]:
        raise ValueError(f"a square grid of tokens is needed, not {z.shape[2]}x{z.shape[3]}")
    return z.flatten(2).transpose(1, 2)


def to_grid(tokens: Tensor) -> Tensor:
    """(B,g*g,C) to (B,C,g,g): the inverse of `to_tokens`."""
    side = math.isqrt(tokens.shape[1])
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def positions(tokens: Tensor) -> Tensor:
    """Sines and cosines (N,width) of where tokens (B,N,width) lie in a picture; ValueError where N is not a square."""
    side = math.isqrt(tokens.shape[1])
    if side**2 != tokens.shape[1]:
        raise ValueError(f"{tokens.shape[1]} tokens do not fill a square grid")
    return get_2d_sincos_pos_embed(tokens.shape[2], side, device=tokens.device, output_type="pt").to(tokens)

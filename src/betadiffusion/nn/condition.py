"""What a picture is asked to be (a class, attributes, a text), as tokens that a network adds up or attends to.

A condition is one tensor, and says by itself where it says nothing:

    labels       (B,) int64, a class or -1
    attributes   (B,A) int64, 1 has, 0 has not, -1 not said
    text         (B,1+N,width) floats of a text encoder: the text as a whole, then its tokens, zeros where there is none
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

Kind = Literal["labels", "attributes", "text"]
By = Literal["adaln", "cross_attention", "tokens"]
HEAD_DIM = 64


@dataclass(frozen=True)
class ConditionSpec:
    """What a condition is and how it enters a network: plain values, kept in the denoiser's config.

    by: "adaln", added to the embedding of the level; "cross_attention", attended to in every block; "tokens", appended
    to the network's own. names: of the classes or attributes. Of texts: the encoder, a hub id or a local path, its
    width, and how many tokens are kept beside the whole, none with "adaln". ValueError where these do not fit together.
    """

    kind: Kind
    by: By = "adaln"
    names: Sequence[str] = ()
    encoder: str | None = None
    width: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if self.kind not in ("labels", "attributes", "text"):
            raise ValueError(f"unknown kind of condition {self.kind!r}; choose labels, attributes or text")
        if self.by not in ("adaln", "cross_attention", "tokens"):
            raise ValueError(f"unknown way of a condition {self.by!r}; choose adaln, cross_attention or tokens")
        if self.kind == "text" and (self.width < 1 or (self.tokens > 0) == (self.by == "adaln")):
            raise ValueError("a text needs the width of its encoder, and tokens unless it enters by 'adaln'")
        if self.kind != "text" and not self.names:
            raise ValueError(f"a condition of kind {self.kind!r} needs the names of its {self.kind}")

    def null(self, count: int) -> Tensor:
        """`count` conditions that say nothing."""
        if self.kind == "labels":
            return torch.full((count,), -1)
        if self.kind == "attributes":
            return torch.full((count, len(self.names)), -1)
        return torch.zeros(count, 1 + self.tokens, self.width)


class Embedded(NamedTuple):
    """Tokens (B,K,width) and which of them count (B,K), bool, the first always; with "adaln" K is 1."""

    tokens: Tensor
    mask: Tensor


class ConditionEmbedding(nn.Module):
    """Conditions to `Embedded` of `width`, a learned token standing where they say nothing.

    With "adaln" the tokens are added up, and are zero at the start, when the network is the one without a condition.
    """

    def __init__(self, spec: ConditionSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        if spec.kind == "text":
            self.content: nn.Module = nn.Linear(spec.width, width)
        else:
            self.content = nn.Embedding(len(spec.names) * (1 if spec.kind == "labels" else 2), width)
        self.null = nn.Parameter(torch.randn(width))
        if spec.by == "adaln":
            for parameter in self.parameters():
                nn.init.zeros_(parameter)

    def forward(self, condition: Tensor) -> Embedded:
        tokens, said = self._content(condition)
        null = self.null.expand(len(tokens), 1, -1)
        if self.spec.by == "adaln":
            total = (tokens * said[:, :, None]).sum(1, keepdim=True)
            tokens = torch.where(said.any(1)[:, None, None], total, null.to(total))
            return Embedded(tokens, said.new_ones(len(tokens), 1))
        return Embedded(torch.cat([null.to(tokens), tokens], 1), torch.cat([said.new_ones(len(said), 1), said], 1))

    def _content(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """A token (B,K,width) for each thing that may be said, and whether it is (B,K)."""
        if self.spec.kind == "text":
            rows = condition.to(self.null)
            # encoders differ in scale; rows of zeros stay zero
            return self.content(layer_norm(rows, rows.shape[-1:])), rows.ne(0).any(2)
        values = condition.reshape(len(condition), -1)
        first = torch.arange(values.shape[1], device=values.device) * (0 if self.spec.kind == "labels" else 2)
        return self.content(first + values.clamp(min=0)), values >= 0


class CrossAttention(nn.Module):
    """h + what tokens h (B,N,width) read from those of a condition, of `condition_width`: h itself at the start."""

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        self.head_dim = HEAD_DIM if width % HEAD_DIM == 0 else width
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(condition_width, 2 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, condition: Embedded) -> Tensor:
        q = self.q(self.norm(h)).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
        k, v = self.kv(condition.tokens).unflatten(2, (2, -1, self.head_dim)).permute(2, 0, 3, 1, 4)
        read = scaled_dot_product_attention(q, k, v, attn_mask=condition.mask[:, None, None])
        return h + self.out(read.transpose(1, 2).flatten(2))

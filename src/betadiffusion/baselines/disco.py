"""Directions found after training, in the codes of a frozen model, by contrast (DisCo)."""

import math
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, normalize
from torch.special import entr

from betadiffusion.baselines.base import Baseline
from betadiffusion.baselines.frozen import OnFrozen
from betadiffusion.nn.backbone import make_backbone

GROUPS = 3  # directions in a batch: a third of all pairs are positive, as of the paper's 32 and 64
LEAST_SHIFT = 0.5
SHOWN, STRENGTHS = 6, 3.0
LEVEL = 0.5  # of a model that has levels


class DisCo(OnFrozen):
    """A navigator's directions A and an encoder E told apart by v = |E(g(z + s A_d)) - E(g(z))| (Ren et al. 2022).

    g and the codes z of the images are those of `base`, the folder of a run with a VAE or a baseline that encodes and
    decodes: it stays as it is, and is saved with the rest. base_level: the level of its codes, where it has levels, by
    default 0.5. directions: how many; shift: the standard deviation of s, in those of the codes, and `threshold` the
    similarity from which a negative is taken for a positive. Raises ValueError for a base that cannot be used.
    """

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        base: str | dict[str, Any] = "",
        base_level: float | None = None,
        directions: int = 32,
        shift: float = 6.0,
        threshold: float = 0.95,
        entropy: float = 1.0,
    ) -> None:
        super().__init__()
        self.freeze(base)
        kind = type(self.frozen).__name__
        if not (hasattr(self.frozen, "encode_mean") and hasattr(self.frozen, "decode")):
            raise ValueError(f"baseline.base must encode and decode, which a {kind} does not do")
        if base_level is not None and isinstance(self.frozen, Baseline):
            raise ValueError(f"baseline.base_level has no effect with a {kind}, which has no levels")
        self.encoder, _ = make_backbone(**backbone, embedding_dim=1)
        self.navigator = nn.Parameter(torch.empty(directions, math.prod(self.frozen.latent_shape)))
        nn.init.orthogonal_(self.navigator)  # those that begin alike are flipped, and stay alike
        self.register_buffer("code_scale", torch.ones(()))

    @torch.no_grad()
    def prepare(self, stage: str, x: Tensor) -> None:
        """Before training: the weights of the base, and the scale of its codes of images x."""
        super().prepare(stage, x)
        self.code_scale.copy_(self.codes(x).std())

    @property
    def code_level(self) -> float | None:
        """The level of the base's codes; None of a base without levels."""
        if not getattr(self.frozen, "has_levels", True):
            return None
        return LEVEL if self.config.base_level is None else self.config.base_level

    def level(self, x: Tensor) -> Tensor:
        """The level of the base's codes, for each of a batch."""
        return x.new_full((len(x),), self.code_level or 0.0)

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """The base's codes of images x (B,C,H,W)."""
        return self.frozen.encode_mean(x, self.level(x)).float()

    def moved(self, z: Tensor, direction: Tensor, strength: Tensor) -> Tensor:
        """Images of the base's codes z, each moved along a direction (B,), int64, by so many standard deviations (B,).

        Gradients reach the directions.
        """
        along = normalize(self.navigator, dim=1)[direction] * (strength * self.code_scale)[:, None]
        return self.frozen.decode(z + along.view_as(z), self.level(z)).float()

    def encode_mean(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The representation E(x) of images x (B,C,H,W)."""
        return self.encoder(x, x.new_zeros(len(x), 1)).float()

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        few = torch.randperm(len(self.navigator), generator=generator)[:GROUPS]
        direction = few[torch.randint(len(few), (batch,), generator=generator)]
        strength = self.config.shift * torch.randn(batch, generator=generator)
        return direction, strength.abs().clamp(min=LEAST_SHIFT).copysign(strength)

    def forward(self, x: Tensor, direction: Tensor, strength: Tensor) -> Tensor:
        z = self.codes(x)
        images = torch.cat([self.frozen.decode(z, self.level(z)).float(), self.moved(z, direction, strength)])
        before, after = self.encode_mean(images).flatten(1).chunk(2)
        variation = normalize((after - before).abs(), dim=1)
        # softmax(v) of least entropy: one dimension dominates          (Ren et al. 2022, entropy-based domination loss)
        share = variation.softmax(1)
        return contrast(variation, direction, self.config.threshold) + self.config.entropy * entr(share).sum(1)

    @torch.no_grad()
    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """The first of images x moved along the first directions."""
        strength = torch.linspace(-STRENGTHS, STRENGTHS, len(x), device=x.device)
        z = self.codes(x[:1]).expand(len(x), -1, -1, -1)
        shown = range(min(SHOWN, len(self.navigator)))
        return {f"direction {i}": self.moved(z, torch.full((len(x),), i, device=x.device), strength) for i in shown}


def contrast(variation: Tensor, direction: Tensor, threshold: float) -> Tensor:
    """Cross-entropy (B,) of whose variation, of unit norm (B,J), is by the same direction (B,), from their cosines.

    Negatives more alike than the threshold are taken for positives, as likely as they are alike (Ren et al. 2022, hard
    negatives flipping, as in their code); no gradient comes to the other one of a negative pair.
    """
    same = direction[:, None] == direction
    logits = torch.where(same, variation @ variation.T, variation @ variation.detach().T).float()
    flipped = torch.where(logits > threshold, logits, 0.0).detach()
    errors = binary_cross_entropy_with_logits(logits, torch.where(same, 1.0, flipped), reduction="none")
    return (errors - errors.diag().diag()).sum(1) / max(1, len(errors) - 1)

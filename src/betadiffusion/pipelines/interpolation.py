"""Codes between two codes (Algorithm 5)."""

import math
import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Interpolation = Literal["slerp", "linear"]


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Spherical interpolation of the rows of a and b (B,d): a at weight 0, b at 1, and lengths in between.

    Straight where one is zero or the two are parallel, which leaves the arc undefined: so always for d = 1.
    """
    lengths = a.double().norm(dim=1, keepdim=True) * b.double().norm(dim=1, keepdim=True)
    cosine = (a.double() * b.double()).sum(1, keepdim=True) / lengths
    angle = cosine.clamp(-1, 1).acos()
    straight = (lengths == 0) | (angle.sin() < 1e-3)
    angle = torch.where(straight, 1.0, angle)
    # Slerp(a, b, w) = sin((1-w) angle) / sin(angle) a + sin(w angle) / sin(angle) b                       (Algorithm 5)
    from_a = torch.where(straight, 1 - weight, ((1 - weight) * angle).sin() / angle.sin())
    from_b = torch.where(straight, weight, (weight * angle).sin() / angle.sin())
    return (from_a * a + from_b * b).to(a.dtype)


def with_linear_means(z_a: Tensor, z_b: Tensor, f_a: Tensor, f_b: Tensor, weight: float) -> Tensor:
    """Between codes z = f + noise (B,d): means f on a line, noise on a circle, so that it keeps its scale."""
    # (1-w) f_a + w f_b + cos(w pi/2) noise_a + sin(w pi/2) noise_b, so written that the ends are exact
    noise_a, noise_b = math.sin((1 - weight) * math.pi / 2), math.sin(weight * math.pi / 2)
    return noise_a * z_a + noise_b * z_b + ((1 - weight) - noise_a) * f_a + (weight - noise_b) * f_b


def dimensions(dims: Sequence[int] | Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Which dimensions of a latent of `shape` (C,h,w) are meant, as (d,) bool.

    dims: None for all, indices into the flattened latent, or a mask of its shape. Raises ValueError for an index
    outside it, for none at all, or for a mask of another shape.
    """
    size = math.prod(shape)
    if dims is None:
        return torch.ones(size, dtype=torch.bool)
    if isinstance(dims, Tensor) and dims.dtype == torch.bool:
        if dims.shape != shape and dims.shape != (size,):
            raise ValueError(f"a mask of dimensions must have the latent's shape {shape}, not {tuple(dims.shape)}")
        mask = dims.flatten().cpu()
    else:
        indices = [int(i) for i in dims]
        if bad := [i for i in indices if not 0 <= i < size]:
            raise ValueError(f"dims must be from 0 to {size - 1}, the latent's dimensions, not {bad[0]}")
        mask = torch.zeros(size, dtype=torch.bool)
        mask[indices] = True
    if not mask.any():
        raise ValueError("dims must name at least one dimension")
    return mask


def numbers(words: Sequence[str]) -> list[int] | None:
    """Numbers and ranges such as "0-15" as numbers, None for no words; ValueError for other words."""
    found: list[int] = []
    for word in words:
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", word)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f"dims must be numbers or ranges such as 0-15, not {word!r}")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found or None

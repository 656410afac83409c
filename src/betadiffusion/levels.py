"""Level spacings: which levels a sampler stops at on its way from `start` down to `end`; `clocks` names more."""

import torch
from torch import Tensor


def uniform(steps: int, start: float = 1.0, end: float = 0.0) -> Tensor:
    """`steps + 1` levels, evenly spaced in t, from start down to end: float64."""
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)


def even_in(quantity: Tensor, knots: Tensor, steps: int, start: float = 1.0, end: float = 0.0) -> Tensor:
    """`steps + 1` falling levels between which a quantity tabulated at rising knots changes by equal amounts.

    quantity and knots (K,); changes are counted by their size, so a quantity that wavers still gives falling levels;
    a thousandth of the spacing is kept uniform in t, so that levels fall strictly where the quantity is flat.
    """
    quantity, knots = quantity.double().cpu(), knots.double().cpu()
    change = quantity.diff().abs()
    share = change / change.sum() if change.sum() > 0 else torch.zeros_like(change)
    travelled = (0.999 * share + 0.001 * knots.diff() / (knots[-1] - knots[0])).cumsum(0)
    travelled = torch.cat([travelled.new_zeros(1), travelled])
    ends = interpolate(torch.tensor([start, end], dtype=torch.float64), knots, travelled)
    targets = ends[0] + (ends[1] - ends[0]) * torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    levels = interpolate(targets, travelled, knots)
    levels[0], levels[-1] = start, end
    return levels


def interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear interpolation of values (K, ...) at rising knots (K,), held constant outside; x any shape."""
    index = torch.searchsorted(knots, x.contiguous(), right=True).clamp(1, len(knots) - 1)
    left, right = knots[index - 1], knots[index]
    share = ((x - left) / (right - left)).clamp(0, 1)
    share = share.reshape(share.shape + (1,) * (values.ndim - 1))
    return torch.lerp(values[index - 1], values[index], share.to(values.dtype))


def integral(x: Tensor, values: Tensor) -> Tensor:
    """Integral from 0 to x () of the line through values (K, ...) at even knots of [0, 1], bent at each: (...)."""
    knots = torch.linspace(0, 1, len(values), dtype=torch.float64, device=values.device)
    x = x.to(knots)
    whole = torch.cumulative_trapezoid(values, knots, dim=0)
    i = int((torch.searchsorted(knots, x, right=True) - 1).clamp(0, len(knots) - 2))
    before = whole[i - 1] if i else torch.zeros_like(whole[0])
    u = x - knots[i]
    return before + u * values[i] + u.square() / (2 * knots[1]) * (values[i + 1] - values[i])

"""Learned positive functions of the level: the latent noise scale sigma(t) and the pixel noise scale s(t)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from betadiffusion.levels import interpolate


class LevelCurve(nn.Module):
    """exp of a piecewise linear function of t, learned at evenly spaced knots; started constant.

    With `channels` there are so many curves, one for each channel.
    """

    def __init__(self, knots: int, start: float, channels: int | None = None) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(0, 1, knots), persistent=False)
        shape = (knots,) if channels is None else (knots, channels)
        self.log_value = nn.Parameter(torch.full(shape, start).log())

    def log_values(self) -> Tensor:
        """Logarithm of the curve at its knots: (knots,) or (knots, channels)."""
        return self.log_value

    def mean_log_values(self) -> Tensor:
        """`log_values` averaged over channels, (knots,): of the geometric mean of the curves."""
        values = self.log_values()
        return values if values.ndim == 1 else values.mean(1)

    def forward(self, t: Tensor) -> Tensor:
        """Value at levels t of any shape, > 0: shaped like t, or (*t.shape, channels)."""
        return interpolate(t.to(self.knots), self.knots, self.log_values()).exp()

    def geometric_mean(self, t: Tensor) -> Tensor:
        """The geometric mean over channels at levels t of any shape, > 0: shaped like t."""
        return interpolate(t.to(self.knots), self.knots, self.mean_log_values()).exp()


class RisingLevelCurve(LevelCurve):
    """A `LevelCurve` that rises with t whatever its parameters, as sigma(t) must; started as a line from `start` to 1.

    With `fixed_end` its value at t = 1 is 1 by construction; else that is learned too.
    """

    def __init__(self, knots: int, start: float, fixed_end: bool, channels: int | None = None) -> None:
        super().__init__(knots, 1.0, channels)
        rise = (start + (1 - start) * self.knots).log().diff()
        first = torch.cat([rise.expm1().log(), torch.zeros(1)])  # softplus of it is the rise
        self.log_value = nn.Parameter(first if channels is None else first[:, None].repeat(1, channels))
        self.fixed_end = fixed_end

    def log_values(self) -> Tensor:
        """Logarithm of the curve at its knots, rising: (knots,) or (knots, channels)."""
        end = torch.zeros_like(self.log_value[-1:]) if self.fixed_end else self.log_value[-1:]
        below = softplus(self.log_value[:-1]).flip(0).cumsum(0).flip(0)
        return torch.cat([end - below, end])


@torch.no_grad()
def set_rising(curve: LevelCurve, values: Tensor) -> None:
    """Sets a curve to positive values at its knots, (knots,) or (knots, channels), on linspace(0, 1, knots).

    Where they fall as the level rises, the greatest so far is kept: samplers need a scale that never falls. Raises
    ValueError where there are not as many, or where one is not positive.
    """
    knots = len(curve.log_value)
    if values.shape != curve.log_value.shape or not (values > 0).all():
        raise ValueError(f"calibration needs {knots} positive values, not {tuple(values.shape)}: {values}")
    curve.log_value.copy_(values.cummax(0).values.log())

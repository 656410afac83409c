"""Schedules: a level t in [0, 1] to the weights of the two terms of Eq. 4, with their derivatives.

A schedule is one object whether the paper's (B - beta, beta) or beta-Diffusion's (1, beta) is meant; only the
ratio w_kl / w_rec decides the optimum of a level.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor


class Weights(NamedTuple):
    """Weights of reconstruction and KL at each level, and their derivatives in t; four tensors shaped like t."""

    rec: Tensor
    kl: Tensor
    d_rec: Tensor
    d_kl: Tensor


class Schedule(Protocol):
    """Maps levels t in [0, 1], any shape, to `Weights`."""

    def __call__(self, t: Tensor) -> Weights: ...


@dataclass(frozen=True)
class Linear:
    """beta = B t, weights (B - beta, beta): the paper's linear schedule (Eq. 4, Table 5)."""

    maximum: float = 1.0

    def __call__(self, t: Tensor) -> Weights:
        slope = t.new_full(t.shape, self.maximum)
        return Weights(self.maximum * (1 - t), self.maximum * t, -slope, slope)


@dataclass(frozen=True)
class Sinusoidal:
    """beta = B sin(pi t / 2), weights (B - beta, beta): the paper's sinusoidal schedule (App. C.1.3).

    The paper leaves its exact form to code that is not public; this is the form that it describes: steep at
    t = 0 and flat at t = 1, so that strong regularisation gets most of the levels.
    """

    maximum: float = 1.0

    def __call__(self, t: Tensor) -> Weights:
        angle = math.pi / 2 * t
        beta = self.maximum * angle.sin()
        slope = self.maximum * math.pi / 2 * angle.cos()
        # 1 - sin(a) = 2 sin^2((pi/2 - a)/2): no cancellation near t = 1
        rec = self.maximum * 2 * ((math.pi / 2 - angle) / 2).sin().square()
        return Weights(rec, beta, -slope, slope)


@dataclass(frozen=True)
class LogBeta:
    """beta = beta_min (beta_max / beta_min)^t, weights (1, beta): beta-Diffusion and beta-Selectable VAE.

    Raises ValueError unless 0 < beta_min < beta_max.
    """

    beta_min: float = 1.0
    beta_max: float = 100.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max:
            raise ValueError(f"a range of beta needs 0 < beta_min < beta_max, not {self.beta_min}, {self.beta_max}")

    def __call__(self, t: Tensor) -> Weights:
        span = math.log(self.beta_max / self.beta_min)
        beta = (math.log(self.beta_min) + span * t).exp()
        return Weights(t.new_ones(t.shape), beta, t.new_zeros(t.shape), span * beta)

    def level(self, beta: Tensor) -> Tensor:
        """Level t of a weight beta in [beta_min, beta_max]: the inverse of the schedule."""
        return (beta / self.beta_min).log() / math.log(self.beta_max / self.beta_min)


def make_schedule(name: str, beta_min: float = 1.0, beta_max: float = 100.0) -> Schedule:
    """Schedule of a configured name; `beta_min` and `beta_max` are the range of "log_beta" only.

    Raises ValueError for an unknown name.
    """
    if name == "sinusoidal":
        return Sinusoidal()
    if name == "linear":
        return Linear()
    if name == "log_beta":
        return LogBeta(beta_min, beta_max)
    raise ValueError(f"unknown schedule '{name}'; choose sinusoidal, linear or log_beta")


BetaConvention = Literal["summed", "mean", "normalised"]


def convert_beta(beta: float, source: BetaConvention, target: BetaConvention, *, pixels: int, latents: int) -> float:
    """The same beta-VAE's weight under another convention of reduction.

    "summed": squared error and KL are summed, as everywhere in this library; "mean": squared error averaged over
    `pixels`, KL summed; "normalised": both averaged, over `pixels` and `latents` (Higgins et al. 2017, beta M / N).
    """
    scale = {"summed": 1.0, "mean": 1.0 / pixels, "normalised": latents / pixels}
    return beta * scale[target] / scale[source]

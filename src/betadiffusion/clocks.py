"""Clocks: re-timings t(u) of a walk, so that more of its steps fall where the path asks for them.

A clock is a quantity that rises or falls with the level, its reading; the walk stops where the reading has changed by
equal amounts. Any monotone clock gives the same latents on another time, so none asks for another training:

    "uniform"           t
    "log_snr"           log( E f^2 / sigma^2 )
    "rate_linear"       E KL( N(f, sigma^2) || N(0, 1) ), in nats a dimension
    "path_length"       int sqrt( E |df/dt|^2 + (d(sigma)/dt)^2 ) dt, the length of z_t = f + sigma eps
    "fitted"            int sqrt( sigma |Heun's step - Euler's step| / h^2 ) dt, a quarter of it t; see `fit`
    "beta_linear"       b = w_kl / (w_kl + w_rec): the clock of the paper's linear schedule, beta = B t
    "beta_sinusoidal"   2/pi arcsin b: that of its sinusoidal schedule, beta = B sin(pi t / 2)

The last two hold for a path of any schedule, since only the ratio of the two weights decides a level's optimum.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from betadiffusion.levels import even_in, uniform
from betadiffusion.samplers import Moments, Predict, Sigma, Variable, sample
from betadiffusion.schedules import Schedule

Clock = Literal["uniform", "log_snr", "rate_linear", "path_length", "fitted", "beta_linear", "beta_sinusoidal"]
CLOCKS: tuple[Clock, ...] = (
    "uniform", "log_snr", "rate_linear", "path_length", "fitted", "beta_linear", "beta_sinusoidal",
)  # fmt: skip

SNR_FLOOR = 1e-4  # signal-to-noise below which a level counts as pure noise; log(0) has no spacing
FIT_STEPS = 40
TIME_SHARE = 0.25  # of t in the clock "fitted"
NOISE_POWER = 1.0  # of sigma in its weight of an error


class Path(NamedTuple):
    """What clocks know of a path, at rising knots (K,); moments per dimension over data, all but what clocks need.

    `error` is the reading of "fitted" (K,), see `fit`; it and the schedule are needed by their own clocks only.
    """

    knots: Tensor
    signal_power: Tensor  # E f^2, (K,)
    speed_power: Tensor  # E (df/dt)^2, (K,)
    sigma: Tensor  # (K,)
    schedule: Schedule | None = None
    error: Tensor | None = None


def clock_levels(name: Clock, steps: int, start: float = 1.0, end: float = 0.0, path: Path | None = None) -> Tensor:
    """`steps + 1` levels that fall from start to end, evenly on a clock: float64.

    path: of any clock but "uniform". Raises ValueError for an unknown clock and for what the path lacks.
    """
    if name == "uniform":
        return uniform(steps, start, end)
    if path is None:
        raise ValueError(f"clock '{name}' needs a path")
    return even_in(reading(name, path), path.knots, steps, start, end)


def reading(name: Clock, path: Path) -> Tensor:
    """The quantity that a clock shows at the path's knots: float64 (K,)."""
    knots, power, speed, sigma = (x.double().cpu() for x in path[:4])
    if name == "uniform":
        return knots
    if name == "log_snr":
        return (power / sigma.square()).clamp(min=SNR_FLOOR).log()
    if name == "rate_linear":
        return 0.5 * (power + sigma.square() - 1) - sigma.log()
    if name == "path_length":
        # over an interval: sqrt( E |df/dt|^2 dt^2 + d(sigma)^2 )
        pieces = ((speed[1:] + speed[:-1]) / 2 * knots.diff().square() + sigma.diff().square()).sqrt()
        return torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])
    if name == "fitted":
        if path.error is None:
            raise ValueError("clock 'fitted' needs a path with the sampler's errors")
        return path.error.double().cpu()
    if name not in CLOCKS:
        raise ValueError(f"unknown clock '{name}'; choose {', '.join(CLOCKS)}")
    if path.schedule is None:
        raise ValueError(f"clock '{name}' needs a path with a schedule")
    weights = path.schedule(knots)
    share = weights.kl / (weights.kl + weights.rec)
    return share if name == "beta_linear" else 2 / math.pi * share.clamp(0, 1).arcsin()


@torch.no_grad()
def fit(
    predict: Predict,
    sigma: Sigma,
    z: Tensor,
    steps: int = FIT_STEPS,
    variable: Variable = "sigma",
    moments: Callable[[Tensor], Moments] | None = None,
    time_share: float = TIME_SHARE,
    noise_power: float = NOISE_POWER,
) -> tuple[Tensor, Tensor]:
    """Rising levels (steps + 1,) and the readings of "fitted" there, measured on latents z (B, ...) of level 1.

    An Euler step of size h errs by C(t) h^2, which is its distance to Heun's: steps even in int sqrt(sigma C) dt err
    alike when an error is weighed by the noise where it lands (`noise_power` is that of sigma, 0 weighs all alike): the
    less noise, the more is decided, and an error costs no more than detail. A quarter of the clock (`time_share`) is t,
    so that no step is longer than four even ones: where C is small, steps without a limit reach into where it is not.
    variable and moments are those of `samplers.sample`: what errs is a step in that variable.
    """
    levels = uniform(steps)
    errors = []
    for step in pairwise(levels):
        euler, z = (
            sample(predict, z, torch.stack(step), sigma, method=method, variable=variable, moments=moments)
            for method in ("euler", "heun")
        )
        errors.append(sigma(step[1]) ** noise_power * (z - euler).square().mean().sqrt())
    rising, travelled = levels.flip(0), torch.stack(errors).double().cpu().sqrt().flip(0).cumsum(0)
    equal = torch.cat([travelled.new_zeros(1), travelled / travelled[-1]])
    return rising, time_share * rising + (1 - time_share) * equal

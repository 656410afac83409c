"""Levels of the images of a batch: drawn at random, spread evenly over a distribution."""

import torch
from torch import Tensor
from torch.special import ndtri

from betadiffusion.schedules import LogBeta, Schedule
from betadiffusion.training.config import LevelsConfig


def spread_levels(batch: int, generator: torch.Generator) -> Tensor:
    """Levels (batch,) in [0, 1), each uniform, together even: one random offset, steps of 1/batch, wrapped around."""
    return (torch.rand(1, generator=generator) + torch.arange(batch) / batch) % 1


def logit_normal(u: Tensor, mean: float, scale: float) -> Tensor:
    """Levels in [0, 1] whose logit is N(mean, scale^2), from numbers u uniform in [0, 1) (as Esser et al. 2024)."""
    return (mean + scale * ndtri(u.double())).sigmoid().to(u)


class LevelDraw:
    """Levels (B,) in [0, 1] from numbers u (B,) in [0, 1): what makes u uniform makes them follow `config`.

    `images`: the whole training's, over which the power changes; without it, it is always the last. Raises ValueError
    for a distribution of beta over a schedule that is not log_beta, and for a grid that is empty or that leaves the
    schedule's range.
    """

    def __init__(self, config: LevelsConfig, schedule: Schedule, images: int = 0) -> None:
        self.config, self.schedule, self.images, self.power = config, schedule, images, config.power
        if (config.distribution == "uniform_beta" or config.betas) and not isinstance(schedule, LogBeta):
            raise ValueError("levels given as values of beta need a schedule 'log_beta': give levels.values instead")
        self.grid = torch.zeros(0)
        if config.distribution == "grid":
            if bool(config.betas) == bool(config.values):
                raise ValueError("levels.distribution 'grid' needs either levels.betas or levels.values")
            self.grid = torch.tensor(config.values or config.betas, dtype=torch.float64)
            if config.betas:
                low, high = schedule.beta_min, schedule.beta_max
                if not all(low <= beta <= high for beta in config.betas):
                    raise ValueError(f"levels.betas must lie from {low:g} to {high:g}, not {config.betas}")
                self.grid = schedule.level(self.grid)
            elif not all(0 <= level <= 1 for level in config.values):
                raise ValueError(f"levels.values must lie from 0 to 1, not {config.values}")

    def begin(self, images: int) -> None:
        """Begins the training step after so many images."""
        config = self.config
        left = max(0.0, 1 - images / self.images) if self.images else 0.0
        left /= 1 - config.first_share  # of the line from `start_power` to `power`, which comes after the first part
        self.power = config.first_power if left > 1 else config.power + left * (config.start_power - config.power)

    def __call__(self, u: Tensor) -> Tensor:
        if self.config.distribution == "stratified":
            return u**self.power
        if self.config.distribution == "uniform_beta":
            low, high = self.schedule.beta_min, self.schedule.beta_max
            return self.schedule.level(low + u.double() * (high - low)).clamp(0, 1).to(u)
        return self.grid[(u.double() * len(self.grid)).long()].clamp(0, 1).to(u)

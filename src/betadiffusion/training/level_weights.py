"""How stage "diffusion" weighs the errors of a level, and by which of them it draws levels."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from betadiffusion.levels import interpolate
from betadiffusion.nn.curves import LevelCurve
from betadiffusion.nn.preconditioning import Preconditioning
from betadiffusion.objectives import snr_weight
from betadiffusion.training.config import DiffusionConfig, diffusion_clash

TABULATED = 257  # levels of the table of weights
LEAST_WEIGHT = 0.01
UNCERTAINTY_KNOTS = 17
BINS = 32
UNIFORM_SHARE = 0.1  # of the levels that are drawn by importance: no bin is forgotten
MEMORY = 0.98  # share of a bin's mean square that stays from step to step


def level_weights(weighting: str, preconditioning: Preconditioning) -> Tensor:
    """w(t) > 0 at 257 even levels, mean 1: from the signal-to-noise of each, or 1 for "uniform" and "learned"."""
    t = torch.linspace(0, 1, TABULATED, device=preconditioning.log_sigma.device)
    if weighting not in ("sigma", "min_snr"):
        return torch.ones_like(t)
    weights = snr_weight(weighting, preconditioning.signal_power(t) / preconditioning.sigma(t).square())
    weights = (weights / weights.mean()).clamp(min=LEAST_WEIGHT)
    return weights / weights.mean()


class LearnedUncertainty(nn.Module):
    """Log-variances of a level's errors, one curve for each output (Kendall et al. 2018; EDM2 of 2024)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.variance_curve = nn.ModuleList(LevelCurve(UNCERTAINTY_KNOTS, 1.0) for _ in range(outputs))

    def forward(self, errors: Tensor, t: Tensor) -> Tensor:
        """errors (B, outputs) at levels t (B,): (B,), least where the curves are the errors' means by level."""
        variance = torch.stack([curve(t) for curve in self.variance_curve], 1)
        # L / variance + log variance
        return (errors / variance + variance.log()).sum(1)


class LossRecord(nn.Module):
    """Mean square of the loss over bins of the level, kept up as training goes, and levels drawn by it.

    The density of a level is proportional to the root of its bin's mean square, which for losses divided by it has the
    least variance (Nichol and Dhariwal 2021, sec. 3.3). The record is a buffer of the model: it is in checkpoints.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean_square", torch.ones(BINS))
        self.pending = torch.zeros(2, BINS)  # sums and counts of this step on this process

    def density(self) -> Tensor:
        """Density of a level in each bin, mean 1: (bins,)."""
        root = self.mean_square.sqrt()
        return UNIFORM_SHARE + (1 - UNIFORM_SHARE) * root / root.mean()

    def draw(self, u: Tensor) -> Tensor:
        """Levels (B,) on the CPU from numbers u (B,) uniform in [0, 1)."""
        reached = self.density().cpu().cumsum(0) / BINS
        reached = torch.cat([reached.new_zeros(1), reached / reached[-1]])
        return interpolate(u, reached, torch.linspace(0, 1, BINS + 1))

    def divide(self, losses: Tensor, t: Tensor) -> Tensor:
        """Losses (B,) at levels t (B,), each divided by its level's density, and noted."""
        bins = (t * BINS).long().clamp(max=BINS - 1)
        self.pending = self.pending.to(losses.device)
        self.pending[0].index_add_(0, bins, losses.detach().float().square())
        self.pending[1].index_add_(0, bins, torch.ones_like(losses, dtype=torch.float32))
        return losses / self.density()[bins]

    @torch.no_grad()
    def update(self, reduce: Callable[[Tensor, str], Tensor]) -> None:
        """Takes what was noted in a step into the record; reduce(tensor, "sum") adds up over processes."""
        sums, counts = reduce(self.pending, "sum")
        new = torch.where(counts > 0, sums / counts.clamp(min=1), self.mean_square)
        self.mean_square.lerp_(new, 1 - MEMORY)
        self.pending.zero_()


def training_part(options: DiffusionConfig) -> LearnedUncertainty | LossRecord | None:
    """What a denoiser needs while it is trained and not after; ValueError for options that do not go together."""
    if clash := diffusion_clash(options):
        raise ValueError(clash)
    if options.weighting == "learned":
        return LearnedUncertainty(1 if options.prediction == "flow" else 2)
    return LossRecord() if options.levels == "importance" else None

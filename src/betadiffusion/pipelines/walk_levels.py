"""How a denoiser is walked with: the levels of any clock, from its own tables, and the solver's variable."""

import torch
from torch import Tensor

from betadiffusion.clocks import NOISE_POWER, TIME_SHARE, Clock, Path, clock_levels, fit
from betadiffusion.levels import interpolate
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.nn.preconditioning import STEPS
from betadiffusion.samplers import Method, Variable
from betadiffusion.schedules import Schedule

KNOTS = 129
FIT_LATENTS = 64


def solver_method(denoiser: NonlinearDenoiser) -> Method:
    """What suits: Euler where the denoiser is told the level to go to and lands there itself, else "multistep"."""
    return "euler" if denoiser.config.prediction in STEPS else "multistep"


def solver_variable(denoiser: NonlinearDenoiser, method: Method) -> Variable:
    """What suits: standard is the straightest; sigma makes Euler's step the prediction of one trained to land it."""
    return "sigma" if method == "euler" and denoiser.config.prediction in STEPS else "standard"


def walk_levels(
    denoiser: NonlinearDenoiser, schedule: Schedule, clock: Clock, steps: int, start: float = 1.0, end: float = 0.0
) -> Tensor:
    """`steps + 1` levels from start down to end, evenly on a clock: float64; schedule: of the VAE that made the levels.

    "fitted" is measured at the end of training; where it was not, it is now.
    """
    if clock == "uniform":
        return clock_levels(clock, steps, start, end)
    return clock_levels(clock, steps, start, end, denoiser_path(denoiser, schedule, fitted=clock == "fitted"))


def denoiser_path(denoiser: NonlinearDenoiser, schedule: Schedule, *, fitted: bool = False) -> Path:
    """The path of a denoiser, from the moments that its Gaussian part was calibrated with."""
    tables = denoiser.preconditioning
    knots = torch.linspace(0, 1, KNOTS, dtype=torch.float64)

    def at_knots(values: Tensor) -> Tensor:
        own = torch.linspace(0, 1, len(values), dtype=torch.float64)
        return interpolate(knots, own, values.double().cpu())

    readings = (denoiser.config.fitted_clock or fit_clock(denoiser)) if fitted else None
    return Path(
        knots,
        at_knots((tables.f_variance + tables.f_mean.square()).mean(1)),
        at_knots((tables.v_variance + tables.v_mean.square()).mean(1)),
        at_knots(tables.log_sigma).exp(),
        schedule,
        None if readings is None else at_knots(torch.tensor(readings, dtype=torch.float64)),
    )


def fit_clock(
    denoiser: NonlinearDenoiser, time_share: float = TIME_SHARE, noise_power: float = NOISE_POWER
) -> list[float]:
    """Measures the readings of the clock "fitted" at even levels, and keeps them in the denoiser's configuration.

    Three evaluations a step, on 64 latents that are always the same.
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(FIT_LATENTS, *denoiser.config.latent_shape, generator=generator).to(denoiser.device)
    variable = solver_variable(denoiser, solver_method(denoiser))
    fitted = fit(
        denoiser.predict, denoiser.sigma, z, variable=variable, moments=denoiser.moments(),
        time_share=time_share, noise_power=noise_power,
    )  # fmt: skip
    readings: list[float] = fitted[1].tolist()
    denoiser.register_to_config(fitted_clock=readings)
    return readings

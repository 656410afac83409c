"""What the commands that walk have in common: the choices of a sampler, checked."""

from typing import Any, Literal

Method = Literal["euler", "heun", "multistep", "multistep3"]
Variable = Literal["t", "sigma", "log_snr", "standard"]
Clock = Literal["uniform", "log_snr", "rate_linear", "path_length", "fitted", "beta_linear", "beta_sinusoidal"]

DEFAULTS: dict[str, Any] = {
    "steps": 20, "method": None, "variable": None, "eta": 0.0, "churn": 0.0, "clock": "fitted", "end": 0.0,
}  # fmt: skip


def walking_options(
    steps: int, method: Method | None, variable: Variable | None, eta: float, churn: float, clock: Clock, end: float
) -> dict[str, Any]:
    """Options of `BetaDiffusionPipeline.walk`; ValueError for numbers that cannot be."""
    if steps < 1:
        raise ValueError(f"--steps must be positive, not {steps}")
    if not 0 <= eta < float("inf"):
        raise ValueError(f"--eta must not be negative, not {eta}")
    if not 0 <= churn < float("inf"):
        raise ValueError(f"--churn must not be negative, not {churn}")
    if not 0 <= end < 1:
        raise ValueError(f"--end must be a level from 0 to below 1, not {end}")
    values = (steps, method, variable, eta, churn, clock, end)
    return dict(zip(DEFAULTS, values, strict=True))


def check_end(end: float, level: float) -> None:
    """ValueError for a walk that would not go down; level 0, which is there already, may be asked for."""
    if end and end >= level:
        raise ValueError(f"--end must be below the level that is walked from, {level:g}, not {end:g}")


def no_effect(without: str, *others: str) -> ValueError:
    """The refusal of options of the walk where nothing walks."""
    *names, last = [f"--{name}" for name in (*DEFAULTS, *others)]
    return ValueError(f"{', '.join(names)} and {last} have no effect {without}")


def check_seed(seed: int) -> None:
    """ValueError for what no generator takes."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed must be from 0 to 2^63 - 1, not {seed}")


def cost(method: Method | None, steps: int, guidance: float = 1.0) -> str:
    """What one image costs, in words; what a denoiser walks by itself, None, costs one evaluation a step."""
    from betadiffusion.samplers import evaluations

    count = evaluations(method or "multistep", steps)
    twice = "" if guidance == 1 else ", where guidance acts of twice the cost"
    return f"{count} network evaluation{'s' * (count > 1)} each{twice}"

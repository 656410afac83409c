"""What the commands that walk have in common: how images are walked down, and towards what."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline

Method = Literal["euler", "heun", "multistep", "multistep3"]
Variable = Literal["t", "sigma", "log_snr", "standard"]
Clock = Literal["uniform", "log_snr", "rate_linear", "path_length", "fitted", "beta_linear", "beta_sinusoidal"]

EVERY_LEVEL = (0.0, 1.0)
ASKED_BY = {"labels": "--class", "attributes": "--attribute", "text": "--text"}


@dataclass(frozen=True, kw_only=True)
class Walking:
    """How the diffusion walks images down, and towards what.

    Raises ValueError, in the words of the command line, for numbers that cannot be and for conditions that do not go
    together.

    Args:
        class_: the class to walk to, a name or a number, in a run with condition.kind "labels".
        attribute: attributes to have, NAME=1, or not to have, NAME=0, in a run with condition.kind "attributes".
        text: a description, in a run with condition.kind "text".
        guidance: how much more than the condition alone, which is 1; each step then costs twice as much.
        guidance_interval: levels between which guidance acts, as "0.2 0.8".
        end: level to walk to, and to decode at.
        steps: steps of the walk; "heun" takes two network evaluations in each, the others one.
        method: euler, heun, multistep (order 2) or multistep3 (order 3); by default multistep, but euler for a denoiser
            that is told the level to go to (any_step, flow_map).
        variable: what the steps are polynomials in: t, sigma, log_snr or standard; by default what suits.
        eta: share of fresh noise: 0 for none (an ODE), 1 for the posterior of Eq. 15.
        churn: steps to climb, under fresh noise, before each step down; 0 for none.
        clock: what the levels are even in: uniform, log_snr, rate_linear, path_length, fitted (to Euler's error,
            measured after training), or the beta of a schedule of the paper: beta_linear, beta_sinusoidal.
    """

    class_: str | None = None
    attribute: tuple[str, ...] = ()
    text: str | None = None
    guidance: float = 1.0
    guidance_interval: tuple[float, ...] = EVERY_LEVEL
    end: float = 0.0
    steps: int = 20
    method: Method | None = None
    variable: Variable | None = None
    eta: float = 0.0
    churn: float = 0.0
    clock: Clock = "fitted"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"--steps must be positive, not {self.steps}")
        for name, share in (("eta", self.eta), ("churn", self.churn)):
            if not 0 <= share < float("inf"):
                raise ValueError(f"--{name} must not be negative, not {share}")
        if not 0 <= self.end < 1:
            raise ValueError(f"--end must be a level from 0 to below 1, not {self.end}")
        if len(self.condition) > 1:
            raise ValueError("only one of --class, --attribute and --text can be asked for")
        if len(self.guidance_interval) != 2:
            raise ValueError(f"--guidance-interval is two levels, not {len(self.guidance_interval)}")
        if not self.condition and (self.guidance != 1 or self.guidance_interval != EVERY_LEVEL):
            raise ValueError("--guidance needs --class, --attribute or --text")
        if not -float("inf") < self.guidance < float("inf"):
            raise ValueError(f"--guidance must be a finite number, not {self.guidance}")

    @property
    def condition(self) -> dict[str, Any]:
        """What is asked for, by the kind of a run's conditions."""
        given = {"labels": self.class_, "attributes": _attributes(self.attribute) or None, "text": self.text}
        return {kind: value for kind, value in given.items() if value is not None}

    def options(self, pipeline: "BetaDiffusionPipeline") -> dict[str, Any]:
        """Options of `BetaDiffusionPipeline.walk`; ValueError where the run's conditions are of another kind."""
        names = ("end", "steps", "method", "variable", "eta", "churn", "clock")
        walk = {name: getattr(self, name) for name in names}
        for kind, value in self.condition.items():
            trained = pipeline.denoiser.condition_spec
            if trained is None:
                raise ValueError(f"{ASKED_BY[kind]} cannot be asked for: this run was trained without conditions")
            if trained.kind != kind:
                raise ValueError(f"{ASKED_BY[kind]} cannot be asked for: this run was trained to be asked by "
                                 f"{ASKED_BY[trained.kind]}")  # fmt: skip
            walk |= {"condition": value, "guidance": self.guidance, "guidance_interval": self.guidance_interval}
        return walk

    def refuse(self, why: str, **others: bool) -> None:
        """ValueError that names what is asked for where nothing walks, and of `others` what is given; `why` ends it."""
        asked = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
        names = [f"--{name.rstrip('_').replace('_', '-')}" for name in (*asked, *(k for k, v in others.items() if v))]
        if names:
            *first, last = names
            words = f"{', '.join(first)} and {last} have" if first else f"{last} has"
            raise ValueError(f"{words} no effect {why}")

    @property
    def cost(self) -> str:
        """What one image costs, in words; what a denoiser walks by itself, None, costs one evaluation a step."""
        from betadiffusion.samplers import evaluations

        count = evaluations(self.method or "multistep", self.steps)
        twice = "" if self.guidance == 1 else ", where guidance acts of twice the cost"
        return f"{count} network evaluation{'s' * (count > 1)} each{twice}"


def check_end(end: float, level: float) -> None:
    """ValueError for a walk that would not go down; level 0, which is there already, may be asked for."""
    if end and end >= level:
        raise ValueError(f"--end must be below the level that is walked from, {level:g}, not {end:g}")


def check_seed(seed: int) -> None:
    """ValueError for what no generator takes."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed must be from 0 to 2^63 - 1, not {seed}")


def _attributes(words: Sequence[str]) -> dict[str, int]:
    """NAME=1 or NAME=0, each, as a dictionary."""
    found: dict[str, int] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value in ("0", "1")):
            raise ValueError(f"--attribute is NAME=1 or NAME=0, not {word!r}")
        if name in found:
            raise ValueError(f"--attribute names {name!r} twice")
        found[name] = int(value)
    return found

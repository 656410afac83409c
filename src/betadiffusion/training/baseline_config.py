"""Hyperparameters of the baselines; what each reads, and its paper's values, are in `baselines/presets.py`."""

from dataclasses import dataclass
from typing import Literal

BaselineName = Literal["ae", "l2_ae", "vae", "beta_vae"]


@dataclass
class BaselineConfig:
    """What to change in a baseline (None: as its paper has it); a key that the chosen model does not read is refused.

    Args:
        likelihood: of the decoder: "bernoulli" of pixels in [0, 1], "gaussian" with a standard deviation of one in
            [0, 1] (half the squared error), or "learned", a Gaussian with a learned standard deviation, as in Eq. 4.
        beta: weight of the KL, both summed.
        l2: weight of the squared norm of the code.
    """

    likelihood: Literal["bernoulli", "gaussian", "learned"] | None = None
    beta: float | None = None
    l2: float | None = None

"""What each baseline is, where it comes from and its paper's hyperparameters. The command line reads it: no torch here.

Weights are for terms that are summed over pixels and latent dimensions, as everywhere in this library.
"""

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any, get_args

from betadiffusion.training.baseline_config import BaselineConfig, BaselineName


@dataclass(frozen=True)
class Preset:
    """A baseline: module and class in this package, the keys of section `baseline` that it reads, and its stages.

    `whole_batch`: its loss counts on a batch as a whole, which therefore cannot be cut in parts.
    """

    place: str
    source: str
    arguments: dict[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = ("baseline",)
    whole_batch: bool = False


VAE = {"likelihood": "bernoulli", "beta": 1.0}
PRESETS: dict[str, Preset] = {
    "ae": Preset("autoencoder:AutoEncoder", "Hinton and Salakhutdinov 2006", {"likelihood": "bernoulli"}),
    "l2_ae": Preset(
        "autoencoder:AutoEncoder",
        "Ghosh et al. 2020 (1903.12436), RAE-L2: 1/2 |z|^2 at a weight of 1e-4 per pixel's mean, scaled to sums",
        {"likelihood": "gaussian", "l2": 0.5},
    ),
    "vae": Preset("vae:VAE", "Kingma and Welling 2014 (1312.6114)", VAE),
    "beta_vae": Preset(
        "vae:VAE", "Higgins et al. 2017; beta 4 as in disentanglement_lib (Locatello et al. 2019)", VAE | {"beta": 4.0}
    ),
}
BACKBONE = (  # keys of section `vae` that baselines read
    "preset", "latent_channels", "channels", "layers_per_block", "attention_resolutions", "activation", "dropout",
)  # fmt: skip


def is_baseline(model: str) -> bool:
    """Whether a run's `model` is a baseline."""
    return model in get_args(BaselineName)


def baseline_arguments(model: str, config: BaselineConfig) -> dict[str, Any]:
    """Hyperparameters of a baseline: its paper's, with those that are configured in their place.

    Raises ValueError for a key that it does not read.
    """
    known = PRESETS[model].arguments
    given = {key: value for key, value in dataclasses.asdict(config).items() if value is not None}
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            reads = f"did you mean baseline.{near[0]}?" if near else "it has none"
            raise ValueError(f"baseline.{key} has no effect with model {model!r}: {reads}")
    return {**known, **given}

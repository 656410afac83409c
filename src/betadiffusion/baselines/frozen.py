"""Baselines on a trained model that stays as it is: of another run, whose folder is key `base`."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from betadiffusion.baselines.base import Baseline
from betadiffusion.baselines.runs import class_named
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.training.models import description, load_trained


class OnFrozen(Baseline):
    """A baseline with a model `frozen`, which is saved with the rest."""

    def freeze(self, base: str | dict[str, Any]) -> None:
        """Makes `frozen` as the model of a run's folder, or as what `describe` says of it; ValueError without one."""
        described = describe(Path(base)) if isinstance(base, str) else dict(base)
        self.register_to_config(base=described)
        # not `base`, a key of the configuration
        self.frozen = model_class(described["class"]).from_config(described["config"])

    @torch.no_grad()
    def prepare(self, stage: str, x: Tensor) -> None:
        """Before training: the weights of the base. ValueError where it is for other images."""
        super().prepare(stage, x)
        if self.frozen.image_shape != self.image_shape:
            raise ValueError(f"baseline.base is for images {self.frozen.image_shape}, not {self.image_shape}")
        trained = load_trained(type(self.frozen), Path(self.config.base["folder"]))
        self.frozen.load_state_dict(trained.state_dict())
        self.frozen.requires_grad_(False)

    def train(self, mode: bool = True) -> "OnFrozen":
        super().train(mode)
        self.frozen.eval()
        return self


def describe(run: Path) -> dict[str, Any]:
    """Class, configuration and folder of the trained model of a run; ValueError without one, or a damaged one."""
    for folder in (run / "baseline" / "model", run / "vae" / "model"):
        if folder.is_dir():
            config = description(folder)
            plain = {key: value for key, value in config.items() if not key.startswith("_")}
            return {"class": config["_class_name"], "config": plain, "folder": str(folder)}
    which = f"which {run} is not" if run != Path() else "and none is given"
    raise ValueError(f"baseline.base must be the folder of a run with a trained VAE or baseline, {which}")


def model_class(name: str) -> Any:
    """The class of a trained model by its name."""
    if name == "MultiBetaVAE":
        return MultiBetaVAE
    if name == "BetaDiffusionAutoencoder":
        from betadiffusion.models.beta_diffusion import BetaDiffusionAutoencoder

        return BetaDiffusionAutoencoder
    return class_named(name)

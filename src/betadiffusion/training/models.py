"""Both kinds of autoencoder, and the denoiser over them, as a run's configuration asks for them."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.utils import logging
from torch import Tensor, nn

from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.presets import beta_diffusion_preset, denoiser_preset, vae_preset
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.nn.condition import ConditionSpec
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.training.config import RunConfig, autoencoder, chosen, denoiser_name

if TYPE_CHECKING:
    from betadiffusion.models.beta_diffusion import BetaDiffusionAutoencoder

Autoencoder: TypeAlias = Union[MultiBetaVAE, "BetaDiffusionAutoencoder"]


def image_size(config: RunConfig) -> int:
    """Side of the images of a run, in pixels: the configured one, or the preset's."""
    preset = beta_diffusion_preset if config.model == "beta_diffusion" else vae_preset
    return config.data.size or preset(autoencoder(config).preset)["sample_size"]


def build_vae(config: RunConfig, image_shape: tuple[int, int, int], pretrained: bool = True) -> Autoencoder:
    """The autoencoder that a run's configuration asks for, untrained, for images (C, H, W).

    A pretrained encoder has its weights; without `pretrained` it is the same network with random ones.
    """
    channels, size, _ = image_shape
    changes = chosen(autoencoder(config)) | {"in_channels": channels, "sample_size": size}
    if config.model == "multi_beta_vae":
        return MultiBetaVAE(**vae_preset(config.vae.preset, **changes))
    from betadiffusion.models.beta_diffusion import BetaDiffusionAutoencoder

    arguments = beta_diffusion_preset(config.beta_diffusion.preset, **changes)
    encoder = arguments.pop("encoder")
    if isinstance(encoder, dict):
        return BetaDiffusionAutoencoder(encoder, **arguments)
    if pretrained:
        return BetaDiffusionAutoencoder.from_encoder(encoder, **arguments)
    return BetaDiffusionAutoencoder(_architecture(encoder), **arguments)


def _architecture(name_or_path: str) -> dict[str, Any]:
    """Configuration of a pretrained encoder, a hub id or a local folder."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name_or_path).to_diff_dict()
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"no encoder can be had from {name_or_path}, as a hub id or a local folder: {reason}"
        ) from error


def build_denoiser(config: RunConfig, vae: Autoencoder, condition: ConditionSpec | None = None) -> NonlinearDenoiser:
    """The denoiser that a run's configuration asks for, untrained, between the levels of `vae`."""
    shape = {"latent_shape": vae.latent_shape, "sigma_knots": vae.config.knots}
    asked = None if condition is None else dataclasses.asdict(condition)
    made = shape | {"prediction": config.diffusion.prediction, "condition": asked}
    return NonlinearDenoiser(**denoiser_preset(denoiser_name(config), **chosen(config.denoiser), **made))


def load_trained(kind: type[Any], folder: Path) -> Any:
    """A diffusers model or pipeline from safetensors and JSON in a folder; ValueError where they cannot be read."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # or else every weight that is missing is listed
    try:
        found = kind.from_pretrained(folder, use_safetensors=True)
        parts = found.components.values() if hasattr(found, "components") else [found]
        if any(weight.is_meta for part in parts if isinstance(part, nn.Module) for weight in part.parameters()):
            raise ValueError("weights are missing")
    except (OSError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].partition(". If you want to")[0]  # advice of diffusers'
        raise ValueError(f"{folder} cannot be read, since it is damaged or of another version ({reason})") from error
    finally:
        logging.set_verbosity(verbosity)
    return found


def description(folder: Path) -> dict[str, Any]:
    """What config.json says of a saved model, `_class_name` and arguments; ValueError where it is damaged."""
    try:
        found = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}/config.json is not that of a model ({error})") from error
    if not isinstance(found, dict) or "_class_name" not in found:
        raise ValueError(f"{folder}/config.json is not that of a model: it names no class")
    return found


def load_pipeline(run_folder: Path) -> BetaDiffusionPipeline:
    """The pipeline of a run; ValueError where there is none, or it cannot be read."""
    if not (run_folder / "pipeline").is_dir():
        raise ValueError(f"{run_folder} has no trained pipeline yet: run stage 'diffusion' there first")
    return load_trained(BetaDiffusionPipeline, run_folder / "pipeline")


def load_vae(run_folder: Path) -> Autoencoder:
    """The trained autoencoder of a run; ValueError where stage "vae" has not been finished there, or is damaged."""
    folder = run_folder / "vae" / "model"
    if not folder.is_dir():
        raise ValueError(f"{run_folder} has no trained VAE yet: run stage 'vae' there first")
    if description(folder)["_class_name"] == "MultiBetaVAE":
        return load_trained(MultiBetaVAE, folder)
    from betadiffusion.models.beta_diffusion import BetaDiffusionAutoencoder

    return load_trained(BetaDiffusionAutoencoder, folder)


def settings(model: ConfigMixin) -> dict[str, Any]:
    """The constructor arguments of a model, without what diffusers notes beside them."""
    return {key: value for key, value in model.config.items() if not key.startswith("_")}


@torch.no_grad()
def seen(vae: Autoencoder, x: Tensor) -> Tensor:
    """What an encoder makes of images x whatever the level: a ViT its features, which cost most; others x itself."""
    return vae.features(x) if hasattr(vae, "features") else x


def mean_of(vae: Autoencoder, given: Tensor, t: Tensor) -> Tensor:
    """f(x,t) from given = seen(vae, x); t (B,) or ()."""
    return posterior_of(vae, given, t)[0]


def posterior_of(vae: Autoencoder, given: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sigma of q(z|x;t) from given = seen(vae, x), both like the latent; t (B,) or ()."""
    return vae.posterior_of(given, t) if hasattr(vae, "features") else vae.posterior(given, t)

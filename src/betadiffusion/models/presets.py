"""Named sets of constructor arguments for the models, explained in docs/presets.md.

A VAE and a denoiser of the same name fit together, the denoiser "dit" and beta-Diffusion's "scratch32" and "scratch64".
This file imports no torch, so that the command line can read it.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypedDict


class VAEArguments(TypedDict, total=False):
    """Arguments of `MultiBetaVAE`: sizes in pixels, one entry of `channels` per resolution."""

    sample_size: int
    in_channels: int
    latent_channels: int
    block: str
    channels: tuple[int, ...]
    layers_per_block: int
    attention_resolutions: tuple[int, ...]
    embedding_dim: int
    activation: str
    dropout: float
    schedule: str
    beta_min: float
    beta_max: float | None
    boundary: bool
    knots: int
    sigma_from: str
    level_channels: int
    channel_noise: bool
    gates: bool


class DenoiserArguments(TypedDict, total=False):
    """Arguments of `NonlinearDenoiser`: `width` and `depth` for MLP and DiT, the four after them for the U-Net."""

    latent_shape: tuple[int, int, int]
    architecture: str
    width: int
    depth: int
    channels: tuple[int, ...]
    layers_per_block: int
    attention_resolutions: tuple[int, ...]
    head_dim: int | None
    activation: str
    dropout: float
    knots: int
    sigma_knots: int
    prediction: str
    condition: dict[str, Any] | None
    fitted_clock: Sequence[float] | None


class BetaDiffusionArguments(TypedDict, total=False):
    """Arguments of `BetaDiffusionAutoencoder`; where `encoder` is a hub id or a folder, of its `from_encoder`."""

    encoder: dict[str, Any] | str | None
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    sample_size: int
    in_channels: int
    latent_channels: int
    modulator_depth: int
    modulator_width: int | None
    decoder: str
    decoder_depth: int
    decoder_width: int | None
    head_dim: int
    beta_min: float
    beta_max: float
    sigma_from: str
    sigma_min: float
    boundary: bool
    knots: int
    train_encoder: bool
    balance: bool


VAE_PRESETS: dict[str, VAEArguments] = {
    "demo": {
        "sample_size": 32,
        "in_channels": 3,
        "latent_channels": 32,
        "block": "conv",
        "channels": (32, 64, 128),
        "embedding_dim": 128,
        "schedule": "log_beta",  # spreads the rate evenly over the levels
        "sigma_from": "image",
        "channel_noise": True,
        "level_channels": 16,
        "gates": True,
    },
    "toy": {  # paper, C.1.2
        "sample_size": 64,
        "in_channels": 3,
        "latent_channels": 32,
        "block": "conv",
        "channels": (64, 64, 128, 256),
        "embedding_dim": 256,
        "schedule": "linear",
        "level_channels": 16,
    },
    "celeba64": {  # Table 4
        "sample_size": 64,
        "in_channels": 3,
        "latent_channels": 4,
        "block": "resnet",
        "channels": (32, 64, 128),
        "layers_per_block": 2,
        "attention_resolutions": (),
        "embedding_dim": 128,
        "schedule": "linear",  # Table 5
    },
    "ldm256": {  # C.1.3; the text's attention at 16x16 does not occur between 256x256 and 32x32
        "sample_size": 256,
        "in_channels": 3,
        "latent_channels": 4,
        "block": "resnet",
        "channels": (128, 256, 512, 768),
        "layers_per_block": 2,
        "attention_resolutions": (),
        "embedding_dim": 512,
        "schedule": "sinusoidal",
    },
}

DENOISER_PRESETS: dict[str, DenoiserArguments] = {
    "demo": {"latent_shape": (32, 1, 1), "architecture": "mlp", "width": 256, "depth": 4},
    "toy": {"latent_shape": (32, 1, 1), "architecture": "mlp", "width": 256, "depth": 4},
    "celeba64": {  # Table 5, whose attention resolutions [1, 2, 4] are down-factors of the 16x16 latent
        "latent_shape": (4, 16, 16),
        "architecture": "unet",
        "channels": (64, 128, 256, 256),
        "layers_per_block": 2,
        "attention_resolutions": (16, 8, 4),
        "head_dim": None,  # 8 heads at every resolution
    },
    "ldm256": {  # Table 6, whose attention resolutions 32, 16, 8, read as down-factors too, match none of 1, 2, 4
        "latent_shape": (4, 32, 32),
        "architecture": "unet",
        "channels": (256, 768, 1280),
        "layers_per_block": 2,
        "attention_resolutions": (),
        "head_dim": 32,
    },
    "dit": {  # for the tokens of beta-Diffusion
        "latent_shape": (16, 8, 8),
        "architecture": "dit",
        "width": 256,
        "depth": 6,
        "head_dim": 64,
    },
}


def _scratch(size: int, width: int = 192, depth: int = 6) -> BetaDiffusionArguments:
    """A ViT with heads of 64 dimensions on an 8x8 grid, trained with everything else."""
    return {
        "encoder": {
            "model_type": "vit",
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": width // 64,
            "intermediate_size": 4 * width,
            "image_size": size,
            "patch_size": size // 8,
        },
        "sample_size": size,
        "latent_channels": 16,
        "modulator_depth": 2,
        "modulator_width": min(width, 128),
        "decoder": "attention",  # token by token, beta above twice a patch's first variance shuts everything
        "decoder_depth": 2,
        "train_encoder": True,
    }


# Modulator and decoder cost a third of the encoder's pass or less, so that cached features are worth having.
_BESIDE: dict[str, BetaDiffusionArguments] = {
    "small": {"modulator_width": 256, "decoder_width": 256, "decoder_depth": 2},
    "base": {"modulator_width": 384, "decoder_width": 512, "decoder_depth": 4},
    "large": {"modulator_width": 512, "decoder_width": 768, "decoder_depth": 4},
}


def _pretrained(hub_id: str) -> BetaDiffusionArguments:
    """A frozen encoder from the hub at its own resolution."""
    return {
        "encoder": hub_id,
        "sample_size": 224,
        "latent_channels": 32,
        "modulator_depth": 2,
        "decoder": "mlp",
        "train_encoder": False,
        **_BESIDE[hub_id.rpartition("-")[2]],
    }


BETA_DIFFUSION_PRESETS: dict[str, BetaDiffusionArguments] = {
    "tiny32": _scratch(32, width=64, depth=4),
    "tiny64": _scratch(64, width=64, depth=4),
    "scratch32": _scratch(32),
    "scratch64": _scratch(64),
    "dinov2-s": _pretrained("facebook/dinov2-small"),
    "dinov2-b": _pretrained("facebook/dinov2-base"),
    "dinov2-l": _pretrained("facebook/dinov2-large"),
    "dinov2-s-registers": _pretrained("facebook/dinov2-with-registers-small"),
    "dinov2-b-registers": _pretrained("facebook/dinov2-with-registers-base"),
    "dinov2-l-registers": _pretrained("facebook/dinov2-with-registers-large"),
    "mae-b": _pretrained("facebook/vit-mae-base"),
    "mae-l": _pretrained("facebook/vit-mae-large"),
}

NO_EFFECT: dict[str, tuple[str, ...]] = {  # arguments of another design
    "conv": ("layers_per_block", "attention_resolutions", "dropout"),
    "mlp": ("channels", "layers_per_block", "attention_resolutions", "head_dim", "activation"),
    "unet": ("width", "depth"),
    "dit": ("channels", "layers_per_block", "attention_resolutions", "activation"),
    "level": ("sigma_min",),
}


def vae_preset(name: str, **overrides: Any) -> dict[str, Any]:
    """Arguments of `MultiBetaVAE` for the preset `name`, with `overrides` replacing or adding some.

    Raises ValueError, naming the nearest, for an unknown preset or argument.
    """
    return _preset("VAE", VAE_PRESETS, VAEArguments.__annotations__, "block", name, overrides)


def denoiser_preset(name: str, **overrides: Any) -> dict[str, Any]:
    """Arguments of `NonlinearDenoiser` for the preset `name`, with `overrides` replacing or adding some.

    Raises ValueError, naming the nearest, for an unknown preset or argument.
    """
    return _preset("denoiser", DENOISER_PRESETS, DenoiserArguments.__annotations__, "architecture", name, overrides)


def beta_diffusion_preset(name: str, **overrides: Any) -> dict[str, Any]:
    """Arguments of `BetaDiffusionAutoencoder` for the preset `name`, with `overrides` replacing or adding some.

    Where "encoder" is a string they are those of its `from_encoder`, "encoder" the first.
    Raises ValueError, naming the nearest, for an unknown preset or argument.
    """
    known = BetaDiffusionArguments.__annotations__
    return _preset("beta-Diffusion", BETA_DIFFUSION_PRESETS, known, "sigma_from", name, overrides)


def _preset(
    kind: str,
    presets: Mapping[str, Mapping[str, Any]],
    arguments: Collection[str],
    design_argument: str,
    name: str,
    overrides: dict[str, Any],
) -> dict[str, Any]:
    _check(f"{kind} preset", name, presets)
    merged = {**presets[name], **overrides}
    design = merged.get(design_argument, "")
    for key in overrides:
        _check(f"{kind} argument", key, arguments)
        if key in NO_EFFECT.get(design, ()):
            raise ValueError(f"{key!r} has no effect with {design!r} ({kind} preset {name!r}): leave it out")
    return merged


def _check(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise ValueError(f"unknown {what} {name!r}: did you mean {near[0]!r}? Known: {', '.join(known)}")

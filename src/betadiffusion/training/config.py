"""Typed configuration of a run; its defaults are the demo. No torch here: the command line reads it for --help."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

Precision = Literal["auto", "fp32", "bf16"]
Tracker = Literal["tensorboard", "wandb"]
Stage = Literal["vae", "diffusion", "report"]


@dataclass
class DataConfig:
    """Which images to train on.

    Args:
        source: "shapes", "dsprites", "fashion-mnist", or the path of a folder, a zip or a file; published sets are
            known by their layout, or named before the path, as in "coil20:PATH" (`betadiffusion data --help`).
        size: side of the square images, in pixels; None for the VAE preset's.
        channels: 1 for grey, 3 for colour; None for what the source has.
        limit: use at most so many images, held-out ones included, chosen at random; None for all.
        held_out: images kept from training, for validation and the report; of small sets at most a fifth.
    """

    source: str = "shapes"
    size: int | None = None
    channels: Literal[1, 3] | None = None
    limit: int | None = 22_000
    held_out: int = 2_000


@dataclass
class VAEConfig:
    """The multi-beta VAE: a preset, and what to change in it (None: as the preset has it).

    Args:
        preset: "demo", "toy" (paper C.1.2), "celeba64" (Table 4) or "ldm256" (C.1.3).
        latent_channels: dimensions of a vector latent, channels of a spatial one.
        channels: channels of each resolution.
        layers_per_block: residual blocks of each resolution ("resnet" presets).
        attention_resolutions: grid sides with attention ("resnet" presets).
        embedding_dim: width of the level's embedding.
        activation: "silu", or "sigmoid" as the paper prints.
        dropout: share dropped in residual blocks ("resnet" presets).
        schedule: weights of Eq. 4 over the level: "sinusoidal", "linear" or "log_beta".
        beta_min: least beta of "log_beta".
        beta_max: greatest beta of "log_beta"; a quarter of an image's pixel values where nothing is said.
        boundary: f(x,1) = 0 and sigma(1) = 1 by construction.
        knots: knots of the learned curves sigma(t) and s(t).
    """

    preset: Literal["demo", "toy", "celeba64", "ldm256"] = "demo"
    latent_channels: int | None = None
    channels: list[int] | None = None
    layers_per_block: int | None = None
    attention_resolutions: list[int] | None = None
    embedding_dim: int | None = None
    activation: Literal["silu", "sigmoid"] | None = None
    dropout: float | None = None
    schedule: Literal["sinusoidal", "linear", "log_beta"] | None = None
    beta_min: float | None = None
    beta_max: float | None = None
    boundary: bool | None = None
    knots: int | None = None


@dataclass
class DenoiserConfig:
    """The denoiser: a preset, and what to change in it (None: as the preset has it).

    Args:
        preset: "demo" or "toy" (MLP), "celeba64" (Table 5) or "ldm256" (Table 6); None for the VAE's.
        width: hidden width of the MLP.
        depth: residual blocks of the MLP.
        channels: channels of each resolution of the U-Net.
        layers_per_block: residual blocks of each resolution of the U-Net.
        attention_resolutions: sides of the latent grid with attention in the U-Net.
        head_dim: channels of an attention head.
        activation: "silu" or "sigmoid" (U-Net).
        dropout: share dropped in blocks.
    """

    preset: Literal["demo", "toy", "celeba64", "ldm256"] | None = None
    width: int | None = None
    depth: int | None = None
    channels: list[int] | None = None
    layers_per_block: int | None = None
    attention_resolutions: list[int] | None = None
    head_dim: int | None = None
    activation: Literal["silu", "sigmoid"] | None = None
    dropout: float | None = None


@dataclass
class OptimisationConfig:
    """Optimisation of one stage; progress is counted in images seen.

    Args:
        images: images to train on, repeats counted.
        batch_size: images of one optimiser step, over all processes.
        accumulation: parts a process computes its share of a batch in; the result is the same, the memory smaller.
        learning_rate: peak rate of AdamW, reached after warm-up and let down to 0 by a cosine.
        curve_rate: rate of the learned curves sigma(t) and s(t), as a multiple of learning_rate.
        adam_betas: decay of AdamW's two moments.
        weight_decay: AdamW's, for the networks; the curves have none.
        warmup_images: images over which the rate rises.
        clip_norm: greatest norm of the gradient.
        ema_images: half-life of the averaged weights, in images; shorter at first (a tenth of the images seen).
        validate_images: images between validations.
        checkpoint_images: images between checkpoints: the most that a kill can lose.
        keep_checkpoints: newest checkpoints kept.
    """

    images: int = 320_000
    batch_size: int = 128
    accumulation: int = 1
    learning_rate: float = 2e-3
    curve_rate: float = 10.0
    adam_betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup_images: int = 12_800
    clip_norm: float = 1.0
    ema_images: int = 20_000
    validate_images: int = 80_000
    checkpoint_images: int = 40_000
    keep_checkpoints: int = 2


@dataclass
class CacheConfig:
    """Cache of the encoder's means on a grid of levels, for stage "diffusion".

    Args:
        levels: levels of the grid, evenly spaced; 0 for no cache: encode at every step.
        limit_gb: most that the cache may take on disk; a larger one is not built, and every step encodes.
        tolerance: greatest error of an interpolated mean, rms in units of sigma(t), before the cache is refused.
    """

    levels: int = 25
    limit_gb: float = 50.0
    tolerance: float = 0.25


@dataclass
class ReportConfig:
    """What the report measures.

    Args:
        count: held-out images, and samples, behind every number.
        levels: levels of the reconstruction grid.
        features: behind the Frechet distances: "effnet" (EfficientNet-lite0), "classifier" (of the factors or labels,
            trained for the report), or "auto": the classifier where factors or labels are known.
        feature_size: side at which EfficientNet sees the images, in pixels.
    """

    count: int = 1_000
    levels: list[float] = field(default_factory=lambda: [0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    features: Literal["auto", "classifier", "effnet"] = "auto"
    feature_size: int = 64


def _diffusion_defaults() -> OptimisationConfig:
    return OptimisationConfig(
        images=800_000, batch_size=256, learning_rate=1e-3, ema_images=40_000, validate_images=400_000,
        checkpoint_images=150_000,
    )  # fmt: skip


@dataclass
class RunConfig:
    """A whole run: data, both models, both stages of training, the report.

    Args:
        data: which images.
        vae: the multi-beta VAE.
        denoiser: the denoiser between levels.
        vae_training: optimisation of stage "vae".
        diffusion_training: optimisation of stage "diffusion", with the VAE frozen.
        cache: cache of latents for stage "diffusion".
        report: what the report measures.
        stages: which stages to run, in this order.
        seed: of everything random.
        precision: "bf16" or "fp32" arithmetic of the networks; "auto" is bf16 where the hardware has it.
        cpu: stay on the CPU even where there is a GPU.
        trackers: also log to "tensorboard" (in the run's folder) or "wandb".
        out: the run's folder.
        resume: "auto" goes on from the newest checkpoint in `out`, "never" starts again, or a checkpoint's folder.
    """

    data: DataConfig = field(default_factory=DataConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    vae_training: OptimisationConfig = field(default_factory=OptimisationConfig)
    diffusion_training: OptimisationConfig = field(default_factory=_diffusion_defaults)
    cache: CacheConfig = field(default_factory=CacheConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    stages: list[Stage] = field(default_factory=lambda: ["vae", "diffusion", "report"])
    seed: int = 0
    precision: Precision = "auto"
    cpu: bool = False
    trackers: list[Tracker] = field(default_factory=list)
    out: str = "runs/demo"
    resume: str = "auto"


def chosen(config: VAEConfig | DenoiserConfig) -> dict[str, Any]:
    """The fields that override the preset: those that are not None."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k != "preset" and v is not None}

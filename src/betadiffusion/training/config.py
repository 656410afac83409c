"""Typed configuration of a run; its defaults are the demo's. No torch here: the command line reads it for --help."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from betadiffusion.training.baseline_config import BaselineConfig, BaselineName

Precision = Literal["auto", "fp32", "bf16"]
Tracker = Literal["tensorboard", "wandb"]
Stage = Literal["vae", "diffusion", "joint", "decoder", "report", "baseline", "prior"]
BetaDiffusionPreset = Literal[
    "tiny32", "tiny64", "scratch32", "scratch64", "dinov2-s", "dinov2-b", "dinov2-l", "dinov2-s-registers",
    "dinov2-b-registers", "dinov2-l-registers", "mae-b", "mae-l",
]  # fmt: skip
Model = Literal["multi_beta_vae", "beta_diffusion", BaselineName]


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
        sigma_from: sigma of the posterior from the "level" alone, as the paper has it; from the level and the
            "channel", one for each; or from the "image", one for each dimension.
        level_channels: channels of the level's embedding that the decoder gets beside the latent.
        channel_noise: where sigma_from is "image", whether the diffusion's noise is that of each channel, whose walks
            keep what the VAE keeps, or the same for all, whose new images are nearer to real ones, most in few steps.
        gates: the level scales and shifts each channel of the latent, where it leaves the encoder and where it enters
            the decoder, so that a channel can be shut at one level and open at another.
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
    sigma_from: Literal["level", "channel", "image"] | None = None
    level_channels: int | None = None
    channel_noise: bool | None = None
    gates: bool | None = None


@dataclass
class BetaDiffusionConfig:
    """beta-Diffusion: a preset, and what to change in it (None: as the preset has it).

    Args:
        preset: "tiny32", "tiny64", "scratch32" or "scratch64", small ViTs trained with the rest, or a frozen encoder:
            "dinov2-s", "-b" or "-l", each also with "-registers", "mae-b" or "mae-l".
        encoder: a pretrained ViT, DeiT, DINOv2 or MAE instead of the preset's, a hub id or a local folder.
        latent_channels: dimensions of the latent of each token.
        modulator_depth: DiT blocks of the modulator.
        decoder: "mlp" (token by token) or "attention".
        decoder_depth: blocks of the decoder.
        decoder_width: width of the decoder.
        beta_min: least beta, at level 0.
        beta_max: greatest beta, at level 1.
        sigma_from: sigma of the posterior from the "image" and the level, or from the "level" alone.
        boundary: f(x,1) = 0 and sigma(1) = 1 by construction; with sigma_from "level".
        train_encoder: train the encoder too, at vae_training.encoder_rate; else it is frozen.
        balance: divide the KL's weight by 2 s(t)^2, so that gradients have one scale over beta.
    """

    preset: BetaDiffusionPreset = "scratch32"
    encoder: str | None = None
    latent_channels: int | None = None
    modulator_depth: int | None = None
    decoder: Literal["mlp", "attention"] | None = None
    decoder_depth: int | None = None
    decoder_width: int | None = None
    beta_min: float | None = None
    beta_max: float | None = None
    sigma_from: Literal["image", "level"] | None = None
    boundary: bool | None = None
    train_encoder: bool | None = None
    balance: bool | None = None


@dataclass
class LevelsConfig:
    """How stage "vae" draws the level of each image, and how soon the KL counts.

    Args:
        distribution: "stratified", uniform in the level, which for a log_beta schedule is log-uniform in beta;
            "uniform_beta", uniform in beta between the least and the greatest of a log_beta schedule; "grid", equal
            shares of the few values below. In a batch the levels are spread evenly over the distribution.
        betas: the grid, as values of beta of a log_beta schedule.
        values: the grid, as levels from 0 to 1.
        power: "stratified" levels are u^power, u uniform: above 1 low levels, with most to learn, come more often.
        start_power: the power of the first image, from which it goes to `power` evenly by the last one: what low levels
            learn is of use to all, and high levels learn soon. Below 1 (0.25, with `power` 4) high levels come first,
            whose axes are nearer to factors.
        first_share: share of the training that comes before all that, of `first_power`; 0 for none.
        first_power: the power of that part: below 1, codes begin with few dimensions, which low levels add to later.
        free_nats: rate that each latent dimension has for nothing, so that low levels open those that high ones, which
            came first, have shut (free bits): (1-t)^4 of it at level t, from 0.3 of the training, falling to 0 at 0.8.
        kl_warmup_images: images over which the KL's weight rises from 0 to the schedule's; without it a decoder that
            has not learned yet may lose the latent for good at every level.
    """

    distribution: Literal["stratified", "uniform_beta", "grid"] = "stratified"
    betas: list[float] | None = None
    values: list[float] | None = None
    power: float = 1.0
    start_power: float = 4.0
    first_share: float = 0.0
    first_power: float = 0.5
    free_nats: float = 0.0
    kl_warmup_images: int = 0


@dataclass
class PretextConfig:
    """What makes stage "vae" harder for beta-Diffusion, so that its features hold more; 0 leaves one out.

    Args:
        mask: share of an image's patches that the encoder does not see; all are to be reconstructed.
        noise: greatest share of N(0, I) mixed into a code before it is decoded; uniform from 0 to it.
    """

    mask: float = 0.0
    noise: float = 0.0


@dataclass
class PerceptualConfig:
    """Terms of stage "vae" beside Eq. 4 per pixel, for sharper pictures; 0 leaves one out.

    Args:
        l1: weight of the mean absolute error of a pixel.
        lpips: weight of the LPIPS distance.
        lpips_weights: its weights, a .safetensors or a hub id.
        adversarial: weight of the hinge loss of a patch discriminator, on top of the adaptive weight.
        start_images: images after which discriminator and adversarial term set in.
        channels: channels of the discriminator's first layer.
    """

    l1: float = 0.0
    lpips: float = 0.0
    lpips_weights: str | None = None
    adversarial: float = 0.0
    start_images: int = 0
    channels: int = 64


@dataclass
class JointConfig:
    """How stage "joint" trains autoencoder and denoiser together, in place of stages "vae" and "diffusion".

    Args:
        stop_gradient: the denoising loss does not reach the autoencoder; else it shapes the path.
        weight: without stop_gradient, weight of the denoising loss beside Eq. 4, both summed over their dimensions.
        denoiser_rate: rate of the denoiser, as a multiple of vae_training.learning_rate.
        moment_images: half-life, in images, of the running moments of the path that the denoiser counts on.
    """

    stop_gradient: bool = True
    weight: float = 0.1
    denoiser_rate: float = 0.5
    moment_images: int = 5_000


@dataclass
class DecoderConfig(PerceptualConfig):
    """What stage "decoder" lowers; encoder, sigma(t) and s(t) stay as they are.

    Args:
        l1: weight of the mean absolute error of a pixel.
        lpips: weight of the LPIPS distance.
        lpips_weights: its weights, a .safetensors or a hub id.
        adversarial: weight of the hinge loss of a patch discriminator, on top of the adaptive weight.
        start_images: images after which discriminator and adversarial term set in.
        channels: channels of the discriminator's first layer.
        l2: weight of the mean squared error of a pixel.
        max_level: codes are f(x,t) + sigma(t) eps at levels even from 0 to this one; at 0 the other levels are let go.
        walked: share of images whose codes the diffusion walks back from `walk_level`, so that the decoder meets the
            sampler's errors.
        walk_level: level that those codes are walked back from.
        walk_steps: steps of that walk, by Heun.
    """

    l1: float = 1.0
    adversarial: float = 1.0
    channels: int = 32
    l2: float = 0.0
    max_level: float = 0.0
    walked: float = 0.0
    walk_level: float = 0.5
    walk_steps: int = 5


@dataclass
class DenoiserConfig:
    """The denoiser: a preset, and what to change in it (None: as the preset has it).

    Args:
        preset: "demo" or "toy" (MLP), "celeba64" (Table 5), "ldm256" (Table 6) or "dit" (tokens); None for what
            fits the autoencoder.
        width: hidden width of the MLP or the DiT.
        depth: blocks of the MLP or the DiT.
        channels: channels of each resolution of the U-Net.
        layers_per_block: residual blocks of each resolution of the U-Net.
        attention_resolutions: sides of the latent grid with attention in the U-Net.
        head_dim: channels of an attention head (U-Net, DiT).
        activation: "silu" or "sigmoid" (U-Net).
        dropout: share dropped in blocks.
    """

    preset: Literal["demo", "toy", "celeba64", "ldm256", "dit"] | None = None
    width: int | None = None
    depth: int | None = None
    channels: list[int] | None = None
    layers_per_block: int | None = None
    attention_resolutions: list[int] | None = None
    head_dim: int | None = None
    activation: Literal["silu", "sigmoid"] | None = None
    dropout: float | None = None


@dataclass
class PathConfig:
    """What stage "vae" asks of the path between the levels, beside Eq. 4.

    Args:
        curvature: weight of the mean of (d^2 f/dt^2)^2 / sigma(t)^2 over latent dimensions, on a quarter of each batch:
            a straighter path needs fewer steps; 0 for none.
    """

    curvature: float = 0.0


@dataclass
class DiffusionConfig:
    """What the denoiser predicts, and how stage "diffusion" weighs and draws levels.

    Args:
        prediction: "velocity" (eps and df/dt), "any_step" (eps and the mean change of encoding to any level),
            "flow_map" (eps and the change to where the ODE lands at any level, for very few steps), "flow" (velocity of
            z alone; without eps, so nothing can add fresh noise), or "paper" (Eq. 19, its unit weights, to compare).
        weighting: weight of a level's errors, which are in units of what the Gaussian part leaves over: "uniform",
            "sigma" (as the plain error of eps, 1 / sigma^2 of that of f), "min_snr" (gamma 5), or "learned"
            (log-variances of both outputs, learned over the level).
        levels: "uniform", "logit_normal", or "importance" (in proportion to the loss met before, errors divided by it,
            so that the objective stays). In a batch the levels are spread evenly over the distribution.
        logit_mean: mean of the logit of the level, for "logit_normal"; above 0 is towards the prior.
        logit_scale: its standard deviation.
        velocity: df/dt by "difference" of two encodings, or "exact", by forward-mode differentiation; where the latent
            cache is on, df/dt comes from there.
        teacher: a finished run, a denoiser of the velocity, whose walks from noise teach a flow map where they land:
            nearer than what it learns by itself, in one evaluation already. The VAE is the teacher's.
        walks: how many of them; 25 latents of each are kept in memory.
    """

    prediction: Literal["velocity", "any_step", "flow_map", "flow", "paper"] = "velocity"
    weighting: Literal["uniform", "sigma", "min_snr", "learned"] = "min_snr"
    levels: Literal["uniform", "logit_normal", "importance"] = "importance"
    logit_mean: float = 0.0
    logit_scale: float = 1.0
    velocity: Literal["difference", "exact"] = "difference"
    teacher: str | None = None
    walks: int = 30_000


@dataclass
class ConditionConfig:
    """What the denoiser of stage "diffusion" can be asked for: a class, attributes, or a text; baseline "cvae" a class.

    Args:
        kind: "labels", "attributes" or "text" of the data, or "none".
        by: how the condition enters the network: "adaln", added to the level's embedding; "cross_attention", read in
            every block; or "tokens", appended to the network's own (DiT).
        dropout: share of images whose condition is kept from the network, which learns to do without, as walks back
            and guidance need it; of attributes others are left unsaid at random as well.
        classes: for "labels", which, where the data have several or none of their own: a factor's name, or a grouping
            such as UTKFace's age_group.
        attributes: for "attributes", which; null for all that the data have.
        text_encoder: for "text", a sentence encoder, CLIP or T5, a hub id or a local folder; it stays frozen.
        text_tokens: tokens kept of a text beside the encoder's summary of it, unless it enters by "adaln".
    """

    kind: Literal["none", "labels", "attributes", "text"] = "none"
    by: Literal["adaln", "cross_attention", "tokens"] = "adaln"
    dropout: float = 0.1
    classes: str | None = None
    attributes: list[str] | None = None
    text_encoder: str | None = None
    text_tokens: int = 24


@dataclass
class OptimisationConfig:
    """Optimisation of one stage; progress is counted in images seen.

    Args:
        images: images to train on, repeats counted.
        batch_size: images of one optimiser step, over all processes.
        accumulation: parts a process computes its share of a batch in; the result is the same, the memory smaller.
        learning_rate: peak rate of AdamW, reached after warm-up and let down to 0 by a cosine.
        muon_rate: rate of Muon, which moves the filters of convolutions in AdamW's place, as a multiple of
            learning_rate; 0 for AdamW alone.
        encoder_rate: rate of the encoder, as a multiple of learning_rate.
        curve_rate: rate of the learned curves sigma(t) and s(t), as a multiple of learning_rate.
        adam_betas: decay of AdamW's two moments.
        weight_decay: of both optimisers, for the networks; the curves have none.
        warmup_images: images over which the rate rises.
        clip_norm: greatest norm of the gradient.
        ema_images: half-life of the averaged weights, in images; shorter at first (a tenth of the images seen).
        validate_images: images between validations.
        checkpoint_images: images between checkpoints: the most that a kill can lose.
        keep_checkpoints: newest checkpoints kept.
    """

    images: int = 200_000
    batch_size: int = 32
    accumulation: int = 1
    learning_rate: float = 2e-3
    muon_rate: float = 5.0
    encoder_rate: float = 1.0
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
    """Caches on disk: of a frozen ViT's features for stage "vae", of means on a grid of levels for stage "diffusion".

    Args:
        features: keep the features of all training images, float16, where the encoder is frozen.
        levels: levels of the grid of means, nearer to each other at both ends; 0 for none: encode at every step.
        limit_gb: most that each cache may take on disk; a larger one is not built, and every step encodes.
        tolerance: greatest error of an interpolated mean, rms in units of sigma(t), before the means are refused.
    """

    features: bool = True
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
        images=2_200_000, batch_size=256, muon_rate=0, ema_images=110_000, validate_images=1_100_000,
        checkpoint_images=400_000,
    )  # fmt: skip


def _decoder_defaults() -> OptimisationConfig:
    return OptimisationConfig(
        images=150_000, learning_rate=6e-4, muon_rate=0, warmup_images=5_000, ema_images=10_000,
        validate_images=25_000, checkpoint_images=25_000,
    )  # fmt: skip


@dataclass
class RunConfig:
    """A whole run: data, models, both stages of training, the report.

    Args:
        model: the autoencoder, "multi_beta_vae" or "beta_diffusion", or a baseline.
        data: which images.
        vae: the multi-beta VAE.
        beta_diffusion: beta-Diffusion.
        baseline: hyperparameters of a baseline, whose backbone is that of `vae`.
        path: what stage "vae" asks of the path between levels.
        denoiser: the denoiser between levels.
        diffusion: what the denoiser predicts, and how its training weighs and draws levels.
        condition: what the denoiser can be asked for.
        levels: how stage "vae" draws levels, and how soon the KL counts.
        pretext: what makes stage "vae" harder for beta-Diffusion.
        perceptual: terms of stage "vae" beside Eq. 4.
        joint: how stage "joint" trains both networks.
        decoder: what stage "decoder" lowers.
        vae_training: optimisation of stage "vae", and of "joint" and "baseline".
        diffusion_training: optimisation of stage "diffusion", with the VAE frozen, and of a baseline's "prior".
        decoder_training: optimisation of stage "decoder", with all but the decoder frozen.
        cache: caches of features and latents.
        report: what the report measures.
        stages: which stages to run, in this order: vae and diffusion, or joint for both; decoder; report. A baseline
            has stage baseline, and some prior after it.
        seed: of everything random.
        precision: "bf16" or "fp32" arithmetic of the networks; "auto" is bf16 where the hardware is faster in it.
        compile: torch.compile what is trained, where trainings are long enough to pay for the minutes that it takes.
        cpu: stay on the CPU even where there is a GPU.
        trackers: also log to "tensorboard" (in the run's folder) or "wandb".
        out: the run's folder.
        resume: "auto" goes on from the newest checkpoint in `out`; "never" deletes those of its stages and starts
            again; or a checkpoint's folder.
    """

    model: Model = "multi_beta_vae"
    data: DataConfig = field(default_factory=DataConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    beta_diffusion: BetaDiffusionConfig = field(default_factory=BetaDiffusionConfig)
    baseline: BaselineConfig = field(default_factory=BaselineConfig)
    path: PathConfig = field(default_factory=PathConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    levels: LevelsConfig = field(default_factory=LevelsConfig)
    pretext: PretextConfig = field(default_factory=PretextConfig)
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)
    joint: JointConfig = field(default_factory=JointConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    vae_training: OptimisationConfig = field(default_factory=OptimisationConfig)
    diffusion_training: OptimisationConfig = field(default_factory=_diffusion_defaults)
    decoder_training: OptimisationConfig = field(default_factory=_decoder_defaults)
    cache: CacheConfig = field(default_factory=CacheConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    stages: list[Stage] = field(default_factory=lambda: ["vae", "diffusion", "report"])
    seed: int = 0
    precision: Precision = "auto"
    compile: bool = False
    cpu: bool = False
    trackers: list[Tracker] = field(default_factory=list)
    out: str = "runs/demo"
    resume: str = "auto"


def autoencoder(config: RunConfig) -> VAEConfig | BetaDiffusionConfig:
    """The section of the autoencoder that a run trains."""
    return config.beta_diffusion if config.model == "beta_diffusion" else config.vae


def denoiser_name(config: RunConfig) -> str:
    """The preset of the denoiser of a run: the configured one, or that which fits the autoencoder."""
    return config.denoiser.preset or ("dit" if config.model == "beta_diffusion" else config.vae.preset)


def diffusion_clash(config: DiffusionConfig) -> str:
    """Why two options of stage "diffusion" do not go together, in a sentence; '' where they do."""
    if config.prediction == "paper" and config.weighting != "uniform":
        return "diffusion.prediction 'paper' weighs by one (Eq. 19): diffusion.weighting must be 'uniform'"
    if config.teacher and config.prediction != "flow_map":
        return f"diffusion.teacher teaches diffusion.prediction 'flow_map', not {config.prediction!r}"
    if config.weighting == "learned" and config.levels == "importance":
        return (
            "diffusion.levels 'importance' has no effect with diffusion.weighting 'learned', which evens out losses: "
            "set diffusion.levels to 'uniform'"
        )
    return ""


def chosen(config: VAEConfig | BetaDiffusionConfig | DenoiserConfig) -> dict[str, Any]:
    """The fields that override the preset: those that are not None."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k != "preset" and v is not None}


def with_keys(config: RunConfig, changes: dict[str, Any]) -> RunConfig:
    """A copy of a configuration with some values changed, by dotted key."""
    config = dataclasses.replace(config)
    for key, value in changes.items():
        section, name = key.split(".")
        setattr(config, section, dataclasses.replace(getattr(config, section), **{name: value}))
    return config

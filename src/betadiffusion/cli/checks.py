"""What a configuration must satisfy before any work starts. No torch here, so that a slip shows at once."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from betadiffusion.baselines.presets import PRESETS, baseline_arguments, is_baseline
from betadiffusion.models.presets import beta_diffusion_preset, denoiser_preset, vae_preset
from betadiffusion.training.config import RunConfig, autoencoder, chosen, denoiser_name, diffusion_clash
from betadiffusion.training.files import flat

ANY_SIGN = {"logit_mean"}
MAY_BE_ZERO = {
    "seed", "dropout", "adam_betas", "weight_decay", "warmup_images", "levels", "limit_gb", "values", "l1", "lpips",
    "adversarial", "start_images", "kl_warmup_images", "mask", "noise", "curvature", "logit_mean", "l2", "max_level",
    "walked", "alpha", "commitment", "code_mmd", "code_kl", "entropy", "base_level", "level_channels", "muon_rate",
    "free_nats", "first_share", "info", "contrast", "contrast_images", "gap", "gap_images", "r1",
    "disentangling",
}  # fmt: skip
BELOW = {"dropout": 1, "mask": 1, "adam_betas": 1, "seed": 2**63, "first_share": 1, "gap": 2}
STAGES = ["vae", "diffusion", "joint", "decoder", "report"]


def check(config: RunConfig) -> None:
    """Raises ValueError for the first thing that cannot work: a number, a combination, an unread key, a place."""
    of_model = (_baseline,) if is_baseline(config.model) else (_combinations, _unread)
    for problems in (_numbers, _training, *of_model, _places):
        for problem in problems(config):
            raise ValueError(problem)


def check_evaluation(options: dict[str, Any]) -> None:
    """Raises ValueError for the first option of `betadiffusion evaluate` that cannot work."""
    if bool(options["runs"]) == bool(options["model"]):
        raise ValueError("evaluate needs the folders of runs, or --model package.module:function, and not both")
    for name in ("count", "test_count", "samples", "levels"):
        if options[name] < 2:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 2, not {options[name]}")
    if not 0 <= options["fixed_level"] <= 1:
        raise ValueError(f"--fixed-level must be from 0 to 1, not {options['fixed_level']}")
    if bad := [seed for seed in options["seeds"] if not 0 <= seed < 2**63]:
        raise ValueError(f"--seeds must not be negative, not {bad[0]}")
    for name in ("runs", "seeds"):
        if len(set(options[name])) < len(options[name]):
            raise ValueError(f"{name} must be there once each: {', '.join(map(str, options[name]))}")
    if options["runs"] and (options["size"], options["channels"]) != (None, None):
        raise ValueError("--size and --channels go with --model: a run has its own")
    if options["lpips"] and "lpips" not in options["metrics"]:
        raise ValueError("--lpips has no effect without --metrics lpips")


def check_count(given: frozenset[str], sources: Sequence[str], count: int) -> None:
    """ValueError for a --num-images that is not positive, or is given for files alone, which are an image each."""
    if count < 1:
        raise ValueError(f"--num-images must be positive, not {count}")
    from betadiffusion.data.decode import EXTENSIONS

    if "num_images" in given and sources and all(source.lower().endswith(EXTENSIONS) for source in sources):
        raise ValueError("--num-images has no effect with image files alone: it is for folders, zips and data sets")


def nearest_existing(path: Path) -> Path:
    """The path, or else the nearest folder above it, that is there."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def _numbers(config: RunConfig) -> Iterator[str]:
    for key, value in flat(config).items():
        name = key.rpartition(".")[2]
        if name in ("channels", "unet_channels") and value in ([], ()):
            yield f"{key} must not be empty"
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            if name in MAY_BE_ZERO - ANY_SIGN and number < 0:
                yield f"{key} must not be negative, not {number}"
            if name not in MAY_BE_ZERO and number <= 0:
                yield f"{key} must be positive, not {number}"
            if not math.isfinite(number) or number >= BELOW.get(name, math.inf):
                yield f"{key} must be below {BELOW.get(name, 'infinity')}, not {number}"


def _training(config: RunConfig) -> Iterator[str]:
    """What holds for every model."""
    for name in ("vae_training", "diffusion_training", "decoder_training"):
        training = getattr(config, name)
        if training.batch_size % training.accumulation:
            yield (
                f"{name}.batch_size {training.batch_size} cannot be divided into "
                f"{name}.accumulation {training.accumulation} equal parts"
            )
    data = config.data
    if data.limit is not None and data.held_out >= data.limit:
        yield f"data.held_out {data.held_out} must be below data.limit {data.limit}: some images are for training"
    for tracker in config.trackers:
        if find_spec(tracker) is None:
            yield f"trackers names {tracker!r}, which is not installed: pip install 'betadiffusion[{tracker}]'"


def _baseline(config: RunConfig) -> Iterator[str]:
    """Stages and keys of a baseline: everything it does not read is refused."""
    preset, values, defaults = PRESETS[config.model], flat(config), flat(RunConfig())
    stages = list(preset.stages)
    if not config.stages or config.stages != [stage for stage in stages if stage in config.stages]:
        yield f"model {config.model!r} has the stages {stages}, in this order, each once, not {config.stages}"
    baseline_arguments(config.model, config.baseline)
    vae_preset(config.vae.preset, **preset.backbone | chosen(config.vae))
    if preset.whole_batch and config.vae_training.accumulation > 1:
        yield f"model {config.model!r} counts on whole batches: vae_training.accumulation must be 1"
    read = {f"vae.{key}" for key in preset.reads} | {"model", "stages", "seed", "precision", "cpu", "trackers", "out"}
    if preset.by_class:
        read |= {"condition.kind", "condition.classes"}
        if config.condition.kind != "labels":
            yield f"model {config.model!r} is conditioned on classes: condition.kind must be 'labels'"
    sections = ("data.", "baseline.", "vae_training.", *(["diffusion_training."] if "prior" in stages else []))
    for key, value in values.items():
        if value != defaults[key] and key not in read | {"resume"} and not key.startswith(sections):
            yield f"{key} has no effect with model {config.model!r}: leave it out"


def _combinations(config: RunConfig) -> Iterator[str]:
    stages, levels = config.stages, config.report.levels
    if not stages or stages != [stage for stage in STAGES if stage in stages]:
        yield f"stages must be one or more of {STAGES}, in this order, each once, not {stages}"
    yield from _joint_or_decoder(config)
    if not levels or max(levels) > 1:
        yield f"report.levels must be one or more levels from 0 to 1, not {levels}"
    if config.report.count < 2:
        yield f"report.count must be at least 2, not {config.report.count}"
    if config.report.feature_size > 1024:
        yield f"report.feature_size must be at most 1024 pixels, not {config.report.feature_size}"
    if config.vae.knots is not None and config.vae.knots < 2:
        yield f"vae.knots must be at least 2, not {config.vae.knots}"
    if 0 < config.cache.levels < 4:
        yield f"cache.levels must be 0 (no cache) or at least 4, not {config.cache.levels}"
    low, high = config.vae.beta_min or 1.0, config.vae.beta_max
    if high is not None and low >= high:
        yield f"vae.beta_min {low:g} must be below vae.beta_max {high:g}"
    if config.levels.distribution == "grid" and bool(config.levels.betas) == bool(config.levels.values):
        yield "levels.distribution 'grid' needs either levels.betas or levels.values"
    if config.perceptual.lpips and not config.perceptual.lpips_weights:
        yield "perceptual.lpips needs perceptual.lpips_weights: a .safetensors or a hub id"
    if _arguments(config).get("sigma_from", "image" if config.model == "beta_diffusion" else "level") == "image":
        if "joint" in stages:
            yield f"stage 'joint' needs one sigma for every image: set {_section(config)}.sigma_from to 'level'"
        if config.path.curvature:
            yield f"path.curvature needs one sigma for every image: set {_section(config)}.sigma_from to 'level'"
    if clash := diffusion_clash(config.diffusion):
        yield clash
    if config.compile and (config.perceptual.adversarial or ("decoder" in stages and config.decoder.adversarial)):
        yield "compile cannot go with an adversarial loss, whose adaptive weight takes gradients twice: leave out one"
    if config.condition.kind != "none" and not config.condition.dropout:
        yield "condition.dropout must be positive: walks back, guidance and the report go without the condition too"
    if config.condition.kind == "text" and not config.condition.text_encoder:
        yield "condition.kind 'text' needs condition.text_encoder: a hub id or a local folder"
    if config.condition.kind != "none" and "joint" in config.stages:
        yield "stage 'joint' knows no conditions: leave out condition.kind, or use stages 'vae' and 'diffusion'"


def _section(config: RunConfig) -> str:
    """The name of the autoencoder's section."""
    return "beta_diffusion" if config.model == "beta_diffusion" else "vae"


def _arguments(config: RunConfig) -> Mapping[str, Any]:
    """What the autoencoder is made with: its preset, and what overrides it."""
    ours = autoencoder(config)
    return (beta_diffusion_preset if config.model == "beta_diffusion" else vae_preset)(ours.preset, **chosen(ours))


def _joint_or_decoder(config: RunConfig) -> Iterator[str]:
    stages, decoder = config.stages, config.decoder
    if "joint" in stages and ("vae" in stages or "diffusion" in stages):
        yield "stages: 'joint' trains what 'vae' and 'diffusion' train: leave these two out, or 'joint'"
    if "joint" in stages and config.levels.distribution == "grid":
        yield "stage 'joint' needs all levels, since the diffusion walks them: levels.distribution cannot be 'grid'"
    if "joint" in stages and config.diffusion.prediction not in ("velocity", "flow"):
        yield f"stage 'joint' predicts velocity or flow: diffusion.prediction cannot be {config.diffusion.prediction!r}"
    if max(decoder.max_level, decoder.walked, decoder.walk_level) > 1:
        yield "decoder.max_level, decoder.walked and decoder.walk_level must be at most 1"
    if "decoder" in stages and not (decoder.l1 or decoder.l2 or decoder.lpips):
        yield "stage 'decoder' needs decoder.l1, decoder.l2 or decoder.lpips: there is nothing to lower"
    if decoder.lpips and not decoder.lpips_weights:
        yield "decoder.lpips needs decoder.lpips_weights: a .safetensors or a hub id"


def _unread(config: RunConfig) -> Iterator[str]:
    """Keys that were set and that nothing would read; those of another preset's networks the presets refuse."""
    values, defaults = flat(config), flat(RunConfig())
    ours, name, multi_beta = autoencoder(config), denoiser_name(config), config.model == "multi_beta_vae"
    denoiser = denoiser_preset(name, **chosen(config.denoiser))
    arguments = _arguments(config)
    if (arguments.get("block") == "conv") != (denoiser["architecture"] == "mlp"):
        yield f"denoiser.preset {name!r} does not fit the latents of {_section(config)}.preset {ours.preset!r}"
    frozen = not multi_beta and not arguments["train_encoder"]
    cached = config.cache.levels > 0 or (frozen and config.cache.features)
    other = [key for key in values if key.startswith(("beta_diffusion.", "pretext.") if multi_beta else "vae.")]
    grid, sharper = config.levels.distribution == "grid", config.perceptual
    linear = multi_beta and arguments.get("schedule") != "log_beta"
    one_sigma = multi_beta and arguments.get("sigma_from", "level") != "image"
    powers = ["levels.power", "levels.start_power", "levels.first_share", "levels.first_power"]
    uneven = "joint" in config.stages and config.levels.start_power != config.levels.power
    logit = ["diffusion.logit_mean", "diffusion.logit_scale"]
    joint, decoder = "joint" in config.stages, config.decoder
    errors = ["diffusion.weighting", "diffusion.levels"]  # how they are weighed and where they are met
    loose = [*errors, "diffusion.velocity"]
    frozen_rates = [f"decoder_training.{rate}" for rate in ("encoder_rate", "curve_rate")]
    of_encoder = ["vae_training.encoder_rate", "vae_training.muon_rate", "pretext.mask", "pretext.noise"]
    curved = multi_beta or arguments.get("balance") or arguments.get("sigma_from") == "level"
    taught, cache = config.diffusion.teacher is not None, ["cache.levels", "cache.tolerance"]
    asked, every = config.condition.kind, [key for key in values if key.startswith("condition.")]
    rules = [
        (asked == "none", every, "with condition.kind 'none'"),
        (asked != "labels", ["condition.classes"], "unless condition.kind is 'labels'"),
        (asked != "attributes", ["condition.attributes"], "unless condition.kind is 'attributes'"),
        (asked != "text", ["condition.text_encoder", "condition.text_tokens"], "unless condition.kind is 'text'"),
        (config.condition.by == "adaln", ["condition.text_tokens"], "with condition.by 'adaln'"),
        (True, other, f"with model {config.model!r}"),
        (True, [key for key in values if key.startswith("baseline.")], f"with model {config.model!r}"),
        (linear, ["vae.beta_min", "vae.beta_max"], "unless vae.schedule is 'log_beta'"),
        (one_sigma, ["vae.channel_noise"], "unless vae.sigma_from is 'image'"),
        (not frozen, ["cache.features"], "unless the encoder is frozen (beta_diffusion.train_encoder false)"),
        (frozen, of_encoder, "since the encoder is frozen (beta_diffusion.train_encoder false)"),
        (not curved, ["vae_training.curve_rate"], f"with model {config.model!r} without a learned curve"),
        (config.cache.levels == 0, ["cache.tolerance"], "with cache.levels 0, which is no cache"),
        (not cached, ["cache.limit_gb"], "with cache.levels 0, which is no cache"),
        (not grid, ["levels.betas", "levels.values"], "unless levels.distribution is 'grid'"),
        (config.levels.distribution != "stratified", powers, "unless levels.distribution is 'stratified'"),
        (uneven, ["levels.start_power"], "with stage 'joint', whose denoiser needs all levels alike"),
        (joint, ["levels.first_share"], "with stage 'joint', whose denoiser needs all levels alike"),
        (not config.levels.first_share, ["levels.first_power"], "with levels.first_share 0"),
        (joint, ["levels.free_nats"], "with stage 'joint', which opens no dimensions"),
        (not sharper.lpips, ["perceptual.lpips_weights"], "with perceptual.lpips 0"),
        (not sharper.adversarial, ["perceptual.start_images", "perceptual.channels"], "with perceptual.adversarial 0"),
        (True, ["diffusion_training.encoder_rate"], "with the VAE frozen then"),
        (denoiser["architecture"] != "unet", ["diffusion_training.muon_rate"], "unless the denoiser is a U-Net"),
        (not multi_beta, ["decoder_training.muon_rate"], f"with model {config.model!r}, without convolutions there"),
        (True, frozen_rates, "with all but the decoder frozen then"),
        (joint, loose, "with stage 'joint', whose levels are the VAE's"),
        (joint, ["pretext.mask", "pretext.noise"], "with stage 'joint'"),
        (config.joint.stop_gradient, ["joint.weight"], "with joint.stop_gradient"),
        (not decoder.lpips, ["decoder.lpips_weights"], "with decoder.lpips 0"),
        (not decoder.adversarial, ["decoder.start_images", "decoder.channels"], "with decoder.adversarial 0"),
        (not decoder.walked, ["decoder.walk_level", "decoder.walk_steps"], "with decoder.walked 0"),
        (config.diffusion.weighting != "learned", ["diffusion_training.curve_rate"], "with the VAE frozen then"),
        (taught, [*errors, *cache], "with diffusion.teacher, whose walks have levels and codes already"),
        (not taught, ["diffusion.walks"], "without diffusion.teacher"),
        (joint, ["diffusion.teacher"], "with stage 'joint', which makes a VAE of its own"),
        (config.diffusion.levels != "logit_normal", logit, "unless diffusion.levels is 'logit_normal'"),
        (config.cache.levels > 0, ["diffusion.velocity"], "with the latent cache, which has df/dt: set cache.levels 0"),
    ]
    for applies, keys, why in rules:
        for key in keys:
            if applies and values[key] != defaults[key]:
                yield f"{key} has no effect {why}: leave it out"


def _places(config: RunConfig) -> Iterator[str]:
    out, resume = Path(config.out), Path(config.resume)
    nearest = nearest_existing(out)
    if not config.out:
        yield "out must name a folder, not be empty"
    elif not nearest.is_dir():
        yield f"out must be a folder, but {nearest} is a file"
    elif not os.access(nearest, os.W_OK):
        yield f"out cannot be {out}: {nearest} is not writable"
    whole = (resume / "state.json").is_file() and resume.parent.parent.name in [*STAGES[:-1], "baseline", "prior"]
    makes = {"diffusion", "joint"} & set(config.stages)
    if "report" in config.stages and not makes and not (out / "pipeline").is_dir():
        yield f"stages {config.stages} cannot report on {out}, which has no pipeline yet: stage 'diffusion' makes it"
    if "decoder" in config.stages and config.decoder.walked and not makes and not (out / "pipeline").is_dir():
        yield f"decoder.walked needs a denoiser, and {out} has none yet: stage 'diffusion' makes it"
    teacher = config.diffusion.teacher
    if teacher is not None and not (Path(teacher) / "pipeline").is_dir():
        yield f"diffusion.teacher must be the folder of a run with a pipeline, not {teacher}"
    if teacher is not None and "vae" in config.stages:
        yield f"diffusion.teacher has a VAE of its own: leave stage 'vae' out of {config.stages}"
    if config.resume not in ("auto", "never") and not whole:
        yield f"resume must be 'auto', 'never' or a checkpoint (RUN/STAGE/checkpoints/NUMBER), not {config.resume!r}"

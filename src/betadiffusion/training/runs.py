"""A run: data, its stages, and the pipeline that they leave in the run's folder.

out/config.yaml   out/vae/   out/diffusion/   out/joint/   out/decoder/   out/pipeline/
"""

import argparse
import dataclasses
import netrc
import os
import socket
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonargparse
import numpy as np
import torch
import yaml
from accelerate import Accelerator
from torch.utils.benchmark import Timer

from betadiffusion.data import DataError, Subset, load, split
from betadiffusion.data.sources import place
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.pipelines.walk_levels import fit_clock
from betadiffusion.training.conditions import Conditions, make_conditions
from betadiffusion.training.config import DataConfig, OptimisationConfig, RunConfig, autoencoder, chosen
from betadiffusion.training.decoder_stage import DecoderStage, encoder_fingerprint
from betadiffusion.training.diffusion_stage import DiffusionStage
from betadiffusion.training.distillation_stage import DistillationStage
from betadiffusion.training.feature_cache import FeatureCache
from betadiffusion.training.files import read_settings, sole, write_folder, write_text
from betadiffusion.training.joint_stage import JointStage
from betadiffusion.training.latent_cache import LatentCache
from betadiffusion.training.models import (
    Autoencoder,
    build_denoiser,
    build_vae,
    image_size,
    load_pipeline,
    load_vae,
    settings,
)
from betadiffusion.training.stored import fingerprint
from betadiffusion.training.trainer import Stage, Trainer, first_difference, precision_of
from betadiffusion.training.vae_stage import VAEStage

LEAST_IMAGES = 10
CACHE_CHECK = 2_048  # images behind the check of the cache against exact encoding


def run(config: RunConfig) -> Path:
    """Trains the stages that `config.stages` names and saves the pipeline; returns the run's folder.

    Raises DataError or ValueError for data and settings that cannot be used, TrainingError and Interrupted as Trainer.
    """
    out = Path(config.out)
    check_same_run(config)
    accelerator = make_accelerator(config)
    with accelerator.main_process_first():
        train, held_out = load_split(config.data, image_size(config), config.seed)
    conditions = make_run_conditions(config, (train, held_out), accelerator)  # first of all, so that a slip shows now
    torch.manual_seed(config.seed)  # initial weights
    vae = build_vae(config, train.image_shape)
    if "vae" in config.stages:
        features = make_feature_cache(config, vae.to(accelerator.device), train, accelerator)
        options = (config.levels, config.perceptual, features, config.path, config.pretext, config.vae_training.images)
        stage = VAEStage(vae, train, held_out, accelerator.device, *options)
        identity = {
            "vae": settings(vae), "levels": config.levels, "perceptual": config.perceptual, "path": config.path,
            "pretext": config.pretext,
            "cache": {"features": features is not None},
        }  # fmt: skip
        trained = fit(stage, config.vae_training, config, accelerator, identity)
        if accelerator.is_main_process:
            stage.calibrate(trained)
            write_folder(out / "vae" / "model", trained.save_pretrained)
    if "diffusion" in config.stages:
        accelerator.wait_for_everyone()  # until the main process has written the VAE
        teacher = None
        if config.diffusion.teacher:
            teacher = load_pipeline(Path(config.diffusion.teacher))
        vae = trained_vae(config, train.image_shape, teacher)
        denoiser = build_denoiser(config, vae, conditions[0].spec if conditions else None)
        identity = {
            "vae": settings(vae), "encoder": encoder_fingerprint(vae), "denoiser": settings(denoiser),
            "cache": config.cache.levels, "diffusion": config.diffusion,
        }  # fmt: skip
        if teacher is None:
            cache = make_cache(config, vae.to(accelerator.device), train, accelerator)
            stage = DiffusionStage(
                denoiser, vae, train, held_out, cache, accelerator.device, config.diffusion, conditions,
                images=config.diffusion_training.images,
            )  # fmt: skip
        else:
            stage = DistillationStage(
                denoiser, vae, train, held_out, accelerator.device, teacher.denoiser, conditions,
                config.diffusion.walks, config.seed, quiet=not accelerator.is_main_process,
            )  # fmt: skip
            identity["teacher"] = fingerprint(teacher.denoiser)
        if conditions:
            identity["condition"] = config.condition
        trained = stage.finish(fit(stage, config.diffusion_training, config, accelerator, identity))
        if accelerator.is_main_process:
            if not (out / "vae" / "model").is_dir():  # the teacher's
                write_folder(out / "vae" / "model", vae.save_pretrained)
            save_pipeline(out, vae, trained)
    if "joint" in config.stages:
        _train_jointly(config, vae, train, held_out, accelerator)
    if "decoder" in config.stages:
        accelerator.wait_for_everyone()
        _tune_decoder(config, train, held_out, accelerator)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return out


def check_same_run(config: RunConfig) -> None:
    """ValueError where `config.out` holds a run of another model, data or seed, which this one would take over.

    Data that are no longer where they were may have moved.
    """
    out = Path(config.out)
    if config.resume == "never" or not (out / "config.yaml").is_file():
        return
    kept = load_config(out)
    before, after = (
        {"model": each.model, "seed": each.seed, "data": {"limit": each.data.limit, "held_out": each.data.held_out}}
        for each in (kept, config)
    )
    old = place(kept.data.source)
    if old != place(config.data.source) and (isinstance(old, str) or old.exists()):
        before["data"]["source"], after["data"]["source"] = kept.data.source, config.data.source
    if difference := first_difference(before, after):
        raise ValueError(f"{out} holds a run with {difference}: use the same, another --out, or --resume never")


def trained_vae(
    config: RunConfig, image_shape: tuple[int, int, int], teacher: BetaDiffusionPipeline | None = None
) -> Autoencoder:
    """The autoencoder that the run in `config.out` has trained, or its teacher's where it has none.

    Raises ValueError where there is neither, where the configuration asks for another one, where it is not for images
    (C,H,W) of this shape, and where the teacher walks the levels of another encoder.
    """
    folder = Path(config.out) / "vae" / "model"
    section = "beta_diffusion" if config.model == "beta_diffusion" else "vae"
    if teacher is None or folder.is_dir():
        vae = load_vae(Path(config.out))
    else:
        vae, folder = teacher.vae, Path(config.diffusion.teacher)
    for key, asked in chosen(autoencoder(config)).items():
        has = vae.config.get(key, asked)
        if not isinstance(has, dict) and has != (tuple(asked) if isinstance(has, tuple) else asked):
            raise ValueError(
                f"{folder} was trained with {section}.{key} {has}, not {asked}: leave the option out, or "
                "train stage 'vae' anew in another --out"
            )
    if vae.image_shape != image_shape:
        (has, side, _), (channels, size, _) = vae.image_shape, image_shape
        raise ValueError(
            f"{folder} was trained on images of {has} channels and {side} pixels, not {channels} and {size}: give "
            f"--data.channels {has} --data.size {side}, or --config {config.out}/config.yaml"
        )
    if teacher is not None and encoder_fingerprint(teacher.vae) != encoder_fingerprint(vae):
        raise ValueError(f"{config.diffusion.teacher} walks the levels of another VAE than {folder}")
    return vae


def _train_jointly(
    config: RunConfig, vae: Autoencoder, train: Subset, held_out: Subset, accelerator: Accelerator
) -> None:
    """Stage "joint": leaves what stages "vae" and "diffusion" would leave."""
    out, denoiser = Path(config.out), build_denoiser(config, vae)
    features = make_feature_cache(config, vae.to(accelerator.device), train, accelerator)
    options = (config.joint, config.levels, config.perceptual, features, config.path)
    stage = JointStage(vae, denoiser, train, held_out, accelerator.device, *options)
    identity = {
        "vae": settings(vae), "denoiser": settings(denoiser), "joint": config.joint, "levels": config.levels,
        "perceptual": config.perceptual, "path": config.path, "cache": {"features": features is not None},
    }  # fmt: skip
    trained = fit(stage, config.vae_training, config, accelerator, identity)
    if accelerator.is_main_process:
        stage.finish(trained)
        write_folder(out / "vae" / "model", trained.vae.save_pretrained)
        save_pipeline(out, trained.vae, trained.denoiser)


def save_pipeline(out: Path, vae: Autoencoder, denoiser: NonlinearDenoiser) -> None:
    """Writes what has been trained as a pipeline, its clock "fitted" measured."""
    fit_clock(denoiser)
    write_folder(out / "pipeline", BetaDiffusionPipeline(vae=vae.cpu(), denoiser=denoiser.cpu()).save_pretrained)


def _tune_decoder(config: RunConfig, train: Subset, held_out: Subset, accelerator: Accelerator) -> None:
    """Stage "decoder": the VAE of the run, and its pipeline where there is one, get the new decoder."""
    out, pipeline = Path(config.out), None
    vae = trained_vae(config, train.image_shape)
    encoder = encoder_fingerprint(vae)
    if (out / "pipeline").is_dir():
        pipeline = load_pipeline(out)
        if encoder_fingerprint(pipeline.vae) != encoder:
            raise ValueError(f"{out}/pipeline has another encoder than {out}/vae/model: run stage 'diffusion' again")
    denoiser = pipeline.denoiser if pipeline is not None and config.decoder.walked else None
    stage = DecoderStage(vae, train, held_out, accelerator.device, config.decoder, denoiser)
    identity = {"vae": settings(vae), "encoder": encoder, "decoder": config.decoder}
    if denoiser is not None:
        identity["denoiser"] = fingerprint(denoiser)
    trained = fit(stage, config.decoder_training, config, accelerator, identity).vae.cpu()
    if accelerator.is_main_process:
        write_folder(out / "vae" / "model", trained.save_pretrained)
        if pipeline is not None:
            pipeline.register_modules(vae=trained)
            write_folder(out / "pipeline", pipeline.to("cpu").save_pretrained)


def load_config(run_folder: Path) -> RunConfig:
    """The configuration of a run, from its folder; ValueError where the folder is not a run's."""
    try:
        return as_config(read_settings(run_folder))
    except (argparse.ArgumentError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{run_folder}/config.yaml is not that of a run of this version: {reason}") from error


def as_config(values: dict[str, Any]) -> RunConfig:
    """A configuration from its plain values, as YAML or JSON has them."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RunConfig, "run")
    return parser.instantiate(parser.parse_object({"run": values})).run


def load_split(data: DataConfig, size: int, seed: int) -> tuple[Subset, Subset]:
    """Training and held-out images of a source, disjoint, in random order; the same ones for the same arguments.

    Pictures of files stay on disk (memory-mapped by their reader); others are drawn once, when first asked for.
    """
    source = load(data.source, size=size, channels=data.channels)
    if len(source) < LEAST_IMAGES:
        raise DataError(f"{data.source} has {len(source)} images: training needs at least {LEAST_IMAGES}.")
    train, held_out = split_indices(len(source), data, seed)
    return Subset(source, train).keep(), Subset(source, held_out).keep()


def split_indices(n: int, data: DataConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of n images a run trains on and which it holds out, int64; with `data.limit` some are neither."""
    train, held_out = split(n, min(data.held_out, n // 5), seed)
    return train if data.limit is None else train[: max(1, data.limit - len(held_out))], held_out


def make_feature_cache(
    config: RunConfig, vae: Autoencoder, train: Subset, accelerator: Accelerator
) -> FeatureCache | None:
    """The features of all training images under a frozen encoder; None where it is trained, or they are too many."""
    if config.model != "beta_diffusion" or vae.config.train_encoder or not config.cache.features:
        return None
    size = FeatureCache.gigabytes(vae, len(train))
    if size > config.cache.limit_gb:
        accelerator.print(f"no feature cache: {size:.1f} GB exceed cache.limit_gb {config.cache.limit_gb:g}")
        return None
    folder = Path(config.out) / "vae" / "features"
    with accelerator.main_process_first():
        cache = FeatureCache.build(vae, train, folder, quiet=not accelerator.is_main_process)
    accelerator.print(f"feature cache: {size:.2f} GB, the encoder runs once per image")
    return cache


def make_cache(config: RunConfig, vae: Autoencoder, train: Subset, accelerator: Accelerator) -> LatentCache | None:
    """The latent cache, checked against exact encoding; None where it is off, too large or not exact enough."""
    knots = config.cache.levels
    if not knots:
        return None
    size = LatentCache.gigabytes(vae, len(train), knots)
    if size > config.cache.limit_gb:
        accelerator.print(f"no latent cache: {size:.1f} GB exceed cache.limit_gb {config.cache.limit_gb:g}")
        return None
    folder = Path(config.out) / "diffusion" / "cache"
    with accelerator.main_process_first():
        cache = LatentCache.build(vae, train, knots, folder, quiet=not accelerator.is_main_process)
    error = cache.relative_error(vae, train, min(CACHE_CHECK, len(train)), config.seed)
    exact = error <= config.cache.tolerance
    verdict = "used" if exact else f"refused (cache.tolerance {config.cache.tolerance:g}): encoding at every step"
    accelerator.print(f"latent cache: {knots} levels, {size:.2f} GB, error {error:.3f} sigma: {verdict}")
    return cache if exact else None


def make_run_conditions(
    config: RunConfig, parts: Sequence[Subset], accelerator: Accelerator
) -> list[Conditions] | None:
    """The conditions of the training and of the held-out images; None where the denoiser is asked for nothing."""
    if config.condition.kind == "none" or "diffusion" not in config.stages:
        return None
    folder, quiet = Path(config.out) / "diffusion" / "captions", not accelerator.is_main_process
    with accelerator.main_process_first():
        return make_conditions(config.condition, parts, folder, accelerator.device, quiet)


def make_accelerator(config: RunConfig) -> Accelerator:
    """Device, processes, precision and trackers of a run."""
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if is_faster_in_bf16(config.cpu) else "fp32"
    accelerator = Accelerator(
        cpu=config.cpu, mixed_precision="no" if precision == "fp32" else precision,
        log_with=list(dict.fromkeys(config.trackers)) or None, project_dir=config.out,
        dynamo_backend="inductor" if config.compile else None,
    )  # fmt: skip
    if config.trackers:
        Path(config.out).mkdir(parents=True, exist_ok=True)
        options = {"wandb": {"dir": config.out, "mode": wandb_mode()}} if "wandb" in config.trackers else {}
        project = os.environ.get("WANDB_PROJECT", "betadiffusion")  # entity and name wandb reads by itself
        accelerator.init_trackers(project, config=_flat(_plain(config)), init_kwargs=options)
    return accelerator


def wandb_mode() -> str:
    """WANDB_MODE where it is set; else "online" with a key and a network to use it on, "offline" without.

    What is logged offline lies in the run's folder, for `wandb sync`.
    """
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = os.environ.get("WANDB_API_KEY") or netrc.netrc().authenticators(host)
        if known:
            socket.create_connection((host, 443), timeout=5).close()
    except (OSError, netrc.NetrcParseError):
        return "offline"
    return "online" if known else "offline"


def is_faster_in_bf16(cpu: bool) -> bool:
    """Whether the hardware that a run would use computes faster in bf16; of a CPU it is measured, in a second."""
    if torch.cuda.is_available() and not cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    # Intel's without AMX have the instructions, at half the speed of float32; AMD's have them at twice the speed. The
    # least of several times leaves out what else the machine does: a run that is resumed must decide alike.
    seconds = [(matmul_seconds(torch.float32), matmul_seconds(torch.bfloat16)) for _ in range(5)]
    float32, bf16 = map(min, zip(*seconds, strict=True))
    return float32 > 1.2 * bf16  # casts cost the rest


def matmul_seconds(dtype: torch.dtype) -> float:
    """Median time of a product of two matrices of 512 x 512 on one CPU core."""
    matrix = torch.ones(512, 512, dtype=dtype)
    return Timer("matrix @ matrix", globals={"matrix": matrix}).blocked_autorange(min_run_time=0.02).median


def fit(
    stage: Stage, training: OptimisationConfig, config: RunConfig, accelerator: Accelerator, models: dict[str, Any]
) -> Any:
    """Trains a stage in its folder of the run; `models` are the network settings a checkpoint must agree with."""
    same_result = {"accumulation", "checkpoint_images", "keep_checkpoints"}  # may change between resumes
    optimisation = {k: v for k, v in _plain(training).items() if k not in same_result}
    data = {k: v for k, v in _plain(config.data).items() if k != "source"} | {"images": stage.count}
    identity = _plain({"training": optimisation, "data": data, "seed": config.seed} | models)
    identity["precision"] = precision_of(accelerator)
    folder = Path(config.out) / stage.name
    first_step = {
        "diffusion": config.vae_training.images,
        "prior": config.vae_training.images,
        "decoder": config.vae_training.images + config.diffusion_training.images,
    }.get(stage.name, 0)
    trainer = Trainer(
        stage, training, folder,
        accelerator=accelerator, seed=config.seed, identity=identity, first_step=first_step,
    )  # fmt: skip
    resume = config.resume
    if resume not in ("auto", "never") and Path(resume).parent.parent.name != stage.name:
        resume = "auto"  # the checkpoint named is the other stage's
    with sole(Path(config.out)) if accelerator.is_main_process else nullcontext():
        trainer.resume(resume)
        if accelerator.is_main_process:  # only now: settings that do not go with a run must not replace its own
            write_text(Path(config.out) / "config.yaml", yaml.safe_dump(_plain(config), sort_keys=False))
        return trainer.fit()


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as dictionaries, lists and strings, as JSON would give them back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _flat(value: dict[str, Any], where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{where}{key}.") if isinstance(item, dict) else {f"{where}{key}": str(item)}
    return flat

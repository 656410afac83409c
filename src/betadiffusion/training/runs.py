"""A run: data, its stages, and the pipeline that they leave in the run's folder.

out/config.yaml   out/vae/   out/diffusion/   out/joint/   out/decoder/   out/pipeline/
"""

import argparse
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
import yaml
from accelerate import Accelerator

from betadiffusion.data import DataError, FactorSet, ImageSet, Subset, load, split
from betadiffusion.data.sources import place
from betadiffusion.metrics.weights import weights_file
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.pipelines.walk_levels import fit_clock
from betadiffusion.training.accelerator import make_accelerator
from betadiffusion.training.conditions import Conditions, make_conditions
from betadiffusion.training.config import DataConfig, OptimisationConfig, RunConfig, autoencoder, chosen
from betadiffusion.training.decoder_stage import DecoderStage, encoder_fingerprint
from betadiffusion.training.diffusion_stage import DiffusionStage
from betadiffusion.training.distillation_stage import DistillationStage
from betadiffusion.training.feature_cache import FeatureCache
from betadiffusion.training.files import plain, read_settings, sole, write_folder, write_text
from betadiffusion.training.joint_stage import JointStage
from betadiffusion.training.latent_cache import LatentCache
from betadiffusion.training.models import (
    Autoencoder,
    build_denoiser,
    build_vae,
    image_size,
    load_pipeline,
    load_trained,
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
    check_same_run(config)
    accelerator = make_accelerator(config)
    with alone(Path(config.out), accelerator):
        _run(config, accelerator)
    accelerator.end_training()
    return Path(config.out)


def alone(out: Path, accelerator: Accelerator) -> AbstractContextManager[None]:
    """Keeps other trainings out of a run's folder; ValueError where there is one."""
    return sole(out) if accelerator.is_main_process else nullcontext()


def _run(config: RunConfig, accelerator: Accelerator) -> None:
    out = Path(config.out)
    with accelerator.main_process_first():
        train, held_out = load_split(config.data, image_size(config), config.seed)
    if "decoder" in config.stages and config.decoder.lpips:
        weights_file(config.decoder.lpips_weights)  # a slip shows before hours of training, as do those that follow
    judged = "report" in config.stages and config.report.features == "classifier"
    if judged and train.labels is None and not isinstance(train, FactorSet):
        raise DataError(f"{train.name} has no factors or labels: report.features cannot be 'classifier'.")
    conditions = make_run_conditions(config, (train, held_out), accelerator)
    torch.manual_seed(config.seed)  # initial weights
    vae = build_vae(config, train.image_shape)
    drawn = torch.get_rng_state()  # of what comes after, whichever stages a command has
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
            _remove_other_pipeline(out, trained)
            write_folder(out / "vae" / "model", trained.save_pretrained)
    if "diffusion" in config.stages:
        accelerator.wait_for_everyone()  # until the main process has written the VAE
        teacher = None
        if config.diffusion.teacher:
            check_trained_within(Path(config.diffusion.teacher), config, train.base)
            teacher = load_pipeline(Path(config.diffusion.teacher))
        vae = trained_vae(config, train.image_shape, teacher)
        torch.set_rng_state(drawn)
        denoiser = build_denoiser(config, vae, conditions[0].spec if conditions else None)
        identity = {
            "vae": settings(vae), "encoder": encoder_fingerprint(vae), "denoiser": settings(denoiser),
            "cache": config.cache.levels, "diffusion": config.diffusion,
        }  # fmt: skip
        if teacher is None:
            cache = make_cache(config, vae.to(accelerator.device), train, accelerator)
            identity["cached"] = cache is not None
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
        torch.set_rng_state(drawn)
        _tune_decoder(config, train, held_out, accelerator)
    accelerator.wait_for_everyone()


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


def check_trained_within(other: Path, config: RunConfig, source: ImageSet) -> None:
    """ValueError where a run that this one builds on was trained on images of `source` that this one does not train on.

    They would count as held out.
    """
    kept = load_config(other)
    if place(kept.data.source) != place(config.data.source):
        return
    theirs, ours = (split_indices(len(source), each.data, each.seed)[0] for each in (kept, config))
    if count := len(np.setdiff1d(theirs, ours)):
        limit = "" if kept.data.limit is None else f" --data.limit {kept.data.limit}"
        raise ValueError(
            f"{other} was trained on {count} images that this run would take for held out: give "
            f"--seed {kept.seed} --data.held_out {kept.data.held_out}{limit}, as there"
        )


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


def _remove_other_pipeline(out: Path, vae: Autoencoder) -> None:
    """Removes a pipeline of another training of the VAE: commands would go on with that one."""
    if not (out / "pipeline").is_dir():
        return
    before, after = (encoder_fingerprint(each, calibrated=False) for each in (load_pipeline(out).vae, vae))
    if before != after:
        shutil.rmtree(out / "pipeline")
        print(f"{out}/pipeline was of the VAE before this one, and is gone: stage 'diffusion' makes another")


def save_pipeline(out: Path, vae: Autoencoder, denoiser: NonlinearDenoiser) -> None:
    """Writes what has been trained as a pipeline, its clock "fitted" measured."""
    fit_clock(denoiser)
    write_folder(out / "pipeline", BetaDiffusionPipeline(vae=vae.cpu(), denoiser=denoiser.cpu()).save_pretrained)


def _tune_decoder(config: RunConfig, train: Subset, held_out: Subset, accelerator: Accelerator) -> None:
    """Stage "decoder": the VAE of the run, and its pipeline where there is one, get the new decoder."""
    out, pipeline = Path(config.out), None
    vae = trained_vae(config, train.image_shape)
    encoder, untuned = encoder_fingerprint(vae), out / "decoder" / "untuned"
    with accelerator.main_process_first():
        if untuned.is_dir() and encoder_fingerprint(before := load_trained(type(vae), untuned)) == encoder:
            vae = before  # an earlier tuning, which is gone on with or begun anew, has put its own in the other's place
        elif accelerator.is_main_process:
            write_folder(untuned, vae.save_pretrained)
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


def fit(
    stage: Stage, training: OptimisationConfig, config: RunConfig, accelerator: Accelerator, models: dict[str, Any]
) -> Any:
    """Trains a stage in its folder of the run; `models` are the network settings a checkpoint must agree with."""
    same_result = {"accumulation", "checkpoint_images", "keep_checkpoints"}  # may change between resumes
    optimisation = {k: v for k, v in plain(training).items() if k not in same_result}
    data = {k: v for k, v in plain(config.data).items() if k != "source"} | {"images": stage.count}
    identity = plain({"training": optimisation, "data": data, "seed": config.seed} | models)
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
    trainer.resume(resume)
    if accelerator.is_main_process:  # only now: settings that do not go with a run must not replace its own
        write_text(Path(config.out) / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False))
    return trainer.fit()

"""What commands on a finished run begin with: its pipeline, or one sentence. Heavy imports happen inside."""

from pathlib import Path
from typing import TYPE_CHECKING

from betadiffusion.cli.baselines import baseline_of, load_coder

if TYPE_CHECKING:
    from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline


def hide_loading_bars() -> None:
    """Has diffusers draw no bar over the two files of a pipeline."""
    from diffusers.utils import logging

    logging.disable_progress_bar()


def require_pipeline(run: Path) -> None:
    """ValueError where a folder is not that of a run whose training has finished."""
    if not run.is_dir():
        raise ValueError(f"there is no folder {run}: give the folder of a run")
    if not (run / "config.yaml").is_file():
        raise ValueError(f"{run} is not the folder of a run: it has no config.yaml")
    if name := baseline_of(run):
        raise ValueError(
            f"{run} is a run of model {name!r}, a baseline without a diffusion between levels: it can be sampled, "
            f"reconstructed, edited with --show alone, and evaluated, as far as its model can"
        )
    if not (run / "pipeline" / "model_index.json").is_file():
        raise ValueError(f"{run} has no pipeline/model_index.json: its training has not finished")


def load_pipeline(run: Path, needs_denoiser: bool = True) -> "BetaDiffusionPipeline":
    """The pipeline of a run, from safetensors and JSON alone, on the GPU where there is one, or what stage "vae" left.

    Without a denoiser also that of a baseline with an encoder and a decoder. ValueError where the folder is not a
    run's, or where what is needed has not been trained yet.
    """
    baseline = baseline_of(run)
    if needs_denoiser or not (baseline or (run / "vae" / "model").is_dir()):
        require_pipeline(run)
    import torch

    from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
    from betadiffusion.training import models

    hide_loading_bars()
    if baseline:
        pipeline = BetaDiffusionPipeline(load_coder(run, baseline))
    elif (run / "pipeline").is_dir():
        pipeline = models.load_pipeline(run)
    else:
        pipeline = BetaDiffusionPipeline(models.load_vae(run).eval())
    pipeline.set_progress_bar_config(disable=None, unit=" steps", leave=False)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def check_png(out: Path) -> None:
    """ValueError for a picture that would not be a PNG."""
    if out.suffix != ".png":
        raise ValueError(f"--out must be a .png, not {out}")

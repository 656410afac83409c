"""What the numbers of a report depend on, besides the models: data, seed, hardware, versions."""

import os
import platform
from pathlib import Path
from typing import Any

import torch

import betadiffusion
from betadiffusion.data import Subset
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.training.config import RunConfig, autoencoder, denoiser_name


def context(pipeline: BetaDiffusionPipeline, train: Subset, held_out: Subset, config: RunConfig) -> dict[str, Any]:
    """Data, seed, sizes of the models, hardware and versions, all of it fit for JSON."""
    device = pipeline.device
    return {
        "source": config.data.source,
        "data": train.name,
        "image_shape": list(train.image_shape),
        "train": len(train),
        "held_out": len(held_out),
        "skipped": len(train.skipped),
        "skipped_first": train.skipped[:5],
        "seed": config.seed,
        "model": config.model,
        "vae": autoencoder(config).preset,
        "denoiser": denoiser_name(config),
        "latent_shape": list(pipeline.vae.latent_shape),
        "parameters": {
            name: sum(p.numel() for p in model.parameters())
            for name, model in (("vae", pipeline.vae), ("denoiser", pipeline.denoiser))
        },
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": torch.__version__,
        "betadiffusion": betadiffusion.__version__,
    }


def cpu_model() -> str:
    """The processor's name as Linux gives it, else as Python does."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

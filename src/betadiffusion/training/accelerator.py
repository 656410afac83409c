"""Where and how a run computes: device, processes, precision, trackers."""

import netrc
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import torch
from accelerate import Accelerator
from torch.utils.benchmark import Timer

from betadiffusion.training.config import RunConfig
from betadiffusion.training.files import flat


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
        values = {key: str(value) for key, value in flat(config).items()}
        accelerator.init_trackers(project, config=values, init_kwargs=options)
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

"""Checkpoints: a folder of safetensors and one JSON, complete or not there at all.

A checkpoint is written under a temporary name and renamed, so that a folder with a final name is whole. Its name is
the number of images seen.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

STATE = "state.json"


Parts = Mapping[str, nn.Module | torch.optim.Optimizer]


def save(folder: Path, images: int, parts: Parts, state: dict[str, Any]) -> Path:
    """Writes folder/000000012800 with all that training holds: NAME.safetensors for each part, `state` (JSON)."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{images:012d}"
    partial = folder / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, part in parts.items():
        tensors = part.state_dict()
        if isinstance(part, torch.optim.Optimizer):
            tensors = {f"{i}.{k}": v for i, s in tensors["state"].items() for k, v in s.items()}
        save_file(_tensors(tensors), partial / f"{name}.safetensors")
    (partial / STATE).write_text(json.dumps(state | {"images": images}, indent=1))
    for file in partial.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    if final.exists():  # the same step again, after a resume: the same content
        shutil.rmtree(final)
    partial.rename(final)
    return final


def load(checkpoint: Path, parts: Parts) -> dict[str, Any]:
    """Puts a checkpoint back into its parts and returns its state; ValueError where it is damaged."""
    for name, part in parts.items():
        try:
            tensors = load_file(checkpoint / f"{name}.safetensors")
        except (OSError, SafetensorError) as error:
            raise _damaged(checkpoint, error) from error
        if isinstance(part, torch.optim.Optimizer):
            _load_moments(part, tensors)
        else:
            part.load_state_dict(tensors)
    return read_state(checkpoint)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint; ValueError where it is damaged."""
    try:
        return json.loads((checkpoint / STATE).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise _damaged(checkpoint, error) from error


def _damaged(checkpoint: Path, error: Exception) -> ValueError:
    return ValueError(f"{checkpoint} is damaged ({error}): delete it, to go on from the one before")


def newest(folder: Path) -> Path | None:
    """The checkpoint in `folder` with the most images seen, or None."""
    found = sorted(path for path in folder.glob("[0-9]*") if (path / STATE).is_file())
    return found[-1] if found else None


def keep_only(folder: Path, count: int, up_to: Path) -> None:
    """Deletes all checkpoints but `up_to` and the newest before it, `count` in all, and what a kill left behind."""
    whole = sorted(path for path in folder.glob("[0-9]*") if path.name <= up_to.name)
    for path in folder.iterdir():
        if path not in whole[-count:]:
            shutil.rmtree(path)


def _load_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        weight = weights[int(number)]
        if value.shape == weight.shape:
            # laid out in memory like its weight: the fused AdamW walks both as they lie
            value = torch.empty_like(weight, dtype=value.dtype, requires_grad=False).copy_(value)
        moments.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}

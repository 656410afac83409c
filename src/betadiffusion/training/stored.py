"""Arrays that cost much to compute, kept in memory-mapped files with a key that says what made them."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from betadiffusion.atomic import atomic
from betadiffusion.data import Subset
from betadiffusion.training.files import write_text

PROBED = 16  # images whose pixels are part of a key


def stored(
    file: Path, key: dict[str, Any], shape: tuple[int, ...], dtype: type, fill: Callable[[np.ndarray], None]
) -> np.ndarray:
    """The read-only array in `file`, a .npy, written by fill(array) unless the same key made it before.

    The key lies beside it as key.json, and is written last: without it, or with another, the file does not count.
    """
    text, key_file = json.dumps(key), file.with_name("key.json")
    if not (key_file.exists() and key_file.read_text() == text):
        file.parent.mkdir(parents=True, exist_ok=True)
        key_file.unlink(missing_ok=True)
        _check_room(file.parent, math.prod(shape) * np.dtype(dtype).itemsize)
        with atomic(file) as partial:  # a map of the file that was there goes on to hold
            array = np.lib.format.open_memmap(partial, "w+", dtype, shape)
            fill(array)
            array.flush()
        write_text(key_file, text)
    return np.load(file, mmap_mode="r")


def _check_room(folder: Path, needed: int) -> None:
    """ValueError where a folder's disk has not so many bytes free: a map of a file that does not fit kills."""
    if needed > (free := shutil.disk_usage(folder).free):
        raise ValueError(f"{folder} needs {needed / 1e9:.2f} GB for a cache, of which {free / 1e9:.2f} GB are free")


def fingerprint(model: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 of the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def images_key(images: Subset) -> list[Any]:
    """What tells sets of images apart: name, number, shape, a hash of which they are and of the pixels of a few."""
    few = np.unique(np.linspace(0, len(images) - 1, PROBED).astype(np.int64))
    digest = hashlib.sha256(images.indices.tobytes() + images.images(few).tobytes()).hexdigest()[:16]
    return [images.name, len(images), list(images.image_shape), digest]

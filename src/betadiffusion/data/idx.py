"""idx files: the format of MNIST (Y. LeCun, "The MNIST database", file formats), Fashion-MNIST, KMNIST and EMNIST.

EMNIST's images (G. Cohen et al., 2017) are stored transposed, and turned back here.
"""

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np

from betadiffusion.data.arrays import ArrayImages, fit
from betadiffusion.data.protocols import DataError

IMAGES = re.compile(r"(.*)images([-.]idx)3(-ubyte)(?:\.gz)?")
PARTITION = re.compile(r"(emnist-\w+-)?(train|t10k|test)-")
PARTS = {"train": "train", "t10k": "test", "test": "test"}


def image_files(folder: Path) -> list[Path]:
    """The idx files of images in a folder, gzipped or not: train, then t10k or test, then others by name."""
    files = {path.name.removesuffix(".gz"): path for path in sorted(folder.iterdir()) if IMAGES.fullmatch(path.name)}
    order = {"train": 0, "test": 1, None: 2}
    return [files[name] for name in sorted(files, key=lambda name: (order[_part(name)], name))]


def load_idx(name: str, files: list[Path], size: int, channels: int | None) -> ArrayImages:
    """The images of idx files, one after the other, as (N, channels, size, size).

    With labels, as they are stored (EMNIST's letters are 1 to 26), and partition where all files have them. 28x28
    images get a border of zeros for size 32; otherwise they are cut square and resized. channels: 1 (default), or 3
    equal ones. DataError: a file that is cut short, is no idx file or does not fit its labels; several EMNIST sets.
    """
    sets = sorted({match[1] for file in files if (match := PARTITION.match(file.name)) and match[1]})
    if len(sets) > 1:
        raise DataError(
            f"{files[0].parent} holds several EMNIST sets ({', '.join(kind[:-1] for kind in sets)}), which share their "
            "images: move the files of one into a folder of their own."
        )
    parts = [read_idx(file, dimensions=3) for file in files]
    for file, part in zip(files, parts, strict=True):
        if not part.size:
            raise DataError(f"{file} holds no images.")
    found = [_labels(file, len(part)) for file, part in zip(files, parts, strict=True)]
    labels = [part for part in found if part is not None]
    parts = [part.transpose(0, 2, 1) if sets else part for part in parts]
    array = np.concatenate([_resize(part, size) for part in parts])[:, None]
    kinds = [_part(file.name) for file in files]
    return ArrayImages(
        name,
        np.broadcast_to(array, (len(array), channels or 1, size, size)),
        labels=np.concatenate(labels).astype(np.int64) if len(labels) == len(files) else None,
        partition=np.repeat(kinds, list(map(len, parts))) if all(kinds) else None,
    )


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The unsigned bytes in an idx file, gzipped or not, as a read-only array of so many dimensions."""
    expected = bytes([0, 0, 8, dimensions])  # the 8 means unsigned bytes
    try:
        with path.open("rb") as raw, gzip.open(raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw as file:
            magic = file.read(4)
            if magic != expected:
                raise DataError(
                    f"{path} is not an idx file of {dimensions} dimensions (it begins with {magic.hex() or 'nothing'}, "
                    f"not {expected.hex()}): give an idx file, or a folder or .zip of images."
                )
            header, data = file.read(4 * dimensions), file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read, perhaps it is cut short ({error}).") from error
    if len(header) < 4 * dimensions:
        raise DataError(f"{path} is cut short in its header.")
    shape = np.frombuffer(header, ">u4").tolist()
    if len(data) != math.prod(shape):
        raise DataError(
            f"{path} is cut short or damaged: its header promises {math.prod(shape)} values, but {len(data)} follow it."
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _labels(images: Path, count: int) -> np.ndarray | None:
    match = IMAGES.fullmatch(images.name)
    if match is None:
        return None
    name = images.with_name(f"{match[1]}labels{match[2]}1{match[3]}")
    path = next((path for path in (name, name.with_name(name.name + ".gz")) if path.exists()), None)
    if path is None:
        return None
    labels = read_idx(path, dimensions=1)
    if len(labels) != count:
        raise DataError(f"{path} holds {len(labels)} labels for the {count} images of {images.name}.")
    return labels


def _part(name: str) -> str | None:
    match = PARTITION.match(name)
    return PARTS[match[2]] if match else None


def _resize(images: np.ndarray, size: int) -> np.ndarray:
    if (size, *images.shape[1:]) == (32, 28, 28):
        return np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return fit(images, size, channels=1)[:, 0]

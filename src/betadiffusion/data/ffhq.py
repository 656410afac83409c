"""FFHQ: 70,000 faces of 1024x1024, and thumbnails of 128x128 (T. Karras et al., "A style-based generator architecture
for generative adversarial networks", 2019).
"""

import json
from pathlib import Path, PurePosixPath

import numpy as np

from betadiffusion.data.files import Place, load_source, locate, open_source, places, read_text
from betadiffusion.data.protocols import DataError, ImageSet

NAME = "ffhq"
LARGE, SMALL = "images1024x1024", "thumbnails128x128"
METADATA = "ffhq-dataset-v2.json"
PARTS = {"training": "train", "validation": "valid"}
TRAINING = 60_000  # the first of the images, say its publishers; the other 10,000 are for validation


def detect(path: Path) -> bool:
    """Whether a folder or .zip holds, or is, images1024x1024 or thumbnails128x128."""
    return bool(_folders(path))


def load(path: Path, size: int | None, channels: int | None, cache_dir: Path | None, progress: bool) -> ImageSet:
    """FFHQ in a folder or .zip, with its partition, from ffhq-dataset-v2.json where that is there. Default size: 64.

    Where both kinds of images are there the thumbnails are read for sizes up to 128. DataError: no images, one that is
    not called by its number, a JSON file that is damaged or lacks an image, and what `load_files` raises.
    """
    folders = _folders(path)
    if not folders:
        raise DataError(f"{path} holds no folder {LARGE} or {SMALL}.")
    images = load_source(
        open_source(folders[-1 if (size or 64) <= 128 else 0]), size or 64, channels, cache_dir, progress
    )
    stems = [PurePosixPath(name).stem for name in images.names]
    wrong = [name for name, stem in zip(images.names, stems, strict=True) if not (stem.isascii() and stem.isdigit())]
    if wrong:
        raise DataError(f"{path} holds {wrong[0]}, which is not called by its number as FFHQ's images are.")
    metadata = locate(path.parent if path.stem in (LARGE, SMALL) else path, METADATA)
    images.name = NAME
    images.partition = _partition(list(map(int, stems)), metadata)
    return images


def _folders(path: Path) -> list[Place]:
    """Where the images are, the large ones first."""
    if path.stem in (LARGE, SMALL):
        return [path] if places(path) else []
    return [place for name in (LARGE, SMALL) if (place := locate(path, name))]


def _partition(numbers: list[int], metadata: Place | None) -> np.ndarray:
    if metadata is None:
        return np.where(np.array(numbers) < TRAINING, "train", "valid")
    try:
        about = json.loads(read_text(metadata))
    except json.JSONDecodeError as error:
        raise DataError(f"{metadata} is not JSON, perhaps it is cut short ({error}).") from error
    try:
        return np.array([PARTS[about[str(number)]["category"]] for number in numbers])
    except (KeyError, TypeError) as error:
        raise DataError(f"{metadata} should give each image its category, but lacks or misstates {error}.") from error

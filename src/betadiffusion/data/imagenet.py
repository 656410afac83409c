"""ImageNet and sets laid out like it, a folder per class (O. Russakovsky et al., "ImageNet large scale visual
recognition challenge", 2015).
"""

import re
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from betadiffusion.data.arrays import ArrayImages
from betadiffusion.data.files import Place, is_image, load_source, open_source, places
from betadiffusion.data.protocols import DataError, ImageSet

NAME = "imagenet"
PARTS = {"train": "train", "val": "valid", "test": "test"}
TREE = "should hold a folder of images for each of at least two classes"
WNID = re.compile(r"n\d{8}")  # of a WordNet synset


def detect(path: Path) -> bool:
    """Whether a folder or .zip has class folders called n########, or the same ones of images in train/ and val/."""
    try:
        return any(_is_imagenet(place) for place in places(path))
    except OSError:
        return False


def load(path: Path, size: int | None, channels: int | None, cache_dir: Path | None, progress: bool) -> ImageSet:
    """train/CLASS/..., val/CLASS/... and test/CLASS/..., or CLASS/... alone, in a folder or .zip. Default size: 64.

    The labels number the class folders in the order of their names. Where the set is divided, images outside the three
    folders and test images without a class are left out. DataError: an image without a class, fewer than two classes,
    a class that train/ does not have, and what `load_files` raises.
    """
    source = open_source(path)
    found = _parts_and_classes(path, source.names)
    classes = sorted({kind for part, kind in found.values() if part in (None, "train")})
    if len(classes) < 2:
        raise DataError(f"{path} {TREE}, but holds only {', '.join(classes)}.")
    number = {kind: i for i, kind in enumerate(classes)}
    unknown = next((f"{part}/{kind}" for part, kind in found.values() if kind not in number), None)
    if unknown:
        raise DataError(f"{path} holds {unknown}, but no train/{unknown.split('/')[1]}: both need the same classes.")
    images = load_source(replace(source, names=list(found)), size or 64, channels, cache_dir, progress)
    kept = [found[name] for name in images.names]
    return ArrayImages(
        source.name,
        images.array,
        images.skipped,
        images.names,
        labels=np.array([number[kind] for _, kind in kept], np.int64),
        label_names=tuple(classes),
        partition=None if kept[0][0] is None else np.array([PARTS[part] for part, _ in kept]),
    )


def _parts_and_classes(path: Path, names: list[str]) -> dict[str, tuple[str | None, str]]:
    """The folder of PARTS, or None where the set is not divided, and the class of each image that has a place."""
    split = [name.split("/") for name in names]
    folders = {parts[0] for parts in split if len(parts) > 1}
    if len({parts[0] for parts in split}) == 1 and not folders <= PARTS.keys():  # one folder around it all
        split = [parts[1:] for parts in split]
        folders = {parts[0] for parts in split if len(parts) > 1}
    divided = {"train", "val"} <= folders or ("train" in folders and folders <= PARTS.keys())
    found = {}
    for name, parts in zip(names, split, strict=True):
        part, *rest = parts if divided else [None, *parts]
        if divided and (part not in PARTS or (part == "test" and len(rest) < 2)):
            continue
        if len(rest) < 2:
            raise DataError(f"{path} {TREE}, but {name} lies in none of them.")
        found[name] = part, rest[0]
    return found


def _is_imagenet(place: Place) -> bool:
    top = _folders(place)
    train, val = (_folders(place / name) if name in top else set() for name in ("train", "val"))
    if sum(WNID.fullmatch(name) is not None for name in top | train) >= 2:
        return True
    return len(val) >= 2 and val <= train and all(_holds_images(place / "train" / name) for name in sorted(val)[:2])


def _folders(place: Place) -> set[str]:
    return {entry.name for entry in place.iterdir() if not is_image(entry.name) and entry.is_dir()}


def _holds_images(place: Place) -> bool:
    return any(is_image(entry.name) for entry in islice(place.iterdir(), 8))

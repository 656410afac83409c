"""UTKFace: 23,708 aligned faces with age, gender and race (Z. Zhang et al., "Age progression/regression by conditional
adversarial autoencoder", 2017), by file name or in a metadata.csv.
"""

import csv
import re
import zipfile
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from betadiffusion.data.arrays import ArrayImages
from betadiffusion.data.files import MAX_SKIPPED, Place, is_image, load_source, locate, open_source, places, read_text
from betadiffusion.data.protocols import DataError, ImageSet

NAME = "utkface"
METADATA = "metadata.csv"
COLUMNS = ("file_name", "age", "gender", "race")
AGE_GROUPS = {"child": 0, "teenager": 13, "young": 20, "middle-aged": 36, "over_50": 51}  # the first age of each
FILE_NAME = re.compile(r"(\d{1,3})_([01])_[0-4]_\d{8}")  # age, gender, race, date and time; .jpg, .jpg.chip.jpg


class UTKFace(ArrayImages):
    """Faces with attributes from the labels (child: under 13, over_50, female) and from the pictures themselves.

    Of these bright, warm_hue (not of grey images) and high_contrast say whether the mean luminance, the mean of red
    minus blue and the standard deviation of the luminance are above their medians over the set. They are computed when
    attributes are first asked for. The grouping age_group divides the ages as AGE_GROUPS does.
    """

    def __init__(self, images: ArrayImages, skipped: list[str], ages: np.ndarray, female: np.ndarray) -> None:
        super().__init__(NAME, images.array, skipped, images.names)
        self._labelled = np.stack([ages < 13, ages > 50, female], axis=1)
        groups = np.searchsorted(list(AGE_GROUPS.values()), ages, side="right") - 1
        self.groupings = {"age_group": (groups, tuple(AGE_GROUPS))}
        of_pictures = (
            ("bright", "warm_hue", "high_contrast") if self.image_shape[0] == 3 else ("bright", "high_contrast")
        )
        self.attribute_names = ("child", "over_50", "female", *of_pictures)

    def attributes(self, indices: np.ndarray) -> np.ndarray:
        """The attributes of the images at `indices`, (B,), as (B, A) bool."""
        return self._attributes[indices]

    @cached_property
    def _attributes(self) -> np.ndarray:
        chunks = range(0, len(self), 256)
        statistics = np.concatenate([_statistics(self.array[start : start + 256]) for start in chunks])
        return np.concatenate([self._labelled, statistics > np.median(statistics, axis=0)], axis=1)


def detect(path: Path) -> bool:
    """Whether a folder or .zip has UTKFace's metadata.csv, or images most of which are called as UTKFace's are."""
    try:
        if metadata := locate(path, METADATA):
            with metadata.open(encoding="utf-8-sig") as file:
                return set(COLUMNS) <= set(file.readline(1000).strip().split(","))
        return any(_has_names(place) for place in places(path))
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def load(path: Path, size: int | None, channels: int | None, cache_dir: Path | None, progress: bool) -> ImageSet:
    """UTKFace in a folder or .zip. Default size: 64.

    Images whose name does not tell age and gender, or that metadata.csv does not list, are left out, as `skipped` says.
    DataError: more than 1 % of them, metadata.csv is damaged, and what `load_files` raises.
    """
    metadata = locate(path, METADATA)
    source = open_source(metadata.parent if metadata else path)
    facts = _from_metadata(metadata, source.names) if metadata else _from_names(source.names)
    reason = f"not in {METADATA}" if metadata else "its name does not tell age, gender and race"
    unknown = [f"{name} ({reason})" for name in source.names if name not in facts]
    if len(unknown) > MAX_SKIPPED * len(source.names):
        raise DataError(
            f"{path} has {len(unknown)} images of unknown age and gender, more than {MAX_SKIPPED:.0%} of its "
            f"{len(source.names)}: {unknown[0]}."
        )
    images = load_source(replace(source, names=list(facts)), size or 64, channels, cache_dir, progress)
    ages, female = np.array([facts[name] for name in images.names]).T
    return UTKFace(images, unknown + images.skipped, ages, female == 1)


def _has_names(place: Place) -> bool:
    names = [name for entry in islice(place.iterdir(), 100) if is_image(name := entry.name)]
    return 2 * sum(FILE_NAME.match(name) is not None for name in names) > len(names)


def _from_names(names: list[str]) -> dict[str, tuple[int, int]]:
    """Age and gender, 1 for female, by file."""
    matches = {name: FILE_NAME.match(name.rsplit("/", 1)[-1]) for name in names}
    return {name: (int(match[1]), int(match[2])) for name, match in matches.items() if match}


def _from_metadata(metadata: Place, names: list[str]) -> dict[str, tuple[int, int]]:
    """Age and gender, 1 for female, by file."""
    listed = {}
    for row in csv.DictReader(read_text(metadata).splitlines()):
        try:
            age, gender, race = (int(row[column]) for column in COLUMNS[1:])
            if not (0 <= age < 150 and gender in (0, 1) and race in range(5)):
                raise ValueError
            listed[row[COLUMNS[0]]] = age, gender
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{metadata} should have {','.join(COLUMNS)} in each line, with a gender of 0 or 1 and a race from 0 "
                f"to 4, but has {','.join(map(str, row.values()))[:60]!r}."
            ) from error
    return {name: listed[short] for name in names if (short := name.rsplit("/", 1)[-1]) in listed}


def _statistics(images: np.ndarray) -> np.ndarray:
    """Mean luminance, mean of red minus blue if there are colours, and standard deviation of luminance, (B, 2 or 3)."""
    values = images.astype(np.float32)
    if images.shape[1] == 1:
        luminance = values[:, 0]
        return np.stack([luminance.mean((1, 2)), luminance.std((1, 2))], axis=1)
    luminance = np.einsum("bchw,c->bhw", values, np.float32([0.299, 0.587, 0.114]))  # Rec. 601, as Pillow's mode L
    warmth = (values[:, 0] - values[:, 2]).mean((1, 2))
    return np.stack([luminance.mean((1, 2)), warmth, luminance.std((1, 2))], axis=1)

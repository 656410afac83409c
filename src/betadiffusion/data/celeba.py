"""CelebA: 202,599 aligned faces of 178x218 with 40 attributes (Z. Liu et al., "Deep learning face attributes in the
wild", 2015), as its authors lay it out (Anno, Eval, Img) and as Kaggle does (CSV).

As of every image file the central square is kept, here of 178 px; papers that cut out 140 or 148 px see closer faces.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from betadiffusion.data.arrays import ArrayImages
from betadiffusion.data.files import Place, load_source, locate, open_source, read_text
from betadiffusion.data.protocols import DataError, ImageSet

NAME = "celeba"
IMAGES = ("img_align_celeba", "Img/img_align_celeba", "img_align_celeba.zip", "Img/img_align_celeba.zip")
ATTRIBUTES = tuple(f"{folder}list_attr_celeba.{kind}" for folder in ("", "Anno/") for kind in ("txt", "csv"))
PARTITION = tuple(f"{folder}list_eval_partition.{kind}" for folder in ("", "Eval/", "Anno/") for kind in ("txt", "csv"))
PARTS = {"0": "train", "1": "valid", "2": "test"}

T = TypeVar("T")


def detect(path: Path) -> bool:
    """Whether a folder or .zip holds one of CelebA's lists."""
    return locate(path, *ATTRIBUTES, *PARTITION) is not None


def load(path: Path, size: int | None, channels: int | None, cache_dir: Path | None, progress: bool) -> ImageSet:
    """CelebA in a folder or .zip; in a folder the images may still be in img_align_celeba.zip. Default size: 64.

    With the attributes and the partition whose lists are there. DataError: no images, a list that is damaged or lacks
    one of the images, and what `load_files` raises.
    """
    place = locate(path, *IMAGES)
    if place is None:
        raise DataError(f"{path} holds neither a folder img_align_celeba nor img_align_celeba.zip beside its lists.")
    images = load_source(open_source(place), size or 64, channels, cache_dir, progress)
    partition, names, attributes = None, None, None
    if where := locate(path, *PARTITION):
        partition = np.array(look_up(read_partition(where), images.names, where))
    if where := locate(path, *ATTRIBUTES):
        names, table = read_attributes(where)
        attributes = np.array(look_up(table, images.names, where))
    return ArrayImages(
        NAME,
        images.array,
        images.skipped,
        images.names,
        partition=partition,
        attribute_names=names,
        attributes=attributes,
    )


def read_attributes(place: Place) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The A names and, by file, the (A,) bool values in a list of attributes.

    Text: the number of files, the names, and for each file its name and values of 1 and -1. CSV: a header, then the
    same rows. DataError: anything else.
    """
    rows = _rows(place)
    count = rows.pop(0) if rows and not place.name.endswith(".csv") else None
    names = rows.pop(0) if rows else []
    names = names if count else names[1:]
    if count and count != [str(len(rows))]:
        raise DataError(f"{place} is damaged: it promises {' '.join(count)[:20]} files, but {len(rows)} follow.")
    if not (names and rows):
        raise DataError(f"{place} is cut short: it should name attributes, and then give their values for each file.")
    wrong = next((row for row in rows if len(row) != 1 + len(names)), None)
    if wrong:
        raise DataError(f"{place} has {len(wrong) - 1} values for {wrong[0]}, not {len(names)} as its header says.")
    wrong = next((row for row in rows if not {"1", "-1"}.issuperset(row[1:])), None)
    if wrong:
        raise DataError(f"{place} has a value for {wrong[0]} that is neither 1 nor -1.")
    return tuple(names), {name: np.array([value == "1" for value in values]) for name, *values in rows}


def read_partition(place: Place) -> dict[str, str]:
    """By file "train", "valid" or "test" from a list of rows with 0, 1 or 2; CSV has a header."""
    rows = _rows(place)[1 if place.name.endswith(".csv") else 0 :]
    wrong = next((row for row in rows if len(row) != 2 or row[1] not in PARTS), None)
    if wrong:
        raise DataError(
            f"{place} should have a file and one of 0, 1, 2 in each line, but has {' '.join(wrong)[:40]!r}."
        )
    return {name: PARTS[part] for name, part in rows}


def look_up(table: Mapping[str, T], names: list[str], where: Place) -> list[T]:
    """The entries of the files `names`, by their names without folders; DataError where one has none."""
    short = [name.rsplit("/", 1)[-1] for name in names]
    missing = [name for name in short if name not in table]
    if missing:
        raise DataError(f"{where} has no line for {len(missing)} of the {len(names)} images, such as {missing[0]}.")
    return [table[name] for name in short]


def _rows(place: Place) -> list[list[str]]:
    separator = "," if place.name.endswith(".csv") else None
    return [line.split(separator) for line in read_text(place).splitlines() if line.strip()]

"""Flickr8k (M. Hodosh et al., "Framing image description as a ranking task", 2013), and any images with captions laid
out like it: a file of captions beside the images or the folder that holds them.
"""

import csv
import io
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from betadiffusion.data.arrays import ArrayImages
from betadiffusion.data.files import MAX_SKIPPED, Place, load_source, locate, open_source, read_text
from betadiffusion.data.protocols import DataError

NAME = "flickr8k"
TOKENS = "Flickr8k.token.txt"  # of the original: NAME#NUMBER, a tab, the caption
TABLES = ("captions.txt", "captions.csv")  # with a first line of IMAGE,CAPTION
IMAGE_COLUMNS, CAPTION_COLUMN = ("image", "file_name", "filename"), "caption"


class CaptionedImages(ArrayImages):
    """Images with captions, one or several each."""

    def __init__(self, images: ArrayImages, skipped: list[str], captions: list[list[str]]) -> None:
        super().__init__(images.name, images.array, skipped, images.names)
        self.caption_counts = np.array([len(own) for own in captions])
        self._captions = captions

    def captions(self, indices: np.ndarray) -> list[list[str]]:
        """The captions of each of the images at `indices`, (B,)."""
        return [self._captions[i] for i in indices]


def detect(path: Path) -> bool:
    """Whether a folder or .zip, or the only folder in it, has a file of captions."""
    return locate(path, TOKENS, *TABLES) is not None


def load(
    path: Path, size: int | None, channels: int | None, cache_dir: Path | None = None, progress: bool = True
) -> CaptionedImages:
    """The images beside a file of captions, or in folders there, that it names. Default size: 64.

    The file is captions.txt or captions.csv, comma-separated, whose first line names a column "image" (or "file_name")
    and a column "caption", or Flickr8k.token.txt; an image has a line for each of its captions. Images are known by
    their file names, in whatever folder, and captions of images that are not there are passed over.
    DataError: the file is damaged, more than 1 % of the images have no caption, and what `load_files` raises.
    """
    file = locate(path, TOKENS, *TABLES)
    if file is None:
        raise DataError(f"{path} has no file of captions: {', '.join((*TABLES, TOKENS))}.")
    found = _tokens(file) if file.name == TOKENS else _table(file)
    source = open_source(file.parent)
    without = [f"{name} (no caption in {file.name})" for name in source.names if _short(name) not in found]
    if len(without) > MAX_SKIPPED * len(source.names):
        raise DataError(
            f"{file} has no caption for {len(without)} of the {len(source.names)} images, more than "
            f"{MAX_SKIPPED:.0%}: {without[0]}."
        )
    captioned = [name for name in source.names if _short(name) in found]
    images = load_source(replace(source, names=captioned), size or 64, channels, cache_dir, progress)
    return CaptionedImages(images, without + images.skipped, [found[_short(name)] for name in images.names])


def _short(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _table(file: Place) -> dict[str, list[str]]:
    """Captions by file name, of a table."""
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""))
    columns = [column.strip() for column in reader.fieldnames or []]
    image = next((column for column in IMAGE_COLUMNS if column in columns), None)
    if image is None or CAPTION_COLUMN not in columns:
        raise DataError(f"{file} should begin with a line 'image,caption', not {','.join(columns)[:60]!r}.")
    reader.fieldnames = columns
    return _gather(file, [(row[image], row[CAPTION_COLUMN]) for row in reader])


def _tokens(file: Place) -> dict[str, list[str]]:
    """Captions by file name, of Flickr8k's own file."""
    pairs = [line.partition("\t")[::2] for line in read_text(file).splitlines() if line.strip()]
    return _gather(file, [(name.rpartition("#")[0], text) for name, text in pairs])


def _gather(file: Place, pairs: list[tuple[str | None, str | None]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, text in pairs:
        if not (name and text and text.strip()):
            raise DataError(f"{file} should name an image and its caption in each line, but has {name!r}, {text!r}.")
        found[_short(name.strip())].append(text.strip())
    return found

"""Image files in and out: read as in training, written whole or not at all."""

import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from betadiffusion.data import load
from betadiffusion.data.decode import EXTENSIONS, decode

GAP = 2
LEAST_SIDE = 64  # smaller images are enlarged to at least this on a sheet, by whole pixels


def read_images(sources: Iterable[str], shape: tuple[int, int, int], most: int) -> np.ndarray:
    """Image files, and at most so many images of each folder, zip or named set, as (B, C, H, W) uint8 of `shape`.

    Raises ValueError (DataError) for what cannot be read.
    """
    channels, size, _ = shape
    parts = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_file() and path.suffix.lower() in EXTENSIONS:
            try:
                parts.append(decode(path.read_bytes(), size, channels)[None])
            except Exception as error:  # a broken file makes the decoders raise nearly anything
                raise ValueError(f"{source} cannot be read as an image ({error})") from error
        else:
            images = load(source, size, channels)
            parts.append(images.images(np.arange(min(most, len(images)))))
    return np.concatenate(parts)


def as_pictures(pixels: np.ndarray) -> list[Image.Image]:
    """(B, C, H, W) uint8 as pictures, grey for C = 1 and colour for C = 3."""
    return [Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)) for image in pixels]


def sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Images of one size on one sheet, row by row, as nearly square as they make it."""
    columns = math.ceil(math.sqrt(len(images)))
    zoom = math.ceil(LEAST_SIDE / images[0].width)
    width, height = (zoom * side for side in images[0].size)
    rows = math.ceil(len(images) / columns)
    canvas = Image.new(images[0].mode, (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        large = image.resize((width, height), Image.Resampling.NEAREST)
        canvas.paste(large, (column * (width + GAP), row * (height + GAP)))
    return canvas


def save(path: Path, image: Image.Image) -> None:
    """Writes a PNG; ValueError where it cannot."""
    with _whole(path) as partial:
        image.save(partial, format="PNG")


def save_sheet(path: Path, images: Sequence[Image.Image]) -> None:
    """Writes `sheet(images)` as a PNG; ValueError where it cannot."""
    save(path, sheet(images))


def save_all(folder: Path, images: Iterable[Image.Image]) -> None:
    """Writes folder/00000.png and on; the folder, new or empty, appears once all are in it; ValueError if it cannot."""
    with _whole(folder) as partial:
        partial.mkdir()
        for i, image in enumerate(images):
            image.save(partial / f"{i:05}.png")


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it at the end, or removed where anything fails."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        try:
            yield partial
            os.replace(partial, path)
        finally:
            _remove(partial)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror or error})") from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

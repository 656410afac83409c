"""From what the user names to an image set."""

import difflib
import os
from pathlib import Path

from betadiffusion.data.dsprites import DSprites
from betadiffusion.data.files import load_files
from betadiffusion.data.idx import image_files, load_idx
from betadiffusion.data.protocols import DataError, ImageSet
from betadiffusion.data.shapes import Shapes

NAMES = ("shapes", "dsprites", "fashion-mnist")
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist


def load(
    source: str | Path,
    size: int | None = None,
    channels: int | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> ImageSet:
    """The image set called `source`: a name of NAMES, or else the path of a folder, a .zip or an idx file.

    size: side of the square images in pixels, from 8 to 1024; default 64, but 32 for idx files.
    channels: 1 or 3; default that of the set, see `load_files` for files.
    cache_dir: where decoded image files are kept, see `load_files`. progress: whether decoding shows a progress bar.
    DataError for whatever is wrong with any of it.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 1024):
        raise DataError(f"The size must be a whole number of pixels from 8 to 1024, not {size!r}.")
    if channels not in (None, 1, 3):
        raise DataError(f"The number of channels must be 1 or 3, not {channels!r}.")
    if source == "shapes":
        return Shapes(size or 64, channels or 3)
    if source == "dsprites":
        return DSprites(size or 64, channels or 1)
    if source == "fashion-mnist":
        if not (FASHION_MNIST.is_dir() and (files := image_files(FASHION_MNIST))):
            raise DataError(
                "Fashion-MNIST is not installed: run `sudo apt-get install dataset-fashion-mnist`, "
                "or give the path of a folder with its idx files instead of its name."
            )
        return load_idx("fashion-mnist", files, size or 32, channels)
    try:
        return _load_path(Path(source).expanduser(), size, channels, cache_dir, progress)
    except OSError as error:
        raise DataError(f"{error.filename or source} cannot be read ({error.strerror or error}).") from error


def _load_path(path: Path, size: int | None, channels: int | None, cache_dir: Path | None, progress: bool) -> ImageSet:
    if not path.exists():
        raise _unknown(str(path))
    if path.is_dir() and (files := image_files(path)):
        return load_idx(path.resolve().name, files, size or 32, channels)
    if path.is_file() and path.suffix.lower() != ".zip":
        return load_idx(path.name.split(".")[0], [path], size or 32, channels)
    return load_files(path, size or 64, channels, cache_dir, progress)


def _unknown(source: str) -> DataError:
    if os.sep in source or "." in source:
        return DataError(f"There is no file or folder {source}.")
    near = difflib.get_close_matches(source.lower(), NAMES, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return DataError(f"There is no data set or path called {source!r}{hint}: the names are {', '.join(NAMES)}.")

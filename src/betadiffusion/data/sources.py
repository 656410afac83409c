"""From what the user names to an image set."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

from betadiffusion.data.dsprites import DSprites
from betadiffusion.data.files import load_files
from betadiffusion.data.idx import image_files, load_idx
from betadiffusion.data.protocols import DataError, ImageSet
from betadiffusion.data.readers import READERS, detect, reader
from betadiffusion.data.shapes import Shapes

NAMES = ("shapes", "dsprites", "fashion-mnist")
GARMENTS = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist


def load(
    source: str | Path,
    size: int | None = None,
    channels: int | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> ImageSet:
    """The image set called `source`: a name of NAMES, or else the path of a data set, a folder, a .zip or an idx file.

    A path is offered to the readers of published data sets, READERS, each of which knows its files by their names;
    "coil20:PATH" forces one. What none of them knows is read as idx files or as a folder or .zip of images.
    size: side of the square images in pixels, from 8 to 1024; default 64, but 32 for idx files and CIFAR-10.
    channels: 1 or 3; default that of the set, see `load_files` for files.
    cache_dir: where decoded or unpacked images are kept, see `load_files`. progress: whether that shows a progress bar.
    DataError for whatever is wrong with any of it.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 1024):
        raise DataError(f"The size must be a whole number of pixels from 8 to 1024, not {size!r}.")
    if channels not in (None, 1, 3):
        raise DataError(f"The number of channels must be 1 or 3, not {channels!r}.")
    if not str(source):
        raise DataError("The data have no name: give a path, or '.' for this folder.")
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
        images = load_idx("fashion-mnist", files, size or 32, channels)
        images.label_names = GARMENTS
        return images
    try:
        return _load_path(str(source), size, channels, cache_dir, progress)
    except OSError as error:
        raise DataError(f"{error.filename or source} cannot be read ({error.strerror or error}).") from error


def place(source: str) -> str | Path:
    """What `source` names, the same for every spelling of a path: a name of NAMES, or the path without a reader."""
    return source if source in NAMES else _divided(source)[0].resolve()


def anywhere(source: str) -> str:
    """`source` spelled so that it is found from every folder: a path that exists, absolute; all else as it is."""
    path, name = _divided(source)
    if source in NAMES or not path.exists():
        return source
    return os.path.abspath(path) if name is None else f"{name}:{os.path.abspath(path)}"


def _divided(source: str) -> tuple[Path, str | None]:
    """The path that a source names, and the reader that stands before it."""
    path = Path(source).expanduser()
    name, colon, rest = source.partition(":")
    if colon and os.sep not in name and not path.exists():
        return Path(rest).expanduser(), name
    return path, None


def _load_path(source: str, size: int | None, channels: int | None, cache_dir: Path | None, progress: bool) -> ImageSet:
    (path, name), module = _divided(source), None
    if name is not None:
        if name not in READERS:
            raise DataError(f"There is no reader called {name!r}{_near(name, READERS)}: {_readers()}.")
        module = reader(name)
    if not path.exists():
        raise _unknown(str(path))
    if module := module or detect(path):
        return module.load(path, size, channels, cache_dir, progress)
    if path.is_dir() and (files := image_files(path)):
        return load_idx(path.resolve().name, files, size or 32, channels)
    if path.is_file() and path.suffix.lower() != ".zip":
        return load_idx(path.name.split(".")[0], [path], size or 32, channels)
    return load_files(path, size or 64, channels, cache_dir, progress)


def _unknown(source: str) -> DataError:
    if source in READERS:
        return DataError(f"The reader {source} needs the path of its files: {source}:PATH.")
    if os.sep in source or "." in source:
        return DataError(f"There is no file or folder {source}.")
    return DataError(
        f"There is no data set or path called {source!r}{_near(source, (*NAMES, *READERS))}: "
        f"the names are {', '.join(NAMES)}, and {_readers()}."
    )


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def _readers() -> str:
    return f"the readers, to be put before a path as in coil20:PATH, are {', '.join(READERS)}"

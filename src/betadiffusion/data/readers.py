"""The readers of published data sets, by name; each module is imported only when its turn comes.

A reader is a module with NAME, `detect(path) -> bool`, which looks at names only and never raises, and
`load(path, size, channels, cache_dir, progress) -> ImageSet`, where None asks for the set's own size and channels.
"""

from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from types import ModuleType

from betadiffusion.data.protocols import DataError

READERS = {
    "shapes3d": "betadiffusion.data.shapes3d",
    "dsprites-npz": "betadiffusion.data.dsprites_npz",
    "cars3d": "betadiffusion.data.cars3d",
    "mpi3d": "betadiffusion.data.mpi3d",
    "smallnorb": "betadiffusion.data.smallnorb",
    "coil20": "betadiffusion.data.coil20",
    "sprites": "betadiffusion.data.sprites",
    "celeba": "betadiffusion.data.celeba",
    "celeba-hq": "betadiffusion.data.celeba_hq",
    "ffhq": "betadiffusion.data.ffhq",
    "lsun": "betadiffusion.data.lsun",
    "utkface": "betadiffusion.data.utkface",
    "cifar10": "betadiffusion.data.cifar10",
    "flickr8k": "betadiffusion.data.captions",
    "imagenet": "betadiffusion.data.imagenet",
}


def reader(name: str) -> ModuleType:
    """The reader called `name`, one of READERS."""
    return import_module(READERS[name])


def detect(path: Path) -> ModuleType | None:
    """The first reader that knows the layout of `path`, or None."""
    return next((module for module in map(reader, READERS) if module.detect(path)), None)


def find(path: Path, pattern: str) -> Path | None:
    """`path` where it is a file whose name fits the pattern, or the first such file in the folder `path`, or None."""
    if path.is_file():
        return path if fnmatch(path.name.lower(), pattern) else None
    return min(path.glob(pattern), default=None)


def file_of(path: Path, pattern: str) -> Path:
    """`path` where it is a file, else the first file in the folder that fits the pattern; DataError for none."""
    file = path if path.is_file() else find(path, pattern)
    if file is None:
        raise DataError(f"The folder {path} holds no file {pattern}.")
    return file

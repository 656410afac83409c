"""CelebA-HQ as CelebAMask-HQ publishes it: 30,000 faces of 1024x1024 with CelebA's 40 attributes (C.-H. Lee et al.,
"MaskGAN", 2020). Its masks are not read.
"""

from pathlib import Path

import numpy as np

from betadiffusion.data.arrays import ArrayImages
from betadiffusion.data.celeba import look_up, read_attributes
from betadiffusion.data.files import load_source, locate, open_source
from betadiffusion.data.protocols import DataError, ImageSet

NAME = "celeba-hq"
IMAGES = "CelebA-HQ-img"
ATTRIBUTES = "CelebAMask-HQ-attribute-anno.txt"


def detect(path: Path) -> bool:
    """Whether a folder or .zip holds CelebAMask-HQ's list of attributes."""
    return locate(path, ATTRIBUTES) is not None


def load(path: Path, size: int | None, channels: int | None, cache_dir: Path | None, progress: bool) -> ImageSet:
    """CelebAMask-HQ's images with their attributes; of any other folder or .zip just the images. Default size: 64.

    DataError: no images, a list that is damaged or lacks one of the images, and what `load_files` raises.
    """
    where, folder = locate(path, ATTRIBUTES), locate(path, IMAGES)
    if where and not folder:
        raise DataError(f"{path} holds {ATTRIBUTES}, but no folder {IMAGES} beside it.")
    images = load_source(open_source(folder or path), size or 64, channels, cache_dir, progress)
    images.name = NAME
    if not where:
        return images
    names, table = read_attributes(where)
    attributes = np.array(look_up(table, images.names, where))
    return ArrayImages(NAME, images.array, images.skipped, images.names, attribute_names=names, attributes=attributes)

"""Image, factor and attribute sets: rendered ones, published ones, folders and zips of images, idx files."""

from betadiffusion.data.factors import sample
from betadiffusion.data.protocols import AttributeSet, CaptionSet, DataError, FactorSet, ImageSet
from betadiffusion.data.readers import READERS
from betadiffusion.data.sources import NAMES, load
from betadiffusion.data.subset import Subset, split

__all__ = [
    "NAMES",
    "READERS",
    "AttributeSet",
    "CaptionSet",
    "DataError",
    "FactorSet",
    "ImageSet",
    "Subset",
    "load",
    "sample",
    "split",
]

"""Image sets and factor sets: rendered ones, folders and zips of images, idx files."""

from betadiffusion.data.protocols import DataError, FactorSet, ImageSet
from betadiffusion.data.sources import NAMES, load
from betadiffusion.data.subset import Subset, split

__all__ = ["NAMES", "DataError", "FactorSet", "ImageSet", "Subset", "load", "split"]

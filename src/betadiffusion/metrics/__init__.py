"""Evaluation as functions of arrays: numpy or torch in, floats out, no models.

Feature extractors live in `betadiffusion.metrics.features`, imported on use because they load a network.
"""

from betadiffusion.metrics.disentanglement import mig, mutual_information
from betadiffusion.metrics.frechet import FeatureStatistics, frechet_distance, frechet_from_statistics

__all__ = ["FeatureStatistics", "frechet_distance", "frechet_from_statistics", "mig", "mutual_information"]

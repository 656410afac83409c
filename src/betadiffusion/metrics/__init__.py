"""Evaluation as functions of arrays: numpy or torch in, floats out, no models.

The functions below are imported on first use and load scikit-learn or scipy only where they need them. Feature
extractors live in `betadiffusion.metrics.features`.
"""

from importlib import import_module
from typing import Any

# Modules named as their function: imported now, or the module itself would later answer to that name.
from betadiffusion.metrics.dci import dci
from betadiffusion.metrics.irs import irs
from betadiffusion.metrics.mig import mig, mutual_information
from betadiffusion.metrics.modularity import explicitness, modularity
from betadiffusion.metrics.sap import sap
from betadiffusion.metrics.tad import tad

_EXPORTS = {
    "beta_vae_score": "beta_vae",
    "factor_vae_score": "factor_vae",
    "FeatureStatistics": "frechet",
    "frechet_distance": "frechet",
    "frechet_from_statistics": "frechet",
    "kernel_distance": "kernel",
    "precision_recall": "prdc",
    "density_coverage": "prdc",
    "psnr": "images",
    "ssim": "images",
    "distortion": "images",
    "rate": "latents",
    "active_units": "latents",
    "aggregated_posterior": "latents",
    "aggregated_kl": "latents",
    "linear_probe": "probes",
    "knn_probe": "probes",
}
__all__ = ["dci", "explicitness", "irs", "mig", "modularity", "mutual_information", "sap", "tad", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(f"betadiffusion.metrics.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'betadiffusion.metrics' has no attribute '{name}'")

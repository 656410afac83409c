"""betadiffusion: one image encoder with a dial, and the diffusion that walks any point of it back.

The classes below are imported on first use, so that `import betadiffusion` stays cheap.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "BetaDiffusionAutoencoder": "betadiffusion.models.beta_diffusion",
    "MultiBetaVAE": "betadiffusion.models.vae",
    "NonlinearDenoiser": "betadiffusion.models.denoiser",
    "BetaDiffusionPipeline": "betadiffusion.pipelines.pipeline",
}
__all__ = [
    "BetaDiffusionAutoencoder",
    "BetaDiffusionPipeline",
    "MultiBetaVAE",
    "NonlinearDenoiser",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'betadiffusion' has no attribute '{name}'")

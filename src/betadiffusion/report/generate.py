"""The images that the report looks at, made in batches from seeded noise: uint8 (N,C,H,W) on the CPU."""

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from betadiffusion import samplers
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.pipelines.walk_levels import solver_method, solver_variable, walk_levels
from betadiffusion.training.config import RunConfig

BATCH_PIXELS = 128_000  # per channel: 125 images of 32x32
WALK_BATCH = 500

OFFSETS = {"levels": 1, "codes": 2, "noise": 3, "fresh noise": 4, "pictures": 5}  # of the seeds, each its own stream


RANDOM: dict[str, dict[str, Any]] = {  # methods of `Sampler` as options of `samplers.sample`, else the denoiser's own
    "eta=0.5": {"eta": 0.5},
    "eta=1": {"eta": 1.0},
    "churn=0.5": {"method": "heun", "churn": 0.5},
    "churn=1": {"method": "heun", "churn": 1.0},
}


@dataclass(frozen=True)
class Sampler:
    """One way from noise to level 0: a method of `samplers`, one of `RANDOM` or "algorithm2".

    variable: the solver's, None for what suits.
    """

    method: str
    steps: int
    variable: samplers.Variable | None = None

    @property
    def evaluations(self) -> int:
        """Network evaluations that one sample costs."""
        method = "euler" if self.method == "algorithm2" else RANDOM.get(self.method, {}).get("method", self.method)
        return samplers.evaluations(method, self.steps)

    @property
    def adds_noise(self) -> bool:
        """Whether it adds fresh noise on the way, for which a denoiser must predict eps."""
        return self.method == "algorithm2" or self.method in RANDOM

    @property
    def label(self) -> str:
        """The method's name for people."""
        return {"euler": "Euler", "heun": "Heun", "algorithm2": "Algorithm 2"}.get(self.method, self.method)


POSTERIOR = Sampler("eta=1", 200)  # whose samples are shown and compared with


@dataclass(frozen=True)
class Pictures:
    """What the report shows, uint8 (N,C,H,W): 8 originals, by level the VAE alone and walked back, and samples."""

    originals: Tensor
    alone: dict[float, Tensor]
    walked: dict[float, Tensor]
    default: Tensor
    posterior: Tensor | None  # by eta=1, where the denoiser predicts eps


def seed_for(config: RunConfig, purpose: str) -> int:
    """The seed of one of the report's streams of noise: the run's, with a fixed offset."""
    return config.seed + OFFSETS[purpose]


def grid_levels(config: RunConfig) -> list[float]:
    """The levels of the reconstruction grid, rising, level 0 always among them."""
    return sorted({0.0, *config.report.levels})


def batch_size(pipeline: BetaDiffusionPipeline) -> int:
    """Images that pass through the VAE at once."""
    return max(4, BATCH_PIXELS // pipeline.vae.image_shape[1] ** 2)


def default_sampler(pipeline: BetaDiffusionPipeline, steps: int | None = None) -> Sampler:
    """The pipeline's own method, of one evaluation a step, with its own number of steps or with so many."""
    return Sampler(solver_method(pipeline.denoiser), steps or walk_default("steps"))


def default_levels(pipeline: BetaDiffusionPipeline, sampler: Sampler) -> Tensor:
    """The levels at which `BetaDiffusionPipeline.walk` stops from 1 to 0; those of Algorithm 2 are even, as printed."""
    clock = "uniform" if sampler.method == "algorithm2" else walk_default("clock")
    return walk_levels(pipeline.denoiser, pipeline.vae.schedule, clock, sampler.steps)


def walk_default(option: str) -> Any:
    """What `BetaDiffusionPipeline.walk` does where an option is not given."""
    return inspect.signature(BetaDiffusionPipeline.walk).parameters[option].default


@torch.no_grad()
def samples(
    pipeline: BetaDiffusionPipeline, sampler: Sampler, count: int, config: RunConfig, levels: Tensor | None = None
) -> Tensor:
    """New images by one sampler; every sampler starts from the same noise. `levels`: None for the pipeline's own."""
    levels = default_levels(pipeline, sampler) if levels is None else levels
    own = solver_method(pipeline.denoiser)
    options = {"method": own} | RANDOM[sampler.method] if sampler.method in RANDOM else {"method": sampler.method}
    options["variable"] = sampler.variable or solver_variable(pipeline.denoiser, options["method"])
    noise = torch.Generator().manual_seed(seed_for(config, "noise"))
    fresh = torch.Generator().manual_seed(seed_for(config, "fresh noise"))
    predict, sigma = pipeline.denoiser.predict, pipeline.denoiser.sigma
    images = []
    for z in torch.randn((count, *pipeline.vae.latent_shape), generator=noise).split(WALK_BATCH):
        z = pipeline.vae.prior_scale(levels[0]) * z.to(pipeline.device)
        if sampler.method == "algorithm2":
            z = samplers.algorithm2(predict, z, levels, sigma, generator=fresh)
        else:
            z = samplers.sample(
                predict, z, levels, sigma, moments=pipeline.denoiser.moments(), generator=fresh, **options
            )
        images.append(_decode(pipeline, z, 0.0))
    return torch.cat(images)


@torch.no_grad()
def reconstructions(
    pipeline: BetaDiffusionPipeline, images: np.ndarray, level: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Images from a draw of q(z|x;t) decoded at a level, and from one of `noised` walked back to level 0."""
    batches = torch.from_numpy(images).split(batch_size(pipeline))
    z, noised = (
        torch.cat([draw(batch, level, generator) for batch in batches])
        for draw, generator in ((pipeline.encode, _generator(seed)), (pipeline.noised, _generator(seed)))
    )
    walked = torch.cat([pipeline.walk(part, level) for part in noised.split(WALK_BATCH)])
    return _decode(pipeline, z, level), _decode(pipeline, walked, 0.0)


def pictures(pipeline: BetaDiffusionPipeline, held_out: np.ndarray, config: RunConfig) -> Pictures:
    """The pictures of the report, from the first 8 of the held-out images (N,C,H,W) uint8."""
    originals = held_out[:8]
    seed = seed_for(config, "pictures")
    pairs = {level: reconstructions(pipeline, originals, level, seed) for level in grid_levels(config)}
    return Pictures(
        originals=torch.from_numpy(originals),
        alone={level: pair[0] for level, pair in pairs.items()},
        walked={level: pair[1] for level, pair in pairs.items()},
        default=samples(pipeline, default_sampler(pipeline, 20), 64, config),
        posterior=samples(pipeline, POSTERIOR, 64, config) if pipeline.denoiser.predicts_noise else None,
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _decode(pipeline: BetaDiffusionPipeline, z: Tensor, level: float) -> Tensor:
    x = torch.cat([pipeline.vae.decode(part, torch.tensor(level)).cpu() for part in z.split(batch_size(pipeline))])
    return ((x / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)

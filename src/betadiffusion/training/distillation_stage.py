"""Stage "diffusion" with a teacher: a flow map learns where another denoiser's walks land.

The walks of a trained denoiser from noise to level 0 are made once (Luhman and Luhman 2021); any two points of one, z_t
and z_s, are then a step that a flow map is to make at once (Boffi et al. 2024). Neither is an estimate of the map's
own, as the two half steps of `denoising` are, nor noisy.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from betadiffusion.data import ImageSet
from betadiffusion.gaussian import expand_as
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.objectives import scaled_error
from betadiffusion.pipelines.walk_levels import solver_method, solver_variable, walk_levels
from betadiffusion.samplers import sample
from betadiffusion.training.conditions import Conditions
from betadiffusion.training.config import DiffusionConfig
from betadiffusion.training.denoising import NEAR
from betadiffusion.training.diffusion_stage import DiffusionStage
from betadiffusion.training.models import Autoencoder

WALK_STEPS = 24  # of a walk
PART = 1_000  # walks over the same levels
NEAR_SHARE = 0.25  # of all steps, on the velocity of z, their limit
NOISE_WEIGHT = 0.1  # of the error of eps, which only samplers that add noise need


class DistillationStage(DiffusionStage):
    """Trains `model`, a flow map, on `count` walks of the teacher, a denoiser over the same VAE.

    An image of the training is a step of a walk, and a walk is asked for by the condition of some training image. Walks
    are drawn by `seed` when training begins, and kept in memory: 25 latents each. Raises ValueError where the model is
    no flow map, or the teacher no denoiser of the velocity under the same condition.
    """

    def __init__(
        self,
        model: NonlinearDenoiser,
        vae: Autoencoder,
        train: ImageSet,
        held_out: ImageSet,
        device: torch.device,
        teacher: NonlinearDenoiser,
        conditions: Sequence[Conditions] | None = None,
        count: int = 30_000,
        seed: int = 0,
        quiet: bool = True,
    ) -> None:
        self.teacher = teacher.to(device).eval().requires_grad_(False)
        kinds = self.teacher.config.prediction, model.config.prediction
        if kinds != ("velocity", "flow_map"):
            raise ValueError(f"a denoiser of the velocity teaches a flow map (diffusion.prediction), not {kinds}")
        if model.condition_spec != self.teacher.condition_spec:
            raise ValueError("diffusion.teacher was trained with another condition: give its options of condition.*")
        own, known = model.state_dict(), self.teacher.state_dict()
        shared = {name: known[name] for name in own.keys() & known.keys() if own[name].shape == known[name].shape}
        model.load_state_dict(shared, strict=False)  # nearer to the map than random weights are
        options = DiffusionConfig(weighting="uniform", levels="uniform")
        super().__init__(model, vae, train, held_out, None, device, options, conditions)
        self.walks_wanted, self.seed, self.quiet = count, seed, quiet
        self.walks: Tensor | None = None

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Numbers (batch,) of walks, and of the places on them to go from and to, the same place for the velocity."""
        if self.walks is None:
            self._walk(self.walks_wanted, torch.Generator().manual_seed(self.seed))
        walk = torch.randint(len(self.walks), (batch,), generator=generator)
        start = torch.randint(WALK_STEPS, (batch,), generator=generator)
        u = torch.rand(2, batch, generator=generator)
        onward = 1 + (u[0] * (WALK_STEPS - start)).long().clamp(max=WALK_STEPS - start - 1)
        return walk, start, torch.where(u[1] < NEAR_SHARE, start, start + onward)

    def losses(self, model: nn.Module, indices: np.ndarray, draws: tuple[Tensor, ...]) -> Tensor:
        """Errors of each step's landing, and of eps, in units of what the Gaussian part leaves over: (B,)."""
        walk, start, land = draws
        t, s = (self.walk_levels[walk // PART, place].to(self.device) for place in (start, land))
        z, landed = (self.walks[walk, place].to(self.device) for place in (start, land))
        condition = None if self.conditions is None else self._condition(walk)
        near = t == s
        s = torch.where(near, t - NEAR / 2, s)
        tables, step = self.model.preconditioning, expand_as(s - t, z)
        rise = expand_as(tables.sigma_rise(t, s), z)
        eps, back = self.teacher.predict(z, t, t - 1, condition)
        velocity = torch.where(expand_as(near, z), rise * eps - back, (landed - z) / step)
        eps_hat, delta_hat = model(z, t, s, condition)
        given = tables(z, t, s)
        error = scaled_error(delta_hat / step + rise * eps_hat, velocity, given.velocity_scale)
        return error + NOISE_WEIGHT * scaled_error(eps_hat, eps, given.eps_scale)

    @torch.no_grad()
    def _walk(self, count: int, generator: torch.Generator) -> None:
        """Makes `walks` (count, steps + 1, C,H,W) over `walk_levels` (parts, steps + 1), and what each is asked for."""
        denoiser, shape = self.teacher, self.vae.latent_shape
        even = walk_levels(denoiser, self.vae.schedule, "fitted", WALK_STEPS).cpu()
        prior_scale = self.vae.prior_scale(torch.tensor(1.0, device=self.device))
        method = solver_method(denoiser)
        variable = solver_variable(denoiser, method)
        self.walk_images = torch.randint(self.count, (count,), generator=generator).numpy()
        if self.conditions is not None:
            self.walk_draws = self.conditions.draw(count, generator)
        walks, levels = [], []
        for part in tqdm(torch.arange(count).split(PART), desc="the teacher's walks", disable=self.quiet):
            # the levels between the ends are others in each part, so that the map learns to go from and to any
            place = torch.arange(1, WALK_STEPS) + torch.rand((), generator=generator, dtype=torch.float64) - 0.5
            below = place.long()
            between = torch.lerp(even[below], even[below + 1], place - below)
            levels.append(torch.cat([even[:1], between, even[-1:]]))
            z = prior_scale * torch.randn(len(part), *shape, generator=generator).to(self.device)
            predict = denoiser.predict
            if self.conditions is not None:
                predict = partial(predict, condition=self._condition(part))
            passed = [z]
            sample(
                predict, z, levels[-1].to(self.device), denoiser.sigma, method=method, variable=variable,
                moments=denoiser.moments(), callback=lambda _, z, __, passed=passed: passed.append(z),
            )  # fmt: skip
            walks.append(torch.stack(passed, dim=1).cpu())
        self.walks, self.walk_levels = torch.cat(walks), torch.stack(levels).float()

    def _condition(self, walk: Tensor) -> Tensor:
        """What walks (B,) are asked for: (B, ...), on the device."""
        return self.conditions.at(self.walk_images[walk.numpy()], self.walk_draws[walk]).to(self.device)

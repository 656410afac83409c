"""What each prediction of the denoiser is trained on: Eq. 19, corrected, and its kin (docs/formalism.md)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from betadiffusion.gaussian import expand_as
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.nn.preconditioning import PAPER_STEP, STEPS
from betadiffusion.objectives import scaled_error
from betadiffusion.process import diffuse

EncodingPath = Callable[[Tensor], tuple[Tensor, Tensor]]  # of the images of a batch: levels (B,) to f(x,t) and df/dt

NEAR = 2e-3  # shorter steps are trained on df/dt, their limit: float32 does not resolve the difference
NEAR_SHARE = 0.5  # of all steps of predictions that see s
LONG_FROM = 0.6  # of the training of a flow map, which learns the velocity alone until then: long steps are made of it
FAR_WEIGHT = 3.0  # of a flow map's target that is its own, which has no noise; ten lets it drift from the ODE's


def levels_to_go_to(prediction: str, t: Tensor, generator: torch.Generator, done: float = 1.0) -> Tensor:
    """s (B,) for levels t (B,), on the CPU: where it matters half next to t, half t (1 - u^2), u uniform.

    Short steps are the many, since a flow map learns long ones from them: it has no others until `LONG_FROM` of its
    training is `done`.
    """
    if prediction == "paper":
        return t - PAPER_STEP
    if prediction not in STEPS:
        return t - 1  # any step: delta is minus the velocity over this one
    u = torch.rand(2, len(t), generator=generator)
    near = 1.0 if prediction == "flow_map" and done < LONG_FROM else NEAR_SHARE
    return torch.where(u[0] < near, t - NEAR / 2, torch.minimum(t * (1 - u[1].square()), t - NEAR / 2))


def denoising_errors(
    model: nn.Module,
    denoiser: NonlinearDenoiser,
    path: EncodingPath,
    sigma: Tensor,
    t: Tensor,
    s: Tensor,
    eps: Tensor,
    condition: Tensor | None = None,
) -> Tensor:
    """Errors (B, outputs) of each output for z_t = f(x,t) + sigma eps, in units of what is left over.

    Those of a flow map over long steps are weighed by `FAR_WEIGHT`.
    `model` is `denoiser`, wrapped for several processes where there are any; sigma, t and s (B,), eps (B,C,H,W);
    condition (B, ...) as in `nn.condition`.
    """
    kind = denoiser.config.prediction
    f, velocity = path(t)
    z = diffuse(f, expand_as(sigma, f), eps)
    eps_hat, delta_hat = model(z, t, s, condition)
    if kind == "paper":
        # |eps_hat - eps|^2 + |delta_hat - (f(t - tau) - f(t))|^2                         (Eq. 19, with erratum 2)
        return torch.stack([scaled_error(eps_hat, eps, 1.0), scaled_error(delta_hat, path(s)[0] - f, 1.0)], 1)
    given, step, far = denoiser.preconditioning(z, t, s), expand_as(s - t, f), t - s > NEAR
    if kind == "flow":
        velocity = velocity + expand_as(denoiser.preconditioning.sigma_slope(t), f) * eps
    elif kind == "any_step":
        velocity = torch.where(expand_as(far, f), (path(s)[0] - f) / step, velocity)
    elif kind == "flow_map":
        rise = expand_as(denoiser.preconditioning.sigma_rise(t, s), f)
        delta_hat, velocity = delta_hat + step * rise * eps_hat, velocity + rise * eps  # of z itself
        if far.any():
            asked = None if condition is None else condition[far]
            velocity[far] = two_half_steps(denoiser, z[far], t[far], s[far], asked) / step[far]
    errors = [scaled_error(eps_hat, eps, given.eps_scale)] if denoiser.predicts_noise else []
    error = scaled_error(delta_hat / step, velocity, given.velocity_scale)
    return torch.stack([*errors, torch.where(far, FAR_WEIGHT, 1.0) * error if kind == "flow_map" else error], 1)


@torch.no_grad()
def two_half_steps(
    denoiser: NonlinearDenoiser, z: Tensor, t: Tensor, s: Tensor, condition: Tensor | None = None
) -> Tensor:
    """The change of z from t to s in two steps half as long, which one step is to make (Frans et al. 2025, Eq. 4)."""
    middle = (t + s) / 2
    sigma_t, sigma_m, sigma_s = (expand_as(denoiser.sigma(level), z) for level in (t, middle, s))
    eps, delta = denoiser(z, t, middle, condition)
    z_m = z + delta + (sigma_m - sigma_t) * eps
    eps_m, delta_m = denoiser(z_m, middle, s, condition)
    return z_m + delta_m + (sigma_s - sigma_m) * eps_m - z

"""The linear diffusion that several baselines share: noise is predicted (Ho et al. 2020), and taken off by DDIM.

A network here is called with z (B,C,H,W), times t (B,) in [0, 1) and what it is conditioned on. It gives the noise, or
with `prediction` "v_prediction" sqrt(a_t) eps - sqrt(1 - a_t) z (Salimans and Ho 2022), whose errors stay small in what
is sampled, where for noise alone they are divided by sqrt(a_t).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor
from tqdm import tqdm

from betadiffusion.gaussian import Generators, expand_as, randn, sum_over_sample
from betadiffusion.nn.condition import Embedded
from betadiffusion.nn.unet import LevelUNet

Network = Callable[..., Tensor]
Prediction = Literal["epsilon", "v_prediction"]
TIMES = 1000  # steps of the noising; Ho et al.'s linear schedule of its variances, 1e-4 to 0.02, is diffusers' default
LEAST_FIRST = 750  # of the times: where sampling must begin at least; there sqrt(a_t) = 0.06 of an image is left
SAMPLE_STEPS = 20  # of DDIM, where nothing else is asked for
QUIETLY: dict[str, Any] = {"leave": False, "disable": None, "delay": 1.0}  # a bar for those who look on and wait


def make_unet(
    backbone: dict[str, Any], channels: Sequence[int], layers: int, attention: Sequence[int], conditioned: bool = False
) -> LevelUNet:
    """A U-Net that predicts the noise in images, told a vector beside the time where it is `conditioned`."""
    return LevelUNet(
        sample_size=backbone["sample_size"], latent_channels=backbone["in_channels"], channels=channels,
        layers_per_block=layers, attention_resolutions=attention, outputs=1,
        condition_by="adaln" if conditioned else None,
    )  # fmt: skip


def noise_draws(batch: int, shape: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Times (batch,), int64, and noise (batch, *shape) of a training step."""
    return torch.randint(TIMES, (batch,), generator=generator), torch.randn(batch, *shape, generator=generator)


def noise_errors(
    network: Network,
    z: Tensor,
    time: Tensor,
    eps: Tensor,
    condition: Embedded | None = None,
    prediction: Prediction = "epsilon",
) -> Tensor:
    """|eps_hat - eps|^2, or that of v, per value of z (B,C,H,W), for times (B,) and noise like z: (B,)."""
    noisy, target = noised(z, time, eps, prediction)
    # |eps - eps_theta(sqrt(a_t) z + sqrt(1 - a_t) eps, t)|^2                             (Ho et al. 2020, Eq. 14)
    error = network(noisy, time / TIMES, condition=condition).float() - target
    return sum_over_sample(error.square()) / z[0].numel()


def noised(z: Tensor, time: Tensor, eps: Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """z (B,C,H,W) with noise eps of times (B,), int64, and what is to be predicted of it."""
    scheduler = DDIMScheduler(TIMES)
    target = eps if prediction == "epsilon" else scheduler.get_velocity(z, eps, time)
    return scheduler.add_noise(z, eps, time), target


def clean(predicted: Tensor, noisy: Tensor, time: Tensor, prediction: Prediction) -> Tensor:
    """What is left of noisy (B,C,H,W) at times (B,), int64, without the noise that is predicted, or that v says."""
    kept = expand_as(DDIMScheduler(TIMES).alphas_cumprod.to(noisy)[time], noisy)
    if prediction == "epsilon":
        return (noisy - (1 - kept).sqrt() * predicted) / kept.sqrt()
    return kept.sqrt() * noisy - (1 - kept).sqrt() * predicted  # Salimans and Ho 2022, App. D


def denoise(
    network: Network,
    z: Tensor,
    steps: int,
    eta: float = 0.0,
    generator: Generators | None = None,
    condition: Embedded | None = None,
    clip: bool = False,
    prediction: Prediction = "epsilon",
) -> Tensor:
    """What DDIM makes of noise z in so many steps; with eta > 0 fresh noise is drawn, from a generator for each sample.

    clip: what is predicted is clipped to [-1, 1] in every step, for images. Raises ValueError unless 0 <= eta <= 1 and
    as `checked_steps`.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be from 0 to 1 here, not {eta:g}")
    scheduler = DDIMScheduler(TIMES, clip_sample=clip)
    scheduler.set_timesteps(checked_steps(steps), device=z.device)
    for time in tqdm(scheduler.timesteps, desc="DDIM", unit=" steps", **QUIETLY):
        noise = _noise(network, z, time, scheduler, condition, prediction)
        fresh = randn(z.shape, z, generator) if eta > 0 else None
        z = scheduler.step(noise, time, z, eta, variance_noise=fresh, return_dict=False)[0]
    return z


def to_noise(
    network: Network, z: Tensor, steps: int, condition: Embedded | None = None, prediction: Prediction = "epsilon"
) -> Tensor:
    """The noise from which `denoise` makes z, with as many steps: the more, the more exactly (Song et al. 2021)."""
    scheduler = DDIMInverseScheduler(TIMES, clip_sample=False)
    scheduler.set_timesteps(checked_steps(steps), device=z.device)
    for time in tqdm(scheduler.timesteps, desc="DDIM", unit=" steps", **QUIETLY):
        noise = _noise(network, z, time, scheduler, condition, prediction)
        z = scheduler.step(noise, time, z, return_dict=False)[0]
    return z


def _noise(
    network: Network,
    z: Tensor,
    time: Tensor,
    scheduler: DDIMScheduler | DDIMInverseScheduler,
    condition: Embedded | None,
    prediction: Prediction,
) -> Tensor:
    """The noise predicted in z (B,C,H,W) at a time (), which the inverse scheduler takes for that of another time."""
    predicted = network(z, (time / TIMES).expand(len(z)), condition=condition).float()
    if prediction == "epsilon":
        return predicted
    kept = scheduler.alphas_cumprod[time].to(z)
    # eps = sqrt(a_t) v + sqrt(1 - a_t) z_t                                        (Salimans and Ho 2022, App. D)
    return kept.sqrt() * predicted + (1 - kept).sqrt() * z


def checked_steps(steps: int) -> int:
    """The steps, or ValueError where DDIM, whose steps are TIMES // steps times long, would not begin near noise."""
    if not (1 <= steps <= TIMES and (steps - 1) * (TIMES // steps) >= LEAST_FIRST):
        raise ValueError(f"a linear diffusion is sampled in 4 to 333, 376 to 500 or 751 to {TIMES} steps, not {steps}")
    return steps

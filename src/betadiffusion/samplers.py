"""Samplers of the non-linear diffusion: walk a latent z down falling levels.

The network gives two predictions for a latent z_t and a level s to go to:

    eps   = E[eps | z_t]           the noise, so that f_hat = z_t - sigma_t eps is the mean at level t
    delta = E[f_s - f_t | z_t]     the change of encoding

and every sampler is a choice of how to use them in one update (DDIM's family, generalised):

    z_s = f_hat + delta + sqrt(sigma_s^2 - k^2) eps + k noise,        k = eta sigma_s sqrt(1 - sigma_s^2 / sigma_t^2)

eta = 0 is an Euler step of the probability-flow ODE  dz = E[df/dt | z_t] dt + eps d(sigma),  which "heun" and
"multistep" solve to second order; eta = 1 is the posterior of Eq. 15, k = sigma_s Algorithm 2.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from betadiffusion.gaussian import randn

Prediction = tuple[Tensor, Tensor]
Predict = Callable[[Tensor, Tensor, Tensor], Prediction]
Sigma = Callable[[Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor], None]
Method = Literal["euler", "heun", "multistep"]
METHODS: tuple[Method, ...] = ("euler", "heun", "multistep")

VELOCITY_STEP = 1e-3  # share of a step over which the ODE solvers ask for delta, to have it as a velocity


def evaluations(method: Method, steps: int) -> int:
    """Network evaluations that `steps` steps of a method cost."""
    return 2 * steps if method == "heun" else steps


def update(z: Tensor, eps: Tensor, delta: Tensor, sigma_t: Tensor, sigma_s: Tensor, k: Tensor, noise: Tensor) -> Tensor:
    """One update of the family from level t to s: z, eps, delta and noise (B, ...); sigma_t, sigma_s, k 0-d."""
    # z_s = f_hat + delta + sqrt(sigma_s^2 - k^2) eps + k noise
    return z - sigma_t * eps + delta + (sigma_s.square() - k.square()).clamp(min=0).sqrt() * eps + k * noise


def posterior_noise(sigma_t: Tensor, sigma_s: Tensor, eta: float) -> Tensor:
    """k = eta sigma_s sqrt(1 - a), a = sigma_s^2 / sigma_t^2: the fresh noise of a step, 0-d."""
    return eta * sigma_s * (1 - (sigma_s / sigma_t).square()).clamp(min=0).sqrt()


def sample(
    predict: Predict,
    z: Tensor,
    levels: Tensor,
    sigma: Sigma,
    *,
    method: Method = "heun",
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Latents at level `levels[-1]` from latents z (B, ...) at level `levels[0]`.

    predict(z, t, s) -> (eps, delta), t and s 0-d; levels a falling 1-d tensor in [0, 1]; sigma a function of t;
    method "euler", "heun" (two evaluations a step) or "multistep" (Adams-Bashforth 2); eta >= 0 the share of fresh
    noise, drawn from `generator`; callback(step, z, level) after every step. With eta = 0 nothing is random.
    Raises ValueError for levels that do not fall, an unknown method or a negative eta.
    """
    _check(levels, method, eta)
    previous: Prediction | None = None
    previous_step: Prediction | None = None
    for i, (t, s) in enumerate(pairwise(levels)):
        sigma_t, sigma_s = sigma(t), sigma(s)
        k = posterior_noise(sigma_t, sigma_s, eta)
        noise = randn(z.shape, z, generator) if eta > 0 else torch.zeros_like(z)
        if method == "euler":
            eps, delta = predict(z, t, s)
        else:
            eps, velocity = now = _velocity(predict, z, t, s)
            step = (sigma_s - sigma_t, s - t)
            if method == "heun":
                # trapezoidal rule, eps in sigma and velocity in t, with the prediction where an Euler step would land
                z_far = update(z, eps, velocity * (s - t), sigma_t, sigma_s, torch.zeros_like(k), noise)
                eps_far, velocity_far = _velocity(predict, z_far, s, t)
                eps, velocity = (eps + eps_far) / 2, (velocity + velocity_far) / 2
            else:
                eps, velocity = _adams_bashforth(now, previous, step, previous_step)
                previous, previous_step = now, step
            delta = velocity * (s - t)
        z = update(z, eps, delta, sigma_t, sigma_s, k, noise)
        if callback is not None:
            callback(i, z, s)
    return z


def algorithm2(
    predict: Predict, z: Tensor, levels: Tensor, sigma: Sigma, *, generator: torch.Generator | None = None
) -> Tensor:
    """The paper's Algorithm 2, its sign of delta corrected (erratum 2), to compare with: arguments as in `sample`.

    It draws the whole of sigma_s anew at every step, so the variance of f given z_t is lost and the loss compounds
    (erratum 3): more steps do not help it.
    """
    _check(levels, "euler", 0.0)
    for t, s in pairwise(levels):
        eps, delta = predict(z, t, s)
        # z_s = f_hat + delta + sigma_s noise                                                 (Algorithm 2, k = sigma_s)
        z = update(z, eps, delta, sigma(t), sigma(s), sigma(s), randn(z.shape, z, generator))
    return z


def _velocity(predict: Predict, z: Tensor, t: Tensor, s: Tensor) -> Prediction:
    """eps and E[df/dt | z_t], from delta over a small share of the step (exact where delta is linear in s - t)."""
    tau = VELOCITY_STEP * (s - t)
    eps, delta = predict(z, t, t + tau)
    return eps, delta / tau


def _adams_bashforth(
    now: Prediction, before: Prediction | None, step: Prediction, step_before: Prediction | None
) -> Prediction:
    """Second-order mean of each prediction over the coming step, in its own variable: eps in sigma, velocity in t."""
    if before is None or step_before is None:
        return now
    # y_bar = y_i + h_i / (2 h_{i-1}) (y_i - y_{i-1}); an unmoved variable (sigma flat) contributes nothing
    ratio = [torch.where(h0 == 0, 0.0, h / (2 * h0)) for h, h0 in zip(step, step_before, strict=True)]
    return now[0] + ratio[0] * (now[0] - before[0]), now[1] + ratio[1] * (now[1] - before[1])


def _check(levels: Tensor, method: str, eta: float) -> None:
    if levels.ndim != 1 or len(levels) < 2 or not bool((levels.diff() < 0).all()):
        raise ValueError(f"levels must be a 1-d tensor of at least two falling values, not {levels.tolist()}")
    if method not in METHODS:
        raise ValueError(f"unknown method '{method}'; choose {', '.join(METHODS)}")
    if eta < 0:
        raise ValueError(f"eta must not be negative, not {eta}")

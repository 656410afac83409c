"""Samplers of the non-linear diffusion: walk a latent z down falling levels.

The network gives two predictions for a latent z_t and a level s to go to:

    eps   = E[eps | z_t]           the noise, so that f_hat = z_t - sigma_t eps is the mean at level t
    delta = E[f_s - f_t | z_t]     the change of encoding, and with it the velocity E[df/dt | z_t]

and every sampler is a choice of how to use them in one update (DDIM's family, generalised):

    z_s = f_hat + delta + sqrt(sigma_s^2 - k^2) eps + k noise,        k = eta sigma_s sqrt(1 - sigma_s^2 / sigma_t^2)

eta = 1 is the posterior of Eq. 15, k = sigma_s Algorithm 2, and eta = 0 a step of the probability-flow ODE

    dz = velocity dt + eps d(sigma)                                                                             (ODE)

whose terms are integrated over a step as polynomials through their last known values. `method` says which: "euler" the
value at t, "heun" those at t and s, "multistep" the last two and "multistep3" the last three (Adams-Bashforth, for
steps of any sizes). Where steps are few, the past misleads wherever the path turns: what it adds to Euler's step counts
less, latent by latent, where that is longer than `TRUST` of the step itself, as with slope limiters.
`variable` says what is a polynomial in what, four ways to write the same ODE:

    "t"          dz           = (velocity + eps d(sigma)/dt) dt
    "sigma"      dz           = velocity dt + eps d(sigma)
    "log_snr"    d(z / sigma) = velocity / sigma dt + f_hat e^l dl,       l = -log(sigma), the e^l integrated exactly
    "standard"   dy           = (velocity + eps d(sigma)/dt - m' - r' y) / r dt,        y = (z - m) / r

m and r are the mean and standard deviation of z_t, its `moments`: where z is Gaussian, y stands still and any step is
exact.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from betadiffusion.gaussian import Generators, expand_as, randn

Prediction = tuple[Tensor, Tensor]
Predict = Callable[[Tensor, Tensor, Tensor], Prediction]
Sigma = Callable[[Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor], None]
Method = Literal["euler", "heun", "multistep", "multistep3"]
METHODS: tuple[Method, ...] = ("euler", "heun", "multistep", "multistep3")
Variable = Literal["t", "sigma", "log_snr", "standard"]
VARIABLES: tuple[Variable, ...] = ("t", "sigma", "log_snr", "standard")

VALUES = {"euler": 1, "heun": 1, "multistep": 2, "multistep3": 3}  # of the past and present that a step builds on
AHEAD = 2.0**-20  # levels over which delta is asked for, to have it as a velocity: float32 levels keep it exact
TRUST = 0.5  # of the length of Euler's step: longer changes of it by values of the past count less
NEAR = 0.05  # share of a step: values that are nearer to each other tell no slope


class Moments(NamedTuple):
    """Mean and standard deviation of z_t at one level, and their slopes in t; each broadcasts to z (B, ...)."""

    mean: Tensor
    scale: Tensor
    mean_slope: Tensor
    scale_slope: Tensor


def evaluations(method: Method, steps: int) -> int:
    """Network evaluations that `steps` steps of a method cost."""
    return 2 * steps if method == "heun" else steps + (method == "multistep3")


def posterior_noise(sigma_t: Tensor, sigma_s: Tensor, eta: float) -> Tensor:
    """k = eta sigma_s sqrt(1 - a), a = sigma_s^2 / sigma_t^2: the fresh noise of a step, 0-d; at most sigma_s."""
    return sigma_s * (eta * (1 - (sigma_s / sigma_t).square()).clamp(min=0).sqrt()).clamp(max=1)


def sample(
    predict: Predict,
    z: Tensor,
    levels: Tensor,
    sigma: Sigma,
    *,
    method: Method = "heun",
    variable: Variable = "sigma",
    moments: Callable[[Tensor], Moments] | None = None,
    eta: float = 0.0,
    churn: float = 0.0,
    generator: Generators | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Latents at level `levels[-1]` from latents z (B, ...) at level `levels[0]`.

    predict(z, t, s) -> (eps, delta), t and s 0-d; levels a falling 1-d tensor in [0, 1]; sigma a differentiable
    function of t; method and variable as above ("heun" costs two evaluations a step, "multistep3" one more than steps);
    moments, a function of t as well, is what "standard" needs.
    eta >= 0: the share of fresh noise, 1 that of the posterior, at most all of it; churn >= 0: before each step but the
    first z climbs by so many steps, noise added (Karras et al. 2022, Alg. 2); both draw from `generator`, one or a list
    of one per latent, and with both at 0 nothing is random. callback(step, z, level) after every step.
    Raises ValueError for levels that do not fall, an unknown method or variable, a negative eta or churn, and for
    "standard" without moments.
    """
    _check(levels, method, variable, eta, churn)
    if variable == "standard" and moments is None:
        raise ValueError("variable 'standard' needs the moments of z_t")
    ode = _Ode(variable, sigma, moments if variable == "standard" else None)
    past: list[Known] = []
    velocity: Tensor | None = None
    for i, (t, s) in enumerate(pairwise(levels)):
        if churn > 0 and velocity is not None:
            up = (t + churn * (t - s)).clamp(max=1)
            # z_up ~ q(z_up | z_t, x), with the change of f as last predicted                          (Eq. 14)
            spread = (sigma(up).square() - sigma(t).square()).clamp(min=0).sqrt()
            z, t = z + velocity * (up - t) + spread * randn(z.shape, z, generator), up
        eps, velocity = _ask(predict, z, t, s, method)
        past = [ode.known(z, eps, velocity, t, s), *past][: VALUES[method]]
        landed = ode.step(z, past, t, s)
        if method == "heun" or (method == "multistep3" and i == 0):
            eps, velocity = _ask(predict, landed, s, t, method)
            ends = [past[0], ode.known(landed, eps, velocity, s, t)]
            landed = ode.step(z, ends, t, s, trust=None)
        if eta > 0:
            # of the noise in z_s, sigma_s eps, a part becomes new: sqrt(sigma_s^2 - k^2) eps + k noise
            k, sigma_s = posterior_noise(sigma(t), sigma(s), eta), sigma(s)
            kept = (sigma_s.square() - k.square()).clamp(min=0).sqrt()
            landed = landed + (kept - sigma_s) * eps + k * randn(z.shape, z, generator)
        z = landed
        if callback is not None:
            callback(i, z, s)
    return z


def algorithm2(
    predict: Predict, z: Tensor, levels: Tensor, sigma: Sigma, *, generator: Generators | None = None
) -> Tensor:
    """The paper's Algorithm 2, its sign of delta corrected (erratum 2), to compare with: arguments as in `sample`.

    It draws the whole of sigma_s anew at every step, so the variance of f given z_t is lost and the loss compounds
    (erratum 3): more steps do not help it.
    """
    _check(levels, "euler", "sigma", 0.0, 0.0)
    for t, s in pairwise(levels):
        eps, delta = predict(z, t, s)
        # z_s = f_hat + delta + sigma_s noise                                                 (Algorithm 2, k = sigma_s)
        z = z - sigma(t) * eps + delta + sigma(s) * randn(z.shape, z, generator)
    return z


class Known(NamedTuple):
    """The terms of the ODE at one level: each a value (B, ...), to be integrated over a coordinate."""

    values: list[Tensor]
    coordinates: list[float]


def _ask(predict: Predict, z: Tensor, t: Tensor, s: Tensor, method: Method) -> Prediction:
    """eps and velocity at level t: for Euler's step from delta over the whole of it, else at t itself."""
    if method == "euler":
        eps, delta = predict(z, t, s)
        return eps, delta / (s - t)
    t = t.float().double()
    tau = math.copysign(AHEAD, float(s - t))
    eps, delta = predict(z, t, t + tau)
    return eps, delta / tau


@dataclass(frozen=True)
class _Ode:
    """The ODE in one of its variables, and its steps; moments for "standard" only."""

    variable: Variable
    sigma: Sigma
    moments: Callable[[Tensor], Moments] | None

    def known(self, z: Tensor, eps: Tensor, velocity: Tensor, t: Tensor, toward: Tensor) -> Known:
        """The values at level t; `toward` is the step's other end, on whose side of t sigma is differentiated."""
        if self.variable == "sigma":
            values = [velocity, eps]
        elif self.variable == "log_snr":
            values = [velocity / self.sigma(t), z - self.sigma(t) * eps]
        else:
            beside = t + math.copysign(AHEAD, float(toward - t))
            values = [velocity + derivative(self.sigma, beside) * eps]
            if self.moments is not None:
                m, r, m_slope, r_slope = self.moments(t)
                values = [(values[0] - m_slope - r_slope * (z - m) / r) / r]
        return Known(values, self._coordinates(t))

    def step(self, z: Tensor, known: list[Known], t: Tensor, s: Tensor, trust: float | None = TRUST) -> Tensor:
        """z (B, ...) from level t to s by polynomials through what is known, `known[0]` at t; trust None for all."""
        (m_t, r_t), (m_s, r_s) = self._frame(t), self._frame(s)
        y = (z - m_t) / r_t
        for j, end in enumerate(self._coordinates(s)):
            points: dict[float, Tensor] = {}
            for values, coordinates in known:
                x = coordinates[j]
                if all(abs(x - other) > NEAR * abs(end - known[0].coordinates[j]) for other in points):
                    points[x] = values[j]
            exponential = self.variable == "log_snr" and j == 1
            (start, value), *_ = points.items()
            euler = quadrature([start], end, exponential=exponential)[0] * value
            weights = quadrature(list(points), end, exponential=exponential)
            rest = sum(weight * value for weight, value in zip(weights, points.values(), strict=True)) - euler
            y = y + euler + (rest if trust is None else _damped(rest, trust * _length(euler)))
        return m_s + r_s * y

    def _frame(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """m and r of what is integrated, y = (z - m) / r, at level t."""
        if self.variable == "log_snr":
            return torch.zeros_like(t), self.sigma(t)
        if self.moments is not None:
            return self.moments(t)[:2]
        return torch.zeros_like(t), torch.ones_like(t)

    def _coordinates(self, t: Tensor) -> list[float]:
        """What each of the values is integrated over, at level t."""
        if self.variable == "sigma":
            return [float(t), float(self.sigma(t))]
        if self.variable == "log_snr":
            return [float(t), -math.log(float(self.sigma(t)))]
        return [float(t)]


def _damped(x: Tensor, most: Tensor) -> Tensor:
    """x (B, ...), each as it is up to a length of `most` (B,), and times (most / length)^2 beyond."""
    share = (most / _length(x).clamp(min=torch.finfo(x.dtype).tiny)).clamp(max=1).square()
    return expand_as(share, x) * x


def _length(x: Tensor) -> Tensor:
    """Euclidean length of each of x (B, ...): (B,)."""
    return x.flatten(1).square().sum(1).sqrt()


def quadrature(points: list[float], end: float, *, exponential: bool = False) -> list[float]:
    """Weights of the values at `points` in the integral from points[0] to `end` of the polynomial through them.

    With `exponential` the polynomial is multiplied by e^x. Points are distinct, the first the step's start.
    """
    x = torch.tensor(points, dtype=torch.float64) - points[0]
    h, order = end - points[0], len(points)
    if exponential:
        moments = [math.expm1(h)]  # int_0^h u^k e^u du, by parts
        for k in range(1, order):
            moments.append(h**k * math.exp(h) - k * moments[-1])
        moments = [math.exp(points[0]) * moment for moment in moments]
    else:
        moments = [h ** (k + 1) / (k + 1) for k in range(order)]
    # sum_i w_i x_i^k = int_0^h u^k du for every k < order
    weights: list[float] = torch.linalg.solve(torch.vander(x, increasing=True).T, x.new_tensor(moments)).tolist()
    return weights


def derivative(sigma: Sigma, t: Tensor) -> Tensor:
    """d(sigma)/dt at a level t (), 0-d."""
    with torch.inference_mode(False), torch.enable_grad():
        t = t.clone().requires_grad_()
        return torch.autograd.grad(sigma(t), t)[0]


def _check(levels: Tensor, method: str, variable: str, eta: float, churn: float) -> None:
    if levels.ndim != 1 or len(levels) < 2 or not bool((levels.diff() < 0).all()):
        raise ValueError(f"levels must be a 1-d tensor of at least two falling values, not {levels.tolist()}")
    for name, value, names in (("method", method, METHODS), ("variable", variable, VARIABLES)):
        if value not in names:
            raise ValueError(f"unknown {name} '{value}'; choose {', '.join(names)}")
    for name, share in (("eta", eta), ("churn", churn)):
        if share < 0:
            raise ValueError(f"{name} must not be negative, not {share}")

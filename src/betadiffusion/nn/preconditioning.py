"""The Gaussian part of every prediction in closed form, so that a network learns only what is not Gaussian.

With f and its velocity v = df/dt taken as jointly Gaussian, channel by channel, mean and variances known per level,
T = V f + sigma^2 and s' = d(sigma)/dt:

    E[eps | z] = sigma (z - E f) / T                                   left over: variance V f / T
    E[v | z]   = E v + C(f,v) (z - E f) / T                            left over: variance V v - C(f,v)^2 / T
    E[u | z]   = E v + (C(f,v) + sigma s') (z - E f) / T               u = v + s' eps, the velocity of z itself
    E[c | z]   = E c + C(f,c) (z - E f) / T                            c = (f_s - f_t) / (s - t), v where s = t

and the flow of the ODE takes z - E f to sqrt(T_s / T_t) times itself.
The network sees z standardised and predicts what is left over in units of its own scale, which is EDM's
preconditioning (Karras et al. 2022, sec. 5) for a path whose signal is learned.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from betadiffusion.levels import integral, interpolate
from betadiffusion.samplers import Moments

FLOOR = 0.05  # least scale, relative: a channel that the level has shut is not worth the network's capacity
PAPER_STEP = 1e-3  # tau of Eq. 19
STEPS = ("any_step", "flow_map")  # predictions that depend on the level to go to
PREDICTIONS = ("velocity", *STEPS, "flow", "paper")


class Preconditioned(NamedTuple):
    """What `Preconditioning` gives for z_t (B,C,H,W): all shaped like it or broadcast to it."""

    z: Tensor  # standardised
    eps: Tensor  # Gaussian part of the prediction of eps
    velocity: Tensor  # of the other prediction, divided by s - t; "flow" and "flow_map": of z itself
    eps_scale: Tensor  # scale of what is left over
    velocity_scale: Tensor


class Preconditioning(nn.Module):
    """Buffers: moments of f and v per channel at `knots` even levels (knots, C); log sigma at `sigma_knots` ones.

    For predictions "any_step" and "flow_map" also moments of the change from each knot to each, (knots t, knots s, C).
    """

    def __init__(self, channels: int, knots: int, sigma_knots: int, prediction: str = "velocity") -> None:
        super().__init__()
        self.prediction = prediction
        self.register_buffer("log_sigma", torch.zeros(sigma_knots))
        for name in ("f_mean", "v_mean", "covariance"):
            self.register_buffer(name, torch.zeros(knots, channels))
        for name in ("f_variance", "v_variance"):
            self.register_buffer(name, torch.ones(knots, channels))
        if prediction in STEPS:
            for name in ("step_mean", "step_gain"):
                self.register_buffer(name, torch.zeros(knots, knots, channels))
            self.register_buffer("step_variance", torch.ones(knots, knots, channels))

    @torch.no_grad()
    def calibrate(self, log_sigma: Tensor, f: Tensor, v: Tensor) -> None:
        """Sets the moments from f and v (N, knots, C, H, W) of a sample of data, and log sigma (sigma_knots,)."""
        self.log_sigma.copy_(log_sigma)
        f, v = (x.transpose(0, 1).transpose(1, 2).flatten(2).double() for x in (f, v))  # (knots, C, N*H*W)
        self.f_mean.copy_(f.mean(2))
        self.v_mean.copy_(v.mean(2))
        self.f_variance.copy_(f.var(2))
        self.v_variance.copy_(v.var(2))
        self.covariance.copy_(((f - f.mean(2, keepdim=True)) * (v - v.mean(2, keepdim=True))).mean(2))
        if self.prediction in STEPS:
            self._calibrate_steps(f, v)

    def _calibrate_steps(self, f: Tensor, v: Tensor) -> None:
        """Moments of the mean velocity c between any two knots, from f and v (knots, C, N)."""
        knots = torch.linspace(0, 1, len(f), dtype=f.dtype, device=f.device)
        sigma = self.sigma(knots).to(f)[:, None]
        total = f.var(2) + sigma.square()
        for i, t in enumerate(knots):
            step = (knots - t)[:, None]
            step[i] = 1.0  # of no meaning there: the diagonal is df/dt
            change = (f - f[i]) / step[:, :, None]
            change[i] = v[i]
            mean = change.mean(2)
            covariance = ((f[i] - f[i].mean(1, keepdim=True)) * (change - mean[:, :, None])).mean(2)
            variance = change.var(2)
            if self.prediction == "flow_map":  # of z itself
                rise = self.sigma_rise(t.expand(len(knots)), knots).to(f)[:, None]
                variance, covariance = variance + rise.square(), covariance + sigma[i] * rise
            gain = covariance / total[i]
            self.step_mean[i] = mean
            self.step_variance[i] = variance - covariance * gain
            if self.prediction == "flow_map":
                # z_s - E f_s = sqrt(T_s / T_t) (z_t - E f_t), whose limit is the gain above
                gain = torch.where(knots[:, None] == t, gain, ((total / total[i]).sqrt() - 1) / step)
            self.step_gain[i] = gain

    def sigma(self, t: Tensor) -> Tensor:
        """sigma(t) of the frozen VAE, shaped like t."""
        return self._at(t, self.log_sigma).exp()

    def signal_power(self, t: Tensor) -> Tensor:
        """Variance of f at levels t, mean over channels, shaped like t."""
        return self._at(t, self.f_variance.mean(1))

    def moments(self) -> Callable[[Tensor], Moments]:
        """Moments of z_t, (C,1,1) each, as a function of t (): those at level 0 and the integrals of their slopes.

        d(E f)/dt = E v and d(sqrt T)/dt = sqrt T (C(f,v) + sigma s') / T: smooth in t, where tables have corners.
        """
        knots = torch.linspace(0, 1, len(self.f_mean), device=self.f_mean.device)
        sigma, slope = (curve(knots)[:, None] for curve in (self.sigma, self.sigma_slope))
        total = self.f_variance + sigma.square()
        rates = torch.stack([self.v_mean, (self.covariance + sigma * slope) / total], dim=1).double()
        first_mean, first_scale = self.f_mean[0], total[0].sqrt()

        def at(t: Tensor) -> Moments:
            (change, log_ratio), (mean_slope, gain) = integral(t, rates), self._at(t, rates)
            scale = first_scale * log_ratio.exp()
            moments = first_mean + change, scale, mean_slope, scale * gain
            return Moments(*(values.to(first_mean)[:, None, None] for values in moments))

        return at

    def sigma_slope(self, t: Tensor) -> Tensor:
        """d(sigma)/dt over the width of a knot's interval, shaped like t: smooth, though sigma has corners."""
        half = 0.5 / (len(self.log_sigma) - 1)
        centre = t.clamp(half, 1 - half)
        return (self.sigma(centre + half) - self.sigma(centre - half)) / (2 * half)

    def sigma_rise(self, t: Tensor, s: Tensor) -> Tensor:
        """(sigma_s - sigma_t) / (s - t), shaped like t, d(sigma)/dt where s = t; exact for the shortest of steps."""
        step, log_sigma = s.double() - t.double(), self.log_sigma.double()
        rise = self._at(s, log_sigma).exp() - self._at(t, log_sigma).exp()
        return torch.where(step == 0, self.sigma_slope(t), (rise / step).to(self.log_sigma))

    def forward(self, z: Tensor, t: Tensor, s: Tensor) -> Preconditioned:
        """z (B,C,H,W) at levels t to go to s, (B,) in [0, 1]."""
        sigma = self.sigma(t)[:, None, None, None]
        tables = (self.f_mean, self.f_variance, self.v_mean, self.v_variance, self.covariance)
        f_mean, f_var, *of_v = self._at(t, torch.stack(tables, dim=1))[..., None, None].unbind(1)
        total = f_var + sigma.square()
        centred = z - f_mean
        mean, gain, variance = self._velocity(t, s, sigma, total, of_v)
        # where f does not depend on the level yet, the velocity has no size of its own
        typical = torch.maximum(self.v_variance.mean(), FLOOR * self.f_variance.mean()).sqrt()
        eps, eps_scale = sigma * centred / total, (f_var / total).sqrt().clamp(min=FLOOR)
        if self.prediction == "flow":
            eps = torch.zeros_like(z)
        if self.prediction == "paper":  # delta over the paper's step is the network's own output
            velocity, scale = torch.zeros_like(z), torch.full_like(total, 1 / PAPER_STEP)
        else:
            velocity, scale = mean + gain * centred, variance.clamp(min=0).sqrt().clamp(min=FLOOR * typical)
        return Preconditioned(centred / total.sqrt(), eps, velocity, eps_scale, scale)

    def _velocity(
        self, t: Tensor, s: Tensor, sigma: Tensor, total: Tensor, of_v: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, gain on z - E f and variance left over of the velocity that is predicted: (B,C,1,1) each.

        of_v: E v, V v and C(f,v), (B,C,1,1).
        """
        if self.prediction in STEPS:
            tables = (self.step_mean, self.step_gain, self.step_variance)
            mean, gain, variance = (self._between(t, s, table)[:, :, None, None] for table in tables)
            return mean, gain, variance
        mean, variance, covariance = of_v
        if self.prediction == "flow":
            slope = self.sigma_slope(t)[:, None, None, None]
            variance, covariance = variance + slope.square(), covariance + sigma * slope
        return mean, covariance / total, variance - covariance.square() / total

    @staticmethod
    def _at(t: Tensor, values: Tensor) -> Tensor:
        return interpolate(t.to(values), torch.linspace(0, 1, len(values), device=values.device), values)

    @staticmethod
    def _between(t: Tensor, s: Tensor, values: Tensor) -> Tensor:
        """Bilinear interpolation of values (knots t, knots s, C) at t and s (B,), held constant outside: (B,C)."""
        intervals = len(values) - 1
        t, s = (level.to(values).clamp(0, 1) * intervals for level in (t, s))
        i, j = (level.long().clamp(max=intervals - 1) for level in (t, s))
        along_t, along_s = (t - i)[:, None], (s - j)[:, None]
        below = torch.lerp(values[i, j], values[i, j + 1], along_s)
        return torch.lerp(below, torch.lerp(values[i + 1, j], values[i + 1, j + 1], along_s), along_t)

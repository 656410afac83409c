"""A closed-form oracle: data from a mixture of Gaussians in any dimension, encoded as f(x,t) = a(t) x.

Its eps and delta are exact, so that a sampler's error is the sampler's own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from betadiffusion.samplers import Moments, Prediction, posterior_noise

Curve = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MixtureOracle:
    """x ~ sum_k weights_k N(means_k, covariances_k), z_t = a(t) x + sigma(t) eps.

    weights (K,), means (K,d), covariances (K,d,d); a and sigma functions of 0-d levels.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    a: Curve
    sigma: Curve

    def marginal(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Means (K,d) and covariances (K,d,d) of the components of z_t."""
        identity = torch.eye(self.means.shape[1], dtype=self.means.dtype)
        return self.a(t) * self.means, self.a(t) ** 2 * self.covariances + self.sigma(t) ** 2 * identity

    def moments(self, t: Tensor) -> Moments:
        """Mean and standard deviation of z_t in each dimension, and their slopes: (d,) each."""

        def values(t: Tensor) -> tuple[Tensor, Tensor]:
            means, covariances = self.marginal(t)
            mean = self.weights @ means
            second = self.weights @ (covariances.diagonal(dim1=1, dim2=2) + means.square())
            return mean, (second - mean.square()).sqrt()

        at, slopes = torch.func.jvp(values, (t,), (torch.ones_like(t),))[:2]
        return Moments(*at, *slopes)

    def log_density(self, z: Tensor, t: Tensor) -> Tensor:
        """log q(z_t) of z (B,d), in nats: (B,)."""
        return torch.logsumexp(self._log_joint(z, t), dim=1)

    def expected_x(self, z: Tensor, t: Tensor) -> Tensor:
        """E[x | z_t] of z (B,d): (B,d)."""
        means, covariances = self.marginal(t)
        # E[x | z, k] = mu_k + a C_k (a^2 C_k + sigma^2 I)^-1 (z - a mu_k), weighed by the posterior of k
        gain = self.a(t) * torch.linalg.solve(covariances, self.covariances, left=False)
        expected = self.means + torch.einsum("kij,bkj->bki", gain, z[:, None] - means)
        return torch.einsum("bk,bki->bi", self._log_joint(z, t).softmax(dim=1), expected)

    def predict(self, z: Tensor, t: Tensor, s: Tensor) -> Prediction:
        """The exact (eps, delta) of z (B,d) at level t for a step to s."""
        x = self.expected_x(z, t)
        return (z - self.a(t) * x) / self.sigma(t), (self.a(s) - self.a(t)) * x

    def sample(self, count: int, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws of z_t: (count, d)."""
        means, covariances = self.marginal(t)
        component = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, means.shape[1], generator=generator, dtype=means.dtype)
        return means[component] + torch.einsum("bij,bj->bi", torch.linalg.cholesky(covariances)[component], noise)

    def _log_joint(self, z: Tensor, t: Tensor) -> Tensor:
        means, covariances = self.marginal(t)
        density = torch.distributions.MultivariateNormal(means, covariance_matrix=covariances)
        joint: Tensor = density.log_prob(z[:, None]) + self.weights.log()  # type: ignore[no-untyped-call]
        return joint


def gaussian_oracle(covariance: Tensor, a: Curve, sigma: Curve) -> MixtureOracle:
    """The oracle of x ~ N(0, covariance), covariance (d,d)."""
    dimension = covariance.shape[0]
    one = torch.ones(1, dtype=covariance.dtype)
    return MixtureOracle(one, covariance.new_zeros(1, dimension), covariance[None], a, sigma)


def variance_after(
    levels: Tensor, variance: float, a: Curve, sigma: Curve, *, eta: float = 0.0, algorithm2: bool = False
) -> float:
    """Variance that Euler's member of the sampler family reaches on x ~ N(0, variance), started from N(0, 1).

    The closed recursion: every step of the family is linear in z on Gaussian data, z_s = c z_t + k noise.
    """
    current = 1.0
    for t, s in pairwise(levels):
        sigma_t, sigma_s = sigma(t), sigma(s)
        k = sigma_s if algorithm2 else posterior_noise(sigma_t, sigma_s, eta)
        x_gain = a(t) * variance / (a(t) ** 2 * variance + sigma_t**2)  # E[x | z] = x_gain z
        eps_gain = (1 - a(t) * x_gain) / sigma_t
        c = 1 - sigma_t * eps_gain + (a(s) - a(t)) * x_gain + (sigma_s**2 - k**2).clamp(min=0).sqrt() * eps_gain
        current = float(c**2 * current + k**2)
    return current


def example_path() -> tuple[Curve, Curve]:
    """The path on which the errata are measured: a = cos(pi t / 2), sigma = 0.03 + 0.97 sin(pi t / 2)."""
    return lambda t: (math.pi / 2 * t).cos(), lambda t: 0.03 + 0.97 * (math.pi / 2 * t).sin()

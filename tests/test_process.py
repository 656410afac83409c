"""Gaussians, the objective, and the posterior between levels."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from betadiffusion.gaussian import gaussian_kl, log_density, randn, standard_normal_kl, sum_over_sample
from betadiffusion.objectives import multi_beta_objective, optimal_pixel_sigma, scaled_error
from betadiffusion.process import diffuse, forward_step, posterior
from betadiffusion.schedules import Sinusoidal

G = torch.Generator().manual_seed(0)


def test_divergences_and_densities_agree_with_torch_distributions():
    mean, sigma = torch.randn(5, 3, 2, generator=G), torch.rand(5, generator=G) + 0.1
    normal = Normal(mean, sigma[:, None, None].expand_as(mean))
    assert torch.allclose(
        standard_normal_kl(mean, sigma), sum_over_sample(kl_divergence(normal, Normal(0, 1))), rtol=1e-5
    )
    x = torch.randn(5, 3, 2, generator=G)
    assert torch.allclose(log_density(x, mean, sigma), sum_over_sample(normal.log_prob(x)), rtol=1e-5)
    other = Normal(x, torch.full_like(x, 0.7))
    found = gaussian_kl(mean, normal.variance, x, other.variance)
    assert torch.allclose(found, sum_over_sample(kl_divergence(normal, other)), rtol=1e-5)


def test_a_scalar_sigma_holds_for_the_whole_batch():
    mean = torch.randn(4, 6, generator=G)
    assert torch.allclose(standard_normal_kl(mean, torch.tensor(0.3)), standard_normal_kl(mean, torch.full((4,), 0.3)))


def test_each_dimension_counts_at_least_what_is_free():
    """Free bits change neither the KL nor its gradient where every dimension is above them, and leave none below."""
    mean, sigma = torch.tensor([[3.0, 0.1], [2.0, -0.2]], requires_grad=True), torch.tensor([[0.5, 0.99], [0.4, 1.0]])
    free = torch.tensor([0.5, 0.0])
    kl = standard_normal_kl(mean, sigma, free)
    of_each = [standard_normal_kl(mean[:, i : i + 1], sigma[:, i : i + 1]) for i in range(2)]
    torch.testing.assert_close(kl, torch.stack([of_each[0][0] + 0.5, of_each[0][1] + of_each[1][1]]))
    assert torch.equal(torch.autograd.grad(kl.sum(), mean)[0], torch.tensor([[3.0, 0.0], [2.0, -0.2]]))


def test_objective_is_equation_4_written_out():
    x, x_hat = torch.randn(3, 1, 2, 2, generator=G), torch.randn(3, 1, 2, 2, generator=G)
    mean, sigma, s = torch.randn(3, 5, generator=G), torch.tensor([0.1, 0.5, 1.0]), torch.tensor([0.2, 0.3, 0.4])
    t = torch.tensor([0.2, 0.5, 0.9])
    weights = Sinusoidal()(t)
    terms = multi_beta_objective(x, x_hat, mean, sigma, s, weights)
    for i in range(3):
        beta, s_i, sigma_i = math.sin(math.pi * t[i] / 2), float(s[i]), float(sigma[i])
        error = float((x[i] - x_hat[i]).square().sum())
        nll = 4 / 2 * math.log(2 * math.pi * s_i**2) + error / (2 * s_i**2)
        kl = float(0.5 * (mean[i].square().sum() + 5 * (sigma_i**2 - 1 - math.log(sigma_i**2))))
        assert terms.loss[i].item() == pytest.approx((1 - beta) * nll + beta * kl, rel=1e-5)
        assert terms.squared_error[i].item() == pytest.approx(error, rel=1e-5)
        assert terms.rate[i].item() == pytest.approx(kl, rel=1e-5)


def test_the_optimal_pixel_sigma_minimises_the_objective():
    x, x_hat = torch.randn(64, 1, 4, 4, generator=G), torch.zeros(64, 1, 4, 4)
    best = optimal_pixel_sigma(sum_over_sample((x - x_hat).square()), pixels=16).requires_grad_()
    nll = -log_density(x, x_hat, best).mean()
    assert torch.autograd.grad(nll, best)[0].abs() < 1e-4
    assert all(-log_density(x, x_hat, best.detach() * f).mean() > nll for f in (0.9, 1.1))


def test_the_scaled_error_is_unit_for_errors_of_the_expected_scale():
    target, scale = torch.randn(1000, 8, generator=G), torch.tensor(0.1)
    loss = scaled_error(target + 0.1, target, scale)
    assert torch.allclose(loss, torch.ones(1000), atol=1e-4)
    assert (scaled_error(target, target, scale) == 0).all()


def test_the_markov_chain_has_the_marginals_of_the_path():
    f_s, f_t, sigma_s, sigma_t = torch.tensor(2.0), torch.tensor(0.5), torch.tensor(0.3), torch.tensor(0.8)
    eps = torch.randn(2, 400_000, generator=G)
    z_t = forward_step(diffuse(f_s, sigma_s, eps[0]), f_s, f_t, sigma_s, sigma_t, eps[1])
    assert z_t.mean() == pytest.approx(0.5, abs=0.01)
    assert z_t.std() == pytest.approx(0.8, abs=0.01)


def test_the_posterior_agrees_with_monte_carlo():
    """Regression of z_s on z_t over draws of the chain gives the posterior's mean and variance (erratum 1)."""
    f_s, f_t, sigma_s, sigma_t = (torch.tensor(v, dtype=torch.float64) for v in (2.0, 0.5, 0.3, 0.8))
    eps = torch.randn(2, 1_000_000, generator=G, dtype=torch.float64)
    z_s = diffuse(f_s, sigma_s, eps[0])
    z_t = forward_step(z_s, f_s, f_t, sigma_s, sigma_t, eps[1])
    slope = ((z_s - z_s.mean()) * (z_t - z_t.mean())).mean() / z_t.var()
    for value in (-1.0, 0.5, 2.0):
        at = torch.tensor(value, dtype=torch.float64)
        mean, variance = posterior(at, f_t, f_s, sigma_t, sigma_s)
        assert mean == pytest.approx(float(z_s.mean() + slope * (at - z_t.mean())), abs=0.005)
        assert variance == pytest.approx(float((z_s - slope * z_t).var()), rel=0.01)


def test_the_posterior_averaged_over_the_path_gives_back_the_marginal():
    f_s, f_t, sigma_s, sigma_t = torch.tensor(2.0), torch.tensor(0.5), torch.tensor(0.3), torch.tensor(0.8)
    mean, variance = posterior(f_t, f_t, f_s, sigma_t, sigma_s)
    a = (sigma_s / sigma_t) ** 2
    assert mean == pytest.approx(2.0)
    assert variance + a**2 * sigma_t**2 == pytest.approx(float(sigma_s**2), rel=1e-6)


def test_noise_follows_the_generator_and_its_dtype_the_tensor():
    like = torch.empty(0, dtype=torch.float64)
    a, b = (randn((4, 3), like, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a, b)
    assert a.dtype == torch.float64


def test_the_objective_prefers_no_axes():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rotation = torch.linalg.qr(normal(6, 6)).Q
    x, decoder, mean, eps = normal(50, 12), normal(6, 12), normal(50, 6), normal(50, 6)
    s = torch.full((50,), 0.3, dtype=torch.float64)

    def loss(turn, sigma):  # encoder and noise turned, decoder turned back
        x_hat = (mean @ turn + sigma * (eps @ turn)) @ turn.T @ decoder
        return multi_beta_objective(x, x_hat, mean @ turn, sigma.expand(50, 6), s, Sinusoidal()(s)).loss

    still = torch.eye(6, dtype=torch.float64)
    one_scale = torch.tensor(0.3, dtype=torch.float64)
    torch.testing.assert_close(loss(rotation, one_scale), loss(still, one_scale))
    by_dimension = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    assert (loss(rotation, by_dimension) - loss(still, by_dimension)).abs().min() > 1e-3  # such scales have axes

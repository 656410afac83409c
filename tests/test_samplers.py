"""Samplers against the closed-form oracle, where the only error is their own."""

import itertools
import math

import pytest
import torch

from betadiffusion import samplers
from betadiffusion.gaussian import randn, split
from betadiffusion.levels import uniform
from betadiffusion.oracle import MixtureOracle, example_path, gaussian_oracle, variance_after

A, SIGMA = example_path()
ONE = torch.eye(1, dtype=torch.float64)


def noise(count, dimension=1, seed=0):
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(dimension=3):
    generator = torch.Generator().manual_seed(1)
    means = 2 * torch.randn(2, dimension, generator=generator, dtype=torch.float64)
    roots = 0.4 * torch.randn(2, dimension, dimension, generator=generator, dtype=torch.float64)
    covariances = roots @ roots.mT + 0.05 * torch.eye(dimension)
    return MixtureOracle(torch.tensor([0.3, 0.7], dtype=torch.float64), means, covariances, A, SIGMA)


# target variance 1.00; the figures of docs/formalism.md, erratum 3
@pytest.mark.parametrize(
    ("steps", "euler", "posterior", "algorithm2"),
    [(5, 0.62, 0.55, 0.36), (20, 0.89, 0.84, 0.45), (200, 0.99, 0.98, 0.49)],
)
def test_variance_follows_the_closed_recursion(steps, euler, posterior, algorithm2):
    oracle, levels, z = gaussian_oracle(ONE, A, SIGMA), uniform(steps), noise(50_000)
    generator = torch.Generator().manual_seed(2)
    cases = [
        ({"eta": 0.0}, euler, samplers.sample(oracle.predict, z, levels, SIGMA, method="euler")),
        (
            {"eta": 1.0},
            posterior,
            samplers.sample(oracle.predict, z, levels, SIGMA, method="euler", eta=1.0, generator=generator),
        ),
        ({"algorithm2": True}, algorithm2, samplers.algorithm2(oracle.predict, z, levels, SIGMA, generator=generator)),
    ]
    for options, published, sampled in cases:
        closed = variance_after(levels, 1.0, A, SIGMA, **options)
        assert closed == pytest.approx(published, abs=0.01)
        assert float(sampled.var()) == pytest.approx(closed, abs=0.02)


def uneven(steps):
    """Levels whose steps shrink by half on the way."""
    u = uniform(steps)
    return u + 0.2 * u * (u - 1) - 0.02 * (2 * math.pi * u).sin()


@pytest.mark.parametrize("levels", [uniform, uneven])
@pytest.mark.parametrize("variable", samplers.VARIABLES)
@pytest.mark.parametrize(
    ("method", "low", "high"),
    [("euler", 1.7, 2.3), ("heun", 3.3, 4.7), ("multistep", 3.3, 4.7), ("multistep3", 6.0, 20.0)],
)
def test_order_of_convergence(method, low, high, variable, levels):
    """Twice the steps, 2, 4 and 8 times the accuracy, in every variable, on even and on uneven steps.

    "standard" has the moments of other data: of its own it would make no error.
    """
    oracle = gaussian_oracle(torch.diag(torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64)), A, SIGMA)
    other = gaussian_oracle(torch.diag(torch.tensor([1.0, 4.0, 0.25], dtype=torch.float64)), A, SIGMA)
    z, (start, end) = torch.ones(1, 3, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    # the flow of a Gaussian is a stretch by the ratio of its standard deviations
    exact = (oracle.marginal(end)[1][0].diag() / oracle.marginal(start)[1][0].diag()).sqrt()
    own = {"method": method, "variable": variable, "moments": other.moments}
    errors = [float((samplers.sample(oracle.predict, z, levels(n), SIGMA, **own) - exact).norm()) for n in (20, 40, 80)]
    assert low < errors[0] / errors[1] < high
    assert low < errors[1] / errors[2] < high


def test_moments_of_a_mixture_are_those_of_its_density():
    """Mean and standard deviation by quadrature of the density, their slopes by central differences."""
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    means, covariances = weights.new_tensor([[-1.0], [2.0]]), weights.new_tensor([[[0.5]], [[0.1]]])
    oracle = MixtureOracle(weights, means, covariances, A, SIGMA)
    z, t = torch.linspace(-12, 12, 4001, dtype=torch.float64), weights.new_tensor(0.4)
    density = oracle.log_density(z[:, None], t).exp()
    mean = torch.trapezoid(density * z, z)
    scale = torch.trapezoid(density * (z - mean).square(), z).sqrt()
    found, (before, after) = oracle.moments(t), (oracle.moments(t + shift) for shift in (-1e-5, 1e-5))
    torch.testing.assert_close(torch.cat(found[:2]), torch.stack([mean, scale]))
    slopes = (torch.cat(after[:2]) - torch.cat(before[:2])) / 2e-5
    torch.testing.assert_close(torch.cat(found[2:]), slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", ["heun", "multistep", "multistep3"])
def test_a_single_step_in_the_standard_variable_is_exact_for_gaussian_data(method):
    """Each dimension with a mean and a variance of its own, from level 1 and from within.

    Euler's step takes the mean velocity over it for that at t, and here they differ.
    """
    means = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    covariance = torch.diag(torch.tensor([0.25, 1.0, 4.0], dtype=torch.float64))
    oracle = MixtureOracle(torch.ones(1, dtype=torch.float64), means, covariance[None], A, SIGMA)
    y = noise(7, 3)
    for start in (1.0, 0.6):
        levels = uniform(1, start)
        before, after = (oracle.moments(t) for t in levels)
        own = {"method": method, "variable": "standard", "moments": oracle.moments}
        landed = samplers.sample(oracle.predict, before.mean + before.scale * y, levels, SIGMA, **own)
        assert torch.allclose(landed, after.mean + after.scale * y, atol=1e-4)


@pytest.mark.parametrize("variable", ["t", "sigma"])
def test_the_past_counts_less_where_it_would_change_a_step_too_much(variable):
    """Adams-Bashforth would turn back where the velocity falls from 10 to 1; where it falls from 1.1 it is kept."""
    before = torch.tensor([[10.0], [1.1]], dtype=torch.float64)

    def predict(z, t, s):
        return torch.zeros_like(z), (s - t) * (before if t > 0.5 else torch.ones_like(z))

    z = torch.zeros(2, 1, dtype=torch.float64)
    landed = samplers.sample(predict, z, uniform(2), SIGMA, method="multistep", variable=variable)
    damped = 4.5 * (samplers.TRUST / 4.5) ** 2  # 1.5 - 0.5 * 10 is 4.5 less than Euler's 1
    second_step = -0.5 * torch.tensor([1 - damped, 1.5 - 0.5 * 1.1], dtype=torch.float64)
    assert torch.allclose((landed + 0.5 * before)[:, 0], second_step)


@pytest.mark.parametrize("exponential", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_quadrature_is_exact_for_polynomials(order, exponential):
    points, end = [0.9, 1.0, 1.3][:order], 0.5
    weights = samplers.quadrature(points, end, exponential=exponential)
    x = torch.linspace(points[0], end, 200_001, dtype=torch.float64)
    for power in range(order):
        found = sum(w * p**power for w, p in zip(weights, points, strict=True))
        curve = x**power * (x.exp() if exponential else 1)
        assert found == pytest.approx(float(torch.trapezoid(curve, x)), rel=1e-8)


def test_quadrature_of_even_steps_is_the_textbooks():
    assert samplers.quadrature([1.0, 0.9], 0.9) == pytest.approx([-0.05, -0.05])  # Heun: the trapezoidal rule
    assert samplers.quadrature([0.9, 1.0], 0.8) == pytest.approx([-0.15, 0.05])  # Adams-Bashforth 2
    assert samplers.quadrature([0.9, 1.0, 1.1], 0.8) == pytest.approx([-0.1 * w / 12 for w in (23, -16, 5)])


def test_variables_agree_where_neither_sigma_nor_the_moments_move():
    """sigma flat: its own coordinate has no slope to extrapolate, and none is asked for."""

    def flat(t):
        return 0.5 + 0 * t

    def unmoved(t):
        return samplers.Moments(1 + 0 * t, 2 + 0 * t, 0 * t, 0 * t)

    oracle, z, levels = gaussian_oracle(ONE, A, flat), noise(5), uniform(8)
    for method in samplers.METHODS:
        t, *others = (
            samplers.sample(oracle.predict, z, levels, flat, method=method, variable=v, moments=unmoved)
            for v in samplers.VARIABLES
        )
        assert torch.isfinite(t).all()
        for other in others:
            assert torch.allclose(t, other)


@pytest.mark.parametrize("method", samplers.METHODS)
def test_a_mixture_is_reached_from_its_own_end_point(method):
    """Means and covariance of the target, in three dimensions, from draws of the path's true end."""
    oracle = mixture()
    end, start = torch.tensor([0.0, 1.0], dtype=torch.float64)
    z = oracle.sample(10_000, start, torch.Generator().manual_seed(3))
    reached = samplers.sample(oracle.predict, z, uniform(50), SIGMA, method=method)
    target = oracle.sample(10_000, end, torch.Generator().manual_seed(4))
    assert torch.allclose(reached.mean(0), target.mean(0), atol=0.05)
    assert torch.allclose(reached.T.cov(), target.T.cov(), rtol=0.06, atol=0.06)


def test_oracle_predictions_are_conditional_expectations():
    """E[eps | z] = -sigma grad log q(z), and the errors are uncorrelated with any function of z."""
    oracle, t, s = mixture(), torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    z = oracle.sample(5, t, torch.Generator().manual_seed(5)).requires_grad_()
    score = torch.autograd.grad(oracle.log_density(z, t).sum(), z)[0]
    eps, delta = oracle.predict(z.detach(), t, s)
    assert torch.allclose(eps, -SIGMA(t) * score, atol=1e-9)
    assert torch.allclose(delta, (A(s) - A(t)) * (z.detach() - SIGMA(t) * eps) / A(t), atol=1e-9)


def test_one_step_of_the_posterior_is_exact_given_the_encoding():
    """With eps and delta known exactly for one x, eta = 1 draws from q(z_s | z_t, x)."""
    from betadiffusion.process import posterior

    t, s = torch.tensor([0.6, 0.5], dtype=torch.float64)
    f = {float(t): torch.tensor(0.7), float(s): torch.tensor(1.1)}
    z = torch.full((200_000, 1), 0.9, dtype=torch.float64)

    def predict(z_t, a, b):
        return (z_t - f[float(a)]) / SIGMA(a), (f[float(b)] - f[float(a)]).expand_as(z_t)

    drawn = samplers.sample(
        predict, z, torch.stack([t, s]), SIGMA, method="euler", eta=1.0, generator=torch.Generator().manual_seed(0)
    )
    mean, variance = posterior(z[0], f[float(t)], f[float(s)], SIGMA(t), SIGMA(s))
    assert float(drawn.mean()) == pytest.approx(float(mean), abs=0.005)
    assert float(drawn.var()) == pytest.approx(float(variance), rel=0.02)


def test_a_step_draws_no_more_noise_than_there_is():
    """Beyond the posterior's share up to the whole, k = sigma_s, which is Algorithm 2."""
    oracle, z, levels = mixture(), noise(500, 3), uniform(5)
    first, second = (torch.Generator().manual_seed(1) for _ in range(2))
    drawn = samplers.sample(oracle.predict, z, levels, SIGMA, method="euler", eta=1e9, generator=first)
    assert torch.allclose(drawn, samplers.algorithm2(oracle.predict, z, levels, SIGMA, generator=second))


RANDOM = [{"eta": 0.5}, {"eta": 1.0}, {"churn": 0.5}, {"churn": 1.0}]


@pytest.mark.parametrize("method", samplers.METHODS)
@pytest.mark.parametrize("options", RANDOM, ids=str)
def test_marginals_stay_right_under_fresh_noise(options, method):
    """Mean and covariance of the target in two dimensions; what is off shrinks with the steps."""
    oracle = mixture(2)
    end, start = torch.tensor([0.0, 1.0], dtype=torch.float64)
    z = oracle.sample(8_000, start, torch.Generator().manual_seed(3))
    target = (oracle.weights[:, None] * oracle.means).sum(0)
    spread = oracle.means - target
    within, between = oracle.marginal(end)[1], spread[:, :, None] * spread[:, None]
    covariance = (oracle.weights[:, None, None] * (within + between)).sum(0)
    off = []
    for steps in (8, 80):
        reached = samplers.sample(
            oracle.predict, z, uniform(steps), SIGMA, method=method, **options,
            generator=torch.Generator().manual_seed(5),
        )  # fmt: skip
        off.append(float((reached.T.cov() - covariance).norm() / covariance.norm()))
        if steps == 80:
            assert torch.allclose(reached.mean(0), target, atol=0.06)
    assert off[1] < 0.08
    assert off[1] < max(off[0], 0.04)


def test_randomness_is_the_generators():
    oracle, z, levels = gaussian_oracle(ONE, A, SIGMA), noise(10), uniform(5)
    for method, options in itertools.product(samplers.METHODS, RANDOM):
        runs = [
            samplers.sample(
                oracle.predict, z, levels, SIGMA, method=method, generator=torch.Generator().manual_seed(seed),
                **options,
            )
            for seed in (1, 1, 2)
        ]  # fmt: skip
        assert torch.equal(runs[0], runs[1])
        assert not torch.equal(runs[0], runs[2])
        fixed = [samplers.sample(oracle.predict, z, levels, SIGMA, method=method) for _ in range(2)]
        assert torch.equal(*fixed)


@pytest.mark.parametrize("options", RANDOM, ids=str)
def test_a_latent_of_a_seed_is_the_same_in_every_batch(options):
    """One generator per latent: five at once are the five one by one, and the first of twelve."""
    oracle, levels = mixture(), uniform(5)

    def drawn(count, batch):
        stream, parts = torch.Generator().manual_seed(7), []
        for first in range(0, count, batch):
            generators = split(stream, min(batch, count - first))
            z = randn((len(generators), 3), torch.empty(0, dtype=torch.float64), generators)
            parts.append(samplers.sample(oracle.predict, z, levels, SIGMA, generator=generators, **options))
        return torch.cat(parts)

    assert torch.allclose(drawn(5, 5), drawn(5, 1))
    assert torch.allclose(drawn(5, 5), drawn(12, 12)[:5])
    assert torch.allclose(drawn(12, 12), drawn(12, 5))
    assert not torch.allclose(drawn(5, 5)[0], drawn(5, 5)[1])
    with pytest.raises(ValueError, match="needs one for each of 3 samples, not 2"):
        randn((3, 2), torch.empty(0), [torch.Generator(), torch.Generator()])


@pytest.mark.parametrize("method", samplers.METHODS)
def test_evaluations_and_callbacks_are_counted(method):
    oracle, asked, told = gaussian_oracle(ONE, A, SIGMA), [], []

    def predict(z, t, s):
        asked.append(float(t))
        return oracle.predict(z, t, s)

    samplers.sample(
        predict,
        noise(2),
        uniform(6, 0.9, 0.2),
        SIGMA,
        method=method,
        callback=lambda i, z, s: told.append((i, float(s))),
    )
    assert len(asked) == samplers.evaluations(method, 6)
    assert [i for i, _ in told] == list(range(6))
    assert told[-1][1] == pytest.approx(0.2)


def test_bad_arguments_are_refused():
    oracle, z = gaussian_oracle(ONE, A, SIGMA), noise(2)
    with pytest.raises(ValueError, match="falling values"):
        samplers.sample(oracle.predict, z, uniform(5).flip(0), SIGMA)
    with pytest.raises(ValueError, match="unknown method 'rk4'"):
        samplers.sample(oracle.predict, z, uniform(5), SIGMA, method="rk4")
    with pytest.raises(ValueError, match="unknown variable 'u'"):
        samplers.sample(oracle.predict, z, uniform(5), SIGMA, variable="u")
    with pytest.raises(ValueError, match="'standard' needs the moments of z_t"):
        samplers.sample(oracle.predict, z, uniform(5), SIGMA, variable="standard")
    with pytest.raises(ValueError, match="eta must not be negative"):
        samplers.sample(oracle.predict, z, uniform(5), SIGMA, eta=-1.0)
    with pytest.raises(ValueError, match="churn must not be negative"):
        samplers.sample(oracle.predict, z, uniform(5), SIGMA, churn=-1.0)


def test_the_sign_of_delta():
    """Erratum 2: with delta added the mean of the data is reached, with delta subtracted it is not."""
    oracle = gaussian_oracle(ONE, A, SIGMA)
    oracle = MixtureOracle(oracle.weights, torch.full((1, 1), 3.0, dtype=torch.float64), oracle.covariances, A, SIGMA)

    def subtracted(z, t, s):
        eps, delta = oracle.predict(z, t, s)
        return eps, -delta

    z, levels = noise(2_000), uniform(100)
    reached = [
        samplers.algorithm2(p, z, levels, SIGMA, generator=torch.Generator().manual_seed(0)).mean().item()
        for p in (oracle.predict, subtracted)
    ]
    assert reached[0] == pytest.approx(3.0, abs=0.1)
    assert abs(reached[1] - 3.0) > 0.25


def test_delta_of_a_small_step_does_not_train():
    """Erratum 4: at tau = 1/1000 the second term of Eq. 19 is about a millionth of the first; delta / tau is not."""
    oracle = gaussian_oracle(ONE, A, SIGMA)
    t = torch.tensor(0.5, dtype=torch.float64)
    z = oracle.sample(10_000, t, torch.Generator().manual_seed(0))
    sizes = {tau: oracle.predict(z, t, t - tau)[1].square().mean().item() for tau in (0.01, 0.001)}
    assert sizes[0.001] < 3e-6
    assert sizes[0.001] / 0.001**2 == pytest.approx(sizes[0.01] / 0.01**2, rel=0.1)


def corner(t):
    """A sigma whose slope is 1 below a half and 3 above."""
    return t + 2 * (t - 0.5).clamp(min=0)


def test_the_slope_of_sigma_is_that_on_the_side_of_the_step():
    def predict(z, t, s):
        return torch.ones_like(z), torch.zeros_like(z)

    z = torch.zeros(1, 1, dtype=torch.float64)
    levels = torch.tensor([0.5, 0.25], dtype=torch.float64)
    landed = samplers.sample(predict, z, levels, corner, method="multistep", variable="t")
    assert float(landed) == pytest.approx(-0.25, abs=1e-6)


def test_no_level_above_one_is_asked_for_however_far_churn_climbs():
    asked = []

    def predict(z, t, s):
        asked.append(float(t))
        return torch.zeros_like(z), torch.zeros_like(z)

    generator = torch.Generator().manual_seed(0)
    samplers.sample(predict, torch.zeros(1, 1), uniform(4), SIGMA, method="multistep", churn=5.0, generator=generator)
    assert max(asked) == 1


def test_the_velocity_is_asked_for_over_a_step_that_float32_levels_keep():
    steps = []

    def predict(z, t, s):
        steps.append(float(t.float() - s.float()))
        return torch.zeros_like(z), torch.zeros_like(z)

    samplers.sample(predict, torch.zeros(1, 1), uniform(7).double() * 0.9, SIGMA, method="multistep")
    assert steps == [samplers.AHEAD] * 7


def test_a_walk_is_the_same_in_inference_mode():
    def predict(z, t, s):
        return 0.3 * z, (s - t) * z

    z, levels = torch.ones(2, 3), uniform(3)
    expected = samplers.sample(predict, z, levels, SIGMA, method="multistep", variable="t")
    with torch.inference_mode():
        found = samplers.sample(predict, torch.ones(2, 3), uniform(3), SIGMA, method="multistep", variable="t")
    assert torch.equal(found, expected)

"""Rate, active units and aggregated posteriors against closed forms and exact sums."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from betadiffusion.metrics.latents import active_units, aggregated_kl, aggregated_posterior, rate

GRID = np.linspace(-5, 5, 201)


def means(n=500, d=3, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)) * [1, 0.5, 0.02][:d] + [0, 0.7, -1][:d]


def test_rate_is_the_textbook_divergence():
    assert rate(np.zeros((5, 3)), 1.0) == 0
    assert rate(np.full((5, 3), 2.0), 1.0) == pytest.approx(3 * 2)  # mu^2 / 2 each
    assert rate(np.zeros((5, 3)), 1e-3) == pytest.approx(3 * (-0.5 + 0.5e-6 + np.log(1e3)), rel=1e-12)


def test_sigma_may_be_one_number_or_one_for_each_image_or_value():
    m = means()
    single = rate(m, 0.3)
    for sigma in (np.full(500, 0.3), np.full((500, 3), 0.3), torch.full((500,), 0.3, dtype=torch.float64)):
        assert rate(torch.from_numpy(m), sigma) == pytest.approx(single, rel=1e-12)
    sigma = np.random.default_rng(1).uniform(0.1, 2, (500, 3))
    expected = 0.5 * (m**2 + sigma**2 - 1 - np.log(sigma**2)).sum(axis=1).mean()
    assert rate(m, sigma) == pytest.approx(expected, rel=1e-12)


def test_active_units_are_those_whose_means_vary():
    assert active_units(means()) == 2  # the third has a variance of 0.0004
    assert active_units(means(), threshold=1e-5) == 3
    assert active_units(np.ones((10, 4))) == 0


def test_aggregated_kl_of_a_standard_normal_and_of_a_dead_channel():
    m = np.array([[-0.8], [0.8]])
    assert aggregated_kl(m, 0.6) == pytest.approx([0], abs=1e-12)  # 0.64 + 0.36 = 1
    assert aggregated_kl(np.full((9, 1), 2.0), 0.5) == pytest.approx([0.5 * (4 + 0.25 - 1 - np.log(0.25))])
    np.testing.assert_allclose(aggregated_kl(means(), np.full(500, 0.3)), aggregated_kl(means(), 0.3), rtol=1e-12)
    # the law of total variance: of scales 0.5 and 1.5 it is 1.25
    assert aggregated_kl(np.zeros((2, 1)), np.array([0.5, 1.5])) == pytest.approx([0.5 * (0.25 - np.log(1.25))])


@pytest.mark.parametrize("sigma", [1.0, 0.3, 0.06])
def test_binned_densities_are_the_exact_sum(sigma):
    m = means()
    expected = np.stack([norm.pdf(GRID[:, None], column, sigma).mean(axis=1) for column in m.T])
    found = aggregated_posterior(m, sigma, GRID)
    assert found.shape == (3, 201)
    assert np.abs(found - expected).max() < 5e-5 / sigma


def test_the_error_of_binning_is_bounded_where_it_is_greatest():
    sigma = 0.5
    for m in np.linspace(0, sigma / 16, 33):  # through two bins
        error = aggregated_posterior([[m]], sigma, GRID)[0] - norm.pdf(GRID, m, sigma)
        assert np.abs(error).max() < 5e-5 / sigma


def test_one_sigma_per_image_is_summed_exactly(monkeypatch):
    m, sigma = means(), np.random.default_rng(1).uniform(0.06, 1, 500)
    expected = np.stack([norm.pdf(GRID[:, None], column, sigma).mean(axis=1) for column in m.T])
    np.testing.assert_allclose(aggregated_posterior(m, sigma, GRID), expected, atol=1e-12)
    monkeypatch.setattr("betadiffusion.metrics.latents.CHUNK", 5000)
    np.testing.assert_allclose(aggregated_posterior(m, sigma, GRID), expected, atol=1e-12)
    wide = np.broadcast_to(sigma[:, None], m.shape)
    np.testing.assert_allclose(aggregated_posterior(m, wide, GRID), expected, atol=1e-12)


def test_a_sigma_finer_than_the_grid_is_widened_to_it_and_loses_no_mass():
    tiny = aggregated_posterior(means(), 1e-3, GRID)
    np.testing.assert_array_equal(tiny, aggregated_posterior(means(), GRID[1] - GRID[0], GRID))
    np.testing.assert_allclose(tiny.sum(axis=1) * (GRID[1] - GRID[0]), 1, rtol=1e-4)
    exact = aggregated_posterior(means(), np.full(500, 1e-3), GRID)
    np.testing.assert_allclose(tiny, exact, atol=5e-5 / 0.05)


def test_means_far_off_the_grid_add_nothing_to_it():
    near = aggregated_posterior([[0.0]], 0.5, GRID)
    np.testing.assert_allclose(aggregated_posterior([[0.0], [1e9], [-50.0]], 0.5, GRID), near / 3, atol=1e-12)


@pytest.mark.parametrize("metric", [rate, aggregated_kl, lambda m, s: aggregated_posterior(m, s, GRID)])
@pytest.mark.parametrize(
    ("m", "sigma", "message"),
    [
        (np.full((4, 2), np.nan), 1, "^means must be finite"),
        (np.zeros(4), 1, "^means must be a matrix"),
        (np.zeros((4, 2)), 0.0, "positive and finite"),
        (np.zeros((4, 2)), np.nan, "positive and finite"),
        (np.zeros((4, 2)), np.ones(2), "one for each of"),
    ],
)
def test_bad_posteriors_are_refused(metric, m, sigma, message):
    with pytest.raises(ValueError, match=message):
        metric(m, sigma)


@pytest.mark.parametrize("grid", [[0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0, 3.0]])
def test_uneven_grids_are_refused(grid):
    with pytest.raises(ValueError, match="even steps"):
        aggregated_posterior(np.zeros((4, 2)), 1.0, grid)

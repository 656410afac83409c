"""Divergences from samples, against closed forms, brute-force sums and hand computation."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from betadiffusion.baselines.divergences import (
    covariance,
    decomposition,
    distance_from_white,
    log_aggregate,
    mmd,
    permute_dimensions,
)
from betadiffusion.gaussian import standard_normal_kl


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def expected_kernel(kernel, shift, d):
    """E k(x, y) for x - y ~ N(shift, 2 I) in d dimensions."""
    scale, squared = 2 * d, sum(s * s for s in shift)

    def rbf(s):  # of exp(-s |x-y|^2 / scale), a Gaussian integral
        return (1 + 4 * s / scale) ** (-d / 2) * math.exp(-s * squared / (scale + 4 * s))

    # scale / (scale + r) is the integral of exp(-s) exp(-s r / scale)
    return rbf(1) if kernel == "rbf" else quad(lambda s: math.exp(-s) * rbf(s), 0, np.inf)[0]


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_the_mmd_of_shifted_gaussians_is_that_of_the_closed_form(kernel):
    shift = (1.0, -0.5, 0.0)
    expected = 2 * (expected_kernel(kernel, (0, 0, 0), 3) - expected_kernel(kernel, shift, 3))
    found = [
        float(mmd(normal(500, 3, seed=2 * i), normal(400, 3, seed=2 * i + 1) + torch.tensor(shift), kernel, True))
        for i in range(12)
    ]
    error = np.std(found) / math.sqrt(len(found))
    assert error < 0.05 * expected
    assert np.mean(found) == pytest.approx(expected, abs=3 * error)


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_the_mmd_of_equal_samples_is_zero(kernel):
    x = normal(64, 2, 3, 3)
    assert float(mmd(x, x, kernel)) == pytest.approx(0, abs=1e-6)
    biased, unbiased = [], []
    for i in range(40):
        x, y = normal(30, 4, seed=2 * i), normal(30, 4, seed=2 * i + 1)
        biased.append(float(mmd(x, y, kernel)))
        unbiased.append(float(mmd(x, y, kernel, unbiased=True)))
    assert min(biased) > 0  # the bias: 1 - E k, twice over 30
    expected = 2 / 30 * (1 - expected_kernel(kernel, (0,) * 4, 4))
    assert np.mean(biased) == pytest.approx(expected, rel=0.1)
    assert abs(np.mean(unbiased)) < 3 * np.std(unbiased) / math.sqrt(40)
    with pytest.raises(ValueError, match="unknown kernel"):
        mmd(x, y, "linear")


def posteriors(count=6, dimensions=3):
    mean, sigma = 1.5 * normal(count, dimensions, seed=1), 0.3 + normal(count, dimensions, seed=2).square()
    return mean, sigma, mean + sigma * normal(count, dimensions, seed=3)


def exact(z, mean, sigma):
    """log q(z) and log prod_d q(z_d) of the mixture over all posteriors."""
    even = Categorical(torch.ones(len(mean)))
    joint = MixtureSameFamily(even, Independent(Normal(mean, sigma), 1)).log_prob(z)
    columns = [MixtureSameFamily(even, Normal(mean[:, d], sigma[:, d])).log_prob(z[:, d]) for d in range(mean.shape[1])]
    return joint, sum(columns)


def test_a_batch_that_is_the_data_set_gives_the_aggregated_posterior():
    mean, sigma, z = posteriors()
    joint, product = exact(z, mean, sigma)
    found = log_aggregate(z[:, :, None, None], mean[:, :, None, None], sigma[:, :, None, None], 6, "mss")
    torch.testing.assert_close(found, (joint, product))
    weighted = log_aggregate(z, mean, sigma, 6, "mws")
    torch.testing.assert_close(weighted, (joint - math.log(6), product - 3 * math.log(6)))
    with pytest.raises(ValueError, match="unknown estimator"):
        log_aggregate(z, mean, sigma, 6, "full")


def test_over_all_batches_stratified_sampling_is_unbiased_and_the_weighted_one_a_lower_bound():
    mean, sigma, z = posteriors()
    joint = exact(z, mean, sigma)[0][0]  # of the draw of the first posterior
    estimates = {"mss": [], "mws": []}
    for others in itertools.combinations(range(1, 6), 2):
        batch = [0, *others]
        for name, values in estimates.items():
            values.append(log_aggregate(z[batch], mean[batch], sigma[batch], 6, name)[0][0])
    assert torch.stack(estimates["mss"]).exp().mean() == pytest.approx(float(joint.exp()), rel=1e-5)
    assert torch.stack(estimates["mws"]).mean() < joint


@pytest.mark.parametrize("estimator", ["mss", "mws"])
def test_the_three_parts_add_up_to_the_analytic_kl(estimator):
    mean, sigma, _ = posteriors()
    totals = []
    for i in range(3_000):
        z = mean + sigma * normal(6, 3, seed=i)
        totals.append(sum(part.mean() for part in decomposition(z, mean, sigma, 60, estimator)))
    totals = torch.stack(totals)
    expected = float(standard_normal_kl(mean, sigma).mean())
    assert float(totals.mean()) == pytest.approx(expected, abs=4 * float(totals.std()) / math.sqrt(len(totals)))


def test_the_parts_of_a_gaussian_aggregate_are_those_of_the_closed_form():
    # means N(0, S - s^2 I) under noise s: q(z) tends to N(0, S) with the number of posteriors
    matrix, s = torch.tensor([[2.0, 0.9], [0.9, 1.0]]), 0.5
    mean = normal(2_500, 2) @ torch.linalg.cholesky(matrix - s * s * torch.eye(2)).T
    sigma = torch.full_like(mean, s)
    parts = decomposition(mean + s * normal(2_500, 2, seed=1), mean, sigma, 2_500, "mss")
    information, correlation, marginal = (float(part.mean()) for part in parts)
    variances = matrix.diagonal()
    tc = 0.5 * float(variances.log().sum() - torch.logdet(matrix))
    assert correlation == pytest.approx(tc, abs=0.02)
    assert information == pytest.approx(0.5 * float(torch.logdet(matrix)) - 2 * math.log(s), abs=0.05)
    assert marginal == pytest.approx(0.5 * float((variances - 1 - variances.log()).sum()), abs=0.05)


def test_permuted_dimensions_keep_their_margins_and_lose_their_correlation():
    x = normal(4_000, 1).repeat(1, 3) + 0.1 * normal(4_000, 3, seed=1)
    permuted = permute_dimensions(x, torch.rand(4_000, 3, generator=torch.Generator().manual_seed(2)))
    torch.testing.assert_close(permuted.sort(0).values, x.sort(0).values)
    assert torch.corrcoef(x.T)[0, 1] > 0.98
    assert torch.corrcoef(permuted.T)[[0, 0, 1], [1, 2, 2]].abs().max() < 0.06


def test_the_distance_from_white_by_hand():
    z = torch.tensor([[2.0, 1.0], [-2.0, -1.0], [0.0, 1.0], [0.0, -1.0]])
    torch.testing.assert_close(covariance(z), torch.tensor([[2.0, 1.0], [1.0, 1.0]]))
    # off the diagonal 1 twice; on it (2 - 1)^2 and 0
    assert float(distance_from_white(covariance(z), 10, 3)) == 2 * 10 + 3

"""The Fréchet distance against closed forms, scipy's matrix square root, and its own laws."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch

from betadiffusion.metrics import FeatureStatistics, frechet_distance, frechet_from_statistics

MANY = 10**6


def features(n, d, seed=0):
    """Correlated features (n, d) with a mean of their own."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)


def test_diagonal_gaussians_have_the_textbook_distance():
    a = FeatureStatistics(np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0]), MANY)
    b = FeatureStatistics(np.array([1.0, 1.0, 0.0]), np.diag([4.0, 4.0, 1.0]), MANY)
    # |m_a - m_b|^2 + sum (sqrt a - sqrt b)^2 = (1 + 4) + (1 + 0 + 4)
    assert frechet_from_statistics(a, b) == pytest.approx(10.0, rel=1e-12)


def test_two_by_two_gaussians_that_do_not_commute():
    a, b = np.array([[2.0, 0.8], [0.8, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    # for 2 x 2 matrices, tr sqrt(AB) = sqrt(tr AB + 2 sqrt det AB)
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    zero = np.zeros(2)
    found = frechet_from_statistics(FeatureStatistics(zero, a, MANY), FeatureStatistics(zero, b, MANY))
    assert found == pytest.approx(np.trace(a) + np.trace(b) - 2 * root, rel=1e-12)


def test_agrees_with_scipy_sqrtm():
    a, b = features(400, 30, 1), features(300, 30, 2)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_zero_on_itself_symmetric_and_invariant_under_rotation():
    a, b = features(200, 20, 1), features(150, 20, 2)
    rotation = np.linalg.qr(np.random.default_rng(3).standard_normal((20, 20)))[0]
    distance = frechet_distance(a, b)
    assert distance > 1
    assert frechet_distance(a, a) < 1e-9 * distance
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(distance, rel=1e-9)


def test_a_shift_costs_its_squared_length_in_numpy_and_torch():
    a = features(300, 10)
    shift = np.linspace(-1, 1, 10)
    for x, y in ((a, a + shift), (torch.from_numpy(a), torch.from_numpy(a + shift))):
        assert frechet_distance(x, y) == pytest.approx(np.sum(shift**2), rel=1e-9)


def test_streaming_equals_batch_and_forgets_the_old_root():
    x = features(500, 12) + 100  # a large mean is where naive sums of squares lose digits
    whole, streamed = FeatureStatistics.from_features(x), FeatureStatistics.from_features(x[:2])
    other = FeatureStatistics.from_features(features(100, 12, 5))
    assert streamed.root.shape == (12, 12)
    for batch in (x[2:3], x[3:200], x[200:]):
        streamed.update(torch.from_numpy(batch))
    assert streamed.count == whole.count == 500
    np.testing.assert_allclose(streamed.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(streamed.covariance, np.cov(x.T), rtol=1e-9, atol=1e-9)
    assert frechet_from_statistics(streamed, other) == pytest.approx(frechet_from_statistics(whole, other), rel=1e-9)


def test_singular_covariances_are_finite_with_one_warning():
    a, b = features(15, 20, 1), features(200, 20, 2)
    with pytest.warns(RuntimeWarning, match="15 and 200") as record:
        distance = frechet_distance(a, b)
    assert len(record) == 1
    assert np.isfinite(distance)
    cov_a = np.cov(a.T) + 1e-10 * np.eye(20)  # barely regular: the same distance by the other route
    root = scipy.linalg.sqrtm(cov_a @ np.cov(b.T)).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + np.cov(b.T) - 2 * root)
    assert distance == pytest.approx(expected, rel=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(b, b)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.full((9, 2), np.nan), np.zeros((9, 2)), "^a must be finite, but row 0"),
        (np.zeros((9, 2)), np.array([[0.0, 1.0], [np.inf, 0.0]]), "^b must be finite, but row 1"),
        (np.zeros((1, 2)), np.zeros((9, 2)), "at least 2 rows"),
        (np.zeros((9, 2)), np.zeros((9, 3)), "same features, not 2 and 3"),
        (np.zeros(9), np.zeros((9, 1)), "^a must be a matrix"),
    ],
)
def test_bad_features_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)


def test_bad_statistics_are_refused():
    with pytest.raises(ValueError, match="square covariance"):
        FeatureStatistics(np.zeros(3), np.eye(2), 9)
    with pytest.raises(ValueError, match="of 12 features, the new rows have 11"):
        FeatureStatistics.from_features(features(20, 12)).update(features(20, 11))

"""The mutual information gap on codes known to be good and known to be bad."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from betadiffusion.metrics import mig, mutual_information

FACTORS = np.array(list(itertools.product(range(10), range(6), range(4)))).repeat(10, axis=0)  # (2400, 3), a full grid


def noise(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def test_codes_that_are_the_factors_score_one():
    assert mig(FACTORS, FACTORS) == pytest.approx(1.0, abs=1e-12)
    assert mig(np.hstack([FACTORS + 0.02 * noise(2400, 3), noise(2400, 2, 1)]), FACTORS) > 0.95


def test_entangled_and_random_codes_score_low():
    pair = np.array(list(itertools.product(range(8), range(8))))
    assert mig(pair, pair) == pytest.approx(1.0, abs=1e-12)
    assert mig(pair @ np.array([[1, 1], [1, -1]]), pair) < 0.05  # turned by 45 degrees, both codes know as much
    assert mig(noise(2400, 5), FACTORS) < 0.02


def test_a_code_that_knows_half_of_a_factor_scores_one_half():
    factor = np.tile(np.arange(4), 100)[:, None]
    assert mig(factor % 2, factor) == pytest.approx(0.5, abs=1e-12)  # log 2 of log 4 nats; a single latent
    assert mutual_information(factor % 2, factor)[0, 0] == pytest.approx(np.log(2), abs=1e-12)


def test_order_scale_and_array_type_do_not_matter():
    codes = FACTORS @ np.array([[1.0, 0.2, 0.0], [0.1, 1.0, 0.3], [0.0, 0.4, 1.0]]) + 0.5 * noise(2400, 3)
    score = mig(codes, FACTORS)
    assert 0.1 < score < 0.9
    assert mig(codes[:, [2, 0, 1]], FACTORS[:, [1, 2, 0]]) == pytest.approx(score, abs=1e-12)
    assert mig(codes * np.array([0.25, 8.0, 1024.0]), FACTORS) == pytest.approx(score, abs=1e-12)
    assert mig(torch.from_numpy(codes), torch.from_numpy(FACTORS)) == score


def test_duplicated_codes_score_nothing():
    assert mig(np.hstack([FACTORS, FACTORS]), FACTORS) == 0


def test_constant_codes_and_factors_change_nothing():
    constant = np.full((2400, 1), 0.3)
    codes = FACTORS + 0.5 * noise(2400, 3)
    assert mig(np.hstack([codes, constant]), FACTORS) == mig(codes, FACTORS)
    assert mig(codes, np.hstack([FACTORS, constant])) == mig(codes, FACTORS)
    assert mig(np.hstack([constant, constant]), FACTORS) == 0


def test_information_is_sklearns_on_numpys_histogram_bins():
    codes = FACTORS[:, :2] + noise(2400, 2)
    binned = [np.digitize(code, np.histogram(code, 20)[1][:-1]) for code in codes.T]
    expected = [[mutual_info_score(factor, code) for factor in FACTORS.T] for code in binned]
    np.testing.assert_allclose(mutual_information(codes, FACTORS), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.full((2400, 2), np.nan), FACTORS, "^codes must be finite, but row 0"),
        (noise(7, 2), FACTORS, "same number of rows, not 7 and 2400"),
        (noise(2400, 2), FACTORS[:, 0], "^factors must be a matrix"),
        (noise(9, 2), np.ones((9, 2)), "every factor is constant"),
    ],
)
def test_bad_input_is_refused(codes, factors, message):
    with pytest.raises(ValueError, match=message):
        mig(codes, factors)

"""The interventional robustness score on codes known to be good and known to be bad."""

import numpy as np
import pytest

from betadiffusion.metrics import irs
from metric_cases import GRID, build, noise, references


@pytest.mark.parametrize("case", references("irs"), ids=lambda case: case["name"])
def test_the_reference_implementation_agrees(case):
    codes, factors, _, _ = build(case)
    assert irs(codes, factors) == pytest.approx(case["reference"]["irs"], abs=1e-6)


def test_codes_that_are_the_factors_score_one():
    assert irs(GRID, GRID) == pytest.approx(1.0, abs=1e-12)
    assert irs(GRID + 0.02 * noise(2400, 3), GRID) > 0.95
    assert irs(GRID[:, :1], GRID) == pytest.approx(1.0, abs=1e-12)  # a single latent
    assert irs(np.hstack([GRID, GRID]), GRID) == pytest.approx(1.0, abs=1e-12)  # twice is no fault here


def test_half_the_deviation_left_scores_one_half():
    factors = np.stack(np.divmod(np.arange(4).repeat(100), 2), axis=1)
    # z - E z is +-1 or +-2 alike; held at either value of one factor it still deviates by the other's share
    code = factors @ np.array([[2.0], [2.0]])
    assert irs(code, factors) == pytest.approx(0.5, abs=1e-12)


def test_random_codes_score_low():
    assert irs(noise(2400, 3), GRID) < 0.4  # not 0: the greatest deviation is an outlier's, the inner one a quantile


def test_order_one_scale_for_all_and_constants_do_not_matter():
    codes = GRID @ np.array([[1.0, 0.2, 0.0], [0.1, 1.0, 0.3], [0.0, 0.4, 1.0]]) + 0.5 * noise(2400, 3)
    score = irs(codes, GRID)
    assert 0.3 < score < 0.9
    assert irs(codes[:, [2, 0, 1]], GRID[:, [1, 2, 0]]) == pytest.approx(score, abs=1e-12)
    assert irs(1000 * codes + 5, GRID) == pytest.approx(score, abs=1e-9)
    assert irs(np.hstack([codes, np.full((2400, 2), 0.3)]), GRID) == score
    assert irs(codes, np.hstack([GRID, np.ones((2400, 1))])) == score
    assert irs(np.full((2400, 2), 0.3), GRID) == 0


def test_codes_are_weighted_by_their_greatest_deviation():
    codes = np.hstack([GRID[:, :1], noise(2400, 1)])
    good, bad = irs(codes[:, :1], GRID), irs(codes[:, 1:], GRID)
    a, b = np.abs(codes - codes.mean(axis=0)).max(axis=0)
    assert irs(codes, GRID) == pytest.approx((a * good + b * bad) / (a + b), abs=1e-12)


def test_more_values_than_bins_are_joined():
    factor = np.arange(40).repeat(50)[:, None]
    assert irs(factor, factor, bins=40) == pytest.approx(1.0, abs=1e-12)
    assert irs(factor, factor) == pytest.approx(1 - 0.5 / 19.5, abs=1e-12)  # pairs: half a step of 19.5 at most


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.full((2400, 2), np.nan), GRID, "^codes must be finite, but row 0"),
        (noise(2400, 2), GRID / 2, "^factors must be integers"),
        (noise(9, 2), np.ones((9, 2)), "every factor is constant"),
    ],
)
def test_bad_input_is_refused(codes, factors, message):
    with pytest.raises(ValueError, match=message):
        irs(codes, factors)

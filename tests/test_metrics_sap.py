"""Separated attribute predictability on codes known to be good and known to be bad."""

import numpy as np
import pytest

from betadiffusion.metrics import sap
from metric_cases import GRID, PAIR, build, noise, references, split

MIXED = GRID @ np.array([[1.0, 0.2, 0.0], [0.1, 1.0, 0.3], [0.0, 0.4, 1.0]]) + 0.5 * noise(2400, 3)


@pytest.mark.parametrize("case", references("sap"), ids=lambda case: case["name"])
def test_the_reference_implementation_agrees(case):
    assert sap(*build(case)) == pytest.approx(case["reference"]["sap"], abs=2e-3)


def test_perfect_codes_reach_the_ceiling_of_two_values():
    assert sap(*split(PAIR, PAIR)) == pytest.approx(0.5, abs=0.02)  # accuracy 1 against chance
    assert sap(*split(PAIR[:, :1], PAIR[:, :1])) == pytest.approx(0.5, abs=0.02)  # a single latent


def test_entangled_random_and_duplicated_codes_score_nothing():
    assert sap(*split(PAIR @ np.array([[1, 1], [1, -1]]) + 0.1 * noise(400, 2), PAIR)) < 0.05
    assert sap(*split(noise(2400, 5), GRID)) < 0.03
    assert sap(*split(np.hstack([MIXED, MIXED]), GRID)) == 0


def test_order_scale_and_constants_do_not_matter():
    score = sap(*split(MIXED, GRID))
    assert 0.1 < score < 0.4
    assert sap(*split(MIXED[:, [2, 0, 1]], GRID[:, [1, 2, 0]])) == pytest.approx(score, abs=1e-9)
    assert sap(*split(MIXED * np.array([0.5, 3.0, 10.0]), GRID)) == pytest.approx(score, abs=0.01)  # regularised
    assert sap(*split(np.hstack([MIXED, np.full((2400, 1), 0.3)]), GRID)) == pytest.approx(score, abs=1e-9)
    assert sap(*split(MIXED, np.hstack([GRID, np.ones((2400, 1))]))) == score


@pytest.mark.parametrize(
    ("four", "message"),
    [
        (split(np.full((2400, 2), np.nan), GRID), "^codes must be finite"),
        (split(MIXED, GRID / 2), "^factors must be integers"),
        (split(MIXED, 0 * GRID), "every factor is constant"),
        ((*split(MIXED, GRID)[:2], MIXED, GRID[:, :2]), "3 and 2 factors"),
        ((*split(MIXED, GRID)[:2], MIXED[:9], GRID), "^test_codes and test_factors must have the same number of rows"),
    ],
)
def test_bad_input_is_refused(four, message):
    with pytest.raises(ValueError, match=message):
        sap(*four)

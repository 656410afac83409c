"""Modularity and explicitness on codes known to be good and known to be bad."""

import numpy as np
import pytest

from betadiffusion.metrics import explicitness, modularity
from metric_cases import GRID, PAIR, build, noise, references, split

MIXED = GRID @ np.array([[1.0, 0.2, 0.0], [0.1, 1.0, 0.3], [0.0, 0.4, 1.0]]) + 0.5 * noise(2400, 3)


@pytest.mark.parametrize("case", references("modularity"), ids=lambda case: case["name"])
def test_the_reference_implementation_agrees_on_modularity(case):
    codes, factors, _, _ = build(case)
    assert modularity(codes, factors) == pytest.approx(case["reference"]["modularity"], abs=1e-6)


@pytest.mark.parametrize("case", references("explicitness"), ids=lambda case: case["name"])
def test_the_reference_implementation_agrees_on_explicitness(case):
    assert explicitness(*build(case)) == pytest.approx(case["reference"]["explicitness"], abs=2e-3)


def test_codes_that_know_one_factor_each_are_modular():
    assert modularity(GRID, GRID) == pytest.approx(1.0, abs=1e-9)
    assert modularity(np.hstack([GRID, GRID]), GRID) == pytest.approx(1.0, abs=1e-9)  # twice is no fault here
    assert modularity(GRID[:, :1], GRID) == pytest.approx(1.0, abs=1e-9)  # a single latent
    assert modularity(noise(2400, 2), GRID[:, :1]) == 1  # a single factor


def test_a_code_that_knows_two_factors_alike_is_not_modular():
    assert modularity(PAIR.sum(axis=1, keepdims=True), PAIR) == pytest.approx(0.0, abs=1e-9)
    three = np.hstack([PAIR, np.arange(400)[:, None] % 4])
    assert modularity(PAIR.sum(axis=1, keepdims=True), three) == pytest.approx(0.5, abs=1e-9)  # 1 - 1 / (3 - 1)


def test_a_dead_code_counts_as_nothing():
    dead = np.hstack([GRID, np.full((2400, 1), 0.3)])
    assert modularity(dead, GRID) == pytest.approx(0.75, abs=1e-9)
    assert modularity(dead[:, 3:], GRID) == 0
    independent = np.tile(np.arange(10), 240)[:, None]  # varies, and each value comes with each factor alike
    assert modularity(independent, GRID) == 0


def test_order_scale_and_a_constant_factor_do_not_change_modularity():
    codes = (GRID / GRID.std(axis=0)) @ np.array([[1.0, 0.6, 0.0], [0.8, 1.0, 0.9], [0.0, 0.4, 1.0]])
    score = modularity(codes, GRID)
    assert 0.5 < score < 0.95
    assert modularity(codes[:, [2, 0, 1]] * 1024, GRID[:, [1, 2, 0]]) == pytest.approx(score, abs=1e-12)
    assert modularity(codes, np.hstack([GRID, np.ones((2400, 1))])) == score


def test_indicator_codes_are_explicit_and_random_ones_by_chance():
    indicators = np.hstack([GRID[:, [k]] == np.unique(GRID[:, k]) for k in range(3)]) + 0.05 * noise(2400, 20)
    assert explicitness(*split(indicators, GRID)) > 0.99
    assert explicitness(*split(PAIR, PAIR)) == 1
    assert explicitness(*split(noise(2400, 5), GRID)) == pytest.approx(0.5, abs=0.05)
    assert explicitness(*split(np.full((2400, 2), 0.3), GRID)) == 0.5


def test_one_code_of_few_ordered_values_is_explicit_and_of_many_less():
    three, forty = np.arange(3).repeat(200)[:, None], np.arange(40).repeat(200)[:, None]
    assert explicitness(*split(three, three)) == 1  # a single latent
    assert explicitness(*split(forty, forty)) == pytest.approx(0.94, abs=0.01)


def test_order_scale_constants_and_copies_do_not_change_explicitness():
    score = explicitness(*split(MIXED, GRID))
    assert 0.7 < score < 0.95
    constant = np.hstack([MIXED, np.full((2400, 1), 0.3)])
    for codes in (MIXED[:, [2, 0, 1]], MIXED * np.array([0.01, 8.0, 1000.0]) + 7, constant):
        assert explicitness(*split(codes, GRID)) == pytest.approx(score, abs=1e-6)
    assert explicitness(*split(np.hstack([MIXED, MIXED]), GRID)) == pytest.approx(score, abs=2e-3)  # regularised less
    assert explicitness(*split(MIXED, np.hstack([GRID, np.ones((2400, 1))]))) == pytest.approx(score, abs=1e-12)


def test_values_that_one_set_lacks_are_left_out():
    codes, factors = PAIR + 0.1 * noise(400, 2), PAIR.copy()
    train_codes, train, test_codes, test = split(codes, factors)
    test[0, 0], train[0, 1] = 7, 8
    assert explicitness(train_codes, train, test_codes, test) > 0.95


@pytest.mark.parametrize(
    ("four", "message"),
    [
        (split(np.full((2400, 2), np.nan), GRID), "^codes must be finite"),
        (split(MIXED, GRID / 2), "^factors must be integers"),
        (split(MIXED, 0 * GRID), "every factor is constant"),
        ((*split(MIXED, GRID)[:2], MIXED[:, :2], GRID), "not 3 and 2 codes"),
        ((PAIR, PAIR, PAIR, PAIR + 2), "shares values"),
    ],
)
def test_bad_input_is_refused(four, message):
    with pytest.raises(ValueError, match=message):
        explicitness(*four)


def test_nan_is_refused_by_modularity():
    with pytest.raises(ValueError, match=r"^codes must be finite, but row 0"):
        modularity(np.full((2400, 2), np.nan), GRID)

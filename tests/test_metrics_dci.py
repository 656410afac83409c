"""Disentanglement, completeness and informativeness on codes known to be good and known to be bad."""

import numpy as np
import pytest

from betadiffusion.metrics import dci
from metric_cases import GRID, PAIR, build, noise, references, split

KINDS = pytest.mark.parametrize("importance", ["gbt", "forest"])
FEW = GRID[::4]  # (600, 3)
MIXED = FEW @ np.array([[1.0, 0.5, 0.0], [0.1, 1.0, 0.5], [0.0, 0.4, 1.0]]) + 0.2 * noise(600, 3)


def scores(codes, factors, importance="forest"):
    result = dci(*split(codes, factors), importance=importance)
    return result.disentanglement, result.completeness, result.informativeness


@pytest.mark.parametrize("case", references("dci"), ids=lambda case: case["name"])
def test_the_reference_implementation_agrees(case):
    result = dci(*build(case))
    ours = result.disentanglement, result.completeness, result.informativeness
    assert ours == pytest.approx(case["reference"]["dci"], abs=0.02)


@KINDS
def test_codes_that_are_the_factors_score_one(importance):
    result = dci(*split(PAIR + 0.05 * noise(400, 2), PAIR), importance=importance)
    assert min(result.disentanglement, result.completeness, result.informativeness) > 0.95
    np.testing.assert_allclose(result.importance, np.eye(2), atol=0.02)


@KINDS
def test_entangled_and_random_codes_score_low(importance):
    disentanglement, completeness, _ = scores(
        PAIR @ np.array([[1, 1], [1, -1]]) + 0.1 * noise(400, 2), PAIR, importance
    )
    assert max(disentanglement, completeness) < 0.1
    disentanglement, completeness, informativeness = scores(noise(400, 3), PAIR, importance)
    assert max(disentanglement, completeness) < 0.1
    assert informativeness == pytest.approx(0.5, abs=0.15)


def test_duplicated_codes_lower_completeness_alone():
    codes = PAIR + 0.2 * noise(400, 2)
    assert min(scores(codes, PAIR)) > 0.9
    disentanglement, completeness, informativeness = scores(np.hstack([codes, codes]), PAIR)
    assert min(disentanglement, informativeness) > 0.9
    assert 0.45 < completeness < 0.75  # shared equally between two of four codes it would be 0.5


@KINDS
def test_order_scale_and_constants_do_not_matter(importance):
    few = FEW[:, 1:]
    expected = scores(MIXED, few, importance)
    assert 0.05 < expected[0] < 0.9
    scaled = scores(MIXED * np.array([0.25, 8.0, 1024.0]), few, importance)
    assert scaled == pytest.approx(expected, abs=1e-3)  # trees see the order alone
    assert scores(MIXED[:, [2, 0, 1]], few[:, ::-1], importance) == pytest.approx(expected, abs=0.03)  # ties, draws
    constant = np.hstack([few, np.ones((600, 1), int)])
    assert scores(MIXED, constant, importance) == pytest.approx(expected, abs=1e-12)
    assert not dci(*split(MIXED, constant), importance="forest").importance[:, -1].any()


def test_constant_codes_have_no_importance():
    result = dci(*split(np.hstack([PAIR, np.full((400, 1), 0.3)]), PAIR), importance="forest")
    assert not result.importance[2].any()
    assert result.disentanglement > 0.95
    nothing = dci(*split(np.full((400, 2), 0.3), PAIR), importance="forest")
    assert nothing.disentanglement == nothing.completeness == 0


def test_a_single_latent_and_a_single_factor_work():
    disentanglement, completeness, _ = scores(PAIR[:, :1] + 0.1 * noise(400, 1), PAIR)
    assert completeness == pytest.approx(1)
    assert disentanglement == pytest.approx(0, abs=0.01)  # all importance falls on it, whatever it knows
    disentanglement, completeness, informativeness = scores(PAIR + 0.1 * noise(400, 2), PAIR[:, :1])
    assert disentanglement == pytest.approx(1)
    assert min(completeness, informativeness) > 0.95


def test_the_same_seed_gives_the_same_scores():
    assert scores(MIXED, FEW) == scores(MIXED, FEW)


@pytest.mark.parametrize(
    ("codes", "factors", "importance", "message"),
    [
        (np.full((600, 2), np.nan), FEW, "gbt", "^codes must be finite"),
        (MIXED, FEW / 2, "gbt", "^factors must be integers"),
        (MIXED, 0 * FEW, "gbt", "every factor is constant"),
        (MIXED, FEW, "lasso", "gbt or forest, not 'lasso'"),
    ],
)
def test_bad_input_is_refused(codes, factors, importance, message):
    with pytest.raises(ValueError, match=message):
        dci(*split(codes, factors), importance=importance)

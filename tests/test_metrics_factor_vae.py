"""The FactorVAE score on codes known to be good and known to be bad."""

import numpy as np
import pytest
import torch

from betadiffusion.metrics import factor_vae_score
from metric_cases import GRID, CodedSet, build, noise, references

FEW = {"train_votes": 1000, "test_votes": 500, "variance_samples": 2000}
CODES = GRID @ np.array([[0.5, 0.2, 0.0], [0.1, 1.0, 0.3], [0.0, 0.4, 1.0]]) + noise(2400, 3)


def score(codes, factors=GRID, **options):
    return factor_vae_score(CodedSet(codes, factors), lambda x: x, **FEW | options)


@pytest.mark.parametrize("case", references("factor_vae"), ids=lambda case: case["name"])
def test_the_reference_implementation_agrees(case):
    codes, factors, _, _ = build(case)
    factors, rows = np.unique(factors, axis=0, return_index=True)  # it knows complete grids only
    ours = factor_vae_score(CodedSet(codes[rows], factors), lambda x: x)
    assert ours == pytest.approx(case["reference"]["factor_vae"], abs=0.03)  # two draws of 5,000 votes


def test_codes_that_are_the_factors_score_one():
    assert score(GRID + 0.05 * noise(2400, 3)) == 1
    assert score(np.hstack([GRID, GRID]).astype(float)) == 1  # twice is no fault here
    assert score(noise(2400, 3)[:, [0] * 3]) == pytest.approx(1 / 3, abs=0.07)


def test_a_single_latent_tells_one_factor():
    assert score(GRID[:, :1]) == pytest.approx(1 / 3, abs=0.07)


def test_order_scale_and_constants_do_not_matter():
    expected = score(CODES)
    assert 0.5 < expected < 1
    assert score(CODES[:, [2, 0, 1]] * np.array([10, 0.5, 8])) == expected
    assert score(np.hstack([CODES, np.full((2400, 1), 0.3)])) == expected
    assert score(CODES, np.hstack([GRID, np.ones((2400, 1), int)])) == expected


def test_codes_that_hardly_vary_are_left_out():
    tiny = 0.01 * GRID[:, :1] / 3  # a standard deviation of 0.01, and it tells the factor perfectly
    assert score(tiny) == 0
    assert score(tiny, prune=0.0) > 0
    assert score(np.full((2400, 2), 0.3)) == score(np.full((2400, 2), 0.3), prune=0.0) == 0


def test_incomplete_sets_and_any_values_work():
    kept = np.random.default_rng(0).choice(2400, 500, replace=False)
    assert score((GRID + 0.05 * noise(2400, 3))[kept], (3 * GRID - 5)[kept]) == 1


def test_a_larger_set_is_encoded_as_it_is_drawn_and_scores_alike():
    calls = []

    def encode(images):
        calls.append(len(images))
        return torch.from_numpy(images)

    once = factor_vae_score(CodedSet(CODES, GRID), encode, train_votes=100, test_votes=50)
    assert sum(calls) == 2400  # 9,600 + 10,000 rows are asked for
    calls.clear()
    large = CodedSet(CODES.repeat(10, axis=0), GRID.repeat(10, axis=0))
    drawn = factor_vae_score(large, encode, train_votes=100, test_votes=50)
    assert sum(calls) == 150 * 64 + 10_000
    assert max(calls) <= 8192
    assert drawn == pytest.approx(once, abs=0.2)


def test_the_seed_decides():
    assert score(CODES, seed=1) == score(CODES, seed=1)
    assert len({score(CODES, seed=seed) for seed in range(4)}) > 1


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.full((2400, 2), np.nan), GRID, "^codes must be finite, but row 0"),
        (CODES, GRID / 2, "^factors must be integers"),
        (CODES, 0 * GRID, "every factor is constant"),
    ],
)
def test_bad_input_is_refused(codes, factors, message):
    with pytest.raises(ValueError, match=message):
        score(codes, factors)

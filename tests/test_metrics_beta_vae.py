"""The BetaVAE score on codes known to be good and known to be bad, and the pairs it is made of."""

import numpy as np
import pytest

from betadiffusion.metrics import beta_vae_score
from betadiffusion.metrics.fixed_factor import CodedFactors
from metric_cases import GRID, CodedSet, build, noise, references

FEW = {"train_points": 1000, "test_points": 500}


def score(codes, factors=GRID, **options):
    return beta_vae_score(CodedSet(codes, factors), lambda x: x, **FEW | options)


@pytest.mark.parametrize("case", references("beta_vae"), ids=lambda case: case["name"])
def test_the_reference_implementation_agrees(case):
    codes, factors, _, _ = build(case)
    factors, rows = np.unique(factors, axis=0, return_index=True)  # it knows complete grids only
    ours = beta_vae_score(CodedSet(codes[rows], factors), lambda x: x)
    assert ours == pytest.approx(case["reference"]["beta_vae"], abs=0.03)  # two draws of 5,000 points


def test_known_codes():
    codes = GRID + 0.05 * noise(2400, 3)
    assert score(codes) == 1
    assert score(np.hstack([codes, codes])) == 1  # twice is no fault here
    assert score(noise(2400, 3)) == pytest.approx(1 / 3, abs=0.1)
    assert score(np.full((2400, 2), 0.3)) == pytest.approx(1 / 3, abs=0.1)
    assert 0.5 < score(codes[:, :1]) < 0.8  # a single latent: its own factor, and a guess between two


def test_order_scale_and_constants_do_not_matter():
    codes = 0.4 * GRID + 1.5 * noise(2400, 3)
    expected = score(codes)
    assert 0.5 < expected < 0.99
    assert score(codes[:, [2, 0, 1]]) == pytest.approx(expected, abs=0.01)
    assert score(3 * codes) == pytest.approx(expected, abs=0.03)  # regularised
    assert score(np.hstack([codes, np.full((2400, 1), 0.3)])) == pytest.approx(expected, abs=0.01)
    assert score(codes, np.hstack([GRID, np.ones((2400, 1), int)])) == expected


@pytest.mark.parametrize("pairs", [False, True])
def test_partners_share_the_factor_and_are_otherwise_free(pairs):
    table = GRID[np.random.default_rng(0).choice(2400, 600, replace=False)]  # not a complete grid
    coded = CodedFactors(CodedSet(table, table), lambda x: x, rows=0)
    draws = list(coded.draw(3000, 16, pairs, np.random.default_rng(1)))
    factor, rows, partners = (np.concatenate(parts) for parts in zip(*draws, strict=True))
    assert partners.shape == (3000, 16)
    assert rows.shape == (3000, 16 if pairs else 1)
    assert np.bincount(factor) == pytest.approx([1000] * 3, abs=120)
    held = np.take_along_axis(coded.codes(partners), factor[:, None, None], axis=2)
    np.testing.assert_array_equal(held, np.broadcast_to(table[rows, factor[:, None]][..., None], held.shape))
    counts = np.bincount(partners.ravel(), minlength=600)  # uniform over rows: 80 times each
    assert counts.min() > 30
    assert counts.max() < 150


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.full((2400, 2), np.nan), GRID, "^codes must be finite, but row 0"),
        (GRID, GRID / 2, "^factors must be integers"),
        (GRID, 0 * GRID, "every factor is constant"),
        (GRID, GRID[:, :1], "needs two factors"),
    ],
)
def test_bad_input_is_refused(codes, factors, message):
    with pytest.raises(ValueError, match=message):
        score(codes, factors)

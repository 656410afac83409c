"""Total AUROC difference on attributes known to be captured and known not to be."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from betadiffusion.metrics import tad
from metric_cases import PAIR, build, noise, references

VARIANTS = pytest.mark.parametrize("variant", ["exact", "nashae", "disdiff"])
CODES = PAIR @ np.array([[1.0, 0.3], [0.4, 1.0]]) + 0.4 * noise(400, 2)


@VARIANTS
@pytest.mark.parametrize("case", references("tad, exact"), ids=lambda case: case["name"])
def test_the_published_code_agrees(case, variant):
    codes, factors, _, _ = build(case)
    result = tad(codes, factors == 0, variant)
    score, captured = case["reference"][f"tad, {variant}"]
    assert result.captured == captured
    assert result.score == pytest.approx(score, rel=1e-6)  # it computes in float32


def test_auroc_is_sklearns_with_ties():
    codes = np.hstack([CODES, CODES.round()])
    expected = [[roc_auc_score(a, code) for a in PAIR.T] for code in codes.T]
    np.testing.assert_allclose(tad(codes, PAIR).auroc, np.maximum(expected, 1 - np.array(expected)), atol=1e-12)


@VARIANTS
def test_codes_that_are_the_attributes_are_captured_whole(variant):
    result = tad(PAIR, PAIR, variant)
    assert (result.score, result.captured) == pytest.approx((1.0, 2))  # 1 against 0.5, twice
    assert tad(np.hstack([PAIR, PAIR]), PAIR, variant).score == 0  # in two latents: no gap, though captured
    assert tad(np.hstack([PAIR, PAIR]), PAIR, variant).captured == 2
    assert tad(PAIR[:, :1], PAIR, variant).score == pytest.approx(0.5)  # a single latent, against chance
    assert tad(noise(400, 3), PAIR, variant).captured == 0


def test_more_thresholds_come_nearer_to_the_exact_area_from_above():
    exact, fine, coarse = (tad(CODES, PAIR, variant).auroc for variant in ("exact", "nashae", "disdiff"))
    assert np.all(exact <= fine + 1e-9)
    assert np.all(fine <= coarse + 1e-9)
    assert np.abs(fine - exact).max() < 0.02


def test_attributes_that_share_entropy_are_dropped():
    copy = np.hstack([PAIR, PAIR[:, :1]])
    assert tad(CODES, copy).captured == 1  # the second alone
    mostly = PAIR[:, :1].copy()
    mostly[::4] ^= 1  # a quarter flipped: H(a|b) = 0.811 bits, so that 0.189 is shared
    assert tad(CODES, np.hstack([PAIR, mostly])).captured == 2
    mostly[1:50:4] ^= 1
    mostly[:200:4] ^= 1  # fewer flipped: more is shared
    assert tad(CODES, np.hstack([PAIR, mostly])).captured == 1


@VARIANTS
def test_order_sign_and_constants_do_not_matter(variant):
    result = tad(CODES, PAIR, variant)
    assert result.captured == 2
    assert 0.2 < result.score < 0.9
    others = [(CODES[:, ::-1], PAIR[:, ::-1]), (np.hstack([CODES, np.full((400, 1), 0.3)]), PAIR)]
    others += [(CODES, np.hstack([PAIR, np.ones((400, 1)), np.zeros((400, 1))])), (torch.from_numpy(CODES), PAIR == 1)]
    for codes, attributes in others:
        other = tad(codes, attributes, variant)
        assert (other.score, other.captured) == pytest.approx((result.score, 2), abs=1e-6)
    assert tad(CODES, np.hstack([PAIR, np.ones((400, 1))]), variant).auroc[:, 2] == pytest.approx(0.5)
    assert tad(np.full((400, 2), 0.3), PAIR, variant).captured == 0


def test_scale_and_sign_matter_only_to_the_thresholds():
    result = tad(CODES, PAIR)
    assert tad(CODES * np.array([-8.0, 0.01]), PAIR).score == pytest.approx(result.score, abs=1e-12)
    assert tad(0.01 * CODES, PAIR, "nashae").captured == 0  # a range below 0.2 counts as chance there


@pytest.mark.parametrize(
    ("codes", "attributes", "variant", "message"),
    [
        (np.full((400, 2), np.nan), PAIR, "exact", "^codes must be finite, but row 0"),
        (CODES, PAIR[:9], "exact", "^codes and attributes must have the same number of rows, not 400 and 9"),
        (CODES, 2 * PAIR - 1, "exact", "^attributes must be 0 or 1, not from -1 to 1"),
        (CODES, PAIR / 2, "exact", "^attributes must be integers"),
        (CODES, 0 * PAIR, "exact", "every factor is constant"),
        (CODES, PAIR, "fast", "not 'fast'"),
    ],
)
def test_bad_input_is_refused(codes, attributes, variant, message):
    with pytest.raises(ValueError, match=message):
        tad(codes, attributes, variant)

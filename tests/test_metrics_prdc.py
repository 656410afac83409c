"""Precision, recall, density and coverage against closed forms and against numbers of the package `prdc`."""

import numpy as np
import pytest
import torch

import betadiffusion.metrics.prdc as prdc
from betadiffusion.metrics.prdc import density_coverage, precision_recall


def sets(kind, dtype=np.float64):
    """Real and fake features of different sizes; the seeds and kinds of the pinned numbers."""
    rng = np.random.default_rng(5)
    real, fake = rng.standard_normal((150, 8)), 0.9 * rng.standard_normal((110, 8)) + 0.2
    if kind == "repeated":  # rows many times, and in both sets; in binary steps, so that sums of squares are exact
        real, fake = np.round(real * 64) / 64, np.round(fake * 64) / 64
        real, fake[:40] = real[rng.integers(0, 60, 150)], real[rng.integers(0, 60, 40)]
    if kind == "rounded":  # distances tie exactly
        real, fake = np.round(real[:, :3]), np.round(fake[:, :3])
    return real.astype(dtype), fake.astype(dtype)


PINNED = {  # prdc's precision, recall, density and coverage, by kind and k
    ("random", 3): (0.9545454545454546, 0.76, 1.2787878787878788, 0.8333333333333334),
    ("random", 5): (0.990909090909091, 0.9, 1.270909090909091, 0.96),
    ("repeated", 3): (0.7363636363636363, 0.92, 0.7242424242424242, 0.46),
    ("repeated", 5): (0.8454545454545455, 0.98, 0.7727272727272728, 0.76),
    ("rounded", 3): (0.5181818181818182, 0.42, 0.33939393939393936, 0.2733333333333333),
    ("rounded", 5): (0.8272727272727273, 0.72, 0.5581818181818182, 0.6466666666666666),
}


@pytest.mark.parametrize(("kind", "k"), PINNED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_are_exactly_those_of_prdc(kind, k, dtype):
    real, fake = sets(kind, dtype)
    assert (*precision_recall(real, fake, k), *density_coverage(real, fake, k)) == PINNED[kind, k]
    if dtype == np.float32:
        as_torch = torch.from_numpy(real), torch.from_numpy(fake)
        assert (*precision_recall(*as_torch, k), *density_coverage(*as_torch, k)) == PINNED[kind, k]


def test_finer_slices_change_nothing(monkeypatch):
    real, fake = sets("random")
    whole = precision_recall(real, fake), density_coverage(real, fake)
    monkeypatch.setattr(prdc, "BLOCK", 700)
    assert (precision_recall(real, fake), density_coverage(real, fake)) == whole


def test_a_set_against_itself_and_against_one_far_away():
    x = np.random.default_rng(0).standard_normal((80, 3))
    assert precision_recall(x, x) == (1, 1)
    assert precision_recall(x, x + 1000) == (0, 0)
    assert density_coverage(x, x + 1000) == (0, 0)
    assert density_coverage(x, x).coverage == 1
    assert density_coverage(x, x).density == pytest.approx(
        1
    )  # each ball holds k rows strictly inside: itself and k - 1


def test_points_on_a_line_counted_by_hand():
    real = np.arange(6.0)[:, None]  # radius to the nearest: 1, and for k = 2: 2 at the ends, 1 inside
    assert precision_recall(real, real + 0.5, k=1) == (1, 1)
    assert density_coverage(real, real + 0.5, k=1) == (11 / 6, 1)
    touching = np.array([[-1.0], [7.0], [9.0]])  # the first is exactly on a ball's edge, which is outside
    assert precision_recall(real, touching, k=1).precision == 0
    assert precision_recall(real, touching, k=2).precision == 1 / 3
    # the balls of touching reach 8, 2 and 2: real rows 0..5 are in the first
    assert precision_recall(real, touching, k=1).recall == 1


def test_collapsed_fakes_are_precise_but_recall_and_cover_little():
    rng = np.random.default_rng(0)
    real = rng.standard_normal((300, 4))
    fake = real[:1] + 1e-3 * rng.standard_normal((300, 4))
    assert precision_recall(real, fake).precision == 1
    assert precision_recall(real, fake).recall < 0.02
    assert density_coverage(real, fake).coverage < 0.1


@pytest.mark.parametrize("metric", [precision_recall, density_coverage])
@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (np.full((9, 2), np.nan), np.zeros((9, 2)), "^real must be finite"),
        (np.zeros((9, 2)), np.full((9, 2), np.inf), "^fake must be finite"),
        (np.zeros((9, 2)), np.zeros((9, 3)), "same features, not 2 and 3"),
        (np.zeros((2, 2)), np.zeros((9, 2)), "needs more than 2 rows, but real has 2"),
    ],
)
def test_bad_features_are_refused(metric, real, fake, message):
    with pytest.raises(ValueError, match=message):
        metric(real, fake, k=2)

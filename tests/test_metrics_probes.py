"""Probes on codes known to be good and known to be bad."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

import betadiffusion.metrics.probes as probes
from betadiffusion.metrics.probes import knn_probe, linear_probe

NAMES = np.array([-7, 3, 10**9])  # labels may be any integers


def clusters(n=300, d=8, apart=6.0, seed=0):
    """Codes around three corners, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    return apart * np.eye(3, d)[labels] + rng.standard_normal((n, d)), NAMES[labels]


BOTH = pytest.mark.parametrize("probe", [linear_probe, knn_probe])


@BOTH
def test_clusters_are_told_apart_and_noise_is_not(probe):
    x, y = clusters()
    test_x, test_y = clusters(200, seed=1)
    assert probe(x, y, test_x, test_y) > 0.98
    noise = np.random.default_rng(2).standard_normal((200, 8))
    assert probe(np.random.default_rng(3).standard_normal((300, 8)), y, noise, test_y) < 0.5  # chance is 1/3


@BOTH
def test_array_types_and_the_order_of_rows_do_not_matter(probe):
    (x, y), (test_x, test_y) = clusters(apart=2.0), clusters(200, apart=2.0, seed=1)
    score = probe(x, y, test_x, test_y)
    assert 0.5 < score < 1
    assert probe(*(torch.from_numpy(array) for array in (x, y, test_x, test_y))) == score
    order = np.random.default_rng(0).permutation(300)
    assert probe(x[order], y[order], test_x, test_y) == pytest.approx(score, abs=0.01)


@BOTH
def test_labels_never_seen_in_training_count_as_wrong(probe):
    x, y = clusters()
    assert probe(x, y, x, np.where(y == 3, 4, y)) == pytest.approx(np.mean(y != 3), abs=0.02)


def test_the_linear_probe_does_not_see_scale_and_offset():
    (x, y), (test_x, test_y) = clusters(apart=2.0), clusters(200, apart=2.0, seed=1)
    scale, offset = np.array([1e-4, 1e3, 1, 1, 1, 1, 1, 1]), np.full(8, 50.0)
    found = linear_probe(x * scale + offset, y, test_x * scale + offset, test_y)
    assert found == pytest.approx(linear_probe(x, y, test_x, test_y), abs=0.01)
    constant = np.full((300, 1), 4.0), np.full((200, 1), 4.0)
    assert np.isfinite(linear_probe(np.hstack([x, constant[0]]), y, np.hstack([test_x, constant[1]]), test_y))


def test_opposite_quadrants_need_neighbours():
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 800)
    quadrant = (angle // (np.pi / 2)).astype(int) % 2  # opposite quadrants are one class
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert linear_probe(x[:600], quadrant[:600], x[600:], quadrant[600:]) < 0.75
    assert knn_probe(x[:600], quadrant[:600], x[600:], quadrant[600:]) > 0.9


def test_neighbours_are_scikit_learns_by_cosine_with_dinos_weights(monkeypatch):
    (x, y), (test_x, test_y) = clusters(apart=1.5), clusters(200, apart=1.5, seed=1)
    monkeypatch.setattr(probes, "CHUNK", 64)
    for k, temperature in ((1, 0.07), (20, 0.07), (50, 1.0)):
        model = KNeighborsClassifier(
            k, metric="cosine", weights=lambda distance, t=temperature: np.exp((1 - distance) / t)
        )
        expected = model.fit(x, y).score(test_x, test_y)
        assert knn_probe(x, y, test_x, test_y, k, temperature) == pytest.approx(expected, abs=1e-12)


def test_the_nearest_outvotes_many_at_a_low_temperature_only():
    x = np.array([[1.0, 0.0]] + [[1.0, 1.0]] * 5)
    y, test = np.array([0] + [1] * 5), np.array([[1.0, 0.1]])
    assert knn_probe(x, y, test, np.array([0]), k=6) == 1
    assert knn_probe(x, y, test, np.array([1]), k=6, temperature=10.0) == 1
    assert knn_probe(x, y, test, np.array([0]), k=100, temperature=1e-4) == 1  # fewer than k, and exp does not overflow


@BOTH
@pytest.mark.parametrize(
    ("position", "wrong", "message"),
    [
        (0, np.full((300, 8), np.nan), "^codes must be finite"),
        (2, np.full((200, 8), np.inf), "^test_codes must be finite"),
        (2, np.zeros((200, 7)), "same width, not 8 and 7"),
        (1, np.zeros(299, dtype=int), "^labels must be 300 integers"),
        (3, np.zeros((200, 1), dtype=int), "^test_labels must be 200 integers"),
        (1, np.zeros(300), "^labels must be 300 integers, not float64"),
    ],
)
def test_bad_arguments_are_refused(probe, position, wrong, message):
    arguments = [*clusters(), *clusters(200, seed=1)]
    arguments[position] = wrong
    with pytest.raises(ValueError, match=message):
        probe(*arguments)


def test_a_single_class_and_no_neighbours_are_refused():
    x, y = clusters()
    with pytest.raises(ValueError, match="two classes or more"):
        linear_probe(x, np.ones(300, dtype=int), x, y)
    with pytest.raises(ValueError, match="must be positive"):
        knn_probe(x, y, x, y, k=0)

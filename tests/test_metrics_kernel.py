"""The kernel distance against the definition, its unbiasedness, and its standard error against repeated draws."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import polynomial_kernel

import betadiffusion.metrics.kernel as kernel
from betadiffusion.metrics.kernel import kernel_distance, kernel_distance_and_error


def rows(n, d=6, shift=0.0, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)) + shift


def by_definition(a, b):
    """Unbiased MMD^2 with scikit-learn's polynomial kernel, whose defaults are this one's."""
    aa, bb = polynomial_kernel(a), polynomial_kernel(b)
    off = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (aa, bb)]
    return sum(off) - 2 * polynomial_kernel(a, b).mean()


def test_whole_sets_give_the_definition():
    a, b = rows(70), rows(70, shift=0.3, seed=1)
    assert kernel_distance(a, b, subsets=1) == pytest.approx(by_definition(a, b), rel=1e-12)
    assert kernel_distance(a, b) == pytest.approx(by_definition(a, b), rel=1e-12)  # 100 times the same


def test_subsets_are_drawn_alike_whichever_way_they_are_summed(monkeypatch):
    a, b = rows(90), rows(60, shift=0.2, seed=1)
    together = kernel_distance_and_error(a, b, subsets=20, subset_size=30)
    rng = np.random.default_rng(0)
    picks = [[rng.choice(n, 30, replace=False) for n in (90, 60)] for _ in range(20)]
    expected = [by_definition(a[i], b[j]) for i, j in picks]
    assert together.value == pytest.approx(np.mean(expected), rel=1e-10)
    alone = kernel_distance(rows(900), rows(900, shift=0.2, seed=1), subsets=3, subset_size=10)
    assert alone == pytest.approx(
        np.mean([by_definition(rows(900)[i], rows(900, shift=0.2, seed=1)[j]) for i, j in three_picks()]), rel=1e-10
    )
    monkeypatch.setattr(kernel, "ROWS", 7)
    assert kernel_distance(a, b, subsets=20, subset_size=30) == pytest.approx(together.value, rel=1e-10)


def three_picks():
    rng = np.random.default_rng(0)
    return [[rng.choice(900, 10, replace=False) for _ in range(2)] for _ in range(3)]


def test_seed_and_array_type():
    a, b = rows(200), rows(300, shift=0.2, seed=1)
    value = kernel_distance(a, b, 10, 50)
    assert kernel_distance(torch.from_numpy(a), torch.from_numpy(b), 10, 50) == value
    assert kernel_distance(a, b, 10, 50, seed=1) != value


def test_one_distribution_is_at_zero_on_average_and_the_error_is_that_of_new_draws():
    def repeat(shift):
        draws = [(rows(200, 4, 0, s), rows(200, 4, shift, s + 1000)) for s in range(100)]
        return np.array([kernel_distance_and_error(a, b, 20, 50, s) for s, (a, b) in enumerate(draws)]).T

    values, _ = repeat(0.0)
    assert abs(values.mean()) < 4 * values.std() / 10
    assert (values < 0).any()  # unbiased: half of them
    values, errors = repeat(0.5)
    assert values.mean() > 3 * values.std()
    assert np.mean(errors) == pytest.approx(values.std(), rel=0.3)


def test_the_error_is_unknown_where_subsets_show_nothing():
    assert np.isnan(kernel_distance_and_error(rows(50), rows(90)).standard_error)
    assert np.isnan(kernel_distance_and_error(rows(50), rows(90), subsets=1, subset_size=20).standard_error)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.full((9, 2), np.nan), rows(9, 2), "^a must be finite"),
        (rows(9, 2), rows(9, 3), "same features, not 2 and 3"),
        (rows(1, 2), rows(9, 2), "subset of 2 rows"),
        (rows(9), rows(9).ravel(), "^b must be a matrix"),
    ],
)
def test_bad_features_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(a, b)

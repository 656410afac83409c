"""Factor and attribute sets in memory, their subsets, and images drawn by their factors."""

import pickle
import time

import numpy as np
import pytest
from scipy.stats import chisquare

from betadiffusion.data import AttributeSet, DataError, FactorSet, ImageSet, Subset, load, sample
from betadiffusion.data.arrays import ArrayImages, fit


def incomplete(drop=(5, 11), **more) -> ArrayImages:
    """A set of 2 x 3 x 4 combinations without those dropped, in an order of its own; a pixel tells the combination."""
    flat = np.random.default_rng(3).permutation(np.setdiff1d(np.arange(24), drop))
    array = np.broadcast_to(flat.astype(np.uint8)[:, None, None, None], (len(flat), 1, 2, 2))
    table = np.stack(np.unravel_index(flat, (2, 3, 4)), -1)
    return ArrayImages("x", array, factor_names=("a", "b", "c"), factor_sizes=(2, 3, 4), factors=table, **more)


def attributed(n: int) -> dict:
    return {"attribute_names": ("old", "red"), "attributes": np.random.default_rng(0).random((n, 2)) < 0.5}


def test_a_set_is_what_it_was_given():
    plain = ArrayImages("x", np.zeros((22, 1, 2, 2), np.uint8))
    with_attributes = ArrayImages("x", plain.array, **attributed(22))
    for data, factors, attributes in [
        (plain, False, False),
        (with_attributes, False, True),
        (incomplete(), True, False),
        (incomplete(**attributed(22)), True, True),
        (load("dsprites", 8), True, False),
    ]:
        for view in (data, Subset(data, np.arange(3)), Subset(Subset(data, np.arange(9)), np.array([2, 0]))):
            for again in (view, pickle.loads(pickle.dumps(view))):
                assert isinstance(again, ImageSet)
                assert isinstance(again, FactorSet) == factors
                assert isinstance(again, AttributeSet) == attributes


def test_subsets_carry_everything_over():
    partition = np.array(["train"] * 20 + ["test"] * 2)
    data = incomplete(labels=np.arange(22), partition=partition, **attributed(22))
    chosen = np.array([21, 4, 0, 17])
    part, local = Subset(data, chosen), np.array([3, 0, 3])
    assert part.partition.tolist() == ["test", "train", "train", "train"]
    np.testing.assert_array_equal(part.labels, chosen)
    assert (part.attribute_names, part.factor_names, part.factor_sizes) == (("old", "red"), ("a", "b", "c"), (2, 3, 4))
    np.testing.assert_array_equal(part.attributes(local), data.attributes(chosen[local]))
    np.testing.assert_array_equal(part.factors(local), data.factors(chosen[local]))
    np.testing.assert_array_equal(part.index(part.factors(np.arange(4))), np.arange(4))
    with pytest.raises(DataError, match="does not hold every combination"):
        part.index(data.factors(np.array([1])))
    assert Subset(ArrayImages("x", data.array), chosen).partition is None


def test_index_inverts_factors_of_an_incomplete_set():
    data = incomplete()
    factors = data.factors(np.arange(22))
    np.testing.assert_array_equal(np.ravel_multi_index(factors.T, (2, 3, 4)), data.array[:, 0, 0, 0])
    np.testing.assert_array_equal(data.index(factors[::-1]), np.arange(22)[::-1])
    with pytest.raises(DataError, match="does not hold every combination"):
        data.index(np.array([[0, 1, 1]]))  # 5, one of those dropped
    with pytest.raises(DataError, match="outside"):
        data.index(np.array([[0, 3, 0]]))


def test_tables_that_do_not_fit():
    array = np.zeros((2, 1, 2, 2), np.uint8)
    names = {"factor_names": ("a",), "factor_sizes": (3,)}
    with pytest.raises(DataError, match="Two images of x have the same factors"):
        ArrayImages("x", array, factors=np.array([[1], [1]]), **names)
    with pytest.raises(DataError, match="outside"):
        ArrayImages("x", array, factors=np.array([[1], [3]]), **names)
    for wrong in ({"labels": np.zeros(3)}, {"partition": np.array(["train"])}, attributed(3)):
        with pytest.raises(DataError, match="for its 2 images"):
            ArrayImages("x", array, **wrong)


# Sampling


def uniform(drawn: np.ndarray, support: np.ndarray) -> bool:
    """Whether `drawn` are all of `support` and only of it, as often as chance allows."""
    values, counts = np.unique(drawn, return_counts=True)
    fair = len(counts) == 1 or chisquare(counts).pvalue > 0.001
    return np.array_equal(values, np.sort(support)) and fair


@pytest.mark.parametrize("fixed", [{}, {"b": 1}, {"a": 1, "c": 3}, {"c": 1, "b": 0, "a": 0}])
@pytest.mark.parametrize("part", [False, True])
def test_draws_from_a_table_are_uniform_given_what_is_fixed(fixed, part):
    data = incomplete()
    data = Subset(data, np.arange(0, 22, 2)) if part else data
    columns = [data.factor_names.index(name) for name in fixed]
    table = data.factors(np.arange(len(data)))
    support = np.flatnonzero((table[:, columns] == list(fixed.values())).all(1))
    if len(support):
        assert uniform(sample(data, 200 * len(support), seed=0, fixed=fixed), support)
    else:
        with pytest.raises(DataError, match="holds no image with"):
            sample(data, 1, seed=0, fixed=fixed)


def test_draws_from_a_grid_are_uniform_given_what_is_fixed():
    data = load("shapes", 8)
    fixed = {"shape": 2, "floor_hue": 7, "scale": 0}
    factors = data.factors(sample(data, 30_000, seed=1, fixed=fixed))
    assert (factors[:, [4, 0, 3]] == [2, 7, 0]).all()
    free = np.ravel_multi_index(factors[:, [1, 2, 5]].T, (10, 10, 15))
    assert uniform(free, np.arange(1500))
    everything = data.factors(sample(data, 30_000, seed=2))
    for column, size in zip(everything.T, data.factor_sizes, strict=True):
        assert uniform(column, np.arange(size))


def test_a_grid_and_a_subset_of_all_of_it_agree():
    """The fast way through `index` and the way through the table draw from the same distribution."""
    data = load("dsprites", 8)
    rows = data.index(np.array([(0, 0, o, x, y) for o in range(3) for x in range(4) for y in range(4)]))
    part = Subset(data, rows)
    fast = sample(data, 200_000, seed=0, fixed={"shape": 0, "scale": 0, "orientation": 2})
    inside = fast[np.isin(fast, rows)]
    slow = part.indices[sample(part, len(inside), seed=0, fixed={"orientation": 2})]
    assert uniform(inside, rows[32:])
    assert uniform(slow, rows[32:])


def test_draws_are_reproducible_and_fast():
    data = load("dsprites", 8)
    np.testing.assert_array_equal(sample(data, 9, 5, {"x": 3}), sample(data, 9, 5, {"x": 3}))
    generator = np.random.default_rng(5)
    first, second = sample(data, 9, generator), sample(data, 9, generator)
    assert not np.array_equal(first, second)
    begin = time.perf_counter()
    for seed in range(200):
        sample(data, 64, seed, {"scale": 1})
    assert time.perf_counter() - begin < 2  # a table of the 737,280 factors would take 20 times as long


def test_what_cannot_be_drawn():
    data = load("dsprites", 8)
    with pytest.raises(DataError, match="no factor 'hue': it has shape, scale"):
        sample(data, 1, 0, {"hue": 1})
    for value in (-1, 6):
        with pytest.raises(DataError, match=f"dsprites holds no image with scale = {value}"):
            sample(data, 1, 0, {"scale": value})
    with pytest.raises(DataError, match="is empty"):
        sample(Subset(data, np.array([], int)), 1, 0)


# Fitting


def test_fit_cuts_resizes_and_keeps_what_fits():
    generator = np.random.default_rng(0)
    colour = generator.integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(fit(colour, 16, 3), colour.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(fit(colour[..., 0], 16, 3), np.repeat(colour[:, None, :, :, 0], 3, axis=1))
    luminance = colour @ [0.299, 0.587, 0.114]
    assert np.abs(fit(colour, 16, 1)[:, 0] - luminance).max() <= 1
    wide = np.zeros((1, 8, 24), np.uint8)
    wide[:, :, 8:16] = 255
    assert fit(wide, 8, 1).min() == 255
    stripes = np.tile(np.array([0, 255], np.uint8), (2, 64, 32))
    assert np.abs(fit(stripes, 8, 1).astype(int) - 128).max() <= 3
    assert fit(colour[:0], 8, 3).shape == (0, 3, 8, 8)

"""Splits and subsets."""

import copy
import pickle

import numpy as np
import pytest

from betadiffusion.data import DataError, FactorSet, ImageSet, Subset, load, split
from betadiffusion.data.arrays import ArrayImages


def test_split_is_a_partition_and_deterministic():
    train, held_out = split(1000, 100, seed=3)
    assert len(held_out) == 100
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(1000))
    for again, first in zip(split(1000, 100, seed=3), (train, held_out), strict=True):
        np.testing.assert_array_equal(again, first)
    assert not np.array_equal(split(1000, 100, seed=4)[1], held_out)
    np.testing.assert_array_equal(split(1000, 50, seed=3)[1], held_out[:50])
    assert len(split(10, 0, seed=0)[1]) == 0


@pytest.mark.parametrize("held_out", [-1, 10, 11])
def test_split_refuses(held_out):
    with pytest.raises(DataError, match="cannot be held out of 10"):
        split(10, held_out, seed=0)


@pytest.fixture
def part():
    return Subset(load("dsprites", 8), np.random.default_rng(0).integers(0, 737_280, 1500))


def test_a_subset_of_a_factor_set_is_one(part):
    assert isinstance(part, FactorSet)
    assert isinstance(part, Subset)
    assert (len(part), part.name, part.image_shape) == (1500, "dsprites", (1, 8, 8))
    chosen = np.array([3, 1499, 3, 0])
    np.testing.assert_array_equal(part.images(chosen), part.base.images(part.indices[chosen]))
    np.testing.assert_array_equal(part.factors(chosen), part.base.factors(part.indices[chosen]))
    everything = np.arange(1500)
    np.testing.assert_array_equal(part.indices[part.index(part.factors(everything))], part.indices)
    absent = np.setdiff1d(np.arange(2000), part.indices)[:1]
    with pytest.raises(DataError, match="does not hold"):
        part.index(part.base.factors(absent))


def test_a_subset_of_an_image_set_keeps_labels_and_skipped():
    array = np.arange(5 * 3 * 4, dtype=np.uint8).reshape(5, 3, 2, 2)
    base = ArrayImages("x", array, skipped=["a.png (empty file)"], labels=np.arange(5))
    part = Subset(Subset(base, np.array([4, 2, 0])), np.array([2, 0]))
    assert isinstance(part, ImageSet)
    assert not isinstance(part, FactorSet)
    assert part.skipped == ["a.png (empty file)"]
    np.testing.assert_array_equal(part.labels, [0, 4])
    np.testing.assert_array_equal(part.images(np.arange(2)), array[[0, 4]])
    for wrong in (-1, 5):
        with pytest.raises(DataError, match="outside the 5 images"):
            Subset(base, np.array([wrong]))


def test_a_kept_image_is_drawn_once_and_no_other_is(part, monkeypatch):
    expected, draw, drawn = part.images(np.arange(1500)), part.base.images, []
    monkeypatch.setattr(part.base, "images", lambda indices: drawn.extend(indices) or draw(indices))
    assert part.keep() is part
    np.testing.assert_array_equal(part.images(np.array([7, 7, 2])), expected[[7, 7, 2]])
    assert drawn == [*part.indices[[2, 7]]]
    for _ in range(2):
        np.testing.assert_array_equal(part.images(np.arange(1500)), expected)
    assert sorted(drawn) == sorted(part.indices[:1500])


def test_copies_and_pickles(part):
    for again in (copy.copy(part), pickle.loads(pickle.dumps(part))):
        assert isinstance(again, FactorSet)
        np.testing.assert_array_equal(again.images(np.arange(9)), part.images(np.arange(9)))

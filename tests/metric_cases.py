"""Factors and codes for the tests of the disentanglement metrics, and the numbers of the reference implementations.

`reference_metrics.json` is written by `benchmarks/reference_metrics.py`: recipes of codes, each with other libraries'
scores on them.
"""

import itertools
import json
from pathlib import Path

import numpy as np

REFERENCE = Path(__file__).with_name("reference_metrics.json")
GRID = np.array(list(itertools.product(range(10), range(6), range(4)))).repeat(10, axis=0)  # (2400, 3), a full grid
PAIR = np.array(list(itertools.product(range(2), range(2)))).repeat(100, axis=0)  # (400, 2), two binary factors


def noise(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def split(codes, factors):
    """Codes and factors, then those of a test set: every third row."""
    test = np.arange(len(codes)) % 3 == 0
    return codes[~test], factors[~test], codes[test], factors[test]


def build(recipe):
    """Codes, factors, test codes and test factors of a recipe: standardised factors, mixed, with noise, copied."""
    generator = np.random.default_rng(recipe["seed"])
    sizes, train = np.array(recipe["sizes"]), recipe["train"]
    factors = np.stack([generator.integers(0, size, train + recipe["test"]) for size in sizes], axis=1)
    for source, target, share in recipe["linked"]:  # a share of the rows of one factor are those of another
        same = generator.random(len(factors)) < share
        factors[same, target] = factors[same, source]
    z = (factors - (sizes - 1) / 2) / np.sqrt((sizes**2 - 1) / 12)
    scale = np.array(recipe["noise"])
    codes = z @ np.array(recipe["mix"]) + scale * generator.standard_normal((len(z), scale.size))
    codes = np.tile(codes, (1, recipe["copies"]))
    return codes[:train], factors[:train], codes[train:], factors[train:]


def references(metric):
    """The recipes that have a reference's number for this metric."""
    return [case for case in json.loads(REFERENCE.read_text()) if metric in case["reference"]]


class CodedSet:
    """A factor set whose images are codes already."""

    def __init__(self, codes, factors):
        self._codes, self._factors = codes, factors

    def __len__(self):
        return len(self._factors)

    def factors(self, indices):
        return self._factors[indices]

    def images(self, indices):
        return self._codes[indices]

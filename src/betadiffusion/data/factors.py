"""Images of a factor set drawn by their factors."""

from collections.abc import Mapping

import numpy as np

from betadiffusion.data.protocols import DataError, FactorSet
from betadiffusion.data.rendered import GridSet


def sample(
    dataset: FactorSet, count: int, seed: int | np.random.Generator, fixed: Mapping[str, int] | None = None
) -> np.ndarray:
    """Indices, (count,) int64, drawn uniformly with replacement among the images whose factors have the fixed values.

    fixed: values of some factors, by name. A grid is sampled through its `index`, any other set through the factors of
    all its images, which costs their time at each call. DataError: no such factor, or no image with such values.
    """
    generator = np.random.default_rng(seed)
    fixed = fixed or {}
    if unknown := set(fixed) - set(dataset.factor_names):
        raise DataError(f"{dataset.name} has no factor {min(unknown)!r}: it has {', '.join(dataset.factor_names)}.")
    columns = [dataset.factor_names.index(name) for name in fixed]
    values = np.array(list(fixed.values()), np.int64)
    sizes = np.array(dataset.factor_sizes)
    if isinstance(dataset, GridSet) and ((values >= 0) & (values < sizes[columns])).all():
        factors = generator.integers(sizes, size=(count, len(sizes)))
        factors[:, columns] = values
        return dataset.index(factors)
    table = dataset.factors(np.arange(len(dataset)))
    matches = np.flatnonzero((table[:, columns] == values).all(1))
    if not len(matches):
        wanted = ", ".join(f"{name} = {value}" for name, value in fixed.items())
        raise DataError(f"{dataset.name} holds no image with {wanted}." if wanted else f"{dataset.name} is empty.")
    return generator.choice(matches, count)

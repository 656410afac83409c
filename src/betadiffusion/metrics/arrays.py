"""The one way in for every metric: finite matrices in float64, and factors that are integers."""

from typing import Any

import numpy as np


def as_matrix(values: Any, name: str) -> np.ndarray:
    """Return numpy or torch `values` (N, d) as a float64 array; `name` is what an error calls them.

    Raises ValueError unless they form a matrix with at least one row and one column, all of it finite.
    """
    if hasattr(values, "detach"):  # a torch tensor: perhaps on an accelerator, perhaps bfloat16
        values = values.detach().cpu().double()
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} must be a matrix with rows and columns, not of shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise ValueError(f"{name} must be finite, but row {row} holds NaN or infinity.")
    return matrix


def codes_and_factors(
    codes: Any, factors: Any, names: tuple[str, str] = ("codes", "factors")
) -> tuple[np.ndarray, np.ndarray]:
    """Return codes (N, d) as float64 and factors (N, K) as int64; `names` is what an error calls them.

    Raises ValueError as `as_matrix`, for numbers of rows that differ, factors that are not integers, and when no
    factor varies.
    """
    codes, values = as_matrix(codes, names[0]), as_matrix(factors, names[1])
    if len(codes) != len(values):
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same number of rows, not {len(codes)} and {len(values)}."
        )
    whole = values == np.rint(values)
    if not whole.all():
        row, column = np.argwhere(~whole)[0]
        raise ValueError(f"{names[1]} must be integers, but row {row} of column {column} is {values[row, column]}.")
    if not varying(values).any():
        raise ValueError(f"{names[1]} must vary in at least one column, but every factor is constant.")
    return codes, values.astype(np.int64)


def train_and_test(codes: Any, factors: Any, test_codes: Any, test_factors: Any) -> tuple[np.ndarray, ...]:
    """Return all four as `codes_and_factors` does; the test set must have the same numbers of codes and factors."""
    codes, factors = codes_and_factors(codes, factors)
    test_codes, test_factors = codes_and_factors(test_codes, test_factors, ("test_codes", "test_factors"))
    if codes.shape[1] != test_codes.shape[1] or factors.shape[1] != test_factors.shape[1]:
        raise ValueError(
            f"Both sets must have the same columns, not {codes.shape[1]} and {test_codes.shape[1]} codes "
            f"and {factors.shape[1]} and {test_factors.shape[1]} factors."
        )
    return codes, factors, test_codes, test_factors


def varying(factors: np.ndarray) -> np.ndarray:
    """Which columns of factors (N, K) take more than one value, as (K,) bool."""
    return np.any(factors != factors[0], axis=0)

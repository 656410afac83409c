"""The one way in for every metric: a finite matrix in float64."""

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

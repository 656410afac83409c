"""The mutual information gap on codes known to be good and known to be bad."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from betadiffusion import metrics
from betadiffusion.metrics import mig, mutual_information
from metric_cases import GRID, build, noise, references


@pytest.mark.parametrize("case", references("mig"), ids=lambda case: case["name"])
def test_the_reference_implementation_agrees(case):
    codes, factors, _, _ = build(case)
    assert mig(codes, factors) == pytest.approx(case["reference"]["mig"], abs=1e-6)


def test_codes_that_are_the_factors_score_one():
    assert mig(GRID, GRID) == pytest.approx(1.0, abs=1e-12)
    assert mig(np.hstack([GRID + 0.02 * noise(2400, 3), noise(2400, 2, 1)]), GRID) > 0.95


def test_entangled_and_random_codes_score_low():
    pair = np.stack(np.divmod(np.arange(64), 8), axis=1)
    assert mig(pair, pair) == pytest.approx(1.0, abs=1e-12)
    assert mig(pair @ np.array([[1, 1], [1, -1]]), pair) < 0.05  # turned by 45 degrees, both codes know as much
    assert mig(noise(2400, 5), GRID) < 0.02


def test_a_code_that_knows_half_of_a_factor_scores_one_half():
    factor = np.tile(np.arange(4), 100)[:, None]
    assert mig(factor % 2, factor) == pytest.approx(0.5, abs=1e-12)  # log 2 of log 4 nats; a single latent
    assert mutual_information(factor % 2, factor)[0, 0] == pytest.approx(np.log(2), abs=1e-12)


def test_order_scale_and_array_type_do_not_matter():
    codes = GRID @ np.array([[1.0, 0.2, 0.0], [0.1, 1.0, 0.3], [0.0, 0.4, 1.0]]) + 0.5 * noise(2400, 3)
    score = mig(codes, GRID)
    assert 0.1 < score < 0.9
    assert mig(codes[:, [2, 0, 1]], GRID[:, [1, 2, 0]]) == pytest.approx(score, abs=1e-12)
    assert mig(codes * np.array([0.25, 8.0, 1024.0]), GRID) == pytest.approx(score, abs=1e-12)
    assert mig(torch.from_numpy(codes), torch.from_numpy(GRID)) == score


def test_duplicated_codes_score_nothing():
    assert mig(np.hstack([GRID, GRID]), GRID) == 0


def test_constant_codes_and_factors_change_nothing():
    codes = GRID + 0.5 * noise(2400, 3)
    assert mig(np.hstack([codes, np.full((2400, 1), 0.3)]), GRID) == mig(codes, GRID)
    assert mig(codes, np.hstack([GRID, np.full((2400, 1), 3)])) == mig(codes, GRID)
    assert mig(np.full((2400, 2), 0.3), GRID) == 0


def test_information_is_sklearns_on_numpys_histogram_bins():
    codes = GRID[:, :2] + noise(2400, 2)
    binned = [np.digitize(code, np.histogram(code, 20)[1][:-1]) for code in codes.T]
    expected = [[mutual_info_score(factor, code) for factor in GRID.T] for code in binned]
    np.testing.assert_allclose(mutual_information(codes, GRID), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.full((2400, 2), np.nan), GRID, "^codes must be finite, but row 0"),
        (noise(7, 2), GRID, "same number of rows, not 7 and 2400"),
        (noise(2400, 2), GRID[:, 0], "^factors must be a matrix"),
        (noise(2400, 2), GRID / 2, "^factors must be integers, but row 10 of column 2 is 0.5"),
        (noise(9, 2), np.ones((9, 2)), "every factor is constant"),
    ],
)
def test_bad_input_is_refused(codes, factors, message):
    with pytest.raises(ValueError, match=message):
        mig(codes, factors)


def test_metrics_are_imported_without_heavy_libraries_and_keep_their_names():
    code = "import sys, betadiffusion.metrics; print({'sklearn', 'scipy', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    assert all(callable(getattr(metrics, name)) for name in metrics.__all__)  # not the module of the same name

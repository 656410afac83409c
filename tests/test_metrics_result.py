"""Numbers that say what they are, and the metrics of generated images against the functions of features."""

import json

import numpy as np
import pytest
import torch

from betadiffusion.metrics.features import CallableFeatures
from betadiffusion.metrics.frechet import frechet_distance
from betadiffusion.metrics.kernel import kernel_distance_and_error
from betadiffusion.metrics.prdc import density_coverage, precision_recall
from betadiffusion.metrics.reference import reference_features
from betadiffusion.metrics.result import Distance, generation_metrics


def pooled(images):
    return torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1) / 50


def extractor(name="pooled", short_name="pool"):
    return CallableFeatures(pooled, name, 12, short_name, resize="not resized", weights_sha256="0123456789ab")


def images(n, seed, shift=0):
    return np.random.default_rng(seed).integers(shift, 256, (n, 3, 8, 8)).astype(np.uint8)


@pytest.fixture
def reference(tmp_path):
    return reference_features(extractor(), images(200, 0), "faces train", 3, cache_dir=tmp_path, progress=False)


def test_a_number_prints_all_that_it_depends_on():
    number = Distance("FD-EffNet", 12.34, "EfficientNet-lite0", "ab12", 1000, "faces train", 2000, "64 px bilinear", 0)
    assert str(number) == (
        "FD-EffNet 12.34 (EfficientNet-lite0, weights ab12, N=1,000 against 2,000 of faces train, 64 px bilinear, "
        "seed 0)"
    )
    assert Distance(**json.loads(json.dumps(number.as_dict()))) == number
    other = Distance("KID", 0.00123, "f", "", 9, "r", 9, "none", 7, standard_error=0.0004)
    assert str(other).startswith("KID 0.00123 ± 0.0004 (f, weights unknown, ")


def test_metrics_are_those_of_the_features(reference):
    fake = images(150, 1, shift=40)
    numbers = generation_metrics(extractor(), fake, reference, seed=5, progress=False)
    x, y = reference.features, pooled(torch.from_numpy(fake)).numpy()
    kernel = kernel_distance_and_error(x, y, subset_size=75, seed=5)
    expected = {
        "FD-pool": frechet_distance(x, y),
        "KD-pool": kernel.value,
        **dict(zip(["precision (k=3)", "recall (k=3)"], precision_recall(x, y), strict=True)),
        **dict(zip(["density (k=5)", "coverage (k=5)"], density_coverage(x, y), strict=True)),
    }
    assert {number.metric: number.value for number in numbers} == pytest.approx(expected, rel=1e-9)
    assert [number.standard_error for number in numbers if number.standard_error] == [kernel.standard_error]
    about = {(n.features, n.weights_sha256, n.count, n.reference, n.reference_count, n.seed) for n in numbers}
    assert about == {("pooled", "0123456789ab", 150, "faces train", 200, 5)}


def test_only_what_is_asked_for_from_torch_too(reference):
    fake = torch.from_numpy(images(150, 1))
    (number,) = generation_metrics(extractor(), fake, reference, metrics=["frechet"], progress=False)
    assert number.value == pytest.approx(frechet_distance(reference.features, pooled(fake)), rel=1e-9)


def test_other_features_and_metrics_are_refused(reference):
    with pytest.raises(ValueError, match="other features"):
        generation_metrics(extractor(name="others"), images(9, 1), reference)
    with pytest.raises(ValueError, match="no metric 'fid': choose of frechet"):
        generation_metrics(extractor(), images(9, 1), reference, metrics=["fid"])

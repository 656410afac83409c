"""The cache of reference features: when it is used, and when it must not be."""

import numpy as np
import pytest
import torch

from betadiffusion.metrics.features import CallableFeatures
from betadiffusion.metrics.frechet import FeatureStatistics
from betadiffusion.metrics.reference import reference_features, reference_key


class Counting(CallableFeatures):
    """Means of quarters of the image, and how often they were asked for."""

    def __init__(self, name="quarters", resize="not resized", weights_sha256="0123456789ab"):
        super().__init__(self.quarters, name, dim=4, resize=resize, weights_sha256=weights_sha256)
        self.calls = 0

    def quarters(self, images):
        self.calls += 1
        return torch.nn.functional.adaptive_avg_pool2d(images.float().mean(1), 2).flatten(1)


def images(n=50, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)


def make(extractor, folder, split="faces train", seed=0, x=None):
    return reference_features(extractor, images() if x is None else x, split, seed, cache_dir=folder, progress=False)


def test_the_second_call_reads_what_the_first_computed(tmp_path):
    first = make(Counting(), tmp_path)
    assert first.features.shape == (50, 4)
    assert first.features.dtype == np.float32
    np.testing.assert_allclose(first.features, Counting()(torch.from_numpy(images())), rtol=1e-6)
    again = Counting()
    second = make(again, tmp_path)
    assert again.calls == 0
    assert isinstance(second.features, np.memmap)
    assert (second.split, second.seed) == ("faces train", 0)
    np.testing.assert_array_equal(second.features, first.features)


def test_the_key_changes_with_everything_a_reference_depends_on(tmp_path):
    x = images()
    changed = x.copy()
    changed[17, 1, 2, 3] ^= 1
    keys = [
        reference_key(extractor, array, split, seed)
        for extractor, array, split, seed in [
            (Counting(), x, "train", 0),
            (Counting(name="other"), x, "train", 0),
            (Counting(weights_sha256="ba9876543210"), x, "train", 0),
            (Counting(resize="8 px"), x, "train", 0),
            (Counting(), changed, "train", 0),
            (Counting(), x[:49], "train", 0),
            (Counting(), x.reshape(50, 3, 4, 16), "train", 0),
            (Counting(), x, "test", 0),
            (Counting(), x, "train", 1),
        ]
    ]
    assert len(set(keys)) == len(keys)
    assert reference_key(Counting(), np.asfortranarray(x), "train", 0) == keys[0]
    make(Counting(), tmp_path)
    other = Counting()
    make(other, tmp_path, x=changed)
    assert other.calls > 0


def test_features_without_a_hash_are_never_kept(tmp_path):
    extractor = Counting(weights_sha256="")
    for calls in (1, 2):
        assert make(extractor, tmp_path).statistics.count == 50
        assert extractor.calls == calls
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".npy", ".json", ".safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete"])
def test_a_damaged_file_is_made_anew(tmp_path, suffix, damage):
    expected = make(Counting(), tmp_path)
    mean, covariance = expected.statistics.mean, expected.statistics.covariance
    (path,) = tmp_path.glob(f"*{suffix}")
    content = bytearray(path.read_bytes())
    content[content.index(b'"sha256"') + 15 if suffix == ".json" else -20] ^= 1  # in the hash, a feature, or the mean
    broken = {"flip": bytes(content), "cut": bytes(content[: len(content) // 2]), "empty": b""}
    path.unlink()
    if damage != "delete":
        path.write_bytes(broken[damage])
    for calls in (1, 0):
        extractor = Counting()
        found = make(extractor, tmp_path)
        np.testing.assert_array_equal(found.features, Counting()(torch.from_numpy(images())))
        np.testing.assert_array_equal(found.statistics.mean, mean)
        np.testing.assert_array_equal(found.statistics.covariance, covariance)
        assert extractor.calls == (0 if suffix == ".safetensors" else calls)
    assert not list(tmp_path.glob("*.partial"))


def test_statistics_are_computed_once_and_kept(tmp_path, monkeypatch):
    statistics = make(Counting(), tmp_path).statistics
    whole = FeatureStatistics.from_features(Counting()(torch.from_numpy(images())))
    np.testing.assert_array_equal(statistics.covariance, whole.covariance)
    monkeypatch.setattr(FeatureStatistics, "from_features", None)
    kept = make(Counting(), tmp_path).statistics
    np.testing.assert_array_equal(kept.mean, whole.mean)
    np.testing.assert_array_equal(kept.covariance, whole.covariance)
    assert kept.count == 50


def test_the_cache_is_by_default_in_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    make(Counting(), None)
    assert list((tmp_path / "betadiffusion/reference").glob("*.npy"))


def test_other_images_and_a_cache_that_cannot_be_written_are_refused(tmp_path):
    for wrong in (images().astype(np.float32), images()[0], images()[:0]):
        with pytest.raises(ValueError, match="must be uint8"):
            make(Counting(), tmp_path, x=wrong)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot be written .* XDG_CACHE_HOME"):
        make(Counting(), tmp_path / "file")

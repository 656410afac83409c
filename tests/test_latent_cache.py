from types import SimpleNamespace

import numpy as np
import pytest
import torch

from betadiffusion.data import Subset, load
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.training.diffusion_stage import encode_with_velocity
from betadiffusion.training.images import load_images
from betadiffusion.training.latent_cache import LatentCache, knot_levels, lagrange
from betadiffusion.training.stored import stored


@pytest.fixture(scope="module")
def images():
    return Subset(load("shapes", size=16), np.arange(0, 480_000, 12_000)).keep()


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return MultiBetaVAE(sample_size=16, channels=(16, 32), latent_channels=4, embedding_dim=16).eval()


def test_the_cubic_and_its_slope_are_exact_on_cubics():
    t = torch.linspace(0, 3, 31, dtype=torch.float64)
    knots = torch.tensor([0.0, 0.7, 2.5, 3.0], dtype=torch.float64).expand(31, 4)
    weights, slopes = lagrange(knots, t)
    for power in range(4):
        assert torch.allclose((weights * knots**power).sum(1), t**power, atol=1e-12)
        assert torch.allclose((slopes * knots**power).sum(1), power * t ** max(power - 1, 0), atol=1e-12)


def test_knots_rise_evenly_about_the_middle_and_are_denser_at_both_ends():
    knots = knot_levels(25)
    gaps = knots.diff()
    assert (knots[0], knots[-1]) == (0, 1)
    assert bool((gaps > 0).all())
    assert torch.allclose(gaps, gaps.flip(0))
    assert bool((gaps[:12].diff() > 0).all())
    assert gaps[0] == pytest.approx((1 / 24 + (1 - np.cos(np.pi / 24)) / 2) / 2)


def test_the_cache_returns_cubics_in_the_level_exactly():
    t_knots = knot_levels(9).numpy()
    coefficients = np.random.default_rng(0).normal(size=(5, 4, 2)).astype(np.float32)
    means = sum(coefficients[:, p][:, None] * t_knots[:, None] ** p for p in range(4))
    cache = LatentCache(means[..., None, None].astype(np.float32))
    indices = np.array([0, 1, 2, 3, 4, 0, 1])
    t = torch.tensor([0.0, 0.01, 0.3, 0.5, 0.77, 0.99, 1.0])
    f, velocity = cache.at(indices, t)
    c = torch.from_numpy(coefficients[indices])
    powers = torch.stack([t**p for p in range(4)], 1)[..., None]
    slopes = torch.stack([p * t ** max(p - 1, 0) for p in range(4)], 1)[..., None]
    assert torch.allclose(f[..., 0, 0], (c * powers).sum(1), atol=1e-5)
    assert torch.allclose(velocity[..., 0, 0], (c * slopes).sum(1), atol=1e-4)


def test_knots_are_the_encoder_itself_and_more_of_them_come_closer(images, vae, tmp_path):
    errors = []
    for knots in (17, 33, 65):
        cache = LatentCache.build(vae, images, knots, tmp_path / str(knots), quiet=True)
        x = load_images(images, np.arange(4), vae.device)
        some = cache.knots[[0, 3, knots // 2, -1]].float()
        with torch.no_grad():
            assert torch.allclose(cache.at(np.arange(4), some)[0], vae.encode_mean(x, some), atol=1e-5)
        errors.append(cache.relative_error(vae, images, 200, seed=0))
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    velocity = cache.at(np.arange(4), torch.full((4,), 0.42))[1]
    exact = encode_with_velocity(vae, x, torch.full((4,), 0.42))[1]
    assert torch.allclose(velocity, exact, atol=0.03)


def test_a_cache_is_opened_again_only_for_the_same_vae(images, vae, tmp_path, monkeypatch):
    first = LatentCache.build(vae, images, 5, tmp_path, quiet=True)
    assert isinstance(first.means, np.memmap)
    with monkeypatch.context() as patch:
        patch.setattr(MultiBetaVAE, "encode_mean", lambda *_: pytest.fail("encoded again"))
        again = LatentCache.build(vae, images, 5, tmp_path, quiet=True)
    assert np.array_equal(first.means, again.means)
    with torch.no_grad():
        vae.encoder.head.weight.mul_(2)
    before = first.means.copy()
    other = LatentCache.build(vae, images, 5, tmp_path, quiet=True)
    assert not np.allclose(other.means[:, 0], before[:, 0])
    turned = Subset(images.base, images.indices[::-1])
    again = LatentCache.build(vae, turned, 5, tmp_path, quiet=True)
    assert np.allclose(
        again.means[0], LatentCache.build(vae, images, 5, tmp_path / "b", quiet=True).means[-1], atol=1e-5
    )


def test_the_size_is_known_before_it_is_built(images, vae, tmp_path):
    cache = LatentCache.build(vae, images, 5, tmp_path, quiet=True)
    assert cache.means.nbytes / 1e9 == pytest.approx(LatentCache.gigabytes(vae, len(images), 5))
    with pytest.raises(ValueError, match="at least 4 levels, not 3"):
        LatentCache.build(vae, images, 3, tmp_path / "few", quiet=True)


def test_an_array_that_is_read_outlives_another_in_its_place(tmp_path):
    def made(key, value):
        return stored(tmp_path / "a.npy", {"key": key}, (4,), np.float32, lambda array: array.fill(value))

    first = made(1, 1.0)
    assert made(1, 5.0).tolist() == [1.0] * 4  # the same key: not made again
    assert made(2, 2.0).tolist() == [2.0] * 4
    assert first.tolist() == [1.0] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "key.json"]


def test_an_array_that_the_disk_has_no_room_for_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match="GB for a cache"):
        stored(tmp_path / "a.npy", {}, (1_000,), np.float32, lambda array: None)
    assert list(tmp_path.iterdir()) == []

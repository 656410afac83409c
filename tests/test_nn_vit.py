"""Encoders: agreement with transformers, raster order, any grid, normalisation, gradients where they are due."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._device import _device_constructors
from transformers import AutoImageProcessor, AutoModel

from betadiffusion.nn.vit import ViTEncoder, grid_side, load_encoder

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS = {
    "vit": {"model_type": "vit", "image_size": 24, "patch_size": 8},
    "deit": {"model_type": "deit", "image_size": 24, "patch_size": 8},
    "vit_mae": {"model_type": "vit_mae", "image_size": 48, "patch_size": 16},
    "dinov2": {"model_type": "dinov2", "image_size": 42, "patch_size": 14},
    "dinov2_with_registers": {"model_type": "dinov2_with_registers", "image_size": 42, "patch_size": 14},
}
MEAN, STD = (0.48, 0.45, 0.40), (0.23, 0.22, 0.25)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(params=list(CONFIGS))
def config(request):
    return SMALL | CONFIGS[request.param]


def build(config, trained=False, **changes):
    encoder = ViTEncoder(config | changes, MEAN, STD, trained)
    for name, weight in encoder.named_parameters():
        if "position_embeddings" in name or "token" in name:
            nn.init.normal_(weight, std=0.5)
    return encoder


def pictures(size, count=2):
    return torch.rand(count, 3, size, size) * 2 - 1


def normalised(x):
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (x * 0.5 + 0.5 - mean) / std


@pytest.mark.parametrize("grid", [3, 2, 5])
def test_tokens_are_those_of_transformers(config, grid):
    """At the size of pretraining and at others; MAE's own forward shuffles, and is put in order again here."""
    encoder, x = build(config), pictures(grid * config["patch_size"])
    kind = config["model_type"]
    options = {} if kind.startswith("dinov2") else {"interpolate_pos_encoding": grid != 3}
    with torch.no_grad():
        output = encoder.network(normalised(x), **options)
        tokens = output.last_hidden_state
        tokens = tokens[:, {"deit": 2, "dinov2_with_registers": 5}.get(kind, 1) :]
        if kind == "vit_mae":
            assert not torch.equal(output.ids_restore[0], torch.arange(grid**2))
            tokens = tokens.gather(1, output.ids_restore[:, :, None].expand_as(tokens))
        assert torch.allclose(encoder(x), tokens, atol=1e-5)


def test_tokens_come_in_raster_order(config):
    """Without layers a token sees its own patch alone."""
    encoder, x = build(config, num_hidden_layers=0), pictures(3 * config["patch_size"], 1)
    for row, column in ((0, 1), (1, 0), (2, 2)):
        patch = slice(row * encoder.patch_size, None), slice(column * encoder.patch_size, None)
        changed = x.clone()
        changed[0, :, patch[0], patch[1]][:, : encoder.patch_size, : encoder.patch_size] *= -1
        difference = (encoder(changed) - encoder(x)).abs().amax(2)[0]
        assert difference.nonzero().flatten().tolist() == [3 * row + column]


@pytest.mark.parametrize("grid", [2, 3, 4])
def test_equal_patches_differ_by_their_place_on_every_grid(config, grid):
    tokens = build(config)(torch.zeros(1, 3, grid * config["patch_size"], grid * config["patch_size"]))[0]
    assert torch.pdist(tokens).min() > 0.01
    assert tokens.shape == (grid**2, 16)


def test_a_trained_encoder_has_gradients_everywhere(config):
    encoder = build(config, trained=True).train()
    assert encoder.network.training
    encoder(pictures(3 * config["patch_size"])).square().mul(torch.rand(16)).sum().backward()
    fixed = {name for name, weight in encoder.named_parameters() if not weight.requires_grad}
    expected = {
        "vit_mae": {"network.embeddings.position_embeddings"},  # sines and cosines
        "dinov2": {"network.embeddings.mask_token"},
        "dinov2_with_registers": {"network.embeddings.mask_token"},
    }
    assert fixed == expected.get(config["model_type"], set())
    for name, weight in encoder.named_parameters():
        if name not in fixed:
            assert weight.grad is not None, name
            if not name.endswith(("k_proj.bias", "key.bias")):  # softmax does not see what all keys share
                assert weight.grad.abs().max() > 1e-6, name


def test_a_frozen_encoder_has_no_graph_and_no_dropout(config):
    encoder = build(config, hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    nn.Sequential(encoder).train()
    x = pictures(3 * config["patch_size"]).requires_grad_()
    tokens = encoder(x)
    assert not tokens.requires_grad
    assert not any(weight.requires_grad for weight in encoder.parameters())
    assert torch.equal(tokens, encoder(x))
    trained = build(config, trained=True, hidden_dropout_prob=0.5).train()
    assert not torch.equal(trained(x), trained(x))


def test_grey_images_are_repeated_where_the_encoder_sees_colours():
    encoder, x = build(SMALL | CONFIGS["vit"]), pictures(24)[:, :1]
    assert torch.equal(encoder(x), encoder(x.expand(-1, 3, -1, -1)))
    grey = ViTEncoder(SMALL | CONFIGS["vit"] | {"num_channels": 1}, (0.5,), (0.5,), False)
    assert grey(x).shape == (2, 9, 16)


@pytest.mark.parametrize(
    ("size", "patch_size", "nearest"),
    [((30, 30), 14, "28x28 or 42x42"), ((9, 9), 14, "14x14 or 28x28"), ((32, 48), 16, "32x32 or 48x48")],
)
def test_sizes_that_do_not_fit_name_the_nearest(size, patch_size, nearest):
    with pytest.raises(
        ValueError, match=f"images of {size[0]}x{size[1]} do not fit patches of {patch_size}.*{nearest}"
    ):
        grid_side(size, patch_size)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"model_type among vit, deit.* not 'swin'"):
        ViTEncoder({"model_type": "swin"}, MEAN, STD, False)
    with pytest.raises(ValueError, match="image_std has 2 values, but the encoder has 3 channels"):
        ViTEncoder(SMALL | CONFIGS["vit"], MEAN, (0.5, 0.5), False)


def save(folder, config, **processor):
    build(config).network.save_pretrained(folder)
    settings = {"image_processor_type": "ViTImageProcessor", "image_mean": MEAN, "image_std": STD, "do_resize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | processor))


def test_a_loaded_encoder_sees_what_transformers_would_show_it(config, tmp_path):
    """From uint8 images by transformers' own processor to transformers' own features."""
    save(tmp_path, config)
    plain, weights, mean, std = load_encoder(str(tmp_path))
    encoder = ViTEncoder(json.loads(json.dumps(plain)), mean, std, False)
    encoder.network.load_state_dict(weights)
    side = 3 * config["patch_size"]
    images = np.random.default_rng(0).integers(0, 256, (2, 3, side, side), np.uint8)
    shown = AutoImageProcessor.from_pretrained(tmp_path)(list(images), return_tensors="pt").pixel_values
    tokens = encoder(torch.from_numpy(images) / 127.5 - 1)
    other = AutoModel.from_pretrained(tmp_path).eval()
    other.config.mask_ratio = 0.0
    options = {"noise": torch.arange(9.0).expand(2, -1)} if config["model_type"] == "vit_mae" else {}
    with torch.no_grad():
        assert torch.allclose(tokens, other(shown, **options).last_hidden_state[:, -9:], atol=1e-4)


def test_an_encoder_without_normalisation_gets_none(tmp_path):
    save(tmp_path, SMALL | CONFIGS["vit"], do_normalize=False)
    assert load_encoder(str(tmp_path))[2:] == ([0.0], [1.0])


def test_what_is_no_encoder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no encoder at .*nowhere"):
        load_encoder(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="model_type 'bert' is not one of vit"):
        load_encoder(str(tmp_path))


def test_loading_leaves_torch_as_it_was(tmp_path):
    """transformers exchanges torch.linspace while it loads; a device context that learnt of it then would forget it."""
    save(tmp_path, SMALL | CONFIGS["vit"])
    _device_constructors.cache_clear()
    load_encoder(str(tmp_path))
    with torch.device("meta"):
        assert torch.linspace(0, 1, 3).device.type == "meta"

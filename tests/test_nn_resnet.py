"""Residual encoder, decoder and U-Net: shapes, and that the level and the activation reach every block."""

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from betadiffusion.nn.resnet import ResnetDecoder, ResnetEncoder, norm_groups
from betadiffusion.nn.unet import LevelUNet

VAE = {
    "image_size": 16,
    "in_channels": 3,
    "latent_channels": 2,
    "channels": (8, 16, 16),
    "layers_per_block": 2,
    "attention_resolutions": (8,),
    "embedding_dim": 12,
    "activation": "silu",
}
UNET = {
    "sample_size": 8,
    "latent_channels": 2,
    "channels": (16, 32),
    "layers_per_block": 1,
    "attention_resolutions": (4,),
    "head_dim": 8,
}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def encoder_run(**kwargs):
    """A network, and a call of it that depends on the level alone."""
    net, x = ResnetEncoder(**(VAE | kwargs)), torch.randn(1, 3, 16, 16)
    return net, lambda t: net(x, _embed(t))


def decoder_run(**kwargs):
    net, z = ResnetDecoder(**(VAE | kwargs)), torch.randn(1, 2, 4, 4)
    return net, lambda t: net(z, _embed(t))


def unet_run(**kwargs):
    net, z = LevelUNet(**(UNET | kwargs)), torch.randn(1, 2, 8, 8)
    nn.init.normal_(net.net.conv_out.weight)
    return net, lambda t: net(z, torch.tensor([t]))


RUNS = [encoder_run, decoder_run, unet_run]


def _embed(t):
    return torch.linspace(-1, 1, 12).mul(6 * t).sin()[None]


def _blocks(net):
    return [m for m in net.modules() if isinstance(m, ResnetBlock2D)]


@pytest.mark.parametrize("size", [16, 32])
def test_vae_shapes(size):
    embedding = torch.randn(2, 12)
    z = ResnetEncoder(**VAE)(torch.randn(2, 3, size, size), embedding)
    assert z.shape == (2, 2, size // 4, size // 4)
    assert ResnetDecoder(**VAE)(z, embedding).shape == (2, 3, size, size)


@pytest.mark.parametrize("size", [8, 16])
def test_unet_shape_and_zero_start(size):
    out = LevelUNet(**UNET)(torch.randn(3, 2, size, size), torch.rand(3))
    assert out.shape == (3, 4, size, size)
    assert out.abs().max() == 0


@pytest.mark.parametrize(("run", "count"), [(encoder_run, 8), (decoder_run, 11), (unet_run, 8)])
def test_level_reaches_every_block(run, count):
    net, call = run()
    blocks = _blocks(net)
    assert len(blocks) == count  # layers per resolution (one more on the way up) and two in the middle
    saved = [block.time_emb_proj.weight.detach().clone() for block in blocks]
    for block in blocks:
        nn.init.zeros_(block.time_emb_proj.weight)
    with torch.no_grad():
        torch.testing.assert_close(call(0.2), call(0.7), rtol=0, atol=0)  # no other way in for the level
        for block, weight in zip(blocks, saved, strict=True):
            block.time_emb_proj.weight.copy_(weight)
            assert (call(0.2) - call(0.7)).abs().max() > 1e-4
            nn.init.zeros_(block.time_emb_proj.weight)


@pytest.mark.parametrize("run", RUNS)
def test_sigmoid_replaces_every_nonlinearity(run):
    net, call = run(activation="sigmoid")
    silu_net, silu_call = run()
    silu_net.load_state_dict(net.state_dict())
    kinds = [type(m) for m in net.modules()]
    assert nn.SiLU not in kinds
    assert kinds.count(nn.Sigmoid) == [type(m) for m in silu_net.modules()].count(nn.SiLU) > len(_blocks(net))
    assert all(isinstance(block.nonlinearity, nn.Sigmoid) for block in _blocks(net))
    assert (call(0.5) - silu_call(0.5)).abs().max() > 1e-3


@pytest.mark.parametrize("run", RUNS)
def test_dropout_acts_in_training_only(run):
    net, call = run(dropout=0.5)
    assert all(block.dropout.p == 0.5 for block in _blocks(net))
    assert not torch.equal(call(0.5), call(0.5))
    net.eval()
    torch.testing.assert_close(call(0.5), call(0.5), rtol=0, atol=0)


def test_a_sample_does_not_depend_on_its_batch():
    net, z, t = LevelUNet(**UNET), torch.randn(3, 2, 8, 8), torch.tensor([0.1, 0.5, 0.9])
    nn.init.normal_(net.net.conv_out.weight)
    torch.testing.assert_close(net(z, t)[1:2], net(z[1:2], t[1:2]), rtol=1e-4, atol=1e-4)


def test_unet_embeds_the_level_in_thousandths():
    net, seen = LevelUNet(**UNET), []
    net.net.time_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(torch.randn(2, 2, 8, 8), torch.tensor([0.0, 0.5]))
    assert seen[0].tolist() == [0.0, 500.0]


def test_head_count():
    def heads(head_dim):
        net = LevelUNet(**(UNET | {"attention_resolutions": (8, 4), "head_dim": head_dim}))
        z, t = torch.randn(1, 2, 8, 8), torch.rand(1)
        assert net(z, t).isfinite().all()
        return {m.heads for m in net.modules() if hasattr(m, "to_q")}

    assert heads(8) == {2, 4}  # 16 and 32 channels
    assert heads(None) == {8}


@pytest.mark.parametrize("channels", [(32, 64, 128), (128, 256, 512, 768), (8, 16), (6, 10), (3,), (144, 288)])
def test_groups_divide_and_hold_enough_channels(channels):
    groups = norm_groups(channels)
    assert groups <= 32
    assert all(c % groups == 0 for c in channels)
    assert groups == 1 or min(channels) // groups >= 4


@pytest.mark.parametrize(
    ("net", "change", "message"),
    [
        (ResnetEncoder, {"activation": "tanh"}, "unknown activation 'tanh'"),
        (ResnetDecoder, {"attention_resolutions": (8, 5)}, r"\[5\] do not occur"),
        (ResnetEncoder, {"image_size": 18}, "multiple of 4"),
        (LevelUNet, {"attention_resolutions": (2,)}, r"choose from \[8, 4\]"),
        (LevelUNet, {"sample_size": 7}, "multiple of 2"),
        (LevelUNet, {"head_dim": 7}, "not a multiple of 7"),
        (LevelUNet, {"activation": "relu"}, "unknown activation 'relu'"),
    ],
)
def test_bad_arguments(net, change, message):
    with pytest.raises(ValueError, match=message):
        net(**((UNET if net is LevelUNet else VAE) | change))

"""Transformer on tokens: identities at the start, places on every grid, the level in every block, bounded sigma."""

import pytest
import torch
from torch import nn

from betadiffusion.nn.dit import (
    SIGMA_MAX,
    SIGMA_START,
    DiTBlock,
    LevelDiT,
    Modulated,
    Modulator,
    SelfAttention,
    TokenDecoder,
    positions,
    to_grid,
    to_tokens,
)

SIGMA_MIN = 1e-2


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def modulator(sigma_min=SIGMA_MIN):
    return Modulator(features=12, latent_channels=3, width=16, depth=2, head_dim=8, sigma_min=sigma_min)


def decoder(kind="attention", patch_size=4):
    return TokenDecoder(
        latent_channels=3, out_channels=2, patch_size=patch_size, kind=kind, width=16, depth=2, head_dim=8
    )


def denoiser(dropout=0.0):
    return LevelDiT(latent_channels=3, width=16, depth=2, head_dim=8, dropout=dropout)


def awake(net):
    """The network with nothing left at zero, as training leaves it."""
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.2)
    return net


def on_grid(net):
    """A network as a function of (B,C,g,g) and t to the same grid, whose weights are all awake."""
    awake(net)
    if isinstance(net, Modulator):
        return lambda z, t: to_grid(torch.cat(net(to_tokens(z), t), dim=2))
    return net


NETWORKS = [modulator, decoder, lambda: decoder("mlp"), denoiser]
IDS = ["modulator", "attention", "mlp", "denoiser"]


def inputs(net, side=3, count=2):
    channels = net.f_mu.in_features if isinstance(net, Modulator) else 3
    return torch.randn(count, channels, side, side), torch.linspace(0.2, 0.8, count)


def test_tokens_and_grids_are_inverses():
    z = torch.randn(2, 5, 4, 4)
    assert torch.equal(to_grid(to_tokens(z)), z)
    assert torch.equal(to_tokens(z)[0, 4 * 1 + 2], z[0, :, 1, 2])


def test_attention_is_torchs():
    ours, theirs = SelfAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    h = torch.randn(2, 7, 16)
    assert torch.allclose(ours(h), theirs(h, h, h, need_weights=False)[0], atol=1e-5)


def test_a_block_starts_as_the_identity():
    h, embedding = torch.randn(2, 9, 16), torch.randn(2, 16)
    block = DiTBlock(16, 8, dropout=0.0)
    assert torch.equal(block(h, embedding), h)
    assert (awake(block)(h, embedding) - h).abs().max() > 0.1


def test_the_modulator_starts_at_one():
    net, h = modulator(), 5 * torch.randn(3, 9, 12)
    t = torch.tensor([0.0, 0.4, 1.0])
    s_mu, log_s_sigma = net.scales(h, t)
    assert (s_mu - 1).abs().max() < 1e-6
    assert (log_s_sigma.exp() - 1).abs().max() < 1e-6
    mean, sigma = net(h, t)
    assert torch.equal(mean, net.f_mu(h))
    assert torch.allclose(net(torch.zeros(1, 9, 12), t[:1])[1], torch.tensor(SIGMA_START))
    assert torch.allclose(sigma, net(h, t.flip(0))[1])


def test_mean_and_sigma_are_products():
    """sigma = f_sigma * s_sigma up to the squashing, which bends little in the middle of the range."""
    net, h, t = awake(modulator()), torch.randn(20, 9, 12), torch.rand(20)
    nn.init.constant_(net.f_sigma.bias, net.centre)
    s_mu, log_s_sigma = net.scales(h, t)
    mean, sigma = net(h, t)
    assert torch.allclose(mean, net.f_mu(h) * s_mu, atol=1e-6)
    product = net.f_sigma(h) + log_s_sigma
    middle = (product - net.centre).abs() < 0.2 * net.reach
    assert middle.sum() > 20
    assert torch.allclose(sigma.log()[middle], product[middle], atol=0.003 * net.reach)
    assert (sigma.flatten()[product.flatten().argsort()].diff() >= 0).all()


@pytest.mark.parametrize("size", [1e2, 1e6, 1e12])
def test_sigma_is_bounded_for_any_input(size):
    net, h = awake(modulator()), size * torch.randn(8, 9, 12)
    with torch.no_grad():
        net.network.head.weight.mul_(size)
        sigma = net(h, torch.rand(8))[1]
    assert sigma.min() >= SIGMA_MIN * (1 - 1e-5)
    assert sigma.max() <= SIGMA_MAX * (1 + 1e-5)
    assert sigma.max() > 10 * sigma.min()


def test_without_sigma_only_the_mean_is_made():
    net, h = awake(modulator(None)), torch.randn(2, 9, 12)
    mean, sigma = net(h, torch.rand(2))
    assert sigma is None
    assert mean.shape == (2, 9, 3)
    assert net.network.head.out_features == 3


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_places_are_distinct_and_bounded(side):
    table = positions(torch.empty(1, side**2, 16))
    assert table.shape == (side**2, 16)
    assert table.abs().max() <= 1
    assert side == 1 or torch.pdist(table).min() > 0.1


@pytest.mark.parametrize("side", [2, 3, 5])
@pytest.mark.parametrize("make", NETWORKS, ids=IDS)
def test_no_network_forgets_where_tokens_are(make, side):
    """Tokens that change places do not merely take their outputs along, whatever the grid."""
    net = make()
    call = on_grid(net)
    z, t = inputs(net, side)
    order = torch.randperm(side**2)
    with torch.no_grad():
        moved = call(to_grid(to_tokens(z)[:, order]), t)
        patch = call(z, t).shape[-1] // side
        taken = to_tokens(nn.functional.pixel_unshuffle(call(z, t), patch))[:, order]
        assert (to_tokens(nn.functional.pixel_unshuffle(moved, patch)) - taken).abs().max() > 1e-2


@pytest.mark.parametrize("make", NETWORKS, ids=IDS)
def test_a_sample_does_not_depend_on_its_batch(make):
    net = make()
    call = on_grid(net)
    z, t = inputs(net, count=3)
    torch.testing.assert_close(call(z, t)[1:2], call(z[1:2], t[1:2]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", NETWORKS, ids=IDS)
def test_the_level_reaches_every_block(make):
    """With the level silenced everywhere nothing depends on it; with any one place awake, the output does."""
    net = make()
    call = on_grid(net)
    z, _ = inputs(net)
    places = [m.modulation for m in net.modules() if hasattr(m, "modulation")]
    branches = sum(isinstance(m, Modulated) for m in net.modules())
    assert branches == (2 if make is NETWORKS[2] else 4)
    assert len(places) == branches + 1
    saved = [place.weight.detach().clone() for place in places]

    def difference():
        with torch.no_grad():
            return float((call(z, torch.full((2,), 0.2)) - call(z, torch.full((2,), 0.7))).abs().max())

    for place in places:
        nn.init.zeros_(place.weight)
    assert difference() == 0
    for place, weight in zip(places, saved, strict=True):
        place.weight.data.copy_(weight)
        assert difference() > 1e-4
        nn.init.zeros_(place.weight)


@pytest.mark.parametrize("make", NETWORKS, ids=IDS)
def test_every_weight_learns(make):
    net = make()
    call = on_grid(net)
    call(*inputs(net)).square().sum().backward()
    for name, weight in net.named_parameters():
        if not name.endswith("qkv.bias"):  # a third of it is of keys, which softmax does not see
            assert weight.grad.abs().max() > 1e-7, name


@pytest.mark.parametrize("patch_size", [4, 8, 14, 16])
@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_a_decoder_gives_back_the_size_of_its_patches(kind, patch_size):
    image = decoder(kind, patch_size)(torch.randn(2, 3, 3, 3), torch.rand(2))
    assert image.shape == (2, 2, 3 * patch_size, 3 * patch_size)


def test_a_token_becomes_the_patch_at_its_place():
    net = decoder("mlp")
    z, t = inputs(net)
    changed = z.clone()
    changed[:, :, 1, 2] += 1
    difference = (net(changed, t) - net(z, t)).abs().amax((0, 1))
    assert difference[4:8, 8:12].min() > 0
    difference[4:8, 8:12] = 0
    assert difference.max() < 1e-6
    changed = awake(decoder("attention"))
    assert (changed(z + (z == z[0, 0, 0, 0]), t) - changed(z, t)).abs()[0].amax(0).min() > 0  # attention: everywhere


@pytest.mark.parametrize("side", [2, 8])
def test_the_denoiser_starts_at_zero(side):
    out = denoiser()(torch.randn(3, 3, side, side), torch.rand(3))
    assert out.shape == (3, 6, side, side)
    assert out.abs().max() == 0


def test_dropout_acts_in_training_only():
    net = denoiser(dropout=0.5)
    call = on_grid(net)
    z, t = inputs(net)
    assert not torch.equal(call(z, t), call(z, t))
    net.eval()
    assert torch.equal(call(z, t), call(z, t))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SelfAttention(48, 32), "width of 48 cannot be split into heads of 32"),
        (lambda: LevelDiT(latent_channels=3, width=18, depth=1, head_dim=6, dropout=0), "use a multiple of 4"),
        (lambda: decoder("cnn"), "unknown decoder 'cnn'; choose mlp or attention"),
        (lambda: modulator(0.0), "sigma_min must lie between 0 and 0.3, not 0.0"),
        (lambda: denoiser()(torch.zeros(1, 3, 2, 4), torch.zeros(1)), "square grid of tokens is needed, not 2x4"),
        (lambda: modulator()(torch.zeros(1, 8, 12), torch.zeros(1)), "8 tokens do not fill a square grid"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()

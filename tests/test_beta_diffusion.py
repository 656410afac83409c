"""beta-Diffusion's autoencoder: the seed's formulas, the whole range of beta, and an earlier prototype's faults."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from betadiffusion import BetaDiffusionAutoencoder, BetaDiffusionPipeline, MultiBetaVAE, NonlinearDenoiser
from betadiffusion.gaussian import standard_normal_kl
from betadiffusion.models.presets import (
    BETA_DIFFUSION_PRESETS,
    BetaDiffusionArguments,
    beta_diffusion_preset,
    denoiser_preset,
)
from betadiffusion.objectives import multi_beta_objective
from betadiffusion.training.diffusion_stage import DiffusionStage, encode_with_velocity

VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL = {
    "encoder": VIT | {"model_type": "vit", "image_size": 16, "patch_size": 4},
    "sample_size": 16,
    "latent_channels": 3,
    "head_dim": 8,
}
LEVEL = SMALL | {"sigma_from": "level", "boundary": True}
ENCODERS = {
    "vit": {"model_type": "vit", "image_size": 24, "patch_size": 8},
    "vit_mae": {"model_type": "vit_mae", "image_size": 48, "patch_size": 16},
    "dinov2": {"model_type": "dinov2", "image_size": 42, "patch_size": 14},
    "dinov2_with_registers": {"model_type": "dinov2_with_registers", "image_size": 42, "patch_size": 14},
}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def build(awake=True, **changes):
    """A model; `awake`: with nothing left at zero, as training leaves it."""
    model = BetaDiffusionAutoencoder(**(SMALL | changes)).eval()
    if awake:
        for part in (model.modulator.network, model.decoder):
            for weight in part.parameters():
                nn.init.normal_(weight, std=0.2)
    return model


def images(count=3, size=16, channels=3):
    return torch.rand(count, channels, size, size) * 2 - 1


def kl(model, x, t):
    mean, sigma = model.posterior(x, t)
    return standard_normal_kl(mean, sigma)


# what the seed writes down


def test_at_the_start_the_modulator_is_the_identity():
    model, x = build(awake=False), images()
    h = model.features(x)
    for level in (0.0, 0.3, 1.0):
        mean, sigma = model.posterior(x, torch.tensor(level))
        s_mu, log_s_sigma = model.modulator.scales(h, torch.full((3,), level))
        assert (s_mu - 1).abs().max() < 1e-6
        assert (log_s_sigma.exp() - 1).abs().max() < 1e-6
        assert torch.allclose(mean.flatten(2).transpose(1, 2), model.modulator.f_mu(h), atol=1e-6)
        assert torch.equal(sigma, model.posterior(x, torch.tensor(0.0))[1])


def test_the_loss_is_the_seeds_up_to_a_constant():
    model, x, t = build(), images(), torch.tensor([0.0, 0.4, 1.0])
    out = model(x, t, torch.randn(3, *model.latent_shape))
    loss = multi_beta_objective(x, *out, model.schedule(t)).loss
    beta = torch.tensor([1.0, 100**0.4, 100.0])
    divergence = (out.mean.square() + out.sigma.square() - 1 - 2 * out.sigma.log()).flatten(1).sum(1) / 2
    seed = (x - out.x_hat).square().flatten(1).sum(1) + beta * divergence
    assert torch.allclose(loss - seed, torch.tensor(x[0].numel() / 2 * math.log(math.pi)), atol=0.01)


def test_balance_learns_the_scale_of_each_level():
    model = build(balance=True)
    t = torch.tensor([0.0, 0.5, 1.0])
    assert not any("pixel_sigma" in name for name, _ in build().named_parameters())
    assert build().pixel_sigma(t).square().tolist() == pytest.approx([0.5] * 3)
    model.pixel_sigma_curve.log_value.data = torch.linspace(-2, 0, 65)
    assert model.pixel_sigma(t).log().tolist() == pytest.approx([-2, -1, 0], abs=1e-5)


def test_the_forward_pass_is_encode_sample_decode():
    model, x, t = build(), images(), torch.tensor([0.1, 0.5, 0.9])
    generator = torch.Generator().manual_seed(3)
    eps = torch.randn(3, *model.latent_shape, generator=generator)
    with torch.no_grad():
        out = model(x, t, eps)
        z = model.encode_sample(x, t, torch.Generator().manual_seed(3))
        assert torch.allclose(z, out.mean + out.sigma * eps)
        assert torch.allclose(model.decode(z, t), out.x_hat, atol=1e-6)
        assert torch.equal(model.encode_mean(x, t), out.mean)


def test_features_spare_the_encoder():
    model, x, t = build(), images(), torch.tensor([0.1, 0.5, 0.9])
    h, eps = model.features(x), torch.randn(3, *model.latent_shape)
    calls = []
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    given = model(x, t, eps, features=h)
    assert not calls
    for part, other in zip(given, model(x, t, eps), strict=True):
        assert torch.equal(part, other)
    assert h.shape == (3, 16, 16)
    assert len(calls) == 1


@pytest.mark.parametrize("make", [build, lambda: MultiBetaVAE(sample_size=16, channels=(16, 32)).eval()])
def test_both_autoencoders_have_a_posterior(make):
    model, x, t = make(), images(), torch.tensor([0.1, 0.5, 0.9])
    mean, sigma = model.posterior(x, t)
    assert mean.shape == sigma.shape == (3, *model.latent_shape)
    assert torch.equal(mean, model.encode_mean(x, t))
    eps = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(model.encode_sample(x, t, torch.Generator().manual_seed(1)), mean + sigma * eps)


# the whole range of beta


@pytest.mark.parametrize("beta_range", [(1.0, 100.0), (1e-3, 0.5), (10.0, 1e6)])
def test_the_level_spans_the_configured_range(beta_range):
    """The same weights give the same codes at the ends of any range: nothing is tied to [1, 100]."""
    low, high = beta_range
    model, other, x = build(), build(beta_min=low, beta_max=high), images()
    other.load_state_dict(model.state_dict())
    ends = other.schedule.level(torch.tensor([low, math.sqrt(low * high), high]))
    assert ends.tolist() == pytest.approx([0, 0.5, 1], abs=1e-5)
    assert other.schedule(ends).kl.tolist() == pytest.approx([low, math.sqrt(low * high), high], rel=1e-4)
    with torch.no_grad():
        means = [[m.encode_mean(x, level) for level in ends] for m in (model, other)]
    for one, same in zip(*means, strict=True):
        assert torch.allclose(one, same, atol=1e-5)
    assert min(float((a - b).abs().max()) for a, b in pairwise(means[0])) > 0.05


def test_training_makes_the_dial_turn():
    """From level to level the rate falls and the error rises, and both are near what theory has for these images.

    Twelve independent values, uniform in [-1, 1], each seen in 16 pixels: a Gaussian channel of that variance has rate
    12/2 log(2 * 16/3 / beta).
    """
    model = build(awake=False, sample_size=8, beta_min=0.1, beta_max=10.0).train()
    x = nn.functional.interpolate(torch.rand(64, 3, 2, 2) * 2 - 1, 8)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(150):
        t = (torch.rand(1) + torch.arange(64) / 64) % 1
        out = model(x, t, torch.randn(64, *model.latent_shape))
        optimizer.zero_grad()
        (multi_beta_objective(x, *out, model.schedule(t)).loss.mean() / x[0].numel()).backward()
        optimizer.step()
    model.eval()
    terms = []
    for t in torch.linspace(0, 1, 6):
        with torch.no_grad():
            out = model(x, t.expand(64), torch.randn(64, *model.latent_shape))
            terms.append(multi_beta_objective(x, *out, model.schedule(t.expand(64))))
    rates, errors = (torch.stack([getattr(term, name).mean() for term in terms]) for name in ("rate", "squared_error"))
    assert (rates.diff() < 0).all()
    assert (errors.diff() > 0).all()
    theory = 6 * (2 * 16 / 3 / model.schedule(torch.linspace(0, 1, 6)).kl).log()
    assert torch.allclose(rates, theory, rtol=0.25, atol=1.5)


def test_mean_sigma_and_image_follow_the_level():
    model, x = build(), images()
    t = torch.tensor(0.2), torch.tensor(0.8)
    (mean, sigma), (other_mean, other_sigma) = (model.posterior(x, level) for level in t)
    z = torch.randn(3, *model.latent_shape)
    for one, other in ((mean, other_mean), (sigma, other_sigma), (model.decode(z, t[0]), model.decode(z, t[1]))):
        assert (one - other).abs().max() > 0.02
    assert torch.allclose(model.encode_mean(x, t[0]), model.encode_mean(x, t[0].expand(3)))


def test_the_means_velocity_can_be_followed():
    model, x, t = build(awake=False, sigma_from="level"), images(), torch.tensor([0.0, 0.5, 1.0])
    nn.init.normal_(model.modulator.network.head.weight, std=0.3)
    f, velocity = encode_with_velocity(model, model.features(x), t)
    assert torch.allclose(f, model.encode_mean(x, t), atol=1e-3)
    h = model.features(x)
    with sdpa_kernel(SDPBackend.MATH):  # the others have no forward-mode derivative
        exact = torch.func.jvp(lambda level: model.posterior_of(h, level)[0], (t,), (torch.ones(3),))[1]
    assert torch.allclose(velocity[1], exact[1], rtol=0.05, atol=0.05)
    assert velocity.abs().max() > 0.1


# sigma


def test_sigma_is_bounded_whatever_the_image():
    model = build(sigma_min=1e-2)
    with torch.no_grad():
        model.modulator.f_sigma.weight.mul_(1e6)
        for x in (images() * 1e4, torch.zeros(3, 3, 16, 16), images()):
            sigma = model.posterior(x, torch.rand(3))[1]
            assert sigma.min() > 0.0099
            assert sigma.max() < 2.001
            assert kl(model, x, torch.rand(3)).isfinite().all()


def test_a_boundary_holds_by_construction():
    model, x, one = build(**LEVEL), images(), torch.ones(3)
    with torch.no_grad():
        assert model.encode_mean(x, one).abs().max() < 1e-5
        assert kl(model, x, one).max() < 1e-6
        mean, sigma = model.posterior(x, torch.tensor([0.0, 0.4, 0.9]))
        assert torch.equal(sigma, model.sigma(torch.tensor([0.0, 0.4, 0.9]))[:, None, None, None].expand_as(mean))
        assert (model.sigma(torch.linspace(0, 1, 50)).diff() > 0).all()
        assert kl(build(sigma_from="level"), x, one).min() > 0.01


def test_sigma_of_the_level_is_calibrated_by_the_images():
    model = build()
    assert not model.sigma_curve.log_value.requires_grad
    mean = torch.linspace(0.1, 0.9, 65)
    mean[30] = 0.01  # a dip, which samplers could not walk over
    model.calibrate_sigma(mean[:, None] * torch.tensor([0.5, 2.0, 1.0, 1.0]))  # whose geometric mean is `mean`
    mean[30] = mean[29]
    assert torch.allclose(model.sigma_curve.log_values(), mean.log())
    assert torch.allclose(model.sigma(torch.linspace(0, 1, 65)), mean, atol=1e-6)
    assert model.sigma(torch.tensor(0.5, dtype=torch.float64)).shape == ()


# the encoder


@pytest.mark.parametrize("kind", ENCODERS)
def test_gradients_reach_an_encoder_that_is_trained_and_no_other(kind):
    config = VIT | ENCODERS[kind]
    size = 3 * config["patch_size"]
    for trained in (True, False):
        model = build(encoder=config, sample_size=size, train_encoder=trained).train()
        assert model.encoder.network.training == trained
        x, t = images(2, size), torch.tensor([0.3, 0.7])
        assert model.features(x).requires_grad == trained
        out = model(x, t, torch.randn(2, *model.latent_shape))
        multi_beta_objective(x, *out, model.schedule(t)).loss.sum().backward()
        for name, weight in model.named_parameters():
            inside = name.startswith("encoder.")
            assert weight.requires_grad == (weight.grad is not None), name
            if weight.requires_grad and not name.endswith(("k_proj.bias", "key.bias")):
                assert weight.grad.abs().max() > 0, name
            assert trained or not (inside and weight.requires_grad), name
        if trained:
            reached = sum(w.numel() for w in model.encoder.parameters() if w.grad is not None)
            assert reached > 0.8 * sum(w.numel() for w in model.encoder.parameters())


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("grid", [2, 3, 4])
def test_every_patch_size_gives_back_the_size_of_the_image(kind, grid):
    config = VIT | ENCODERS[kind]
    size = grid * config["patch_size"]
    model, x = build(encoder=config, sample_size=size, decoder="attention"), images(2, size)
    assert model.latent_shape == (3, grid, grid)
    assert model.image_shape == (3, size, size)
    out = model(x, torch.rand(2), torch.randn(2, *model.latent_shape))
    assert out.x_hat.shape == x.shape
    assert out.mean.shape == out.sigma.shape == (2, *model.latent_shape)


def test_other_sizes_than_its_own_are_encoded_too():
    model = build()
    assert model.decode(model.encode_mean(images(2, 24), torch.tensor(0.5)), torch.tensor(0.5)).shape[2:] == (24, 24)
    with pytest.raises(ValueError, match="18x18 do not fit patches of 4: use 16x16 or 20x20"):
        model.encode_mean(images(2, 18), torch.tensor(0.5))


def test_by_default_a_small_transformer_on_an_8x8_grid():
    with torch.device("meta"):
        model = BetaDiffusionAutoencoder(sample_size=64, in_channels=1)
        assert model.latent_shape == (16, 8, 8)
        assert model.image_shape == (1, 64, 64)
        assert model.encoder.channels == 1
        assert model(torch.empty(2, 1, 64, 64), torch.empty(2), torch.empty(2, 16, 8, 8)).x_hat.shape == (2, 1, 64, 64)


def test_a_pretrained_encoder_comes_with_its_weights_and_normalisation(tmp_path):
    other = build(encoder=VIT | ENCODERS["vit_mae"], sample_size=48)
    other.encoder.network.save_pretrained(tmp_path)
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    arguments = {key: value for key, value in SMALL.items() if key != "encoder"} | {"sample_size": 32}
    model = BetaDiffusionAutoencoder.from_encoder(str(tmp_path), **arguments, train_encoder=False)
    assert model.config.image_mean == [0.1, 0.2, 0.3]
    assert model.config.image_std == [0.4, 0.5, 0.6]
    weights = other.encoder.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in model.encoder.state_dict().items())
    x = images(2, 32)
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.config.image_mean, model.config.image_std))
    other.encoder.image_mean, other.encoder.image_std = torch.zeros(1), torch.ones(1)
    assert torch.allclose(model.features(x), other.features(2 * ((x + 1) / 2 - mean) / std - 1), atol=1e-5)


# saving, and the rest of the library


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("changes", [{}, LEVEL | {"balance": True, "train_encoder": False}], ids=["image", "level"])
def test_a_saved_model_is_the_same_model(kind, changes, tmp_path):
    config = VIT | ENCODERS[kind]
    size = 2 * config["patch_size"]
    arguments = changes | {"encoder": config, "sample_size": size, "image_mean": (0.1, 0.2, 0.3)}
    model = build(**arguments)
    if not changes:
        model.calibrate_sigma(torch.linspace(0.2, 0.9, 65)[:, None])
    model.save_pretrained(tmp_path)
    again = BetaDiffusionAutoencoder.from_pretrained(tmp_path)
    assert {name: w.requires_grad for name, w in model.named_parameters()} == {
        name: w.requires_grad for name, w in again.named_parameters()
    }
    x, t, eps = images(2, size), torch.rand(2), torch.randn(2, *model.latent_shape)
    for one, same in zip(model(x, t, eps), again(x, t, eps), strict=True):
        assert torch.equal(one, same)
    assert torch.equal(model.sigma(t), again.sigma(t))
    prefixes = ("encoder.", "modulator.", "decoder.", "sigma_curve.", "pixel_sigma_curve.")
    assert all(name.startswith(prefixes) for name in model.state_dict())
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]


class Pictures:
    """Sixteen random pictures."""

    name, image_shape, skipped = "pictures", (3, 16, 16), []

    def __len__(self):
        return 16

    def images(self, indices):
        return np.random.default_rng(0).integers(0, 256, (16, 3, 16, 16), np.uint8)[indices]


def token_denoiser(model):
    return NonlinearDenoiser(model.latent_shape, architecture="dit", width=16, depth=1, head_dim=8, knots=5)


@pytest.mark.parametrize("sigma_from", ["image", "level"])
def test_the_diffusion_trains_on_its_tokens(sigma_from):
    model = build(sigma_from=sigma_from)
    if sigma_from == "image":
        model.calibrate_sigma(torch.linspace(0.2, 0.9, 65)[:, None])
    denoiser = token_denoiser(model)
    stage = DiffusionStage(denoiser, model, Pictures(), Pictures(), None, torch.device("cpu"))
    levels = torch.linspace(0, 1, 9)
    assert torch.allclose(denoiser.sigma(levels), model.sigma(levels), atol=1e-6)
    losses = stage.losses(denoiser, np.arange(4), stage.draw(4, torch.Generator().manual_seed(0)))
    assert losses.shape == (4,)
    losses.sum().backward()
    assert denoiser.network.network.head.weight.grad.abs().max() > 0
    assert all(weight.grad is None for weight in model.parameters())


def test_a_pipeline_around_it_saves_loads_and_draws(tmp_path):
    model = build(**LEVEL)
    denoiser = token_denoiser(model).eval()
    denoiser.preconditioning.log_sigma.copy_(model.sigma_curve.log_values().detach())
    pipeline = BetaDiffusionPipeline(model, denoiser)
    pipeline.save_pretrained(tmp_path)
    again = BetaDiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(again.vae, BetaDiffusionAutoencoder)
    x = images() / 2 + 0.5
    for call in (
        lambda p: p(num_images=3, steps=3, generator=torch.Generator().manual_seed(1), output_type="pt"),
        lambda p: p.reconstruct(x, 0.5, output_type="pt"),
        lambda p: p.denoise(x, 0.7, steps=3, output_type="pt"),
    ):
        drawn, same = (call(p).images for p in (pipeline, again))
        assert drawn.shape == (3, 3, 16, 16)
        assert torch.equal(drawn, same)


def test_the_token_denoiser_is_one_of_the_architectures():
    with torch.device("meta"):
        model = NonlinearDenoiser(**denoiser_preset("dit"))
        fits = BetaDiffusionAutoencoder(**beta_diffusion_preset("scratch32")).latent_shape
        assert model.network(torch.empty(2, *fits), torch.empty(2)).shape == (2, 2 * fits[0], *fits[1:])
    assert model.num_parameters() == 7_315_232
    with pytest.raises(ValueError, match="'channels' has no effect with 'dit'"):
        denoiser_preset("dit", channels=(8,))
    with pytest.raises(ValueError, match=r"needs a square grid, not \(3, 4, 8\)"):
        NonlinearDenoiser((3, 4, 8), architecture="dit")


def test_presets_name_an_encoder_and_fit_the_model():
    known = set(BetaDiffusionAutoencoder.__init__.__wrapped__.__annotations__) - {"return"}
    assert set(BetaDiffusionArguments.__annotations__) == known
    for name in BETA_DIFFUSION_PRESETS:
        arguments = beta_diffusion_preset(name, latent_channels=5)
        assert arguments["latent_channels"] == 5
        if isinstance(arguments["encoder"], str):
            patch_size = 14 if "dinov2" in name else 16
            arguments["encoder"] = {"model_type": "vit", "num_hidden_layers": 1, "patch_size": patch_size}
        with torch.device("meta"):
            side = BetaDiffusionAutoencoder(**arguments).latent_shape[1]
        assert side == (8 if name.startswith(("tiny", "scratch")) else arguments["sample_size"] // patch_size)
    with pytest.raises(ValueError, match="'sigma_min' has no effect with 'level'"):
        beta_diffusion_preset("scratch32", sigma_from="level", sigma_min=0.1)
    with pytest.raises(ValueError, match="unknown beta-Diffusion preset 'dinov2b': did you mean 'dinov2-b'"):
        beta_diffusion_preset("dinov2b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_size": 18}, "18x18 do not fit patches of 4: use 16x16 or 20x20"),
        ({"in_channels": 2}, "the encoder sees 3 channels, the images have 2"),
        ({"decoder": "cnn"}, "unknown decoder 'cnn'"),
        ({"sigma_from": "noise"}, "unknown sigma_from 'noise'; choose image or level"),
        ({"boundary": True}, "needs sigma_from 'level', not 'image'"),
        ({"beta_min": 0.0}, "0 < beta_min < beta_max, not 0.0, 100.0"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_a_calibration_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="nothing to calibrate"):
        build(sigma_from="level").calibrate_sigma(torch.ones(65, 1))
    for bad in (torch.ones(64, 1), torch.zeros(65, 1)):
        with pytest.raises(ValueError, match="calibration needs 65 positive values"):
            build().calibrate_sigma(bad)

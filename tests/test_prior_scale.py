"""A sigma of each channel is a prior with a scale of each: the VAE's laws, and that all who count nats or draw know."""

import math

import numpy as np
import pytest
import torch

import stage_cases
from betadiffusion import BetaDiffusionPipeline, MultiBetaVAE, NonlinearDenoiser
from betadiffusion.app import actions
from betadiffusion.app.actions import Walk
from betadiffusion.app.runs import Run
from betadiffusion.data import Subset, load
from betadiffusion.evaluation.directions import find_directions
from betadiffusion.evaluation.encoders import Encoder
from betadiffusion.gaussian import gaussian_kl, standard_normal_kl
from betadiffusion.objectives import multi_beta_objective
from betadiffusion.pipelines.directions import Codes, slope
from betadiffusion.pipelines.refinement import elbo
from betadiffusion.report.curves import level_curves
from betadiffusion.report.generate import default_sampler, samples
from betadiffusion.training.config import OptimisationConfig, RunConfig
from betadiffusion.training.joint_stage import JointModel, JointStage

SMALL = {"sample_size": 16, "channels": (8, 16), "latent_channels": 4, "embedding_dim": 16, "schedule": "log_beta"}
LEVEL = 0.5


def channelwise(boundary=True):
    """A VAE with a sigma of each channel, none like another."""
    torch.manual_seed(0)
    vae = MultiBetaVAE(**SMALL, sigma_from="channel", boundary=boundary).eval().requires_grad_(False)
    vae.sigma_curve.log_value.add_(torch.linspace(-1, 2, 4))
    return vae


@pytest.mark.parametrize("channel_noise", [True, False])
def test_the_calibrated_noise_ends_at_that_of_the_prior(channel_noise):
    vae = MultiBetaVAE(**SMALL, sigma_from="image", channel_noise=channel_noise, knots=5)
    sigma = torch.tensor([0.1, 0.4, 1.2, 1.05, 1.0])[:, None] * torch.tensor([1.0, 0.9, 1.0, 0.5])
    sigma[-1] = 1
    vae.calibrate_sigma(sigma)
    one = torch.ones(())
    assert float(vae.sigma(one)) == pytest.approx(1)
    torch.testing.assert_close(vae.prior_scale(one), torch.ones(4 if channel_noise else 1, 1, 1))
    assert (vae.sigma(torch.linspace(0, 1, 50)).diff() >= 0).all()


def with_a_wide_prior():
    """Its prior at level 1, which is learned without the boundary, is none of unit scale."""
    vae = channelwise(boundary=False)
    vae.sigma_curve.log_value[-1].copy_(torch.linspace(-1, 0, 4))
    return vae


def small_denoiser(vae):
    return NonlinearDenoiser(width=16, depth=1, latent_shape=vae.latent_shape)


@pytest.fixture(scope="module")
def images():
    return Subset(load("shapes", size=16), np.arange(0, 480_000, 60_000)).keep()


@pytest.fixture
def pixels(images):
    return images.images(np.arange(len(images)))


@pytest.fixture
def x(pixels):
    return torch.from_numpy(pixels) / 127.5 - 1


def draw(vae, x):
    """Means, sigmas and noise of a draw at LEVEL, and all that Eq. 4 needs of it, by the VAE's own pass."""
    t = torch.full((len(x),), LEVEL)
    mean, sigma = vae.posterior(x, t)
    eps = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    return mean, sigma, eps, t, vae(x, t, eps)


def test_the_kl_is_to_a_prior_with_a_scale_of_each_channel(x):
    vae, t = channelwise(), torch.linspace(0.1, 0.9, len(x))
    tau = vae.prior_scale(t)
    assert tau.std(1).min() > 0.05
    torch.testing.assert_close(tau.log().mean(1), torch.zeros(len(x), 1, 1))  # sigma(t): their geometric mean
    mean, sigma = vae.posterior(x, t)
    eps = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    out = vae(x, t, eps)
    # KL( N(f, sigma^2) || N(0, tau^2) )
    rate = gaussian_kl(mean, sigma.square(), torch.zeros(()), tau.square())
    torch.testing.assert_close(standard_normal_kl(out.mean, out.sigma), rate, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(vae.decode(mean + sigma * eps, t), out.x_hat, rtol=1e-4, atol=1e-4)
    for level, scale in zip(t, tau, strict=True):
        torch.testing.assert_close(vae.prior_scale(level), scale)


def test_one_noise_is_that_of_all_channels(x):
    vae, t = channelwise(), torch.linspace(0.1, 0.9, len(x))
    mean, sigma = vae.posterior(x, t)
    torch.testing.assert_close(sigma, vae.sigma(t)[:, None, None, None].expand_as(mean))
    drawn = vae.encode_sample(x, t, torch.Generator().manual_seed(1))
    eps = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn, vae.encode_mean(x, t) + vae.sigma(t)[:, None, None, None] * eps)
    torch.testing.assert_close(vae.prior_scale(torch.tensor(1.0)), torch.ones(4, 1, 1))  # the boundary
    assert float(vae.sigma(torch.tensor(1.0))) == pytest.approx(1.0)
    assert (vae.sigma(torch.linspace(0, 1, 201)).diff() > 0).all()
    assert torch.equal(MultiBetaVAE(**SMALL).prior_scale(t), torch.ones(len(t), 1, 1, 1))  # the paper's N(0, I)


def test_samples_start_from_the_prior(monkeypatch):
    vae = with_a_wide_prior()
    starts = []
    monkeypatch.setattr(BetaDiffusionPipeline, "walk", lambda self, z, *rest, **options: starts.append(z) or z)
    BetaDiffusionPipeline(vae, small_denoiser(vae))(5_000, generator=torch.Generator().manual_seed(0))
    tau = vae.prior_scale(torch.tensor(1.0))
    assert (tau - 1).abs().max() > 0.1
    torch.testing.assert_close(starts[0].std(0), tau, rtol=0.05, atol=0)


def test_the_report_s_samples_start_from_the_prior(monkeypatch):
    vae = with_a_wide_prior()
    starts = []
    monkeypatch.setattr("betadiffusion.samplers.sample", lambda predict, z, *rest, **options: starts.append(z) or z)
    pipeline = BetaDiffusionPipeline(vae, small_denoiser(vae))
    samples(pipeline, default_sampler(pipeline, 20), 5_000, RunConfig())
    torch.testing.assert_close(torch.cat(starts).std(0), vae.prior_scale(torch.tensor(1.0)), rtol=0.05, atol=0)


def test_images_of_the_prior_are_decoded_in_its_units():
    vae = channelwise()
    (made,) = BetaDiffusionPipeline(vae).sample_prior(1, LEVEL, [torch.Generator().manual_seed(3)], "pt").images
    z = torch.randn((1, *vae.latent_shape), generator=torch.Generator().manual_seed(3))
    expected = vae.decode(vae.prior_scale(torch.tensor(LEVEL)) * z, torch.tensor(LEVEL))
    torch.testing.assert_close(made, (expected[0] / 2 + 0.5).clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_the_report_counts_nats_to_the_prior(pixels, x):
    vae = channelwise()
    *_, out = draw(vae, x)
    row = level_curves(BetaDiffusionPipeline(vae), pixels, None, len(pixels), 0, progress=False)[10]
    assert row["level"] == LEVEL
    assert row["rate"] == pytest.approx(float(standard_normal_kl(out.mean, out.sigma).mean()), rel=1e-4)
    assert row["sigma"] == pytest.approx(float(out.sigma.square().mean().sqrt()), rel=1e-4)


def test_evaluation_takes_codes_in_units_of_the_prior(images, x):
    vae = channelwise()
    *_, out = draw(vae, x)
    mean, sigma = Encoder("vae", vae, (3, 16, 16)).codes(images, LEVEL)
    np.testing.assert_allclose(mean, out.mean.flatten(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sigma, out.sigma.flatten(1), rtol=1e-5)


def test_a_direction_is_scaled_as_the_latents_are_that_it_moves(images):
    vae = channelwise()
    pipeline = BetaDiffusionPipeline(vae.requires_grad_(True))
    mean, sigma = Encoder("vae", vae, (3, 16, 16)).codes(images, LEVEL)
    (found,) = find_directions(pipeline, images, images, LEVEL, factors=[images.factor_names[0]])
    vae.requires_grad_(False)
    unscaled = (found.vector / vae.prior_scale(torch.tensor(LEVEL))).flatten().double().numpy()
    hues = images.factors(np.arange(len(images)))[:, 0]
    own = slope(Codes(LEVEL, vae.latent_shape, mean, mean, sigma), "own", hues, hues)
    np.testing.assert_allclose(unscaled, own.vector.flatten(), rtol=1e-4, atol=1e-6)
    x = images.images(np.arange(2))
    moved = pipeline.edit(x, found.vector, 2.0, LEVEL, denoise=False, code="mean", output_type="pt").images
    z = pipeline.encode(x, LEVEL) + 2 * vae.prior_scale(torch.tensor(LEVEL)) * own.vector
    expected = (vae.decode(z, torch.tensor(LEVEL)) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-4)


def test_the_explorer_counts_nats_to_the_prior(tmp_path, pixels, x):
    vae = channelwise()
    run = Run(tmp_path, BetaDiffusionPipeline(vae))
    _, (rate, _) = actions.keep(run, torch.from_numpy(pixels[:1]), LEVEL, Walk(1, 0))
    *_, out = draw(vae, x[:1])
    assert rate == pytest.approx(float(standard_normal_kl(out.mean, out.sigma)), rel=1e-4)


def test_refinement_climbs_the_objective_that_was_trained(x):
    vae = channelwise()
    mean, sigma, eps, t, out = draw(vae, x)
    trained = multi_beta_objective(x, out.x_hat, out.mean, out.sigma, out.pixel_sigma, vae.schedule(t)).loss
    torch.testing.assert_close(elbo(vae, x, mean, sigma, sigma * eps, t), -trained, rtol=1e-4, atol=1e-2)


def test_joint_training_denoises_on_the_path(x):
    vae, seen = channelwise(), []
    model = JointModel(vae, small_denoiser(vae), stop_gradient=True)
    t = torch.full((len(x),), LEVEL)
    eps = torch.randn((len(x), *vae.latent_shape), generator=torch.Generator().manual_seed(1))
    model.denoiser.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    out = model(x, t, eps)
    torch.testing.assert_close(out.f, vae.encode_mean(x, t))
    torch.testing.assert_close(seen[0], vae.encode_mean(x, t) + vae.sigma(t)[:, None, None, None] * eps)


def test_joint_training_moves_the_scale(tmp_path, images):
    torch.manual_seed(0)
    vae = MultiBetaVAE(**SMALL, sigma_from="channel")
    config = OptimisationConfig(images=32, batch_size=8, warmup_images=8, validate_images=32, checkpoint_images=32)
    stage = JointStage(vae, small_denoiser(vae), images, images, torch.device("cpu"))
    trained = stage_cases.fit(config, tmp_path, stage)
    assert math.isfinite(trained.history[-1]["denoising_loss"])
    assert trained.plain.vae.prior_scale(torch.tensor(LEVEL)).std() > 0

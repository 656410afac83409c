"""Baselines that differ from the VAE in their loss, each by its defining property."""

import math

import pytest
import torch
from torch import nn

from baseline_cases import CLASSES, small, stage_of, trained, training
from betadiffusion.baselines.factor_vae import CodeDiscriminator
from betadiffusion.baselines.presets import PRESETS
from betadiffusion.baselines.runs import build_baseline
from betadiffusion.gaussian import log_density, standard_normal_kl
from betadiffusion.training.config import RunConfig
from stage_cases import fit
from test_baselines import Images, batch, run_of


def parts(model, x, eps):
    """Mean, sigma, draw and -log p(x|z) of images."""
    mean, sigma = model.posterior(x)
    z = mean + sigma * eps
    return mean, sigma, z, model.nll(x, model.decoded(z))


def noise(model, count=6):
    return torch.randn(count, *model.latent_shape, generator=torch.Generator().manual_seed(1))


def test_the_capacity_rises_with_the_images_and_the_rate_follows(tmp_path):
    model, x = small("annealed_vae", gamma=10.0, capacity=4.0, capacity_images=4_000), batch()
    model.begin(1_000)
    mean, sigma, _, nll = parts(model, x, noise(model))
    expected = nll + 10 * (standard_normal_kl(mean, sigma) - 1).abs()
    torch.testing.assert_close(model(x, noise(model)), expected / x[0].numel())
    found = trained(model, Images(), tmp_path, count=8_000, learning_rate=1e-2)
    numbers = found.numbers(batch(50), torch.Generator().manual_seed(0))
    assert numbers["capacity"] == 4
    assert numbers["rate"] == pytest.approx(4, abs=0.4)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("annealed_vae", {"capacity_images": 900}),
        ("hierarchical_vae", {"kl_warmup_images": 900}),
        ("factor_vae", {"discriminator_width": 8, "discriminator_depth": 2}),
        ("cvae", {}),
    ],
)
def test_a_run_cut_anywhere_ends_with_the_same_bits(name, changes, tmp_path):
    def made():
        torch.manual_seed(0)
        return stage_of(small(name, **changes), Images())

    plan = training(600, checkpoint_images=200)
    whole = fit(plan, tmp_path / "whole", made())
    fit(plan, tmp_path / "cut", made(), stop_at=400)
    resumed = fit(plan, tmp_path / "cut", made())
    assert whole.history == resumed.history
    for before, after in zip(whole.ema.parameters(), resumed.ema.parameters(), strict=True):
        assert torch.equal(before, after)


def test_infovae_between_the_vae_and_the_mmd_vae():
    x, prior = batch(), torch.randn(6, 4, 1, 1, generator=torch.Generator().manual_seed(3))
    plain = small("info_vae", alpha=0.0, mmd_lambda=1.0)
    mean, sigma, _, nll = parts(plain, x, noise(plain))
    torch.testing.assert_close(plain(x, noise(plain), prior), (nll + standard_normal_kl(mean, sigma)) / x[0].numel())
    heavy = small("info_vae", mmd_lambda=50.0)
    heavy.load_state_dict(plain.state_dict())
    rise = (heavy(x, noise(plain), prior) * x[0].numel() - nll).detach()
    assert float(rise.std()) < 1e-3  # every image carries the batch's
    assert float(rise[0]) > 0
    with pytest.raises(ValueError, match="alpha <= 1"):
        small("info_vae", alpha=0.2, mmd_lambda=0.5)


def test_infovae_brings_the_codes_to_the_prior(tmp_path):
    found = []
    for mmd_lambda in (0.001, 1000.0):
        torch.manual_seed(0)
        model = trained(small("info_vae", mmd_lambda=mmd_lambda), Images(), tmp_path / str(mmd_lambda), count=3_000)
        found.append(model.numbers(batch(100), torch.Generator().manual_seed(0)))
    assert found[1]["mmd"] < 0.02 < found[0]["mmd"]


def test_beta_tcvae_with_unit_weights_is_the_elbo_at_the_draw():
    model, x = small("beta_tcvae", beta=1.0), batch()
    model.train_count = 1_000
    mean, sigma, z, nll = parts(model, x, noise(model))
    expected = nll + log_density(z, mean, sigma) - log_density(z, torch.zeros_like(z), torch.ones(()))
    torch.testing.assert_close(model(x, noise(model)), expected / x[0].numel())
    heavy = small("beta_tcvae", beta=3.0, estimator="mss")
    light = small("beta_tcvae", beta=1.0, estimator="mss")
    for other in (heavy, light):
        other.load_state_dict(model.state_dict())
    tc = heavy.own_numbers(mean, sigma, z, None)["tc"]  # where the batch is the data set
    rise = (heavy(x, noise(model)) - light(x, noise(model))).mean() * x[0].numel()
    assert float(rise.detach()) == pytest.approx(2 * tc, rel=1e-3)


def test_dip_vae_ii_leaves_a_white_aggregate_alone():
    mean = math.sqrt(0.75) * torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])[:, :, None, None]
    sigma = torch.full_like(mean, 0.5)
    ii = small("dip_vae_ii", lambda_od=5.0, lambda_d=7.0)
    kl = standard_normal_kl(mean, sigma)
    torch.testing.assert_close(ii.regulariser(mean, sigma, mean), kl)
    i = small("dip_vae_i", lambda_od=5.0, lambda_d=7.0)
    torch.testing.assert_close(i.regulariser(mean, sigma, mean), kl + 7 * 2 * 0.25**2)
    same = mean[:, :1].expand_as(mean)  # both dimensions alike: a covariance of 0.75 off the diagonal
    torch.testing.assert_close(ii.regulariser(same, sigma, same) - kl, torch.full((4,), 5 * 2 * 0.75**2))


def test_the_discriminator_finds_the_total_correlation_of_a_gaussian():
    torch.manual_seed(0)
    matrix = torch.tensor([[1.0, 0.7, 0.0], [0.7, 1.0, 0.3], [0.0, 0.3, 1.0]])
    factor, generator = torch.linalg.cholesky(matrix), torch.Generator().manual_seed(0)

    def codes(count):
        return torch.randn(count, 3, generator=generator) @ factor.T

    opponent = CodeDiscriminator(3, 64, 2)
    optimizer = torch.optim.Adam(opponent.parameters(), 3e-3)
    for step in range(1_200):
        if step == 900:
            optimizer.param_groups[0]["lr"] = 3e-4
        opponent.show(codes(512), torch.rand(512, 3, generator=generator))
        optimizer.zero_grad()
        opponent.losses(opponent).mean().backward()
        optimizer.step()
    tc = -0.5 * float(torch.logdet(matrix))
    assert float(opponent.log_ratio(codes(20_000)).mean()) == pytest.approx(tc, rel=0.1)


def test_the_discriminator_stands_still_in_the_models_loss():
    model, x = small("factor_vae", gamma=3.0, discriminator_width=8, discriminator_depth=2), batch()
    opponent, draws = model.make_opponent(), model.draw(6, torch.Generator().manual_seed(0))
    losses = model(x, *draws, opponent=opponent)
    mean, sigma, z, nll = parts(model, x, draws[0])
    expected = nll + standard_normal_kl(mean, sigma) + 3 * opponent(z.flatten(1))
    torch.testing.assert_close(losses, expected / x[0].numel())
    losses.sum().backward()
    assert all(weight.grad is None for weight in opponent.parameters())
    joint, permuted = opponent.codes
    torch.testing.assert_close(joint, z[:3].flatten(1))  # the halves are of different images
    torch.testing.assert_close(permuted.sort(0).values, z[3:].flatten(1).sort(0).values)
    loss = opponent.losses(opponent)
    verdicts = nn.functional.binary_cross_entropy_with_logits(
        opponent(torch.cat(opponent.codes)), torch.tensor([1.0] * 3 + [0.0] * 3), reduction="none"
    )
    torch.testing.assert_close(loss, verdicts)


def test_a_batch_that_counts_as_a_whole_is_not_cut(tmp_path, capsys):
    assert run_of("info_vae", tmp_path / "run", "--vae_training.accumulation", "2") == 2
    assert "vae_training.accumulation must be 1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cvae", "info_vae", "factor_vae", "beta_tcvae", "dip_vae_i"])
def test_latents_may_be_maps(name):
    config = RunConfig(model=name)
    config.vae.preset, config.vae.channels, config.vae.latent_channels = "ldm256", [16, 32], 2
    config.vae.attention_resolutions = []
    model = build_baseline(config, (1, 16, 16), CLASSES)
    assert model.latent_shape == (2, 8, 8)
    opponent, generator = model.make_opponent(), torch.Generator().manual_seed(0)
    given = {} if opponent is None else {"opponent": opponent}
    if PRESETS[name].by_class:
        given["labels"] = torch.arange(6) % 3
    assert model(batch(), *model.draw(6, generator), **given).isfinite().all()
    assert all(math.isfinite(value) for value in model.numbers(batch(), generator, **given).values())
    assert model.sample(2, generator).shape == (2, 1, 16, 16)

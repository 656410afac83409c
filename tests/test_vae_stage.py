"""Stage "vae", whatever autoencoder it trains: how levels are drawn, and what its objective is in the course of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from betadiffusion.data import Subset, load
from betadiffusion.gaussian import standard_normal_kl
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.schedules import LogBeta, Sinusoidal
from betadiffusion.training.config import LevelsConfig
from betadiffusion.training.level_draws import LevelDraw, spread_levels
from betadiffusion.training.vae_stage import VAEStage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    return Subset(load("shapes", size=16), np.arange(0, 480_000, 60_000)).keep()


def model():
    torch.manual_seed(0)
    return MultiBetaVAE(
        sample_size=16, channels=(8, 16), latent_channels=4, embedding_dim=16, knots=5, schedule="log_beta",
        sigma_from="image",
    )  # fmt: skip


# Levels


def draw(distribution, schedule=None, count=1000, **grid):
    made = LevelDraw(LevelsConfig(distribution=distribution, **grid), schedule or LogBeta(1, 100))
    return made(spread_levels(count, torch.Generator().manual_seed(0))).double()


def test_levels_follow_their_distribution():
    beta = LogBeta(1, 100)(draw("uniform_beta")).kl.sort().values
    assert torch.allclose(beta, 1 + 99 * (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000, atol=0.06)
    log_beta = LogBeta(1, 100)(draw("stratified")).kl.log().sort().values
    assert torch.allclose(log_beta, torch.linspace(0, np.log(100), 1000, dtype=torch.float64), atol=0.01)
    squares = draw("stratified", power=2.0).sort().values  # a share p of them lies below p^2
    assert torch.allclose(squares, ((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000) ** 2, atol=2e-3)
    grid = LogBeta(1, 100)(draw("grid", betas=[1.0, 3.0, 100.0], count=300)).kl
    assert {round(float(b), 4): int(n) for b, n in zip(*grid.unique(return_counts=True), strict=True)} == {
        1.0: 100, 3.0: 100, 100.0: 100,
    }  # fmt: skip
    assert set(draw("grid", Sinusoidal(), values=[0.0, 1.0]).tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("distribution", "schedule", "grid", "message"),
    [
        ("uniform_beta", Sinusoidal(), {}, "need a schedule 'log_beta'"),
        ("grid", Sinusoidal(), {"betas": [1.0]}, "need a schedule 'log_beta'"),
        ("grid", None, {}, "either levels.betas or levels.values"),
        ("grid", None, {"betas": [0.5]}, r"levels.betas must lie from 1 to 100, not \[0.5\]"),
        ("grid", None, {"values": [1.5]}, "levels.values must lie from 0 to 1"),
    ],
)
def test_levels_that_a_schedule_cannot_have_are_refused(distribution, schedule, grid, message):
    with pytest.raises(ValueError, match=message):
        draw(distribution, schedule, **grid)


# The objective


def test_the_weight_of_the_kl_rises_in_training_and_is_whole_in_validation(images, tmp_path):
    built = model()
    stage = VAEStage(built, images, images, CPU, levels=LevelsConfig(kl_warmup_images=100))
    draws, indices, losses = stage.draw(4, torch.Generator().manual_seed(0)), np.arange(4), {}
    with torch.no_grad():
        validated = stage.validate(built, 0, tmp_path)
        for seen in (0, 25, 100, 1000):
            stage.begin(seen)
            losses[seen] = stage.losses(built, indices, draws)
            assert stage.validate(built, 0, tmp_path) == validated
    assert torch.equal(losses[100], losses[1000])
    assert torch.allclose(losses[25] - losses[0], (losses[100] - losses[0]) / 4, rtol=1e-3, atol=1e-6)
    assert torch.equal(losses[100], VAEStage(built, images, images, CPU).losses(built, indices, draws))


def test_free_nats_come_at_three_tenths_of_a_training_and_are_gone_at_eight(images, tmp_path):
    built, losses = model(), {}
    t, eps = torch.tensor([0.0, 0.5]), torch.randn(2, *built.latent_shape, generator=torch.Generator().manual_seed(0))
    for nats in (0.0, 64.0):
        stage = VAEStage(built, images, images, CPU, levels=LevelsConfig(free_nats=nats), images=1000)
        validated = stage.validate(built, 0, tmp_path)
        for seen in (0, 299, 300, 550, 800, 1000):
            stage.begin(seen)
            losses[nats, seen] = stage.losses(built, np.arange(2), (t, eps))
        stage.begin(300)
        assert stage.validate(built, 0, tmp_path) == validated
    x = torch.from_numpy(images.images(np.arange(2))) / 127.5 - 1
    out = built(x, t, eps)
    weight = built.schedule(t).kl / x[0].numel()
    kl = standard_normal_kl(out.mean, out.sigma)
    for seen, left in ((0, 0.0), (299, 0.0), (300, 1.0), (550, 0.5), (800, 0.0), (1000, 0.0)):
        free = 64 * left * torch.tensor([1.0, 0.5**4])  # (1 - t)^4 of it
        more = weight * (standard_normal_kl(out.mean, out.sigma, free) - kl)
        assert torch.allclose(losses[64.0, seen] - losses[0.0, seen], more, rtol=1e-4, atol=1e-6)
        assert ((more > 1e-4) == (left > 0)).all()


def test_low_levels_come_first(images):
    """A share p of levels u^power lies below p^power, and the power goes from the first to the last in a line."""
    levels = LevelsConfig(power=1.0, start_power=4.0)
    stage = VAEStage(model(), images, images, CPU, levels=levels, images=600)
    shares = (torch.arange(1000) + 0.5) / 1000
    for seen, power in ((0, 4.0), (200, 3.0), (600, 1.0), (900, 1.0)):
        stage.begin(seen)
        drawn = stage.draw(1000, torch.Generator().manual_seed(0))[0].sort().values
        assert torch.allclose(drawn, shares**power, atol=4e-3)
    in_two = replace(levels, first_share=0.25, first_power=0.5)
    after = VAEStage(model(), images, images, CPU, levels=in_two, images=600)
    for seen, power in ((0, 0.5), (149, 0.5), (150, 4.0), (375, 2.5), (600, 1.0)):
        after.begin(seen)
        drawn = after.draw(1000, torch.Generator().manual_seed(0))[0].sort().values
        assert torch.allclose(drawn ** (1 / power), shares, atol=1e-3)
    always = VAEStage(model(), images, images, CPU, levels=levels)
    always.begin(0)
    assert torch.allclose(always.draw(1000, torch.Generator().manual_seed(0))[0].sort().values, shares, atol=1e-3)

"""Refinement by feeding back, and by ascent on the ELBO."""

import pytest
import torch
from torch import nn

from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.pipelines.refinement import elbo, refine
from betadiffusion.training.vae_stage import last_layer

LEVELS = torch.tensor([0.9, 0.5, 0.1])


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return MultiBetaVAE(sample_size=16, in_channels=1, latent_channels=4, channels=(8, 8), schedule="log_beta").eval()


@pytest.fixture
def x():
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_step_is_the_reconstruction_of_the_step_before(vae, x):
    steps = list(refine(vae, x, LEVELS))
    assert [step.level for step in steps] == pytest.approx(LEVELS.tolist())
    with torch.no_grad():
        for step in steps:
            t = torch.full((3,), step.level)
            x = vae.decode(vae.encode_mean(x, t), t).clamp(-1, 1)
            torch.testing.assert_close(step.images, x)


def test_draws_come_from_the_generator(vae, x):
    runs = [[s.images for s in refine(vae, x, LEVELS, generator=torch.Generator().manual_seed(s))] for s in (0, 0, 1)]
    torch.testing.assert_close(runs[0], runs[1])
    assert not torch.equal(runs[0][-1], runs[2][-1])


def test_ascent_raises_the_elbo(vae, x):
    plain, raised = (next(iter(refine(vae, x, LEVELS[:1], ascents=n, rate=0.2))).elbo for n in (0, 20))
    assert (raised > plain).all()


def test_an_ascent_where_the_kl_weighs_nothing_is_refused(x):
    vae = MultiBetaVAE(sample_size=16, in_channels=1, latent_channels=4, channels=(8, 8), schedule="sinusoidal").eval()
    with pytest.raises(ValueError, match="leave out level 0"):
        next(refine(vae, x, torch.tensor([0.5, 0.0]), ascents=1))
    assert all(step.images.isfinite().all() for step in refine(vae, x, torch.tensor([0.5, 0.0])))


def test_the_elbo_has_the_gradient_that_is_followed(vae, x):
    t = torch.full((3,), 0.5)
    mean = torch.ones(3, 4, 1, 1, requires_grad=True)
    sigma, noise = torch.full_like(mean, 0.3), torch.zeros_like(mean)
    gradient = torch.autograd.grad(elbo(vae, x, mean, sigma, noise, t).sum(), mean)[0]
    shift = 1e-3 * gradient
    with torch.no_grad():
        before, after = (elbo(vae, x, m, sigma, noise, t) for m in (mean, mean + shift))
    torch.testing.assert_close(after - before, (shift * gradient).flatten(1).sum(1), rtol=0.1, atol=0.05)


def test_an_ascent_is_a_step_of_sigma_squared_over_the_kls_weight(x):
    """Where the decoder reads nothing Eq. 4 is the KL alone, and a step at rate 1 takes mean to mean (1 - sigma^2)."""
    torch.manual_seed(0)
    shape = {"sample_size": 16, "in_channels": 1, "latent_channels": 4, "channels": (8, 8)}
    vae = MultiBetaVAE(**shape, schedule="log_beta", sigma_from="level").eval()
    nn.init.zeros_(dict(vae.named_parameters())[last_layer(vae)])
    plain, raised = (next(refine(vae, x, LEVELS[1:], ascents=n, rate=1.0)).elbo for n in (0, 1))
    t = torch.full((3,), 0.5)
    with torch.no_grad():
        mean, sigma = vae.posterior(x, t)
        gained = (mean.square() * (1 - (1 - sigma.square()).square())).flatten(1).sum(1) / 2
    torch.testing.assert_close(raised - plain, vae.schedule(t).kl * gained, rtol=1e-3, atol=1e-3)

"""The ladder VAE: its bound against the likelihood itself, and its groups."""

import math

import pytest
import torch

from baseline_cases import small
from betadiffusion.baselines.hierarchical_vae import Gaussian, relative
from betadiffusion.baselines.runs import build_baseline
from betadiffusion.gaussian import log_density
from betadiffusion.training.config import RunConfig
from test_baselines import batch

DRAWS = 6_000


def tiny():
    """Images of 8x8 and 22 latents, untrained, its posteriors near enough to the priors to sample from one another."""
    config = RunConfig(model="hierarchical_vae")
    config.vae.channels, config.vae.latent_channels, config.baseline.group_channels = [8, 8], 2, 1
    torch.manual_seed(0)
    model = build_baseline(config, (1, 8, 8)).eval()
    with torch.no_grad():
        for weight in (model.encoder.head.weight, *(group.posterior.weight for group in model.ladder)):
            weight.mul_(0.5)
    return model


def draws(model, count, seed=0):
    return model.draw(count, torch.Generator().manual_seed(seed))


def log_mean_exp(x):
    return torch.logsumexp(x, 0) - math.log(len(x))


@torch.no_grad()
def test_the_bound_lies_below_the_likelihood_and_importance_sampling_reaches_it():
    model, images = tiny(), torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1
    for image in images:
        x = image.expand(DRAWS, -1, -1, -1)
        # what the model says of an image by itself: E p(x|z) over draws of the priors
        output = model.down(None, draws(model, DRAWS, seed=1)).output
        likelihood = float(log_mean_exp(-model.nll(x, output)))
        weights = model.log_weight(x, draws(model, DRAWS, seed=2))
        bound = -float(model(x, *draws(model, DRAWS, seed=3)).mean()) * x[0].numel()
        error = float(weights.std()) / math.sqrt(DRAWS)
        assert bound == pytest.approx(float(weights.mean()), abs=5 * error)
        assert bound < likelihood - 0.4
        assert float(log_mean_exp(weights)) == pytest.approx(likelihood, abs=0.08)
        # bounds by K draws (Burda et al. 2016), of different draws, rise with K
        rising = [float(weights[a:b].reshape(k, -1).logsumexp(0).mean()) - math.log(k) for k, a, b in
                  ((1, 0, 2_000), (10, 2_000, 4_000), (100, 4_000, 6_000))]  # fmt: skip
        assert bound - 5 * error < rising[0] < rising[1] < rising[2] < likelihood + 0.08


@torch.no_grad()
def test_the_rates_of_the_groups_are_their_log_ratios_on_average():
    model = tiny()
    x = (torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1).expand(DRAWS, -1, -1, -1)
    found = model.down(x, draws(model, DRAWS))
    rates = model.rates(found)
    assert rates.shape == (DRAWS, 3)
    for k, (z, p, q) in enumerate(zip(found.draws, found.priors, found.posteriors, strict=True)):
        ratios = log_density(z, q.mean, q.sigma) - log_density(z, p.mean, p.sigma)
        error = float((ratios - rates[:, k]).std()) / math.sqrt(DRAWS)
        assert float(rates[:, k].mean()) > 10 * error  # or there would be nothing to tell apart
        assert float(ratios.mean()) == pytest.approx(float(rates[:, k].mean()), abs=4 * error)


@torch.no_grad()
def test_a_code_is_all_groups_and_decodes_to_the_reconstruction():
    model, x = small("hierarchical_vae").eval(), batch()
    code = model.encode_mean(x)
    assert model.latent_shapes == [(4, 1, 1), (4, 4, 4), (4, 8, 8)]
    assert code.shape == (6, *model.latent_shape)
    torch.testing.assert_close(model.decode(code), model.reconstruct(x))
    for part in code.flatten(1).split([4, 64, 256], dim=1):
        changed = code.flatten(1).clone()
        start = (code.flatten(1) == part[:, :1]).nonzero()[0, 1]
        changed[:, start] += 3
        assert not torch.allclose(model.decode(changed), model.decode(code))


def test_the_share_of_the_kl_rises_to_one():
    model, x = small("hierarchical_vae", kl_warmup_images=1_000), batch()
    eps = draws(model, 6)
    found = model.down(x, eps)
    for images, share in ((0, 0), (250, 0.25), (5_000, 1)):
        model.begin(images)
        expected = model.nll(x, found.output) + share * model.rates(found).sum(1)
        torch.testing.assert_close(model(x, *eps), expected / x[0].numel())
    numbers = model.numbers(x, torch.Generator().manual_seed(0))
    assert sum(numbers[f"rate{k}"] for k in (1, 2, 3)) == pytest.approx(numbers["rate"], rel=1e-5)
    assert sum(weight.numel() for weight in model.ladder.parameters()) > 0


@pytest.mark.parametrize("groups", [2, 4])
def test_a_ladder_has_as_many_groups_as_there_are_grids(groups):
    with pytest.raises(ValueError, match="from 3 to 3 groups"):
        small("hierarchical_vae", groups=groups)


@torch.no_grad()
def test_groups_are_over_the_finest_grids():
    config = RunConfig(model="hierarchical_vae")
    config.vae.channels, config.vae.latent_channels = [8, 8, 16], 2
    model = build_baseline(config, (1, 16, 16)).eval()
    assert model.latent_shapes == [(2, 1, 1), (4, 4, 4), (4, 8, 8)]
    torch.testing.assert_close(model.decode(model.encode_mean(batch())), model.reconstruct(batch()))


def test_the_posterior_is_relative_to_the_prior():
    prior = Gaussian(torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 0.5))
    same = relative(prior, torch.zeros(1, 2, 1, 1))
    torch.testing.assert_close(same, prior, atol=1e-4, rtol=0)  # LEAST_SIGMA above it
    away = relative(prior, torch.tensor([3.0, -30.0])[None, :, None, None])
    assert float(away.mean) == 3.5  # three sigmas of the prior
    assert 0 < float(away.sigma) < 1e-4

"""Eq. 4 over all levels at once, on Gaussian data with linear networks, where the optimum is known in closed form."""

import math

import pytest
import torch
from torch import nn

from betadiffusion.nn.curves import LevelCurve, RisingLevelCurve
from betadiffusion.objectives import multi_beta_objective
from betadiffusion.schedules import Linear

PIXELS, LATENTS, STRONG, WEAK = 8, 2, 1.0, 0.1  # variances of the first two and of the other pixels
LEVELS = (0.2, 0.3, 0.4, 0.5, 0.65)


class LinearVAE(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(PIXELS, LATENTS, bias=False), nn.Linear(LATENTS, PIXELS, bias=False)
        self.gain_in, self.gain_out = LevelCurve(33, 1.0), LevelCurve(33, 1.0)
        self.sigma = RisingLevelCurve(33, start=0.3, fixed_end=True)
        self.pixel_sigma = LevelCurve(33, 1.0)

    def loss(self, x, t, eps):
        mean = self.gain_in(t)[:, None] * self.encoder(x)
        z = mean + self.sigma(t)[:, None] * eps
        x_hat = self.gain_out(t)[:, None] * self.decoder(z)
        return multi_beta_objective(x, x_hat, mean, self.sigma(t), self.pixel_sigma(t), Linear()(t))


def analytic(t):
    """sigma^2, rate, s^2 at the optimum (docs/formalism.md, section 2)."""
    r = t / (1 - t)
    u = min(1.0, r * (PIXELS - LATENTS) * WEAK / (STRONG * (PIXELS - r * LATENTS)))
    return u, -LATENTS / 2 * math.log(u), ((PIXELS - LATENTS) * WEAK + LATENTS * STRONG * u) / PIXELS


@pytest.fixture(scope="module")
def trained():
    generator = torch.Generator().manual_seed(0)
    scale = torch.cat([torch.full((LATENTS,), STRONG), torch.full((PIXELS - LATENTS,), WEAK)]).sqrt()
    model, steps, batch = LinearVAE(), 2500, 512
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = scale * torch.randn(batch, PIXELS, generator=generator)
        t = 0.85 * (torch.rand(1, generator=generator) + torch.arange(batch) / batch).remainder(1)
        model.loss(x, t, torch.randn(batch, LATENTS, generator=generator)).loss.mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        decay.step()
    x = scale * torch.randn(100_000, PIXELS, generator=generator)
    return model, x, torch.randn(100_000, LATENTS, generator=generator)


def test_a_sigma_of_each_channel_fills_the_channels_like_water():
    variances, s = torch.tensor([4.0, 1.0, 0.25, 0.01], dtype=torch.float64), torch.tensor(0.5)
    weights = Linear()(torch.tensor(0.375, dtype=torch.float64))
    r = weights.kl / weights.rec
    generator = torch.Generator().manual_seed(0)
    white = torch.linalg.qr(torch.randn(1000, 8, generator=generator, dtype=torch.float64)).Q * 1000**0.5
    x, eps = variances.sqrt() * white[:, :4], white[:, 4:]
    log_sigma = torch.full((4,), -1.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_sigma], max_iter=200, line_search_fn="strong_wolfe")

    def loss():  # of linear networks, the best for these sigmas
        optimizer.zero_grad()
        sigma = -torch.nn.functional.softplus(-log_sigma)  # at most 1
        sigma = sigma.exp().expand_as(x)
        gain = (1 - sigma.square()).sqrt()
        mean = gain * x / variances.sqrt()
        x_hat = variances.sqrt() * gain * (mean + sigma * eps)
        value = multi_beta_objective(x, x_hat, mean, sigma, s, weights).loss.mean()
        value.backward()
        return value

    optimizer.step(loss)
    sigma2 = (-2 * torch.nn.functional.softplus(-log_sigma)).exp()
    # lambda sigma^2 / (2 s^2) - r/2 log sigma^2 is least at sigma^2 = r s^2 / lambda
    torch.testing.assert_close(sigma2, (r * s**2 / variances).clamp(max=1), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("level", LEVELS)
def test_sigma_rate_and_s_reach_their_analytic_values(trained, level):
    model, x, eps = trained
    t = torch.full((len(x),), level)
    with torch.no_grad():
        terms = model.loss(x, t, eps)
        sigma, s = float(model.sigma(t[0])), float(model.pixel_sigma(t[0]))
    sigma2, rate, s2 = analytic(level)
    assert sigma == pytest.approx(math.sqrt(sigma2), rel=0.05)
    assert float(terms.rate.mean()) == pytest.approx(rate, rel=0.05)
    assert s == pytest.approx(math.sqrt(s2), rel=0.05)
    # and s is the root mean squared error of its level
    assert s == pytest.approx(math.sqrt(float(terms.squared_error.mean()) / PIXELS), rel=0.05)

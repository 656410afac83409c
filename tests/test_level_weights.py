"""Level weights in closed form, and which levels training draws."""

import pytest
import torch

from betadiffusion.objectives import snr_weight
from betadiffusion.training.level_draws import logit_normal, spread_levels
from betadiffusion.training.level_weights import BINS, LearnedUncertainty, LossRecord, level_weights
from gaussian_cases import SCALES, a, along, data, sigma, untrained


def test_weights_of_a_level_in_closed_form():
    model = untrained("velocity")
    t = torch.linspace(0, 1, 257)
    snr = a(t).square() * SCALES.square().mean() / sigma(t).square()
    plain, clipped = snr / (1 + snr), snr.clamp(max=5) / (1 + snr)
    for kind, closed in (("sigma", plain), ("min_snr", clipped), ("uniform", torch.ones(257))):
        weights = level_weights(kind, model.preconditioning)
        assert weights.mean() == pytest.approx(1, abs=1e-5)
        assert (weights > 0).all()
        shape = (closed / closed.mean())[:-20]  # at the very end the closed form is 0 and the weight is not
        assert torch.allclose(weights[:-20], shape, rtol=0.02, atol=0.02)


def test_snr_weights_turn_errors_into_those_of_their_papers():
    """Errors in units of what is left over, weighed, are the plain error of eps, and min(snr, 5) times that of f."""
    model, x = untrained("velocity"), data(seed=3).float()
    t = torch.full((len(x),), 0.5)
    noise = sigma(t)[:, None, None, None]
    f = along(x)(t)[0]
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    z = f + noise * eps
    eps_hat = 0.8 * model.predict(z, t, t - 1)[0]  # any guess
    variance = (a(t[0]) * SCALES)[:, None, None].square()
    snr, scale = variance / sigma(t[0]).square(), model.preconditioning(z, t, t - 1).eps_scale
    ours = ((eps_hat - eps) / scale).square()
    assert torch.allclose(snr_weight("sigma", snr) * ours, (eps_hat - eps).square(), rtol=0.01)
    error = (z - noise * eps_hat - f).square() / variance
    assert torch.allclose(snr_weight("min_snr", snr) * ours, snr.clamp(max=5) * error, rtol=0.01)


def test_learned_uncertainty_ends_at_the_mean_error_of_each_level():
    """The loss L / v + log v is least where v is the mean of L; each output has its own."""
    learned = LearnedUncertainty(2)
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        t = torch.rand(512, generator=generator)
        means = torch.stack([0.2 + t, 3 * torch.ones_like(t)], 1)
        errors = means * 2 * torch.rand(512, 2, generator=generator)
        optimizer.zero_grad()
        learned(errors, t).mean().backward()
        optimizer.step()
    t = torch.tensor([0.1, 0.5, 0.9])
    first, second = learned.variance_curve
    assert torch.allclose(first(t), 0.2 + t, rtol=0.1)
    assert torch.allclose(second(t), torch.tensor(3.0), rtol=0.1)


def test_logit_normal_levels_have_its_quantiles():
    t = logit_normal(spread_levels(10_000, torch.Generator().manual_seed(0)), 0.7, 1.3)
    expected = (0.7 + 1.3 * torch.tensor([-1.2816, 0.0, 1.2816])).sigmoid()
    assert torch.allclose(torch.quantile(t, torch.tensor([0.1, 0.5, 0.9])), expected, atol=2e-3)
    assert float(logit_normal(torch.zeros(1), 0.0, 1.0)) == 0


def test_importance_draws_where_the_loss_is_and_changes_no_mean():
    record, generator = LossRecord(), torch.Generator().manual_seed(0)
    for _ in range(300):
        t = record.draw(spread_levels(512, generator))
        record.divide(1 + 9 * (t > 0.75).float(), t)
        record.update(lambda tensor, _: tensor)
    t = record.draw(spread_levels(8_192, generator))
    # roots of the mean squares are 1 and 10: density 10/13 in the last quarter, 1/13 in each other, a tenth even
    assert float((t > 0.75).float().mean()) == pytest.approx(0.1 * 0.25 + 0.9 * 10 / 13, abs=0.03)
    losses = 1 + 9 * (t > 0.75).float()
    divided = record.divide(losses, t)
    assert float(divided.mean()) == pytest.approx(0.75 * 1 + 0.25 * 10, rel=0.02)
    assert divided.std() < 0.5 * losses.std()
    assert record.density().mean() == pytest.approx(1)
    assert len(record.density()) == BINS


def test_the_record_adds_up_over_processes():
    t, losses = torch.rand(64, generator=torch.Generator().manual_seed(0)), torch.arange(64.0)
    whole, half = LossRecord(), LossRecord()
    whole.divide(losses, t)
    whole.update(lambda tensor, _: tensor)
    half.divide(losses[::2], t[::2])
    other = LossRecord()
    other.divide(losses[1::2], t[1::2])
    half.update(lambda tensor, how: tensor + other.pending if how == "sum" else None)
    assert torch.allclose(whole.mean_square, half.mean_square)
    assert (half.pending == 0).all()

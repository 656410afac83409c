import math

import pytest
import torch

from betadiffusion import levels
from betadiffusion.schedules import Linear, LogBeta, Sinusoidal, convert_beta, make_schedule

SCHEDULES = [Linear(), Linear(3.0), Sinusoidal(), Sinusoidal(2.0), LogBeta(1, 100), LogBeta(0.1, 30)]
T = torch.linspace(0, 1, 41, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_derivatives_are_those_of_the_values(schedule):
    t = T.clone().requires_grad_()
    weights = schedule(t)
    for value, slope in ((weights.rec, weights.d_rec), (weights.kl, weights.d_kl)):
        exact = (
            torch.autograd.grad(value.sum(), t, retain_graph=True, allow_unused=True)[0] if value.requires_grad else 0
        )
        assert torch.allclose(slope, torch.zeros_like(T) + exact, atol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_weight_of_kl_over_reconstruction_rises_with_the_level(schedule):
    weights = schedule(T[:-1])
    assert ((weights.kl / weights.rec).diff() > 0).all()


def test_end_values_are_the_papers():
    for schedule in (Linear(), Sinusoidal()):
        first, last = (schedule(torch.tensor(x, dtype=torch.float64)) for x in (0.0, 1.0))
        assert (float(first.rec), float(first.kl)) == pytest.approx((1, 0))
        assert last.rec == pytest.approx(0, abs=1e-15)
        assert last.kl == 1
    weights = LogBeta(2, 50)(T)
    assert weights.kl[0] == pytest.approx(2)
    assert weights.kl[-1] == pytest.approx(50)
    assert (weights.rec == 1).all()


def test_the_sinusoid_keeps_its_digits_near_the_end():
    t = torch.tensor(1 - 1e-6, dtype=torch.float64)
    assert Sinusoidal()(t).rec.item() == pytest.approx((math.pi / 2 * 1e-6) ** 2 / 2, rel=1e-6)


def test_level_inverts_log_beta():
    schedule = LogBeta(0.5, 200)
    assert torch.allclose(schedule.level(schedule(T).kl), T)


@pytest.mark.parametrize("bounds", [(0, 1), (2, 1), (-1, 3), (1, 1)])
def test_a_range_of_beta_that_is_none_is_refused(bounds):
    with pytest.raises(ValueError, match="0 < beta_min < beta_max"):
        LogBeta(*bounds)


def test_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="unknown schedule 'cosine'"):
        make_schedule("cosine")


@pytest.mark.parametrize("source", ["summed", "mean", "normalised"])
@pytest.mark.parametrize("target", ["summed", "mean", "normalised"])
def test_beta_survives_the_round_trip_between_conventions(source, target):
    size = {"pixels": 12288, "latents": 32}
    there = convert_beta(4.0, source, target, **size)
    assert convert_beta(there, target, source, **size) == pytest.approx(4.0)


def test_a_converted_beta_gives_the_same_optimum():
    """The loss under each convention is the summed one times a constant."""
    error, kl, pixels, latents = 37.0, 5.0, 100, 10
    summed = error + 4.0 * kl
    mean = error / pixels + convert_beta(4.0, "summed", "mean", pixels=pixels, latents=latents) * kl
    both = error / pixels + convert_beta(4.0, "summed", "normalised", pixels=pixels, latents=latents) * kl / latents
    assert mean * pixels == pytest.approx(summed)
    assert both * pixels == pytest.approx(summed)


def test_levels_fall_from_start_to_end():
    knots = torch.linspace(0, 1, 65)
    rate = 100 * (1 - knots) ** 3
    for made in (levels.uniform(7, 0.9, 0.1), levels.even_in(rate, knots, 7, 0.9, 0.1)):
        assert len(made) == 8
        assert (made[0], made[-1]) == (0.9, 0.1)
        assert (made.diff() < 0).all()


def test_even_spacings_are_even_in_their_quantity():
    knots = torch.linspace(0, 1, 2001, dtype=torch.float64)
    rate = 100 * (1 - knots) ** 3
    gained = (100 * (1 - levels.even_in(rate, knots, 10)) ** 3).diff()
    assert torch.allclose(gained, torch.full_like(gained, 10.0), rtol=0.02)


def test_a_flat_quantity_falls_back_to_even_levels():
    assert torch.allclose(levels.even_in(torch.ones(9), torch.linspace(0, 1, 9), 4), levels.uniform(4))


def test_interpolation_reproduces_lines_and_holds_the_ends():
    knots = torch.tensor([0.0, 0.1, 0.5, 1.0])
    x = torch.tensor([[-1.0, 0.0, 0.05], [0.3, 1.0, 2.0]])
    expected = 3 * x.clamp(0, 1) + 1
    assert torch.allclose(levels.interpolate(x, knots, 3 * knots + 1), expected)
    vectors = levels.interpolate(x, knots, torch.stack([knots, -knots], 1))
    assert torch.allclose(vectors, torch.stack([x.clamp(0, 1), -x.clamp(0, 1)], -1))

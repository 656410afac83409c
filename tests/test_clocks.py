"""Clocks: closed forms on a path that is known, levels that fall, steps that err alike."""

import functools
import math
from itertools import pairwise

import pytest
import torch

from betadiffusion import clocks, samplers
from betadiffusion.clocks import Path, clock_levels
from betadiffusion.gaussian import split
from betadiffusion.levels import integral, interpolate, uniform
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.oracle import MixtureOracle, example_path
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.pipelines.walk_levels import denoiser_path, fit_clock, walk_levels
from betadiffusion.schedules import Linear, LogBeta, Sinusoidal

KNOTS = torch.linspace(0, 1, 1001, dtype=torch.float64)
POWER = 4.0


def line_path(schedule=None, error=None):
    """f = 2 (1 - t) x, x ~ N(0, 1), sigma = 0.05 + 0.95 t."""
    return Path(KNOTS, POWER * (1 - KNOTS) ** 2, torch.full_like(KNOTS, POWER), 0.05 + 0.95 * KNOTS, schedule, error)


def bend(t):
    """A path that turns in the middle."""
    return (1 - ((t - 0.5) * 8).tanh()) / 2


# Weights, means and covariances of two bundles, whose latents part on the way
TWO = (
    torch.tensor([0.4, 0.6], dtype=torch.float64),
    torch.tensor([[1.0, 0.5], [-1.0, 0.0]], dtype=torch.float64),
    0.05 * torch.eye(2, dtype=torch.float64).repeat(2, 1, 1),
)


def bent_oracle():
    return MixtureOracle(*TWO, bend, lambda t: 0.05 + 0.95 * (1 - bend(t)))


def fitted_path(oracle, count=256, **options):
    z = oracle.sample(count, torch.ones((), dtype=torch.float64), torch.Generator().manual_seed(0))
    return line_path(error=interpolate(KNOTS, *clocks.fit(oracle.predict, oracle.sigma, z, **options)))


def error_per_step(oracle, levels, noise_power, count=2_000):
    """Distance of Euler's step to Heun's, step by step, times a power of the noise where it lands."""
    z, errors = oracle.sample(count, levels[0], torch.Generator().manual_seed(1)), []
    for step in pairwise(levels):
        pair = [
            samplers.sample(oracle.predict, z, torch.stack(step), oracle.sigma, method=m) for m in ("euler", "heun")
        ]
        errors.append(oracle.sigma(step[1]) ** noise_power * (pair[0] - pair[1]).square().mean().sqrt())
        z = pair[1]
    return torch.stack(errors)


@pytest.mark.parametrize("name", clocks.CLOCKS)
@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.8, 0.3)])
def test_levels_fall_strictly_between_exact_ends(name, start, end):
    path = line_path(Sinusoidal(), KNOTS.square())
    for steps in (1, 7, 100):
        made = clock_levels(name, steps, start, end, path)
        assert len(made) == steps + 1
        assert (made[0], made[-1]) == (start, end)
        assert (made.diff() < 0).all()


# What each clock shows on the line, up to a factor and an offset
CLOSED = {
    "uniform": lambda t: t,
    "log_snr": lambda t: ((2 * (1 - t) / (0.05 + 0.95 * t)) ** 2).clamp(min=clocks.SNR_FLOOR).log(),
    "rate_linear": lambda t: 4 * (1 - t) ** 2 / 2 + (0.05 + 0.95 * t) ** 2 / 2 - (0.05 + 0.95 * t).log(),
    "path_length": lambda t: t,  # speed sqrt(4 + 0.95^2) everywhere
    "beta_linear": lambda t: (math.pi / 2 * t).sin(),  # beta / B of the path's own sinusoidal schedule
    "beta_sinusoidal": lambda t: t,
}


@pytest.mark.parametrize("name", CLOSED)
def test_clocks_are_even_in_their_quantity(name):
    made = clock_levels(name, 10, 0.97, 0.0, line_path(Sinusoidal(2.0)))
    steps = CLOSED[name](made).diff()
    assert torch.allclose(steps, steps.mean().expand(10), rtol=0.03)


def test_path_length_counts_both_motions():
    """Where f stands still sigma's motion is the length, and the other way round."""
    still = torch.where(KNOTS < 0.5, 9.0, 0.0).double()
    path = Path(KNOTS, torch.ones_like(KNOTS), still, 0.1 + (KNOTS - 0.5).clamp(min=0))
    length = clocks.reading("path_length", path)
    assert float(length[500] - length[0]) == pytest.approx(1.5, rel=1e-2)
    assert float(length[-1] - length[501]) == pytest.approx(0.5, rel=1e-2)


def test_a_schedule_is_even_on_its_own_clock_and_only_there():
    """The clock of the linear schedule on a path of that schedule is t; so is the sinusoidal one's on its own."""
    for schedule, own, other in ((Linear(3.0), "linear", "sinusoidal"), (Sinusoidal(), "sinusoidal", "linear")):
        assert torch.allclose(clock_levels(f"beta_{own}", 8, path=line_path(schedule)), uniform(8), atol=1e-3)
        assert not torch.allclose(clock_levels(f"beta_{other}", 8, path=line_path(schedule)), uniform(8), atol=0.02)
    # the ratio of the weights alone counts: beta / (1 + beta) for weights (1, beta)
    made = clock_levels("beta_linear", 4, path=line_path(LogBeta(0.1, 10.0)))
    beta = 0.1 * 100**made
    assert torch.allclose((beta / (1 + beta)).diff(), torch.full((4,), -0.2045, dtype=torch.float64), rtol=0.01)


@pytest.mark.parametrize(("noise_power", "even"), [(0.0, 3), (clocks.NOISE_POWER, 1)])
def test_the_fitted_clock_makes_weighted_errors_alike(noise_power, even):
    """Nearly, where the path turns everywhere (by sigma its errors are alike on even levels too) and in one place."""
    smooth, bent = MixtureOracle(*TWO, *example_path()), bent_oracle()
    spread = {}
    for oracle in (smooth, bent):
        fitted = fitted_path(oracle, noise_power=noise_power)
        for name, levels in (("fitted", clock_levels("fitted", 20, path=fitted)), ("uniform", uniform(20))):
            errors = error_per_step(oracle, levels, noise_power)
            spread[name, oracle] = float(errors.max() / errors.median())
    assert spread["fitted", smooth] < 1.6
    assert spread["fitted", bent] < 1.6
    assert spread["uniform", smooth] > even
    assert spread["uniform", bent] > 100


@pytest.mark.parametrize(("method", "noise_power"), [("euler", 0.0), ("heun", 0.0), ("euler", clocks.NOISE_POWER)])
def test_the_fitted_clock_is_better_where_the_path_bends(method, noise_power):
    oracle = bent_oracle()
    z = oracle.sample(500, torch.ones((), dtype=torch.float64), torch.Generator().manual_seed(1))
    exact = samplers.sample(oracle.predict, z, uniform(200), oracle.sigma)
    path = fitted_path(oracle, noise_power=noise_power)
    error = {}
    for name in ("uniform", "fitted"):
        reached = samplers.sample(oracle.predict, z, clock_levels(name, 10, path=path), oracle.sigma, method=method)
        error[name] = float((reached - exact).square().mean().sqrt())
    assert error["fitted"] < 0.8 * error["uniform"]


def test_no_step_of_the_fitted_clock_is_longer_than_four():
    path = fitted_path(bent_oracle())
    for steps in (5, 10, 50):
        longest = -clock_levels("fitted", steps, path=path).diff().min()
        assert 1.9 / steps < longest < 4.01 / steps


def test_what_a_clock_lacks_is_said():
    with pytest.raises(ValueError, match="unknown clock 'cuckoo'"):
        clock_levels("cuckoo", 4, path=line_path(Linear()))
    with pytest.raises(ValueError, match="clock 'log_snr' needs a path"):
        clock_levels("log_snr", 4)
    with pytest.raises(ValueError, match="'beta_linear' needs a path with a schedule"):
        clock_levels("beta_linear", 4, path=line_path())
    with pytest.raises(ValueError, match="'fitted' needs a path with the sampler's errors"):
        clock_levels("fitted", 4, path=line_path())


def calibrated_denoiser():
    """A denoiser whose tables are those of f = 2 (1 - t) x, sigma = 0.05 + 0.95 t, x standard normal."""
    denoiser = NonlinearDenoiser(latent_shape=(3, 1, 1), width=16, depth=1)
    x = torch.randn(20_000, 1, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(0, 1, denoiser.config.knots)[None, :, None, None, None]
    log_sigma = (0.05 + 0.95 * torch.linspace(0, 1, denoiser.config.sigma_knots)).log()
    denoiser.preconditioning.calibrate(log_sigma, 2 * (1 - t) * x, (-2 * x).expand(-1, t.shape[1], -1, -1, -1))
    return denoiser


def test_a_denoisers_tables_are_its_path():
    denoiser = calibrated_denoiser()
    path = denoiser_path(denoiser, Linear())
    known = Path(path.knots, 4 * (1 - path.knots) ** 2, torch.full_like(path.knots, 4.0), 0.05 + 0.95 * path.knots)
    for found, expected in zip(path[1:4], known[1:4], strict=True):
        assert torch.allclose(found, expected, rtol=0.03, atol=0.01)
    for name in ("log_snr", "rate_linear", "path_length"):
        walked = walk_levels(denoiser, Linear(), name, 9, 0.9, 0.1)
        assert torch.allclose(walked, clock_levels(name, 9, 0.9, 0.1, known), atol=0.01)


@pytest.mark.parametrize("level", [0.0, 0.01, 0.3, 0.5, 1.0])
def test_moments_are_integrals_of_their_slopes(level):
    """Mean 0 and scale sqrt(4 (1-t)^2 + sigma^2) here, with their slopes."""
    t = torch.tensor(level, dtype=torch.float64)
    found, variance = calibrated_denoiser().moments()(t), 4 * (1 - t) ** 2 + (0.05 + 0.95 * t) ** 2
    assert torch.allclose(found.mean, torch.zeros(3, 1, 1), atol=0.05)
    assert torch.allclose(found.mean_slope, torch.zeros(3, 1, 1), atol=0.05)
    assert torch.allclose(found.scale, variance.sqrt().float(), rtol=0.02)
    slope = (-4 * (1 - t) + 0.95 * (0.05 + 0.95 * t)) / variance.sqrt()
    assert torch.allclose(found.scale_slope, slope.float(), rtol=0.03)


@pytest.mark.parametrize("level", [0.0, 0.01, 0.3, 0.5, 1.0])
def test_the_integral_of_a_line_is_exact(level):
    t = torch.tensor(level, dtype=torch.float64)
    line = 1 + torch.linspace(0, 1, 33, dtype=torch.float64)[:, None] * torch.tensor([2.0, -4.0])
    assert torch.allclose(integral(t, line), torch.stack([t + t**2, t - 2 * t**2]), atol=1e-12)


@pytest.mark.parametrize("level", [0.0, 1 / 6, 1 / 3, 0.5, 2 / 3, 5 / 6, 1.0])
def test_the_integral_of_a_bent_line_is_that_of_each_of_its_parts(level):
    bent = torch.tensor([0.0, 1.0, 0.0, 3.0], dtype=torch.float64)
    x = torch.linspace(0, level, 10_001, dtype=torch.float64)
    expected = torch.trapezoid(interpolate(x, torch.linspace(0, 1, 4, dtype=torch.float64), bent), x)
    found = integral(torch.tensor(level, dtype=torch.float64), bent[:, None])
    assert float(found[0]) == pytest.approx(float(expected), abs=1e-7)


def test_the_fitted_clock_weighs_an_error_by_the_noise_where_it_lands():
    def predict(z, t, s):  # f = t^2, in each dimension
        return torch.zeros_like(z), (s - t) * 2 * t * torch.ones_like(z)

    readings = clocks.fit(predict, lambda t: t, torch.zeros(2, 3), steps=4, variable="sigma", time_share=0.0)[1]
    # Euler errs by h^2 alike in every step; sigma is that of the lower level of each
    expected = torch.tensor([0.0, 0.25, 0.5, 0.75], dtype=torch.float64).sqrt().cumsum(0)
    assert torch.allclose(readings[1:], expected / expected[-1], atol=1e-6)


def test_a_denoiser_that_adds_nothing_to_its_gaussian_part_walks_in_one_step():
    """As far as its tables are fine: 100 steps of the plainest ODE land in the same places."""
    denoiser = calibrated_denoiser()
    z = torch.randn(50, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    own = {"method": "multistep", "variable": "standard", "moments": denoiser.moments()}
    once = samplers.sample(denoiser.predict, z, uniform(1), denoiser.sigma, **own)
    steps = samplers.sample(denoiser.predict, z, uniform(100), denoiser.sigma, method="heun", variable="t")
    assert float((once - steps).norm() / steps.norm()) < 0.01


def test_the_fitted_clock_is_measured_once(tmp_path):
    denoiser, calls = calibrated_denoiser(), []
    own = denoiser.predict
    denoiser.predict = lambda z, t, s: calls.append(len(z)) or own(z, t, s)
    first = walk_levels(denoiser, Linear(), "fitted", 6)
    asked = len(calls)
    again, shorter = walk_levels(denoiser, Linear(), "fitted", 6), walk_levels(denoiser, Linear(), "fitted", 3, 0.6)
    assert asked == 3 * clocks.FIT_STEPS
    assert len(calls) == asked
    assert torch.equal(first, again)
    assert shorter[0] == 0.6
    denoiser.save_pretrained(tmp_path)
    kept = NonlinearDenoiser.from_pretrained(tmp_path)
    kept.predict = None
    assert torch.equal(walk_levels(kept, Linear(), "fitted", 6), first)
    torch.nn.init.normal_(denoiser.network.head.weight)
    fit_clock(denoiser)  # as after another training
    assert not torch.equal(walk_levels(denoiser, Linear(), "fitted", 6), first)


# The pipeline's walk


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    vae = MultiBetaVAE(sample_size=16, latent_channels=3, channels=(8, 16))
    denoiser = calibrated_denoiser()
    torch.nn.init.normal_(denoiser.network.head.weight, std=0.02)
    fit_clock(denoiser)
    return BetaDiffusionPipeline(vae.eval(), denoiser.eval())


def faces(count):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def seeded(seed=4):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("options", [{}, {"eta": 1.0}, {"churn": 1.0}, {"clock": "fitted", "variable": "t"}], ids=str)
def test_an_image_of_a_seed_is_the_same_in_every_batch(pipeline, options):
    """Five at once are the five one by one, and the first of twelve; so are images walked back."""
    options = options | {"steps": 3, "output_type": "pt"}
    five = pipeline(5, generator=seeded(), **options).images
    one_by_one = seeded()
    each = [pipeline(1, generator=one_by_one, **options).images for _ in range(5)]
    assert torch.allclose(five, torch.cat(each), atol=1e-5)
    assert torch.allclose(five, pipeline(12, generator=seeded(), **options).images[:5], atol=1e-5)
    listed = split(seeded(), 5)
    assert torch.equal(five, pipeline(5, generator=listed, **options).images)
    assert not torch.allclose(five[0], five[1], atol=1e-3)
    x, one_by_one = faces(3), seeded()
    walked = pipeline.denoise(x, 0.7, generator=seeded(), **options).images
    each = [pipeline.denoise(image[None], 0.7, generator=one_by_one, **options).images for image in x]
    assert torch.allclose(walked, torch.cat(each), atol=1e-5)


def test_walking_back_at_twenty_evaluations_costs_twenty_passes(pipeline, monkeypatch):
    passes = []
    own = pipeline.denoiser.forward
    monkeypatch.setattr(pipeline.denoiser, "forward", lambda *a, **k: passes.append(1) or own(*a, **k))
    for method, steps in (("heun", 10), ("multistep", 20), ("multistep3", 19), ("euler", 20)):
        passes.clear()
        pipeline.denoise(faces(2), 0.6, steps=steps, method=method, output_type="pt")
        assert len(passes) == 20 == samplers.evaluations(method, steps)


def test_a_walk_may_end_anywhere(pipeline):
    """Down to `end` and on from there is the whole way; the image is decoded at the level where the walk ends."""
    z, stops = torch.randn(2, 3, 1, 1, generator=seeded()), []
    even = functools.partial(pipeline.walk, clock="uniform", method="euler")  # which knows nothing of the past
    half = even(z, 0.9, end=0.4, steps=5, callback=lambda i, z, level: stops.append(float(level)))
    assert stops == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.4])
    whole = even(z, 0.9, end=0.0, steps=9)
    assert torch.allclose(even(even(z, 0.9, end=0.4, steps=5), 0.4, steps=4), whole, atol=1e-5)
    x = faces(2)
    drawn = pipeline.denoise(x, 0.9, end=0.4, steps=5, generator=seeded(), output_type="pt").images
    z = pipeline.walk(pipeline.encode(x, 0.9, seeded()), 0.9, end=0.4, steps=5)
    expected = (pipeline.vae.decode(z, torch.tensor(0.4)) / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(drawn, expected, atol=1e-6)
    assert not torch.equal(half, z)
    with pytest.raises(ValueError, match=r"a level lies in \[0, 1\], not -0.1"):
        pipeline.walk(z, 0.9, end=-0.1)


def test_a_walk_shows_its_steps_where_asked(pipeline, capsys):
    pipeline(1, steps=3, generator=seeded(), output_type="pt")
    assert capsys.readouterr().err == ""
    pipeline.set_progress_bar_config(disable=False)
    pipeline.denoise(faces(1), 0.5, steps=3, output_type="pt")
    pipeline.set_progress_bar_config(disable=True)
    assert "3/3" in capsys.readouterr().err

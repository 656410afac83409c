"""What the denoiser predicts, how its errors are weighed and where its levels are drawn, against closed forms."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from betadiffusion import samplers
from betadiffusion.cli.checks import check
from betadiffusion.data import Subset, load
from betadiffusion.levels import uniform
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.nn.preconditioning import PAPER_STEP, PREDICTIONS, STEPS
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.report.distances import sampler_distances
from betadiffusion.report.generate import Sampler
from betadiffusion.report.summary import _samples
from betadiffusion.training.config import DiffusionConfig, OptimisationConfig, PathConfig, RunConfig
from betadiffusion.training.denoising import NEAR, denoising_errors, levels_to_go_to, two_half_steps
from betadiffusion.training.diffusion_stage import DiffusionStage, encode_with_velocity
from betadiffusion.training.latent_cache import LatentCache
from betadiffusion.training.trainer import Trainer
from betadiffusion.training.vae_stage import VAEStage, curvature
from gaussian_cases import MEANS, SCALES, a, along, data, sigma, slope, untrained

CPU = torch.device("cpu")


def exact(kind, z, t, s):
    """E[eps|z] and delta of f = a(t) x, x Gaussian by channel: z (B,4), t and s 0-d; each prediction's own formula."""
    total = a(t) ** 2 * SCALES**2 + sigma(t) ** 2
    centred = z - a(t) * MEANS
    eps = sigma(t) * centred / total
    x = MEANS + a(t) * SCALES**2 * centred / total
    if kind == "velocity":
        return eps, (s - t) * slope(t) * x
    if kind == "any_step":
        return eps, (a(s) - a(t)) * x
    if kind == "flow":
        return 0 * eps, (s - t) * (slope(t) * x + 0.95 * eps)
    # the ODE keeps quantiles: a Gaussian is stretched
    landed = a(s) * MEANS + ((a(s) ** 2 * SCALES**2 + sigma(s) ** 2) / total).sqrt() * centred
    return eps, landed - z - (sigma(s) - sigma(t)) * eps


@pytest.mark.parametrize("kind", ["velocity", "any_step", "flow_map", "flow"])
@pytest.mark.parametrize("t", [0.25, 0.5, 1.0])
def test_a_zero_network_predicts_the_closed_form(kind, t):
    model, z = untrained(kind), torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    for s in (0.0, 0.125, t - 1e-3):  # knots of the tables, or next to the diagonal
        levels = torch.tensor(t), torch.tensor(s)
        eps, delta = model.predict(z[:, :, None, None], *levels)
        expected = exact(kind, z, *levels)
        assert torch.allclose(eps.flatten(1), expected[0], atol=2e-3)
        tolerance = 2e-3 if s < t - 0.01 or kind in ("velocity", "flow") else 5e-5  # of a change that is O(s - t)
        assert torch.allclose(delta.flatten(1), expected[1], atol=tolerance), (kind, t, s)


@pytest.mark.parametrize("kind", STEPS)
def test_between_knots_the_tables_are_close(kind):
    model, z = untrained(kind), torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    for t, s in ((0.42, 0.4), (0.97, 0.31), (0.61, 0.0)):
        levels = torch.tensor(t), torch.tensor(s)
        delta = model.predict(z[:, :, None, None], *levels)[1].flatten(1)
        assert torch.allclose(delta, exact(kind, z, *levels)[1], atol=5e-3)


@pytest.mark.parametrize("kind", ["velocity", "any_step", "flow_map"])
def test_a_path_that_stands_still_has_predictions_of_some_size(kind):
    model = NonlinearDenoiser((4, 1, 1), width=16, depth=1, knots=5, sigma_knots=5, prediction=kind)
    f = data(100)[:, None].expand(-1, 5, -1, -1, -1)
    model.preconditioning.calibrate(torch.linspace(0.1, 1, 5).log(), f, torch.zeros_like(f))
    found = model.preconditioning(torch.randn(3, 4, 1, 1), torch.tensor([0.2, 0.5, 1.0]), torch.tensor([0.0, 0.4, 0.9]))
    assert (found.velocity_scale > 1e-6).all()
    assert found.velocity_scale.isfinite().all()


def test_two_half_steps_of_the_exact_flow_map_are_one():
    """The law that `flow_map` is trained by holds for its closed form, and not for the mean change."""
    z = torch.randn(20, 4, 1, 1, generator=torch.Generator().manual_seed(1))
    t, s = torch.full((20,), 0.75), torch.full((20,), 0.25)
    gaps = {}
    for kind in STEPS:
        model = untrained(kind)
        eps, delta = model.predict(z, t, s)
        gaps[kind] = float((two_half_steps(model, z, t, s) - delta - (sigma(s[0]) - sigma(t[0])) * eps).abs().max())
    assert gaps["flow_map"] < 5e-3
    assert gaps["any_step"] > 0.1


def test_one_step_of_the_flow_map_lands_where_the_ode_does():
    z = torch.randn(20, 4, 1, 1, generator=torch.Generator().manual_seed(2))
    exact_end = MEANS + (SCALES.square() + 0.05**2).sqrt() * z.flatten(1)
    for kind, steps, close in (
        ("flow_map", 1, 5e-3),
        ("flow_map", 4, 5e-3),
        ("flow", 200, 0.1),
        ("velocity", 200, 0.1),
    ):
        landed = samplers.sample(untrained(kind).predict, z, uniform(steps).float(), sigma, method="euler").flatten(1)
        assert torch.allclose(landed, exact_end, atol=close), (kind, steps)
    blurred = samplers.sample(untrained("any_step").predict, z, uniform(1).float(), sigma, method="euler").flatten(1)
    assert torch.allclose(blurred, MEANS + 0.05 * z.flatten(1), atol=5e-3)  # the mean alone


@pytest.mark.parametrize("kind", ["velocity", "any_step", "flow"])
def test_what_the_gaussian_part_leaves_over_has_unit_scale(kind):
    """On a Gaussian path the error of a zero network is what is irreducible: 1 in its own units, for each output."""
    model, x = untrained(kind), data(seed=3).float()
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    for t, s in ((0.25, 0.125), (0.5, 0.5 - NEAR / 2), (0.75, 0.25)):
        levels = [torch.full((len(x),), level) for level in (t, s if kind == "any_step" else t - 1)]
        errors = denoising_errors(model, model, along(x), sigma(levels[0]), *levels, eps)
        assert errors.shape == (len(x), 1 if kind == "flow" else 2)
        assert torch.allclose(errors.mean(0), torch.ones(errors.shape[1]), atol=0.05)


def test_the_flow_map_is_its_own_target_once_it_is_exact():
    model, x = untrained("flow_map"), data(seed=3).float()
    t, s = torch.full((len(x),), 0.75), torch.full((len(x),), 0.25)
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    errors = denoising_errors(model, model, along(x), sigma(t), t, s, eps).mean(0).detach()
    assert errors[0] == pytest.approx(1, abs=0.05)
    assert errors[1] < 1e-3
    near = denoising_errors(model, model, along(x), sigma(t), t, t - NEAR / 2, eps).mean(0).detach()
    assert near[1] == pytest.approx(1, abs=0.05)


def test_the_papers_loss_is_eq_19():
    """Plain squares, delta over tau = 1/1000; over any other step delta is in proportion."""
    model, x = copy.deepcopy(untrained("paper")), data(50).float()
    torch.nn.init.normal_(model.network.head.weight, std=0.1)
    t = torch.full((50,), 0.6)
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    s = levels_to_go_to("paper", t, torch.Generator())
    assert torch.allclose(t - s, torch.tensor(PAPER_STEP), atol=1e-7)
    errors = denoising_errors(model, model, along(x), sigma(t), t, s, eps)
    f, f_s = along(x)(t)[0], along(x)(s)[0]
    eps_hat, delta_hat = model.predict(f + sigma(t)[:, None, None, None] * eps, t, s)
    assert torch.allclose(errors[:, 0], (eps_hat - eps).square().flatten(1).mean(1))
    assert torch.allclose(errors[:, 1], (delta_hat - (f_s - f)).square().flatten(1).mean(1))
    far = model.predict(f, t, t - 0.1)[1] / model.predict(f, t, s)[1]
    assert torch.allclose(far, torch.full_like(far, 100.0), rtol=1e-3)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [("mlp", (4, 1, 1)), ("dit", (4, 4, 4)), ("unet", (4, 8, 8))],
)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_every_network_makes_every_prediction(kind, architecture, shape, tmp_path):
    sizes = {"channels": (8, 8), "layers_per_block": 1, "attention_resolutions": (), "head_dim": 8}
    torch.manual_seed(0)
    model = NonlinearDenoiser(shape, architecture, width=16, depth=1, knots=5, prediction=kind, **sizes)
    for weight in model.parameters():
        if (weight == 0).all():
            torch.nn.init.normal_(weight, std=0.1)
    z, t = torch.randn(2, *shape), torch.tensor(0.8)
    rates = [model.predict(z, t, torch.tensor(s))[1] / (s - 0.8) for s in (0.7, 0.1)]
    assert torch.allclose(*rates, atol=1e-4) == (kind not in STEPS)  # only these see s
    assert model.predicts_noise == bool(model.predict(z, t, t - 0.1)[0].abs().max() > 0)
    model.save_pretrained(tmp_path)
    again = NonlinearDenoiser.from_pretrained(tmp_path)
    assert again.config.prediction == kind
    assert torch.equal(again.predict(z, t, t - 0.1)[1], model.predict(z, t, t - 0.1)[1])


def test_a_prediction_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="unknown prediction 'x0'; choose velocity"):
        NonlinearDenoiser(prediction="x0")


def test_without_eps_no_fresh_noise():
    vae = MultiBetaVAE(sample_size=16, channels=(8, 16), latent_channels=4)
    pipeline = BetaDiffusionPipeline(vae, untrained("flow"))
    z = torch.randn(2, 4, 1, 1)
    pipeline.walk(z, 0.5, steps=2)
    with pytest.raises(ValueError, match="predicts no noise"):
        pipeline.walk(z, 0.5, steps=2, eta=1.0)


def test_a_report_leaves_out_what_needs_eps():
    vae = MultiBetaVAE(sample_size=16, channels=(8, 16), latent_channels=4)

    class Judge:
        images, floor = np.zeros((2, 3, 16, 16), np.uint8), 0.0

        def __call__(self, images):
            return 1.0

    methods = {}
    for kind in ("velocity", "flow"):
        rows = sampler_distances(BetaDiffusionPipeline(vae, untrained(kind)), Judge(), RunConfig(), progress=False)
        methods[kind] = {row["method"] for row in rows}
        names = " ".join(
            name for name, _ in _samples({"samplers": rows, "frechet": {"walk": {"method": "multistep"}}}, 1.0)
        )
        assert ("eta=1" in names) == (kind == "velocity")
        assert "Heun" in names
    assert {"eta=1", "algorithm2"} < methods["velocity"]
    assert methods["flow"] == {name for name in methods["velocity"] if not Sampler(name, 1).adds_noise}


@pytest.mark.parametrize(
    ("kind", "method"),
    [("velocity", "multistep"), ("flow", "multistep"), ("any_step", "euler"), ("flow_map", "euler")],
)
def test_a_pipeline_walks_by_what_suits_its_denoiser(kind, method):
    vae = MultiBetaVAE(sample_size=16, channels=(8, 16), latent_channels=4)
    pipeline = BetaDiffusionPipeline(vae, untrained(kind))
    z = torch.randn(2, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    walked = {m: pipeline.walk(z, 1.0, steps=3, clock="uniform", method=m) for m in (None, "euler", "multistep")}
    assert torch.equal(walked[None], walked[method])
    assert not torch.allclose(walked["euler"], walked["multistep"])


def test_levels_to_go_to_are_half_next_door_and_half_anywhere_below_short_steps_first():
    t = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    s = levels_to_go_to("any_step", t, torch.Generator().manual_seed(1))
    near = t - s <= NEAR
    # of the far ones those with t u^2 < NEAR are near too: P = E sqrt(NEAR / t) = 2 sqrt(NEAR)
    assert float(near.float().mean()) == pytest.approx(0.5 + 0.5 * 2 * NEAR**0.5, abs=0.02)
    assert (s < t).all()
    share = (s / t)[~near & (t > 0.5)]
    # s / t = 1 - u^2, u uniform, has the quantiles 1 - (1 - q)^2
    quantiles = torch.quantile(share, torch.tensor([0.25, 0.5, 0.75])).tolist()
    assert quantiles == pytest.approx([0.4375, 0.75, 0.9375], abs=0.05)


# training


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A small VAE, images and their latent cache."""
    images = Subset(load("shapes", size=16), np.arange(0, 480_000, 12_000)).keep()
    torch.manual_seed(0)
    vae = MultiBetaVAE(sample_size=16, channels=(8, 16), latent_channels=4, embedding_dim=16, knots=9).eval()
    return images, vae, LatentCache.build(vae, images, 9, tmp_path_factory.mktemp("cache"), quiet=True)


CONFIG = OptimisationConfig(
    images=64, batch_size=16, learning_rate=1e-3, warmup_images=16, ema_images=50, validate_images=64,
    checkpoint_images=32,
)  # fmt: skip


def trainer(setting, folder, **options):
    images, vae, cache = setting
    options = DiffusionConfig(**options)
    torch.manual_seed(0)
    shape = {"latent_shape": vae.latent_shape, "knots": 5, "sigma_knots": 9}
    model = NonlinearDenoiser(width=16, depth=1, prediction=options.prediction, **shape)
    held_out = Subset(images, np.arange(4))
    stage = DiffusionStage(model, copy.deepcopy(vae), images, held_out, cache, CPU, options)
    return Trainer(stage, CONFIG, folder, accelerator=Accelerator(cpu=True), seed=0, identity={})


def whole_and_resumed(make, folder, images):
    """A training of `make(folder)`, to whose weights one killed after two steps, `images`, has come as well."""
    whole, killed = make(folder / "whole"), make(folder / "killed")
    whole.fit()
    for _ in range(2):
        killed._step()
    killed._save()
    again = make(folder / "killed")
    again.resume()
    assert again.images == images
    again.fit()
    for mine, other in ((whole.plain, again.plain), (whole.ema, again.ema)):
        assert all(torch.equal(value, other.state_dict()[key]) for key, value in mine.state_dict().items())
    return whole


@pytest.mark.parametrize(
    "options",
    [{"prediction": kind, "weighting": "uniform"} for kind in PREDICTIONS]
    + [{"weighting": "sigma"}, {"weighting": "min_snr"}, {"levels": "logit_normal"}, {"velocity": "exact"}]
    + [{"weighting": "learned", "levels": "uniform"} | more for more in ({}, {"prediction": "flow"})]
    + [{"levels": "uniform"}],
)
def test_a_killed_training_goes_on_to_the_same_weights(setting, options, tmp_path):
    whole = whole_and_resumed(partial(trainer, setting, **options), tmp_path, 32)
    assert math.isfinite(whole.history[-1]["loss"])
    if "levels" not in options:
        assert (whole.plain.in_training.mean_square != 1).any()
    if options.get("weighting") == "learned":
        assert (whole.plain.in_training.variance_curve[0].log_value != 0).any()
    finished = whole.stage.finish(whole.ema)
    plain = trainer(
        setting, tmp_path, prediction=finished.config.prediction, weighting="uniform", levels="uniform"
    ).plain
    assert set(finished.state_dict()) == set(plain.state_dict())


def test_accumulated_parts_are_the_same_step_for_importance(setting, tmp_path):
    records = []
    for accumulation in (1, 4):
        made = trainer(setting, tmp_path / str(accumulation), levels="importance")
        made.config = copy.copy(CONFIG)
        made.config.accumulation = accumulation
        made._step()
        records.append(made.plain.in_training.mean_square.clone())
    assert torch.allclose(*records, rtol=1e-5)


def test_a_u_net_learns_a_flow_map_too_from_where_no_step_is_long(tmp_path):
    images = Subset(load("shapes", size=16), np.arange(0, 480_000, 12_000)).keep()
    torch.manual_seed(0)
    vae = MultiBetaVAE(sample_size=16, block="resnet", channels=(8, 16), latent_channels=4, embedding_dim=16).eval()
    unet = {"architecture": "unet", "channels": (8, 16), "layers_per_block": 1, "attention_resolutions": ()}
    model = NonlinearDenoiser(vae.latent_shape, **unet, knots=5, prediction="flow_map")
    options = DiffusionConfig(prediction="flow_map")
    stage = DiffusionStage(model, vae, images, images, None, CPU, options, images=100)
    for seen in (0, 99):
        stage.begin(seen)
        losses = stage.losses(model, np.arange(8), stage.draw(8, torch.Generator().manual_seed(0)))
        assert losses.isfinite().all()


def test_a_flow_map_is_validated_by_the_averaged_weights_alone(setting, tmp_path):
    stage = trainer(setting, tmp_path, prediction="flow_map").stage
    averaged = copy.deepcopy(stage.model).eval()
    before = stage.validate(averaged, 0, tmp_path / "grids")
    with torch.no_grad():
        for weight in stage.model.parameters():
            weight += 1
    assert stage.validate(averaged, 0, tmp_path / "grids") == before


@pytest.mark.parametrize(("prediction", "far"), [("flow_map", [0, 0, 1, 1]), ("any_step", [1, 1, 1, 1])])
def test_a_flow_map_learns_the_velocity_alone_for_six_tenths_of_its_training(setting, tmp_path, prediction, far):
    images, vae, cache = setting
    model = trainer(setting, tmp_path, prediction=prediction).stage.model
    options = DiffusionConfig(prediction=prediction)
    stage = DiffusionStage(model, copy.deepcopy(vae), images, images, cache, CPU, options, images=100)
    for seen, some in zip((0, 59, 60, 99), far, strict=True):
        stage.begin(seen)
        t, s, _ = stage.draw(1_000, torch.Generator().manual_seed(0))
        assert bool((t - s > NEAR).any()) == bool(some)


@pytest.mark.parametrize(
    "design", [{"channels": (8, 16)}, {"block": "resnet", "channels": (8, 16), "attention_resolutions": (8,)}]
)
def test_the_exact_velocity_is_that_of_the_differences(setting, design):
    images = setting[0]
    torch.manual_seed(0)
    vae = MultiBetaVAE(sample_size=16, latent_channels=4, embedding_dim=16, **design).eval()
    x, t = torch.from_numpy(images.images(np.arange(8))).float() / 127.5 - 1, torch.linspace(0.01, 0.99, 8)
    f, velocity = encode_with_velocity(vae, x, t, exact=True)
    f_near, velocity_near = encode_with_velocity(vae, x, t)
    assert torch.allclose(f, f_near, atol=1e-3)
    assert torch.allclose(velocity, velocity_near, atol=2e-3 * float(velocity.abs().max()))
    assert velocity.abs().max() > 0.01
    assert not velocity.requires_grad


class Bending:
    """f = cos(w t) x and sigma = 0.5 + t, as `curvature` sees an autoencoder."""

    def __init__(self, w):
        self.w = torch.tensor(w, requires_grad=True)

    def posterior(self, x, t):
        return (self.w * t).cos()[:, None, None, None] * x, self.sigma(t)[:, None, None, None].expand_as(x)

    def sigma(self, t):
        return 0.5 + t


def test_the_curvature_of_a_cosine_is_known():
    x, t = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.linspace(0.05, 0.95, 64)
    w = math.pi / 2
    got = curvature(Bending(w), x, t)
    # d^2/dt^2 cos(w t) x = -w^2 cos(w t) x
    known = (w**4 * (w * t).cos().square() / (0.5 + t).square()) * x.square().flatten(1).mean(1)
    assert torch.allclose(got, known, rtol=0.01, atol=1e-3)
    assert (curvature(Bending(0.0), x, t) < 1e-6).all()


def test_the_curvature_penalty_straightens_the_path(setting):
    images, vae, _ = setting
    x, t = torch.from_numpy(images.images(np.arange(32))).float() / 127.5 - 1, torch.linspace(0, 1, 32)
    bends = {}
    for weight in (0.0, 1.0):
        model = copy.deepcopy(vae).train().requires_grad_(True)
        stage = VAEStage(model, images, images, CPU, path=PathConfig(curvature=weight))
        optimizer, generator = torch.optim.Adam(model.parameters(), lr=2e-3), torch.Generator().manual_seed(0)
        for _ in range(30):
            optimizer.zero_grad()
            stage.losses(model, np.arange(32), stage.draw(32, generator)).mean().backward()
            optimizer.step()
        bends[weight] = float(curvature(model, x, t).mean())
    assert bends[1.0] < 0.5 * bends[0.0]


def test_the_penalty_of_a_part_of_the_batch_stands_for_the_whole(setting):
    images, vae, _ = setting
    index, bending = np.arange(8), VAEStage(vae, images, images, CPU, path=PathConfig(curvature=0.1))
    draws = bending.draw(8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = VAEStage(vae, images, images, CPU).losses(vae, index, draws[:2])
        bent = bending.losses(vae, index, draws)
        for size in (1, 3):  # however the batch is cut
            parts = [bending.losses(vae, part, tuple(d[part] for d in draws)) for part in np.split(index, [size])]
            assert torch.allclose(torch.cat(parts), bent, rtol=1e-4, atol=1e-4)
        x = torch.from_numpy(images.images(index)).float() / 127.5 - 1
        expected = 0.1 * curvature(vae, x[[0, 5]], draws[0][[0, 5]]).mean()
    assert torch.allclose((bent - plain).mean(), expected, rtol=1e-3)
    assert ((bent - plain).abs() > 1e-9).nonzero().flatten().tolist() == [0, 5]


@pytest.mark.parametrize("processes", [2, 4])
def test_every_process_looks_at_as_many_paths(processes, setting):
    images, vae, _ = setting
    stage = VAEStage(vae, images, images, CPU, path=PathConfig(curvature=0.1))
    *_, share = stage.draw(32, torch.Generator().manual_seed(0))
    assert {int((share[rank::processes] > 0).sum()) for rank in range(processes)} == {8 // processes}


# options that have no effect


def configured(**changes):
    config = RunConfig(out="never-written")
    for name, value in changes.items():
        section, _, key = name.partition("__")
        setattr(getattr(config, section), key, value)
    return config


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"diffusion__logit_mean": -0.5}, "logit_mean has no effect unless diffusion.levels is 'logit_normal'"),
        ({"diffusion__velocity": "exact"}, "velocity has no effect with the latent cache"),
        ({"diffusion_training__curve_rate": 5.0}, "curve_rate has no effect with the VAE frozen"),
        ({"diffusion_training__muon_rate": 5.0}, "muon_rate has no effect unless the denoiser is a U-Net"),
        ({"diffusion__prediction": "paper", "diffusion__weighting": "sigma"}, "'paper' weighs by one"),
        ({"diffusion__weighting": "learned", "diffusion__levels": "importance"}, "'importance' has no effect"),
        ({"diffusion__levels": "logit_normal", "diffusion__logit_scale": 0.0}, "logit_scale must be positive"),
        ({"path__curvature": -1.0}, "path.curvature must not be negative"),
        ({"vae__knots": 1}, "vae.knots must be at least 2, not 1"),
        ({"vae__channels": []}, "vae.channels must not be empty"),
        ({"path__curvature": 1e-6}, "path.curvature needs one sigma for every image: set vae.sigma_from to 'level'"),
    ],
)
def test_combinations_without_effect_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        check(configured(**changes))


def test_the_same_options_with_effect_are_taken(setting):
    check(configured(diffusion__levels="logit_normal", diffusion__logit_mean=-0.5))
    check(configured(diffusion__velocity="exact", cache__levels=0))
    check(configured(path__curvature=1e-6, vae__sigma_from="level"))
    check(configured(diffusion__weighting="learned", diffusion__levels="uniform", diffusion_training__curve_rate=5.0))
    with pytest.raises(ValueError, match="'importance' has no effect"):
        trainer(setting, None, weighting="learned", levels="importance")

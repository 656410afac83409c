"""Both networks at once: the autoencoder untouched where gradients stop, tables that keep up, resume."""

import copy
import json
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import stage_cases
from betadiffusion import BetaDiffusionPipeline
from betadiffusion.cli import checks
from betadiffusion.cli.main import main
from betadiffusion.data import Subset, load
from betadiffusion.models.beta_diffusion import BetaDiffusionAutoencoder
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.report import measure
from betadiffusion.training import checkpoint
from betadiffusion.training.config import JointConfig, LevelsConfig, OptimisationConfig, PerceptualConfig
from betadiffusion.training.diffusion_stage import encode_with_velocity
from betadiffusion.training.images import load_images
from betadiffusion.training.joint_stage import JointModel, JointStage, moment_sums, slope
from betadiffusion.training.vae_stage import VAEStage
from test_report import MeanPixels
from test_runs import configured

CPU = torch.device("cpu")
CONFIG = OptimisationConfig(
    images=96, batch_size=16, learning_rate=1e-3, warmup_images=16, ema_images=50, validate_images=48,
    checkpoint_images=32,
)  # fmt: skip
SHARED = JointConfig(stop_gradient=False, weight=1.0)


@pytest.fixture(scope="module")
def images():
    return Subset(load("shapes", size=16), np.arange(0, 480_000, 12_000)).keep()


def networks(prediction="velocity"):
    torch.manual_seed(0)
    vae = MultiBetaVAE(
        sample_size=16, channels=(8, 16), latent_channels=4, embedding_dim=8, schedule="log_beta", knots=9
    )
    shape = {"latent_shape": vae.latent_shape, "knots": 9, "sigma_knots": 9, "prediction": prediction}
    return vae, NonlinearDenoiser(width=16, depth=1, **shape)


def made_of(images):
    return load_images(images, np.arange(len(images)), CPU)


def tokens(**options):
    vit = {
        "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 16, "image_size": 16, "patch_size": 4,
    }  # fmt: skip
    return BetaDiffusionAutoencoder(
        vit, sample_size=16, latent_channels=4, head_dim=8, modulator_depth=1, decoder_depth=1, knots=9, **options
    )


def dit(vae):
    shape = {"latent_shape": vae.latent_shape, "knots": 9, "sigma_knots": 9}
    return NonlinearDenoiser(architecture="dit", width=16, depth=1, head_dim=8, **shape)


def stage(images, config=None, **options):
    return JointStage(*networks(), images, images, CPU, config, **options)


fit = partial(stage_cases.fit, CONFIG)


def flat(module):
    return torch.cat([value.detach().flatten().float() for value in module.state_dict().values()])


@pytest.fixture(scope="module")
def alone(tmp_path_factory, images):
    """The same autoencoder without a denoiser, with the draws that stage "joint" would make."""
    made = VAEStage(networks()[0], images, images, CPU)
    made.name = "joint"
    return fit(tmp_path_factory.mktemp("alone"), made)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, images):
    return fit(tmp_path_factory.mktemp("stopped"), stage(images))


@pytest.fixture(scope="module")
def shared(tmp_path_factory, images):
    return fit(tmp_path_factory.mktemp("shared"), stage(images, SHARED))


def test_stopped_gradients_leave_the_autoencoder_as_it_is_alone(alone, stopped):
    assert torch.equal(flat(stopped.plain.vae), flat(alone.plain))
    assert torch.equal(flat(stopped.ema.vae), flat(alone.ema))
    assert stopped.history[-1]["objective@0.5"] == alone.history[-1]["objective@0.5"]
    assert not torch.equal(flat(stopped.plain.denoiser.network), flat(networks()[1].network))


def test_shared_gradients_reach_the_encoder_and_not_the_decoder_of_the_first_step(tmp_path, images):
    gradients = []
    for config in (JointConfig(), SHARED):
        made = stage(images, config)
        made.begin(0)
        losses = made.losses(made.model, np.arange(16), made.draw(16, torch.Generator().manual_seed(0)))
        losses.mean().backward()
        vae = made.model.vae
        gradients.append({name: weight.grad.clone() for name, weight in vae.named_parameters()})
    different = {name for name in gradients[0] if not torch.equal(gradients[0][name], gradients[1][name])}
    assert {name.partition(".")[0] for name in different} == {"encoder", "embedding", "sigma_curve"}


def test_shared_gradients_move_the_path(alone, shared):
    assert not torch.allclose(flat(shared.plain.vae), flat(alone.plain), atol=1e-3)


def test_the_slope_is_that_of_stage_diffusion():
    vae, x, t = networks()[0], torch.rand(3, 3, 16, 16) * 2 - 1, torch.tensor([0.0, 0.4, 1.0])
    assert torch.allclose(slope(vae, x, t), encode_with_velocity(vae, x, t)[1], atol=1e-6)


def test_the_slope_has_the_gradient_of_df_dt():
    class Turning:  # f = exp(w t) x, so that df/dt = w f and its derivative in w is (1 + w t) f
        w = torch.tensor(0.7, requires_grad=True)

        def posterior(self, x, t):
            return (self.w * t).exp()[:, None, None, None] * x, torch.ones_like(x)

    x, t = torch.rand(5, 2, 1, 1) + 0.5, torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    f = (0.7 * t).exp()[:, None, None, None] * x
    velocity = slope(Turning(), x, t)
    assert torch.allclose(velocity, 0.7 * f, rtol=1e-3)
    exact = ((1 + 0.7 * t)[:, None, None, None] * f).sum()
    assert torch.autograd.grad(velocity.sum(), Turning.w)[0] == pytest.approx(float(exact), rel=1e-3)


def test_a_joint_run_cut_anywhere_ends_with_the_same_bits(tmp_path, images, shared):
    fit(tmp_path, stage(images, SHARED), stop_at=48)
    assert checkpoint.newest(tmp_path / "checkpoints").name == "000000000032"
    resumed = fit(tmp_path, stage(images, SHARED))
    assert torch.equal(flat(resumed.plain), flat(shared.plain))
    assert torch.equal(flat(resumed.ema), flat(shared.ema))
    assert resumed.history == shared.history


def test_accumulated_parts_equal_the_large_batch(tmp_path, images, shared):
    parts = fit(tmp_path, stage(images, SHARED), accumulation=2)
    assert torch.allclose(flat(parts.plain), flat(shared.plain), atol=5e-5)
    assert torch.allclose(parts.plain.moments, shared.plain.moments, atol=1e-4)


def test_moments_at_the_knots_are_those_of_the_images_there():
    torch.manual_seed(0)
    f, v = torch.randn(2, 2000, 3, 2, 2)
    for level, knot in [(0.0, 0), (0.5, 2), (1.0, 4)]:
        sums = moment_sums(f, v, torch.full((2000,), level), 5)
        ones, first, _, squares, _, products = sums[:, knot]
        assert torch.equal(ones, torch.full((3,), 8000.0))
        assert torch.allclose(first / ones, f.mean((0, 2, 3)), atol=1e-5)
        assert torch.allclose(squares / ones, f.square().mean((0, 2, 3)), atol=1e-5)
        assert torch.allclose(products / ones, (f * v).mean((0, 2, 3)), atol=1e-5)
        assert sums.sum(1).allclose(sums[:, knot])  # other knots have nothing
    between = moment_sums(f, v, torch.full((2000,), 0.3), 5)[0]
    assert between[:, 0].tolist() == pytest.approx([0, 6400, 1600, 0, 0], rel=1e-4)


def test_running_moments_come_to_those_of_the_path_they_follow():
    """f = cos(pi t / 2) x with x of mean 2 and variance 1, from tables that were calibrated on something else."""
    denoiser = NonlinearDenoiser(latent_shape=(3, 2, 2), architecture="unet", channels=(8, 8), attention_resolutions=())
    model = JointModel(nn.Identity(), denoiser, True)
    model.moments[0] = 1.0
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        x, t = 2 + torch.randn(256, 3, 2, 2, generator=generator), torch.rand(256, generator=generator)
        angle = (torch.pi / 2 * t)[:, None, None, None]
        model.follow(moment_sums(angle.cos() * x, -torch.pi / 2 * angle.sin() * x, t, 33), half_life=5_000)
    angle = torch.pi / 2 * torch.linspace(0, 1, 33)[:, None]
    f, v, p = angle.cos(), -torch.pi / 2 * angle.sin(), denoiser.preconditioning
    for table, exact in [
        (p.f_mean, 2 * f), (p.v_mean, 2 * v), (p.f_variance, f * f), (p.v_variance, v * v),
        (p.covariance, f * v),
    ]:  # fmt: skip
        assert (table - exact).abs().max() < 0.12 * exact.abs().max()


def test_the_tables_are_exact_in_the_end(images, stopped):
    trained = copy.deepcopy(stopped.ema)
    stage(images).finish(trained)
    f, v = encode_with_velocity(trained.vae, made_of(images), torch.full((40,), 0.5))
    tables = trained.denoiser.preconditioning
    assert torch.allclose(tables.f_mean[4], f.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(tables.v_variance[4], v.var((0, 2, 3)), atol=1e-6)
    assert torch.equal(tables.log_sigma, trained.vae.sigma_curve.log_values())
    assert torch.equal(flat(trained.denoiser.network), flat(stopped.ema.denoiser.network))


@torch.no_grad()
def test_a_collapsed_path_is_named(tmp_path, images):
    made = stage(images)
    model = made.model.eval()
    layers = [weight for name, weight in model.vae.encoder.named_parameters() if weight.ndim > 1]
    layers[-1].mul_(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        healthy = made.validate(model, 0, tmp_path)
    f, sigma = model.vae.encode_mean(made_of(images), torch.tensor(0.0)), model.vae.sigma(torch.tensor(0.0))
    assert healthy["path_nats"] == pytest.approx(float((1 + f.var(0) / sigma**2).log().sum() / 2), rel=1e-4)
    layers[-1].zero_()
    with pytest.warns(RuntimeWarning, match=r"the path has collapsed.*lower joint\.weight"):
        numbers = made.validate(model, 0, tmp_path)
    assert numbers["path_nats"] < 1e-3 < 1 < healthy["path_nats"]


def test_options_of_stage_vae_hold(tmp_path, images):
    made = stage(
        images, levels=LevelsConfig(kl_warmup_images=96), perceptual=PerceptualConfig(adversarial=0.5, channels=4)
    )
    trained = fit(tmp_path, made)
    assert made.autoencoding.kl_share == pytest.approx(80 / 96)
    assert trained.opponent.adaptive > 0


@pytest.mark.parametrize("boundary", [True, False])
def test_tokens_train_jointly_too(boundary, tmp_path, images):
    """Without the boundary f does not depend on the level at first, and df/dt is 0."""
    torch.manual_seed(0)
    vae = tokens(sigma_from="level", boundary=boundary)
    trained = fit(tmp_path, JointStage(vae, dit(vae), images, images, CPU, SHARED), images=32)
    assert np.isfinite(trained.history[-1]["denoising_loss"])
    assert not torch.equal(flat(trained.plain.vae.encoder), flat(tokens().encoder))


def test_what_cannot_be_trained_jointly_is_refused(images):
    vae = tokens()
    with pytest.raises(ValueError, match="needs one sigma for every image"):
        JointStage(vae, dit(vae), images, images, CPU)
    with pytest.raises(ValueError, match="not 'any_step'"):
        JointStage(*networks("any_step"), images, images, CPU)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"stages": ["vae", "joint"]}, "'joint' trains what 'vae' and 'diffusion' train"),
        ({"stages": ["diffusion", "joint", "report"]}, "'joint' trains what 'vae' and 'diffusion' train"),
        ({"stages": ["joint"], "joint__weight": 2.0}, "joint.weight has no effect with joint.stop_gradient"),
        (
            {"stages": ["joint"], "levels__distribution": "grid", "levels__values": [0.5]},
            "stage 'joint' needs all levels",
        ),
        (
            {"stages": ["joint"], "diffusion__weighting": "sigma"},
            "diffusion.weighting has no effect with stage 'joint'",
        ),
        ({"stages": ["joint"], "levels__start_power": 3.0}, "levels.start_power has no effect with stage 'joint'"),
        ({"stages": ["joint"], "levels__first_share": 0.1}, "levels.first_share has no effect with stage 'joint'"),
        ({"stages": ["joint"], "diffusion__prediction": "any_step"}, "stage 'joint' predicts velocity or flow"),
        ({"joint__denoiser_rate": 0.0}, "joint.denoiser_rate must be positive"),
        (
            {"stages": ["joint"], "vae__sigma_from": None},
            "needs one sigma for every image: set vae.sigma_from to 'level'",
        ),
        (
            {"stages": ["joint"], "model": "beta_diffusion", "vae__sigma_from": None},
            "needs one sigma for every image: set beta_diffusion.sigma_from to 'level'",
        ),
    ],
)
def test_combinations_are_refused_in_a_sentence(tmp_path, changes, text):
    with pytest.raises(ValueError, match=r"^(?!.*\n)") as error:
        checks.check(configured(tmp_path / "run", **{"vae__sigma_from": "level"} | changes))
    assert text in str(error.value)


def test_a_joint_run_from_the_command_line_to_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "make_extractor", lambda *arguments: MeanPixels())
    out = tmp_path / "run"
    flags = [
        "--data.size=16", "--data.limit=120", "--data.held_out=20", "--vae.channels=[8,16]", "--vae.embedding_dim=16",
        "--denoiser.width=16", "--denoiser.depth=1", "--vae.sigma_from=level", "--vae_training.images=256",
        "--vae_training.batch_size=32", "--vae_training.validate_images=128", "--vae_training.checkpoint_images=128",
        "--report.count=20", "--report.levels=[0.0,0.5]", "--joint.stop_gradient=false", "--precision=fp32",
        "--cpu=true", f"--out={out}",
    ]  # fmt: skip
    assert main(["train", "--stages=[joint,report]", *flags]) == 0
    pipeline = BetaDiffusionPipeline.from_pretrained(out / "pipeline")
    assert torch.equal(flat(pipeline.vae), flat(MultiBetaVAE.from_pretrained(out / "vae" / "model")))
    report = json.loads((out / "report.json").read_text())
    assert report["stages"]["joint"]["images"] == 256
    assert [row["images"] for row in report["history"]["joint"]] == [128, 256]
    assert (out / "report" / "training_joint.png").is_file()
    assert main(["sample", str(out), "--num-images=2", "--steps=2"]) == 0
    weights = (out / "joint" / "checkpoints" / "000000000256" / "model.safetensors").stat().st_mtime_ns
    assert main(["train", "--stages=[joint]", *flags]) == 0  # nothing is left to do
    assert (out / "joint" / "checkpoints" / "000000000256" / "model.safetensors").stat().st_mtime_ns == weights
    again = BetaDiffusionPipeline.from_pretrained(out / "pipeline")
    assert torch.equal(flat(again.denoiser), flat(pipeline.denoiser))

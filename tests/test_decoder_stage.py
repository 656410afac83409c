"""The decoder alone: what is frozen keeps its bits, its loss falls, walked codes are the sampler's, resume is exact."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import stage_cases
from betadiffusion import BetaDiffusionPipeline
from betadiffusion.cli import checks
from betadiffusion.data import Subset, load
from betadiffusion.levels import uniform
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.samplers import sample
from betadiffusion.training import checkpoint, runs
from betadiffusion.training.config import DecoderConfig, OptimisationConfig
from betadiffusion.training.decoder_stage import DecoderStage, encoder_fingerprint, frozen
from test_adversarial import lpips_weights  # noqa: F401, a fixture
from test_joint_stage import tokens
from test_runs import configured

CPU = torch.device("cpu")
CONFIG = OptimisationConfig(
    images=160, batch_size=16, learning_rate=1e-2, warmup_images=16, ema_images=50, validate_images=80,
    checkpoint_images=32,
)  # fmt: skip
PLAIN = DecoderConfig(adversarial=0.0)
ALL = DecoderConfig(l1=0.5, l2=0.5, adversarial=0.5, channels=4, max_level=0.5, walked=0.5, walk_steps=2)


@pytest.fixture(scope="module")
def images():
    return Subset(load("shapes", size=16), np.arange(0, 480_000, 12_000)).keep()


def networks():
    torch.manual_seed(0)
    vae = MultiBetaVAE(
        sample_size=16, channels=(8, 16), latent_channels=4, embedding_dim=8, schedule="log_beta", knots=9
    )
    return vae, NonlinearDenoiser(latent_shape=vae.latent_shape, width=16, depth=1, knots=9, sigma_knots=9)


def stage(images, config=PLAIN):
    vae, denoiser = networks()
    return DecoderStage(vae, images, images, CPU, config, denoiser)


fit = partial(stage_cases.fit, CONFIG)


@torch.no_grad()
def start_numbers(made, folder):
    return made.validate(made.model.eval(), 0, folder)


def flat(module):
    return torch.cat([value.detach().flatten().float() for value in module.state_dict().values()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, images):
    return fit(tmp_path_factory.mktemp("whole"), stage(images, ALL))


def test_the_decoder_alone_changes_and_its_loss_falls(tmp_path, images):
    made = stage(images)
    before = start_numbers(made, tmp_path)
    trained = fit(tmp_path, made, images=640)
    start = networks()[0]
    for tuned in (trained.plain.vae, trained.ema.vae):
        assert torch.equal(flat(frozen(tuned)), flat(frozen(start)))
        assert not torch.equal(flat(tuned.decoder), flat(start.decoder))
        assert encoder_fingerprint(tuned) == encoder_fingerprint(start)
    assert trained.history[-1]["loss"] < 0.8 * before["loss"]
    assert trained.history[-1]["loss"] == pytest.approx(trained.history[-1]["l1"])
    x, t = made.held_out[:4], torch.tensor([0.0, 0.3, 0.7, 1.0])
    assert torch.equal(trained.ema.vae.encode_mean(x, t), start.eval().encode_mean(x, t))
    assert torch.equal(trained.ema.vae.sigma(t), start.sigma(t))
    assert torch.equal(trained.ema.vae.pixel_sigma(t), start.pixel_sigma(t))


def test_every_term_together_leaves_the_encoder_alone(whole):
    assert torch.equal(flat(frozen(whole.ema.vae)), flat(frozen(networks()[0])))
    assert whole.opponent.adaptive > 0


def test_what_is_frozen_runs_without_dropout(images):
    vae = MultiBetaVAE(
        sample_size=16, channels=(8, 16), latent_channels=4, embedding_dim=8, block="resnet", dropout=0.5
    )
    made = DecoderStage(vae, images, images, CPU, PLAIN)
    made.model.train()
    assert made.model.vae.decoder.training
    assert not any(module.training for module in made.model.vae.encoder.modules())
    x, zero = made.held_out[:2], torch.zeros(2)
    one, other = (made.codes(x, zero, torch.zeros(2, 4, 8, 8), zero.bool())[0] for _ in range(2))
    assert torch.equal(one, other)


def test_codes_are_draws_of_their_level_or_what_the_sampler_makes_of_them(images):
    made = stage(images, DecoderConfig(max_level=0.5, walked=0.5, walk_level=0.8, walk_steps=3))
    x, generator = made.held_out[:6], torch.Generator().manual_seed(0)
    t, eps, _ = made.draw(6, generator)
    assert 0 <= t.min() < t.max() <= 0.5
    walked = torch.tensor([False, True, True, False, False, True])
    with torch.no_grad():
        z, levels = made.codes(x, t, eps, walked)
        vae, denoiser = made.model.vae, made.denoiser
        drawn = vae.encode_mean(x, t) + vae.sigma(t)[:, None, None, None] * eps
        high = torch.full((6,), 0.8)
        start = vae.encode_mean(x, high) + vae.sigma(high)[:, None, None, None] * eps
        back = sample(denoiser.predict, start[walked], uniform(3, 0.8), denoiser.sigma)
    assert torch.allclose(z[~walked], drawn[~walked], atol=1e-6)
    assert torch.allclose(z[walked], back, atol=1e-6)
    assert torch.equal(levels, torch.where(walked, 0.0, t))
    shares = made.draw(4000, generator)[2].float().mean()
    assert shares == pytest.approx(0.5, abs=0.05)


def test_a_decoder_run_cut_anywhere_ends_with_the_same_bits(tmp_path, images, whole):
    fit(tmp_path, stage(images, ALL), stop_at=80)
    assert checkpoint.newest(tmp_path / "checkpoints").name == "000000000064"
    resumed = fit(tmp_path, stage(images, ALL))
    assert torch.equal(flat(resumed.plain), flat(whole.plain))
    assert torch.equal(flat(resumed.ema), flat(whole.ema))
    assert torch.equal(flat(resumed.opponent), flat(whole.opponent))
    assert resumed.history == whole.history


def test_accumulated_parts_equal_the_large_batch(tmp_path, images, whole):
    parts = fit(tmp_path, stage(images, ALL), accumulation=2)
    assert torch.allclose(flat(parts.plain), flat(whole.plain), atol=2e-3)  # Adam's first steps are signs
    assert parts.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=1e-3)


def test_lpips_is_lowered_too(tmp_path, lpips_weights):  # noqa: F811
    images = Subset(load("shapes", size=32), np.arange(0, 480_000, 24_000)).keep()
    torch.manual_seed(0)
    vae = MultiBetaVAE(sample_size=32, channels=(8, 16), latent_channels=4, embedding_dim=8)
    config = DecoderConfig(l1=0.0, lpips=1.0, lpips_weights=lpips_weights, adversarial=0.0)
    made = DecoderStage(vae, images, images, CPU, config)
    before = start_numbers(made, tmp_path)["loss"]
    assert fit(tmp_path, made).history[-1]["loss"] < 0.95 * before


def test_tokens_have_a_decoder_too(tmp_path, images):
    torch.manual_seed(0)
    made = DecoderStage(tokens(), images, images, CPU, PLAIN)
    before = flat(frozen(made.model.vae))
    trained = fit(tmp_path, made, images=32)
    assert torch.equal(flat(frozen(trained.plain.vae)), before)


def test_what_cannot_be_tuned_is_refused(images):
    vae = networks()[0]
    with pytest.raises(ValueError, match="there is nothing to lower"):
        DecoderStage(vae, images, images, CPU, DecoderConfig(l1=0.0))
    with pytest.raises(ValueError, match="needs a denoiser to walk with"):
        DecoderStage(vae, images, images, CPU, DecoderConfig(walked=0.5))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"stages": ["decoder", "vae"]}, "in this order"),
        ({"stages": ["decoder"], "decoder__l1": 0.0}, "there is nothing to lower"),
        ({"decoder__lpips": 1.0}, "decoder.lpips needs decoder.lpips_weights"),
        ({"decoder__max_level": 1.5}, "must be at most 1"),
        ({"decoder__walk_level": 0.7}, "decoder.walk_level has no effect with decoder.walked 0"),
        ({"decoder__adversarial": 0.0, "decoder__channels": 8}, "decoder.channels has no effect"),
        ({"decoder_training__curve_rate": 3.0}, "decoder_training.curve_rate has no effect"),
        ({"decoder_training__batch_size": 9, "decoder_training__accumulation": 2}, "cannot be divided into"),
        ({"stages": ["decoder", "report"]}, "has no pipeline yet"),
    ],
)
def test_combinations_are_refused_in_a_sentence(tmp_path, changes, text):
    with pytest.raises(ValueError, match=r"^(?!.*\n)") as error:
        checks.check(configured(tmp_path / "run", **changes))
    assert text in str(error.value)


SMALL = {
    "data__limit": 100, "data__held_out": 20, "vae_training__images": 64, "diffusion_training__images": 64,
    "decoder_training__images": 64, "decoder_training__batch_size": 16, "decoder__channels": 4, "cache__levels": 4,
}  # fmt: skip


def test_the_pipeline_on_disk_gets_the_new_decoder(tmp_path):
    runs.run(configured(tmp_path, **SMALL))
    before = BetaDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    walked = {"decoder__walked": 0.5, "decoder__walk_steps": 1}
    runs.run(configured(tmp_path, **SMALL, **walked, stages=["decoder"]))
    after = BetaDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    assert torch.equal(flat(frozen(after.vae)), flat(frozen(before.vae)))
    assert torch.equal(flat(after.denoiser), flat(before.denoiser))
    assert not torch.equal(flat(after.vae.decoder), flat(before.vae.decoder))
    assert torch.equal(flat(runs.load_vae(tmp_path)), flat(after.vae))
    runs.run(configured(tmp_path, **SMALL, **walked, stages=["decoder"]))  # done already: the same again
    assert torch.equal(flat(runs.load_vae(tmp_path)), flat(after.vae))

    again = configured(tmp_path, **SMALL, **walked, stages=["decoder"], resume="never")
    runs.run(again)  # from the decoder before, not from the tuned one
    assert torch.equal(flat(runs.load_vae(tmp_path)), flat(after.vae))

    other = runs.load_vae(tmp_path)
    nn.init.ones_(other.encoder.head.bias)
    shutil.copytree(tmp_path, moved := tmp_path / "moved")
    other.save_pretrained(moved / "vae" / "model")
    with pytest.raises(ValueError, match="has another encoder than"):
        runs.run(configured(moved, **SMALL, **walked, stages=["decoder"]))

    pipeline = BetaDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    nn.init.ones_(pipeline.vae.sigma_curve.log_value)
    pipeline.save_pretrained(tmp_path / "pipeline")
    runs.run(configured(tmp_path, **SMALL, stages=["vae"]))
    assert (tmp_path / "pipeline").exists()  # of the same training, whatever was calibrated after it
    runs.run(configured(tmp_path, **SMALL, stages=["vae"], seed=1, resume="never"))
    assert not (tmp_path / "pipeline").exists()  # whose walks were between levels of the VAE before
    with pytest.raises(ValueError, match=r"decoder\.walked needs a denoiser"):
        runs.run(configured(tmp_path, **SMALL, **walked, stages=["decoder"], seed=1, resume="never"))


def test_a_vae_without_a_diffusion_is_tuned_too_and_another_one_is_not_taken_for_it(tmp_path):
    runs.run(configured(tmp_path, **SMALL, stages=["vae", "decoder"]))
    assert not (tmp_path / "pipeline").exists()
    tuned = runs.load_vae(tmp_path)
    runs.run(configured(tmp_path, **SMALL, stages=["vae"], seed=1, resume="never"))
    assert encoder_fingerprint(runs.load_vae(tmp_path)) != encoder_fingerprint(tuned)
    with pytest.raises(ValueError, match="holds a run with seed = 1, not 0"):
        runs.run(configured(tmp_path, **SMALL, stages=["decoder"]))
    with pytest.raises(ValueError, match="made with seed = 0, not 1"):
        runs.run(configured(tmp_path, **SMALL, stages=["decoder"], seed=1))
    with pytest.raises(ValueError, match="run stage 'vae' there first"):
        runs.run(configured(tmp_path / "empty", **SMALL, stages=["decoder"]))

"""Training of beta-Diffusion; where a public prototype of it failed, a test that fails on such a fault."""

import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from betadiffusion.cli import checks, commands, parsing
from betadiffusion.cli.main import main
from betadiffusion.data import Subset, load
from betadiffusion.models.beta_diffusion import BetaDiffusionAutoencoder
from betadiffusion.models.presets import beta_diffusion_preset
from betadiffusion.objectives import multi_beta_objective
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.training import muon, runs
from betadiffusion.training.accelerator import wandb_mode
from betadiffusion.training.config import BetaDiffusionConfig, OptimisationConfig, RunConfig
from betadiffusion.training.errors import TrainingError
from betadiffusion.training.feature_cache import FeatureCache
from betadiffusion.training.trainer import Trainer, learning_rate_factor
from betadiffusion.training.vae_stage import CALIBRATION_IMAGES, VAEStage

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "src" / "train_beta_diffusion.py"
CONFIGS = sorted([*ROOT.glob("configs/stage1/training/*.yaml"), *ROOT.glob("configs/beta-diffusion/*.yaml")])
CPU = torch.device("cpu")
VIT = {
    "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 16, "patch_size": 4,
}  # fmt: skip
SMALL = {
    "encoder": VIT, "sample_size": 16, "latent_channels": 2, "modulator_depth": 1, "modulator_width": 16,
    "decoder_depth": 1, "decoder_width": 16, "head_dim": 8, "knots": 5,
}  # fmt: skip
CONFIG = OptimisationConfig(
    images=96, batch_size=16, learning_rate=2e-3, warmup_images=16, ema_images=50, validate_images=48,
    checkpoint_images=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def images():
    return Subset(load("shapes", size=16), np.arange(0, 480_000, 12_000)).keep()


def model(**changes):
    torch.manual_seed(0)
    return BetaDiffusionAutoencoder(**(SMALL | changes))


def make_trainer(folder, images, built, levels=None, features=None, **changes):
    config = copy.copy(CONFIG)
    for name, value in changes.items():
        setattr(config, name, value)
    stage = VAEStage(built, images, images, CPU, levels=levels, features=features)
    return Trainer(stage, config, folder, accelerator=Accelerator(cpu=True), seed=0, identity={"seed": 0})


def fit(*arguments, **changes):
    made = make_trainer(*arguments, **changes)
    made.resume()
    made.fit()
    return made


def flat(module):
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


def groups(trainer):
    return [group for optimizer in trainer.optimizers.values() for group in optimizer.param_groups]


def distance(made, before, part):
    return float((flat(getattr(made.plain, part)) - flat(getattr(before, part))).norm())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, images):
    return fit(tmp_path_factory.mktemp("whole"), images, model())


# An encoder said to be trainable but run without gradients


def test_a_trained_encoder_learns_and_a_frozen_one_keeps_every_bit(tmp_path, images, whole):
    assert distance(whole, model(), "encoder") > 0.01
    frozen = fit(tmp_path, images, model(train_encoder=False))
    assert torch.equal(flat(frozen.plain.encoder), flat(model().encoder))
    assert torch.equal(flat(frozen.ema.encoder), flat(model().encoder))
    assert distance(frozen, model(), "decoder") > 0.01
    frozen_weights = sum(p.numel() for p in frozen.plain.encoder.parameters())
    trained = sum(weight.numel() for group in groups(frozen) for weight in group["params"])
    assert trained + frozen_weights + SMALL["knots"] == sum(p.numel() for p in frozen.plain.parameters())


# An encoder learning-rate factor that is ignored


def test_encoder_rate_is_that_of_the_encoder_and_of_nothing_else(tmp_path, images, whole):
    slow = make_trainer(tmp_path, images, model(sigma_from="level"), encoder_rate=0.01)
    of = {id(w): group["peak"] for group in groups(slow) for w in group["params"]}
    filters = muon.filters(slow.plain)
    rate = CONFIG.learning_rate
    for name, weight in slow.plain.named_parameters():
        if weight.requires_grad:
            kind = name.split(".")[0]
            expected = {"encoder": 0.01 * rate, "sigma_curve": 10 * rate}.get(kind, rate)
            expected *= CONFIG.muon_rate if weight in filters else 1
            assert of[id(weight)] == pytest.approx(expected), name


def test_a_small_encoder_rate_moves_the_encoder_less(tmp_path, images, whole):
    slow = fit(tmp_path, images, model(), encoder_rate=0.01)
    assert distance(slow, model(), "encoder") < 0.03 * distance(whole, model(), "encoder")
    assert distance(slow, model(), "decoder") > 0.5 * distance(whole, model(), "decoder")


# Config files whose keys are silently dropped


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: beta_diffusion\nbeta_diffusion:\n  beta_maks: 5", "line 3: unknown key 'beta_diffusion.beta_maks': "
         "did you mean 'beta_max'?"),
        ("beta_diffusion:\n  beta_max: 5.0", "beta_diffusion.beta_max has no effect with model 'multi_beta_vae'"),
        ("model: beta_diffusion\nvae:\n  beta_max: 5.0", "vae.beta_max has no effect with model 'beta_diffusion'"),
        ("model: beta_diffusion\nbeta_diffusion: {train_encoder: false}\nvae_training: {encoder_rate: 0.1}",
         "vae_training.encoder_rate has no effect since the encoder is frozen"),
        ("model: beta_diffusion\nbeta_diffusion: {train_encoder: false}\nvae_training: {muon_rate: 0.0}",
         "vae_training.muon_rate has no effect since the encoder is frozen"),
        ("model: beta_diffusion\nbeta_diffusion: {sigma_from: image, balance: false}\nvae_training: {curve_rate: 9.0}",
         "vae_training.curve_rate has no effect with model 'beta_diffusion' without a learned curve"),
        ("model: beta_diffusion\ncache: {features: false}", "cache.features has no effect unless the encoder is froz"),
        ("model: beta_diffusion\ndenoiser: {preset: demo}", "'demo' does not fit the latents of beta_diffusion.preset"),
        ("levels: {values: [0.5]}", "levels.values has no effect unless levels.distribution is 'grid'"),
        ("levels: {distribution: grid, values: [0.5], start_power: 3.0}", "levels.start_power has no effect unless"),
        ("levels: {first_power: 0.7}", "levels.first_power has no effect with levels.first_share 0"),
        ("levels: {distribution: grid}", "'grid' needs either levels.betas or levels.values"),
        ("perceptual: {channels: 8}", "perceptual.channels has no effect with perceptual.adversarial 0"),
        ("perceptual: {lpips_weights: a}", "perceptual.lpips_weights has no effect with perceptual.lpips 0"),
        ("perceptual: {lpips: 1.0}", "perceptual.lpips needs perceptual.lpips_weights"),
    ],
)  # fmt: skip
def test_a_key_that_nothing_reads_is_refused(tmp_path, text, message, capsys, monkeypatch):
    monkeypatch.setattr(commands, "_build_on_meta", lambda config: pytest.fail("work has started"))
    file = tmp_path / "c.yaml"
    file.write_text(text)
    assert main(["train", "--config", str(file), "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


# Gradient accumulation that throws gradients away


def test_accumulated_parts_equal_the_large_batch(tmp_path, images, whole):
    parts = fit(tmp_path, images, model(), accumulation=4)
    assert torch.allclose(flat(parts.plain), flat(whole.plain), atol=1e-4)
    assert parts.history[-1]["train_loss"] == pytest.approx(whole.history[-1]["train_loss"], rel=1e-4)


# Resume that restarts from zero


@pytest.mark.parametrize("train_encoder", [True, False])
def test_a_run_cut_anywhere_ends_with_the_same_bits(tmp_path, images, whole, train_encoder):
    def build():
        return model(train_encoder=train_encoder)

    expected = whole if train_encoder else fit(tmp_path / "whole", images, build())
    cut = make_trainer(tmp_path / "cut", images, build())
    losses = cut.stage.losses

    def dead(*arguments):
        if cut.images >= 48:
            raise KeyboardInterrupt
        return losses(*arguments)

    cut.stage.losses = dead
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    resumed = fit(tmp_path / "cut", images, build())
    for kind in ("plain", "ema"):
        assert torch.equal(flat(getattr(resumed, kind)), flat(getattr(expected, kind)))
    assert resumed.history == expected.history


def test_resume_goes_on_with_the_count_and_the_learning_rate(tmp_path, images, whole):
    checkpoint = sorted((whole.folder / "checkpoints").iterdir())[0]
    resumed = make_trainer(tmp_path, images, model())
    resumed.resume(str(checkpoint))
    assert resumed.images == int(checkpoint.name) == 64
    resumed._step()
    rates = {group["lr"] / group["peak"] for group in groups(resumed)}
    assert rates == {learning_rate_factor(64, CONFIG)}
    assert learning_rate_factor(64, CONFIG) < 0.5


# Averaged weights that are kept and never used


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    """A pretrained encoder as a hub would give it: weights, architecture, normalisation."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(1)
    config = ViTConfig(**{key: value for key, value in VIT.items() if key != "model_type"})
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.4] * 3, image_std=[0.2] * 3).save_pretrained(
        folder
    )
    return folder


def options(encoder_folder, out, **changes):
    """The options of a small run, as a user would write them."""
    values = {
        "model": "beta_diffusion", "data.size": 16, "data.limit": 200, "data.held_out": 40,
        "beta_diffusion.encoder": encoder_folder, "beta_diffusion.latent_channels": 2,
        "beta_diffusion.modulator_depth": 1, "beta_diffusion.decoder": "mlp", "beta_diffusion.decoder_depth": 1,
        "beta_diffusion.decoder_width": 16,
        "levels.distribution": "uniform_beta", "vae_training.images": 256, "vae_training.batch_size": 32,
        "vae_training.validate_images": 128, "vae_training.checkpoint_images": 64, "stages": "[vae]",
        "perceptual.adversarial": 0.1, "perceptual.channels": 4, "perceptual.start_images": 64,
        "precision": "fp32", "cpu": "true", "out": out,
    } | changes  # fmt: skip
    return [f"--{key}={value}" for key, value in values.items()]


@pytest.fixture(scope="module")
def run(tmp_path_factory, encoder_folder):
    out = tmp_path_factory.mktemp("run") / "one"
    assert main(["train", *options(encoder_folder, out)]) == 0
    return out


def last(run, kind):
    return load_file(sorted((run / "vae" / "checkpoints").iterdir())[-1] / f"{kind}.safetensors")


def test_the_averaged_weights_are_what_is_saved(run):
    saved = runs.load_vae(run)
    assert isinstance(saved, BetaDiffusionAutoencoder)
    averaged, raw = last(run, "ema"), last(run, "model")
    for name, value in saved.state_dict().items():
        assert torch.equal(value, averaged[name]) or name == "sigma_curve.log_value", name
    assert any(not torch.equal(averaged[name], raw[name]) for name in raw)


def test_sigma_of_the_image_is_calibrated_and_saved(run):
    saved = runs.load_vae(run)
    train, _ = runs.load_split(runs.load_config(run).data, 16, 0)
    x = torch.from_numpy(train.images(np.arange(CALIBRATION_IMAGES))) / 127.5 - 1
    greatest = 0.0  # so far: sigma(t) must not fall with the level
    for t in torch.linspace(0, 1, saved.config.knots):
        with torch.no_grad():
            greatest = max(greatest, float(saved.posterior(x, t)[1].log().mean().exp()))
        assert float(saved.sigma(t)) == pytest.approx(greatest, rel=1e-3)


def test_the_encoder_is_the_one_of_the_folder(encoder_folder):
    from transformers import AutoModel

    chosen = BetaDiffusionConfig(encoder=str(encoder_folder), decoder="mlp")
    config = RunConfig(model="beta_diffusion", beta_diffusion=chosen)
    theirs = AutoModel.from_pretrained(encoder_folder).state_dict()
    ours, random = (runs.build_vae(config, (3, 16, 16), pretrained) for pretrained in (True, False))
    weights = ours.encoder.network.state_dict()
    assert weights.keys() <= theirs.keys()
    assert all(torch.equal(weights[name], theirs[name]) for name in weights)
    assert ours.config.image_mean == [0.4] * 3
    name = next(name for name in weights if "weight" in name and "norm" not in name)
    assert not torch.equal(random.encoder.network.state_dict()[name], weights[name])
    assert random.encoder.network.state_dict().keys() == weights.keys()


def test_the_diffusion_runs_on_the_tokens(run, encoder_folder):
    changes = {
        "stages": "[diffusion]", "denoiser.width": 64, "denoiser.depth": 1, "cache.tolerance": 9.0,
        "diffusion_training.images": 64, "diffusion_training.batch_size": 32,
    }  # fmt: skip
    assert main(["train", *options(encoder_folder, run, **changes)]) == 0
    pipeline = BetaDiffusionPipeline.from_pretrained(run / "pipeline")
    assert pipeline.denoiser.config.architecture == "dit"
    assert pipeline(num_images=2, steps=2, output_type="pt").images.shape == (2, 3, 16, 16)
    means = np.load(run / "diffusion" / "cache" / "means.npy", mmap_mode="r")
    train, _ = runs.load_split(runs.load_config(run).data, 16, 0)
    x = torch.from_numpy(train.images(np.arange(3))) / 127.5 - 1
    with torch.no_grad():
        exact = [pipeline.vae.encode_mean(x, t) for t in torch.linspace(0, 1, means.shape[1])]
    assert np.allclose(means[:3], torch.stack(exact, dim=1), atol=1e-4)


# No numeric validation


def test_validation_is_a_table_over_beta(run):
    history = json.loads((run / "vae" / "history.json").read_text())
    assert [row["images"] for row in history] == [128, 256]
    betas = [key.removeprefix("mse@beta=") for key in history[-1] if key.startswith("mse@")]
    assert [float(b) for b in betas] == pytest.approx([100 ** (i / 8) for i in range(9)], rel=5e-3)
    for row in history:
        numbers = [row[f"{kind}@beta={b}"] for kind in ("mse", "rate", "objective") for b in betas]
        assert np.isfinite(numbers).all()
    assert len(list((run / "vae" / "grids").glob("*.png"))) == 2


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, images):
    broken = make_trainer(tmp_path, images, model())
    with torch.no_grad():
        broken.plain.modulator.f_mu.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite at image 0"):
        broken.fit()


# All ranks writing one file


def test_only_the_main_process_writes(tmp_path, images, monkeypatch):
    other = make_trainer(tmp_path, images, model())
    monkeypatch.setattr(type(other.accelerator), "is_main_process", property(lambda self: False))
    other.fit()
    assert list(tmp_path.iterdir()) == []


# wandb called although off


def test_wandb_is_not_imported_when_off(tmp_path, encoder_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    assert main(["train", *options(encoder_folder, tmp_path / "run", **{"vae_training.images": 32})]) == 0


def test_wandb_stays_offline_without_a_key_or_a_network(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setenv("WANDB_BASE_URL", "https://localhost:1")
    assert wandb_mode() == "offline"
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"


# Two processes with half the batch


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def test_two_processes_give_the_losses_of_one(tmp_path, run, encoder_folder):
    """The script under torch.distributed.launch, which hands it --local-rank, and with names from the environment."""
    launch = [sys.executable, "-m", "torch.distributed.launch", "--nproc-per-node=2"]
    launch += [f"--master-port={free_port()}", str(SCRIPT)]
    given = [option for option in options(encoder_folder, "") if not option.startswith("--out=")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "EXPERIMENT_NAME": "two", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([*launch, *given], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    two = tmp_path / "runs" / "two" / "vae"
    assert json.loads((two / "summary.json").read_text())["processes"] == 2
    histories = [json.loads((folder / "history.json").read_text()) for folder in (two, run / "vae")]
    for a, b in zip(*histories, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
        assert a["mse@beta=10"] == pytest.approx(b["mse@beta=10"], rel=2e-2)


# The script


@pytest.fixture
def script():
    import importlib.util

    spec = importlib.util.spec_from_file_location("train_beta_diffusion", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("argv", "environment", "arguments", "variables"),
    [
        ("--config c --data-path d", {}, "--config c --data-path d", {}),
        ("--local-rank=1 --cpu true", {}, "--cpu true", {}),
        ("--local_rank 1 --cpu true", {}, "--cpu true", {}),
        ("--wandb --seed 1", {}, "--seed 1 --trackers+=wandb", {}),
        ("--seed 1", {"EXPERIMENT_NAME": "mae-trail_v0.1"}, "--seed 1 --out=runs/mae-trail_v0.1",
         {"WANDB_NAME": "mae-trail_v0.1"}),
        ("--out a", {"EXPERIMENT_NAME": "b"}, "--out a", {"WANDB_NAME": "b"}),
        ("", {"ENTITY": "erow", "PROJECT": "beta-diffusion", "EXPERIMENT_NAME": ""}, "",
         {"WANDB_ENTITY": "erow", "WANDB_PROJECT": "beta-diffusion"}),
    ],
)  # fmt: skip
def test_the_script_turns_its_words_into_those_of_train(script, argv, environment, arguments, variables):
    assert script.command_line(argv.split(), environment) == (arguments.split(), variables)


def test_wandb_is_added_to_the_trackers_of_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("trackers: [tensorboard]")
    config = parsing.parse("train", commands.train, ["--config", str(file), "--trackers+=wandb"])["config"]
    assert config.trackers == ["tensorboard", "wandb"]


def test_options_win_over_the_file_wherever_it_stands(tmp_path):
    """As in `--data-path $IMNET --config FILE`: the file, too, names a source."""
    file = tmp_path / "c.yaml"
    file.write_text("data: {source: imagenet}\nseed: 3")
    for argv in (["--data-path", "d", "--config", str(file)], [f"--config={file}", "--data-path=d"]):
        config = parsing.parse("train", commands.train, argv)["config"]
        assert (config.data.source, config.seed) == ("d", 3)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_configs_pass_every_check_and_build(file, encoder_folder):
    """Pretrained encoders by local path, as where there is no hub."""
    argv = ["--config", str(file), "--data-path", "somewhere"]
    if file.parent.name == "training":
        preset = parsing.parse("train", commands.train, argv)["config"].beta_diffusion.preset
        hub_id = beta_diffusion_preset(preset)["encoder"]
        assert file.stem.removeprefix("BetaDiffusion_") == {
            "facebook/dinov2-base": "DINOv2-B", "facebook/dinov2-large": "DINOv2-L", "facebook/vit-mae-base": "MAE-B",
        }[hub_id]  # fmt: skip
        argv += ["--beta_diffusion.encoder", str(encoder_folder)]
    config = parsing.parse("train", commands.train, argv)["config"]
    checks.check(config)
    commands._build_on_meta(config)
    assert (config.model, config.data.source) == ("beta_diffusion", "somewhere")
    assert config.out.endswith(file.stem)


# The objective


def test_without_balance_the_loss_is_the_seeds(images):
    built = model()
    stage = VAEStage(built, images, images, CPU)
    x, t = torch.from_numpy(images.images(np.arange(4))) / 127.5 - 1, torch.tensor([0.0, 0.3, 0.6, 1.0])
    eps = torch.randn(4, *built.latent_shape, generator=torch.Generator().manual_seed(0))
    out = built(x, t, eps)
    kl = 0.5 * (out.mean**2 + out.sigma**2 - 1 - 2 * out.sigma.log()).sum((1, 2, 3))
    seed = (x - out.x_hat).square().sum((1, 2, 3)) + 100**t * kl
    constant = x[0].numel() / 2 * np.log(np.pi)
    loss = stage.losses(built, np.arange(4), (t, eps)) * x[0].numel()
    assert torch.allclose(loss - constant, seed, rtol=1e-4)


def test_balance_is_the_seeds_loss_of_a_level_over_twice_its_pixel_variance(images):
    built = model(balance=True)
    with torch.no_grad():
        built.pixel_sigma_curve.log_value.copy_(torch.linspace(-2, 0, SMALL["knots"]))
    stage = VAEStage(built, images, images, CPU)
    t, eps = torch.tensor([0.2, 0.9]), torch.randn(2, *built.latent_shape)
    x = torch.from_numpy(images.images(np.arange(2))) / 127.5 - 1
    out = built(x, t, eps)
    terms = multi_beta_objective(x, out.x_hat, out.mean, out.sigma, out.pixel_sigma, built.schedule(t))
    twice = 2 * out.pixel_sigma.square()
    seed = terms.squared_error + 100**t * terms.rate
    normaliser = x[0].numel() / 2 * (np.pi * twice).log()
    loss = stage.losses(built, np.arange(2), (t, eps)) * x[0].numel()
    assert torch.allclose(loss, normaliser + seed / twice, rtol=1e-4)
    of_rate = torch.autograd.grad(loss.sum(), built.pixel_sigma_curve.log_value)[0]
    out = built(x, t, eps)
    alone = multi_beta_objective(x, out.x_hat, out.mean, out.sigma, out.pixel_sigma, built.schedule(t)).reconstruction
    of_error = torch.autograd.grad(alone.sum(), built.pixel_sigma_curve.log_value)[0]
    assert torch.allclose(of_rate, of_error, rtol=1e-3)  # s(t) learns from the error alone


# Features of a frozen encoder


def test_cached_features_give_the_same_losses_up_to_their_rounding(tmp_path, images):
    frozen = model(train_encoder=False)
    cache = FeatureCache.build(frozen, images, tmp_path / "features", quiet=True)
    assert isinstance(cache.features, np.memmap)
    assert cache.features.nbytes / 1e9 == pytest.approx(FeatureCache.gigabytes(frozen, len(images)))
    plain, cached = (VAEStage(frozen, images, images, CPU, features=given) for given in (None, cache))
    draws, indices = plain.draw(8, torch.Generator().manual_seed(0)), np.array([3, 1, 4, 1, 5, 9, 2, 6])
    without = plain.losses(frozen, indices, draws)
    frozen.encoder.forward = lambda *_: pytest.fail("the encoder ran")
    assert torch.allclose(cached.losses(frozen, indices, draws), without, rtol=2e-3)


def test_features_are_opened_again_for_the_same_encoder_and_images_only(tmp_path, images, monkeypatch):
    frozen = model(train_encoder=False)
    first = FeatureCache.build(frozen, images, tmp_path, quiet=True).features.copy()
    with monkeypatch.context() as patch:
        patch.setattr(BetaDiffusionAutoencoder, "features", lambda *_: pytest.fail("encoded again"))
        assert np.array_equal(FeatureCache.build(frozen, images, tmp_path, quiet=True).features, first)
    turned = Subset(images.base, images.indices[::-1])
    assert np.array_equal(FeatureCache.build(frozen, turned, tmp_path, quiet=True).features[::-1], first)
    with torch.no_grad():
        next(weight for weight in frozen.encoder.parameters() if weight.ndim == 4).mul_(2)  # of the patches
    assert not np.array_equal(FeatureCache.build(frozen, images, tmp_path, quiet=True).features, first)


def test_an_interrupted_build_leaves_nothing_that_counts(tmp_path, images, monkeypatch):
    frozen, seen = model(train_encoder=False), []
    encode = BetaDiffusionAutoencoder.features

    def dies(self, x):
        seen.append(len(x))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return encode(self, x)

    with monkeypatch.context() as patch:
        patch.setattr("betadiffusion.training.feature_cache.pass_size", lambda shape: 16)
        patch.setattr(BetaDiffusionAutoencoder, "features", dies)
        with pytest.raises(KeyboardInterrupt):
            FeatureCache.build(frozen, images, tmp_path, quiet=True)
    assert not (tmp_path / "key.json").exists()
    features = FeatureCache.build(frozen, images, tmp_path, quiet=True).features
    assert (np.abs(features).sum((1, 2)) > 0).all()


def test_features_too_great_for_float16_are_refused(tmp_path, images, monkeypatch):
    frozen, encode = model(train_encoder=False), BetaDiffusionAutoencoder.features
    monkeypatch.setattr(BetaDiffusionAutoencoder, "features", lambda self, x: encode(self, x) * 1e6)
    with pytest.raises(ValueError, match="too great for float16"):
        FeatureCache.build(frozen, images, tmp_path, quiet=True)


def test_the_cache_keeps_to_its_limit(encoder_folder, tmp_path, capsys):
    frozen = {"beta_diffusion.train_encoder": "false", "vae_training.images": 32}
    assert main(["train", *options(encoder_folder, tmp_path / "a", **frozen)]) == 0
    assert "feature cache: 0.00 GB, the encoder runs once per image" in capsys.readouterr().out
    assert (tmp_path / "a" / "vae" / "features" / "key.json").exists()
    assert main(["train", *options(encoder_folder, tmp_path / "b", **frozen, **{"cache.limit_gb": 1e-6})]) == 0
    assert "no feature cache: 0.0 GB exceed cache.limit_gb 1e-06" in capsys.readouterr().out
    assert not (tmp_path / "b" / "vae" / "features").exists()

"""The training loop on a problem small enough to run many times: least squares with noise in the loss."""

import copy
import dataclasses
import json
import os
import signal

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import is_compiled_module
from torch import nn

from betadiffusion.training import checkpoint
from betadiffusion.training.accelerator import make_accelerator
from betadiffusion.training.config import OptimisationConfig, RunConfig
from betadiffusion.training.errors import Interrupted, TrainingError
from betadiffusion.training.trainer import (
    Trainer,
    batch_indices,
    derived_seed,
    first_difference,
    learning_rate_factor,
    precision_of,
)

CONFIG = OptimisationConfig(
    images=640, batch_size=32, learning_rate=5e-2, muon_rate=0, warmup_images=64, ema_images=100, validate_images=160,
    checkpoint_images=96,
)  # fmt: skip


class Regression:
    name, count = "regression", 100

    def __init__(self, on_step=lambda images: None):
        torch.manual_seed(0)
        # with a convolution: the trainer lays its weights out channels last, and the moments must stay alike
        convolution = nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 8, 2), nn.Flatten()
        self.model = nn.Sequential(*convolution, nn.Tanh(), nn.Linear(8, 1))
        self.x = torch.randn(self.count, 12)
        self.y = self.x.sum(1, keepdim=True)
        self.on_step, self.images = on_step, 0

    def draw(self, batch, generator):
        return (torch.randn(batch, 12, generator=generator),)

    def losses(self, model, indices, draws):
        self.on_step(self.images)
        self.images += len(indices)
        return (model(self.x[indices] + 0.1 * draws[0]) - self.y[indices]).square().mean(1)

    def validate(self, model, images, folder):
        return {"error": float((model(self.x) - self.y).square().mean())}


def trainer(folder, stage=None, config=CONFIG, seed=0, identity=None, accelerator=None):
    stage, accelerator = stage or Regression(), accelerator or Accelerator(cpu=True)
    return Trainer(stage, config, folder, accelerator=accelerator, seed=seed, identity=identity or {"seed": seed})


def fit(made, resume="auto"):
    made.resume(resume)
    return made.fit()


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def stop_at(images):
    def act(seen):
        if seen >= images:
            raise KeyboardInterrupt

    return act


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    done = trainer(tmp_path_factory.mktemp("whole"))
    fit(done)
    return done


@pytest.fixture
def fresh_accelerate():
    """accelerate's state, which the first Accelerator of a process decides for all, as in a process of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_compiled_training_is_the_same_training(whole, tmp_path, fresh_accelerate):
    compiled = trainer(tmp_path, accelerator=Accelerator(cpu=True, dynamo_backend="eager"))
    assert is_compiled_module(compiled.model)
    assert not is_compiled_module(compiled.plain)
    fit(compiled)
    torch.testing.assert_close(weights(compiled.ema), weights(whole.ema))
    assert compiled.ema.state_dict().keys() == whole.ema.state_dict().keys()


def test_compile_is_inductor(fresh_accelerate):
    assert make_accelerator(RunConfig(cpu=True, compile=True)).state.dynamo_plugin.backend == "INDUCTOR"


@pytest.mark.parametrize(("has", "speed", "faster"), [(True, 2.0, "bf16"), (True, 0.6, "fp32"), (False, 2.0, "fp32")])
def test_auto_is_bf16_where_it_is_faster(has, speed, faster, fresh_accelerate, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has)
    monkeypatch.setattr(
        "betadiffusion.training.accelerator.matmul_seconds", {torch.float32: 1.0, torch.bfloat16: 1 / speed}.get
    )
    assert precision_of(make_accelerator(RunConfig(cpu=True))) == faster


def test_training_learns_and_the_average_is_what_is_validated(whole):
    assert whole.history[-1]["error"] < 0.5 * whole.history[0]["error"]
    assert [h["images"] for h in whole.history] == [160, 320, 480, 640]
    again = Regression().validate(whole.ema, 0, None)["error"]
    assert whole.history[-1]["error"] == again
    assert not torch.equal(weights(whole.ema), weights(whole.plain))


@pytest.mark.parametrize("images", [1, 97, 250, 480, 600])
def test_a_run_cut_anywhere_ends_with_the_same_numbers(tmp_path, whole, images):
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(tmp_path, Regression(stop_at(images))))
    resumed = trainer(tmp_path)
    fit(resumed)
    assert torch.equal(weights(resumed.plain), weights(whole.plain))
    assert torch.equal(weights(resumed.ema), weights(whole.ema))
    assert resumed.history == whole.history
    assert json.loads((tmp_path / "history.json").read_text()) == whole.history


def test_with_muon_too_a_run_cut_anywhere_ends_with_the_same_numbers(tmp_path, whole):
    config = dataclasses.replace(CONFIG, muon_rate=2.0)
    straight = trainer(tmp_path / "straight", config=config)
    fit(straight)
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(tmp_path / "cut", Regression(stop_at(250)), config))
    resumed = trainer(tmp_path / "cut", config=config)
    fit(resumed)
    assert torch.equal(weights(resumed.plain), weights(straight.plain))
    assert straight.history[-1]["error"] < straight.history[0]["error"]
    assert not torch.equal(weights(straight.plain), weights(whole.plain))
    (convolution,) = (group["params"] for group in straight.optimizers["muon"].param_groups)
    assert [weight.shape for weight in convolution] == [(8, 3, 2, 2)]  # the linear layer has one row


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_first(tmp_path, whole, number):
    def act(seen):
        if seen == 320:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)  # ignored, where the tests run in the background of a shell
    cut = trainer(tmp_path, Regression(act))
    with pytest.raises(Interrupted, match="after 352 images") as caught:
        fit(cut)
    assert caught.value.signal_number == number
    assert checkpoint.newest(tmp_path / "checkpoints").name == "000000000352"
    assert signal.getsignal(number) == before
    resumed = trainer(tmp_path)
    fit(resumed)
    assert torch.equal(weights(resumed.ema), weights(whole.ema))


def test_a_signal_while_the_processes_agree_is_for_the_next_step(tmp_path, monkeypatch):
    cut = trainer(tmp_path)
    gather, calls = cut.accelerator.gather, []

    def interrupted(values):
        found = gather(values)
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    monkeypatch.setattr(cut.accelerator, "gather", interrupted)
    with pytest.raises(Interrupted, match="after 160 images"):
        fit(cut)


def test_a_signal_in_the_last_validation_stops_what_comes_after(tmp_path, whole):
    class Last(Regression):
        def validate(self, model, images, folder):
            if images == CONFIG.images:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().validate(model, images, folder)

    with pytest.raises(Interrupted, match="after 640 images; the same command goes on"):
        fit(trainer(tmp_path, Last()))
    done = trainer(tmp_path)
    fit(done)
    assert torch.equal(weights(done.ema), weights(whole.ema))


def test_a_training_begun_anew_is_not_gone_on_with_from_before(tmp_path):
    fit(trainer(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(tmp_path, Regression(stop_at(64))), resume="never")
    assert checkpoint.newest(tmp_path / "checkpoints") is None
    stopped = trainer(tmp_path, Regression(lambda seen: seen == 96 and os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(Interrupted, match="the same with --resume auto goes on"):
        fit(stopped, resume="never")


def test_the_average_forgets_its_start_in_a_tenth_of_the_images(tmp_path):
    made = trainer(tmp_path)
    before = weights(made.ema)
    made.images = 64
    with torch.no_grad():
        for weight in made.plain.parameters():
            weight += 1
    made._average(64)
    assert torch.allclose(weights(made.ema) - before, torch.tensor(1 - 0.5**10), atol=1e-6)


def test_accumulated_parts_equal_the_large_batch(tmp_path, whole):
    config = copy.copy(CONFIG)
    config.accumulation = 4
    parts = trainer(tmp_path, config=config)
    fit(parts)
    assert torch.allclose(weights(parts.plain), weights(whole.plain), atol=1e-5)
    assert parts.history[-1]["train_loss"] == pytest.approx(whole.history[-1]["train_loss"], rel=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_loss_names_the_step_and_the_last_good_checkpoint(tmp_path, bad):
    stage = Regression()
    good = stage.losses

    def losses(model, indices, draws):
        value = good(model, indices, draws)
        return value * bad if stage.images > 320 else value

    stage.losses = losses
    with pytest.raises(TrainingError, match=r"at image 320 \(step 10\).*000000000288"):
        fit(trainer(tmp_path, stage))
    kept = trainer(tmp_path)
    kept.resume()
    assert torch.isfinite(weights(kept.plain)).all()
    assert kept.images == 288


def test_a_half_written_checkpoint_is_not_one(tmp_path, whole):
    folder = tmp_path / "checkpoints"
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(tmp_path, Regression(stop_at(200))))
    left = folder / ".000000000640.partial"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert checkpoint.newest(folder).name == "000000000192"
    resumed = trainer(tmp_path)
    fit(resumed)
    assert torch.equal(weights(resumed.plain), weights(whole.plain))
    assert not left.exists()
    assert len(list(folder.iterdir())) == CONFIG.keep_checkpoints


def test_other_settings_are_refused_by_name(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(tmp_path, Regression(stop_at(200)), identity={"training": {"learning_rate": 0.1}}))
    with pytest.raises(ValueError, match=r"training.learning_rate = 0.1, not 0.2.*--resume never"):
        fit(trainer(tmp_path, identity={"training": {"learning_rate": 0.2}}))


def test_dropout_is_the_same_when_resumed_and_moves_no_other_draw(tmp_path):
    def stage(on_step=lambda images: None):
        made = Regression(on_step)
        made.model.append(nn.Dropout(0.5))
        return made

    uncut = trainer(tmp_path / "whole", stage())
    before = torch.get_rng_state()
    fit(uncut)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(tmp_path / "cut", stage(stop_at(200))))
    torch.rand(7)
    resumed = trainer(tmp_path / "cut", stage())
    fit(resumed)
    assert resumed.history == uncut.history
    assert torch.equal(weights(resumed.plain), weights(uncut.plain))


def test_resume_never_starts_again(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(tmp_path, Regression(stop_at(200)), seed=5))
    fresh = trainer(tmp_path, identity={"seed": 0})
    fit(fresh, "never")
    assert torch.equal(weights(fresh.plain), weights(whole.plain))


def test_epochs_are_permutations_and_batches_continue_across_them():
    stream = [batch_indices(start, 7, 10, seed=3) for start in range(0, 70, 7)]
    stream = torch.tensor([i for batch in stream for i in batch]).reshape(7, 10)
    assert (stream.sort(1).values == torch.arange(10)).all()
    assert not torch.equal(stream[0], stream[1])
    assert (batch_indices(0, 35, 10, seed=3) == stream.flatten()[:35].numpy()).all()


def test_seeds_differ_by_purpose_and_moment():
    seeds = {derived_seed(s, p, n) for s in (0, 1) for p in ("vae", "diffusion") for n in (0, 1, 128)}
    assert len(seeds) == 12


def test_the_learning_rate_warms_up_and_ends_at_nothing():
    assert learning_rate_factor(0, CONFIG) == pytest.approx(0.5)
    assert learning_rate_factor(32, CONFIG) == pytest.approx(1.0, abs=0.01)
    assert learning_rate_factor(320, CONFIG) == pytest.approx(0.5)
    assert learning_rate_factor(640, CONFIG) == pytest.approx(0.0)


def test_first_difference_names_the_key():
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 1}}) == ""
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b = 1, not 2"
    assert first_difference({}, {"c": 3}) == "c = None, not 3"
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == "a.1.b = 2, not 3"
    assert first_difference({"a": [1]}, {"a": [1, 2]}) == "a = [1], not [1, 2]"


def test_encoder_rate_is_also_that_of_the_gate_of_the_encoder(tmp_path):
    stage = Regression()
    stage.model = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("encoder", "encoder_gate", "decoder_gate")})
    made = trainer(tmp_path, stage, dataclasses.replace(CONFIG, encoder_rate=0.01))
    peaks = {id(w): group["peak"] for group in made.optimizers["optimizer"].param_groups for w in group["params"]}
    rates = {name: peaks[id(weight)] / CONFIG.learning_rate for name, weight in made.plain.named_parameters()}
    expected = {"encoder": 0.01, "encoder_gate": 0.01, "decoder_gate": 1.0}
    assert rates == pytest.approx({name: expected[name.split(".")[0]] for name in rates})

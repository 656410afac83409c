"""What holds for every baseline, and the autoencoder, the VAE and the beta-VAE."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from baseline_cases import SHAPE, small, trained
from betadiffusion.baselines.presets import PRESETS
from betadiffusion.baselines.runs import class_of, load_baseline
from betadiffusion.cli.main import main
from betadiffusion.gaussian import standard_normal_kl
from betadiffusion.nn.likelihood import Likelihood
from betadiffusion.training.files import write_folder

CONFIGS = Path(__file__).parents[1] / "configs" / "baselines"
SECTIONS = ("vae_training", "diffusion_training", "baseline", "condition")


class Images:
    """Bright and dark squares with noise."""

    name, image_shape, skipped = "squares", SHAPE, []

    def __init__(self, count=200):
        generator = np.random.default_rng(0)
        squares = np.zeros((count, *SHAPE))
        for square in squares:
            row, column = generator.integers(0, 8, 2)
            square[:, row : row + 8, column : column + 8] = 200
        self.array = (squares + generator.integers(0, 40, squares.shape)).astype(np.uint8)
        self.labels = (np.arange(count) % 3).astype(np.int64)

    def __len__(self):
        return len(self.array)

    def images(self, indices):
        return self.array[indices]


def batch(count=6):
    return torch.from_numpy(Images().images(np.arange(count))) / 127.5 - 1


@pytest.mark.parametrize("name", PRESETS)
def test_every_baseline_has_a_configuration_that_trains_it(name):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert config["model"] == name
    assert config["stages"] == list(PRESETS[name].stages)
    assert PRESETS[name].source
    set_there = {f"{part}.{key}": value for part in SECTIONS for key, value in config.get(part, {}).items()}
    for key in ("condition.classes", "baseline.base"):  # of the data at hand, and of another run
        set_there.pop(key, None)
    assert set_there == PRESETS[name].training


@pytest.mark.parametrize("name", PRESETS)
def test_a_loss_for_each_image_and_gradients_for_what_is_trained(name):
    model = small(name)
    for stage in PRESETS[name].stages:
        model.prepare(stage, batch())
        draws = model.draw(6, torch.Generator().manual_seed(0))
        opponent = model.make_opponent()
        given = {} if opponent is None else {"opponent": opponent}
        if PRESETS[name].by_class:
            given["labels"] = torch.arange(6) % 3
        losses = model(batch(), *draws, **given)
        assert losses.shape == (6,)
        losses.sum().backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not without
        model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("name", PRESETS)
def test_saved_and_loaded_is_the_same(name, tmp_path):
    model = small(name).eval()
    write_folder(tmp_path / "baseline" / "model", model.save_pretrained)
    loaded = load_baseline(tmp_path).eval()
    assert type(loaded) is class_of(name)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, msg=key)


def test_the_elbo_is_the_likelihood_and_the_kl():
    model, x = small("vae"), batch()
    eps = torch.randn(6, *model.latent_shape, generator=torch.Generator().manual_seed(1))
    mean, sigma = model.posterior(x)
    logits = model.decoded(mean + sigma * eps)
    bernoulli = torch.distributions.Bernoulli(logits=logits).log_prob
    # log_prob is linear in the value, so that grey pixels are a mixture
    y = x / 2 + 0.5
    log_p = (y * bernoulli(torch.ones_like(y)) + (1 - y) * bernoulli(torch.zeros_like(y))).flatten(1).sum(1)
    expected = (-log_p + standard_normal_kl(mean, sigma)) / x[0].numel()
    torch.testing.assert_close(model(x, eps), expected)
    doubled = small("beta_vae", beta=2.0)
    doubled.load_state_dict(model.state_dict())
    torch.testing.assert_close(doubled(x, eps) - model(x, eps), standard_normal_kl(mean, sigma) / x[0].numel())


def test_the_gaussian_likelihoods_are_densities():
    x, output = batch(), torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(2))
    half = 0.5 * ((x - output) / 2).square().flatten(1).sum(1) + x[0].numel() / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(Likelihood("gaussian")(x, output), half)
    learned = Likelihood("learned")
    scale = (x - output).square().mean().sqrt()
    learned.scale_curve["log_value"].data = scale.log()
    best = learned(x, output).sum()
    for factor in (0.9, 1.1):  # the root mean squared error is the best scale
        learned.scale_curve["log_value"].data = (factor * scale).log()
        assert learned(x, output).sum() > best
    with pytest.raises(ValueError, match="unknown likelihood"):
        Likelihood("laplace")


def test_a_greater_beta_keeps_less_and_errs_more(tmp_path):
    numbers = []
    for beta in (1.0, 30.0):
        torch.manual_seed(0)
        model = trained(small("vae", beta=beta), Images(), tmp_path / str(beta), count=6_000, learning_rate=1e-2)
        numbers.append(model.numbers(batch(50), torch.Generator().manual_seed(0)))
    assert numbers[0]["rate"] > numbers[1]["rate"] + 1
    assert numbers[0]["mse"] < numbers[1]["mse"]


def test_the_penalty_shortens_the_code(tmp_path):
    norms = []
    for l2 in (0.1, 30.0):
        torch.manual_seed(0)
        model = trained(small("l2_ae", l2=l2), Images(), tmp_path / str(l2), learning_rate=1e-2)
        norms.append(model.numbers(batch(50), torch.Generator())["code_norm"])
    assert norms[1] < norms[0] / 2


def run_of(model, folder, *options):
    arguments = ["--data.source", "shapes", "--data.limit", "100", "--data.held_out", "20"]
    arguments += ["--cpu", "true", "--precision", "fp32"]
    arguments += ["--vae.channels", "[8,8]", "--vae.latent_channels", "4", "--data.size", "32"]
    arguments += ["--vae_training.images", "60", "--vae_training.batch_size", "30", "--out", str(folder), *options]
    return main(["train", "--config", str(CONFIGS / f"{model}.yaml"), *arguments])


def test_commands_of_a_baseline(tmp_path, capsys):
    run = tmp_path / "run"
    assert run_of("vae", run) == 0
    assert main(["sample", str(run), "--num-images", "4"]) == 0
    assert main(["reconstruct", str(run), "--num-images", "3"]) == 0
    assert (run / "samples.png").is_file()
    assert (run / "reconstructions.png").is_file()
    assert (
        main(["evaluate", str(run), "--metrics", "mig", "--count", "30", "--test-count", "20", "--split", "all"]) == 0
    )
    capsys.readouterr()
    for command, said in (
        (["sample", str(run), "--steps", "5"], "--steps has no effect with model 'vae'"),
        (["reconstruct", str(run), "--levels", "0.5"], "--levels has no effect with model 'vae'"),
        (["report", str(run)], "a baseline"),
    ):
        assert main(command) == 2
        assert said in capsys.readouterr().err


def test_an_autoencoder_cannot_sample(tmp_path, capsys):
    assert run_of("ae", tmp_path / "run") == 0
    capsys.readouterr()
    assert main(["sample", str(tmp_path / "run")]) == 2
    assert "model 'ae', which cannot sample" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--baseline.l2", "1"], "baseline.l2 has no effect with model 'vae'"),
        (["--vae.schedule", "linear"], "vae.schedule has no effect"),
        (["--diffusion.prediction", "flow"], "diffusion.prediction has no effect"),
        (["--stages", "[vae]"], "has the stages ['baseline']"),
        (["--baseline.beta", "-1"], "baseline.beta must be positive"),
    ],
)
def test_what_a_baseline_does_not_read_is_refused(options, said, tmp_path, capsys):
    assert run_of("vae", tmp_path / "run", *options) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

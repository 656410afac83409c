"""Baselines whose networks are told more than the image: its class (CVAE) or beta (Multi-Rate VAE)."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from baseline_cases import small, trained
from betadiffusion.baselines.multi_rate_vae import Gate
from betadiffusion.cli.main import main
from betadiffusion.gaussian import standard_normal_kl
from test_baselines import Images, batch, run_of


def noise(model, count=6):
    return torch.randn(count, *model.latent_shape, generator=torch.Generator().manual_seed(1))


class Places(Images):
    """A bright band, whose place is the class, with noise."""

    def __init__(self, count=210):
        super().__init__(count)
        generator = np.random.default_rng(1)
        self.array = generator.integers(0, 40, self.array.shape).astype(np.uint8)
        for image, label in zip(self.array, self.labels, strict=True):
            image[:, :, 5 * label : 5 * label + 5] += 200


def test_cvae_draws_the_class_that_it_is_asked_for(tmp_path):
    torch.manual_seed(0)
    model = trained(small("cvae"), Places(), tmp_path, count=4_000, learning_rate=1e-2).eval()
    with torch.no_grad():
        for label, name in enumerate(model.config.classes):
            images = model.sample(4, torch.Generator().manual_seed(0), class_=name)
            bands = [images[:, :, :, 5 * i : 5 * i + 5].mean() for i in range(3)]
            assert min(bands[label] - other for i, other in enumerate(bands) if i != label) > 1
        some = model.sample(6, torch.Generator().manual_seed(0))
        few = model.sample(2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(some[:2], few)
    with pytest.raises(ValueError, match="there is no class 'up'"):
        model.sample(1, class_="up")


def test_commands_of_a_model_by_class(tmp_path, capsys):
    run, picture = tmp_path / "run", tmp_path / "a.png"
    assert run_of("cvae", run) == 0
    assert main(["sample", str(run), "--class", "1", "--num-images", "2"]) == 0
    assert main(["reconstruct", str(run), "--num-images", "3"]) == 0
    capsys.readouterr()
    for command, said in (
        (["sample", str(run), "--class", "pyramid"], "there is no class 'pyramid'"),
        (["reconstruct", str(run), str(picture)], "name no files"),
        (["evaluate", str(run)], "which has no encoder to evaluate"),
    ):
        assert main(command) == 2
        assert said in capsys.readouterr().err
    assert run_of("cvae", tmp_path / "other", "--condition.kind", "none") == 2
    assert "condition.kind must be 'labels'" in capsys.readouterr().err


def test_the_gates_of_a_multi_rate_vae():
    # the optimal linear decoder of variance v shrinks by sqrt(1 - beta / v), and is shut from beta = v on
    gate, log_beta = Gate(2, decoder=True), torch.tensor([0.1, 1.0, 5.0]).log()[:, None]
    variances = torch.tensor([2.0, 20.0])
    gate.weight.data, gate.bias.data = torch.ones(2), -variances.log()
    found = gate(torch.ones(3, 2, 1, 1), log_beta)[:, :, 0, 0]
    torch.testing.assert_close(found, (1 - log_beta.exp() / variances).clamp(min=1e-6).sqrt())
    for gate in (Gate(8, decoder=True), Gate(8, decoder=False)):
        eta = math.sqrt(3) * torch.linspace(-1, 1, 5)[:, None]
        values = gate(torch.ones(5, 8, 1, 1), eta)
        assert (values[1:-1] > 0.05).all()
        assert (values < 1).all()


def test_the_loss_of_a_multi_rate_vae_is_that_of_each_images_beta():
    model, x, t = small("multi_rate_vae"), batch(), torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    eps = noise(model)
    losses = model(x, eps, t)
    for i, beta in enumerate(0.01 * 1000.0**t):
        mean, sigma = model.posterior(x[i : i + 1], t[i])
        image = model.decode(mean + sigma * eps[i : i + 1], t[i]) / 2 + 0.5
        nll = nn.functional.binary_cross_entropy(image, x[i : i + 1] / 2 + 0.5, reduction="sum")
        expected = (nll + beta * standard_normal_kl(mean, sigma)[0]) / x[0].numel()
        assert float(losses[i].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert float(model.levels(None, 1)) == pytest.approx(2 / 3)  # beta = 1 within [0.01, 10]


def test_a_multi_rate_vae_keeps_less_at_a_greater_beta(tmp_path):
    torch.manual_seed(0)
    model = trained(small("multi_rate_vae"), Images(), tmp_path, count=8_000, learning_rate=1e-2)
    numbers = model.numbers(batch(50), torch.Generator().manual_seed(0))
    rates = [value for name, value in numbers.items() if name.startswith("rate@")]
    errors = [value for name, value in numbers.items() if name.startswith("mse@")]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > rates[-1] + 3
    assert errors[0] < errors[-1]


def test_commands_of_a_model_with_levels(tmp_path, capsys):
    run = tmp_path / "run"
    assert run_of("multi_rate_vae", run) == 0
    assert main(["sample", str(run), "--prior", "--beta", "0.1", "--num-images", "2"]) == 0
    assert main(["reconstruct", str(run), "--betas", "0.01", "10", "--num-images", "2"]) == 0
    options = ["--metrics", "mig", "--count", "30", "--test-count", "20", "--split", "all", "--levels", "2"]
    assert main(["evaluate", str(run), *options]) == 0
    capsys.readouterr()
    assert main(["reconstruct", str(run), "--betas", "100"]) == 2
    assert "a beta must be from 0.01 to 10" in capsys.readouterr().err
    assert run_of("multi_rate_vae", tmp_path / "other", "--vae.preset", "celeba64", "--vae.channels", "[32,32]") == 2
    assert "choose another vae.preset" in capsys.readouterr().err

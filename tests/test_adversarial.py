"""Terms beside Eq. 4: exactly off by default, the same however a batch is divided, resumed bit for bit."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import stage_cases
from betadiffusion.data import Subset, load
from betadiffusion.models.beta_diffusion import BetaDiffusionAutoencoder
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.nn.discriminator import PatchDiscriminator
from betadiffusion.training import checkpoint
from betadiffusion.training.adversary import Adversary
from betadiffusion.training.config import OptimisationConfig, PerceptualConfig
from betadiffusion.training.perceptual import Perceptual
from betadiffusion.training.vae_stage import VAEStage, last_layer
from test_metrics_lpips import ALEX, weights

CPU = torch.device("cpu")
CONFIG = OptimisationConfig(
    images=96, batch_size=16, learning_rate=1e-3, warmup_images=16, ema_images=50, validate_images=48,
    checkpoint_images=32,
)  # fmt: skip
GAN = PerceptualConfig(adversarial=0.5, channels=4)


@pytest.fixture(scope="module")
def images():
    return Subset(load("shapes", size=16), np.arange(0, 480_000, 12_000)).keep()


def stage(images, perceptual=None):
    torch.manual_seed(0)
    model = MultiBetaVAE(sample_size=16, channels=(8, 16), latent_channels=4, embedding_dim=8, schedule="log_beta")
    return VAEStage(model, images, images, CPU, perceptual=perceptual)


fit = partial(stage_cases.fit, CONFIG)


def flat(module):
    return torch.cat([value.detach().flatten().float() for value in module.state_dict().values()])


def test_terms_with_weight_0_change_no_bit(tmp_path, images):
    without, off = fit(tmp_path / "a", stage(images)), fit(tmp_path / "b", stage(images, PerceptualConfig()))
    assert torch.equal(flat(without.plain), flat(off.plain))
    assert without.history == off.history
    assert off.opponent is None
    assert sorted(path.name for path in off.last_checkpoint.iterdir()) == [
        "ema.safetensors", "model.safetensors", "muon.safetensors", "optimizer.safetensors", "state.json",
    ]  # fmt: skip


def test_the_adversarial_term_sets_in_at_its_image(tmp_path, images):
    without = fit(tmp_path / "a", stage(images), stop_at=64)
    late = fit(tmp_path / "b", stage(images, PerceptualConfig(adversarial=0.5, channels=4, start_images=64)), 64)
    before = flat(late.opponent)
    assert torch.equal(flat(without.plain), flat(late.plain))
    resumed = fit(tmp_path / "b", stage(images, PerceptualConfig(adversarial=0.5, channels=4, start_images=64)))
    plain = fit(tmp_path / "a", stage(images))
    assert not torch.equal(flat(plain.plain), flat(resumed.plain))
    assert not torch.equal(before, flat(resumed.opponent))
    assert resumed.opponent.adaptive > 0


def test_a_run_with_an_opponent_cut_anywhere_ends_with_the_same_bits(tmp_path, images):
    whole = fit(tmp_path / "whole", stage(images, GAN))
    fit(tmp_path / "cut", stage(images, GAN), stop_at=48)
    assert checkpoint.newest(tmp_path / "cut" / "checkpoints").name == "000000000032"
    resumed = fit(tmp_path / "cut", stage(images, GAN))
    assert torch.equal(flat(whole.plain), flat(resumed.plain))
    assert torch.equal(flat(whole.opponent), flat(resumed.opponent))
    assert whole.history == resumed.history


def test_accumulated_parts_equal_the_large_batch(tmp_path, images):
    whole = fit(tmp_path / "whole", stage(images, GAN))
    parts = fit(tmp_path / "parts", stage(images, GAN), accumulation=4)
    # Six steps of at most 1e-3 each, of which a CPU's order of sums changes 3e-5.
    assert torch.allclose(flat(whole.plain), flat(parts.plain), atol=1e-4)
    assert torch.allclose(flat(whole.opponent), flat(parts.opponent), atol=1e-4)
    assert whole.opponent.adaptive == pytest.approx(float(parts.opponent.adaptive), rel=1e-3)


def test_the_adaptive_weight_is_the_ratio_of_gradient_norms():
    torch.manual_seed(0)
    decoder, opponent = nn.Conv2d(2, 3, 3, padding=1), Adversary(3, 4, weight=1.0, start=0)
    x, z = torch.rand(6, 3, 16, 16), torch.randn(6, 2, 16, 16)
    opponent.begin(0)
    assert opponent.active
    for part in (slice(0, 2), slice(2, 6)):
        x_hat = decoder(z[part])
        error = (x[part] - x_hat).square().flatten(1).mean(1)
        assert (opponent.term(x[part], x_hat, error, decoder.weight) == 0).all()  # its first step: no weight yet
    assert all(weight.grad is None for weight in opponent.parameters())
    opponent.adapt(lambda value, how: value)
    norms = []
    for loss in ((x - decoder(z)).square().flatten(1).mean(1).sum(), opponent(decoder(z)).flatten(1).mean(1).sum()):
        norms.append(torch.autograd.grad(loss, decoder.weight)[0].norm())
    assert opponent.adaptive == pytest.approx(float(norms[0] / norms[1]), rel=1e-4)


def test_the_term_pulls_the_picture_towards_what_passes_for_real():
    torch.manual_seed(0)
    opponent = Adversary(1, 4, weight=2.0, start=0)
    opponent.adaptive.fill_(3.0)
    x_hat = torch.rand(2, 1, 16, 16, requires_grad=True)
    term = opponent.term(torch.rand(2, 1, 16, 16), x_hat, x_hat.flatten(1).sum(1), x_hat)
    assert torch.allclose(term, -6 * opponent(x_hat).flatten(1).mean(1))
    closer = x_hat - 1e-3 * torch.autograd.grad(term.sum(), x_hat)[0]
    assert opponent(closer).mean() > opponent(x_hat).mean()
    assert opponent.discriminator.head.weight.grad is None


def test_the_hinge_loss_in_closed_form():
    opponent = Adversary(3, 4, weight=1.0, start=0)
    opponent.images = torch.zeros(5, 3, 16, 16), torch.ones(5, 3, 16, 16)
    for real, made, loss in [(2.0, -3.0, 0.0), (0.0, 0.0, 1.0), (-1.0, 0.5, 1.75)]:
        verdicts = torch.cat([torch.full((5, 1, 2, 2), real), torch.full((5, 1, 2, 2), made)])
        assert torch.allclose(opponent.losses(lambda x, v=verdicts: v), torch.full((5,), loss))


def test_a_discriminator_learns_to_tell_and_sees_each_image_alone():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(3, 8)
    x = torch.rand(8, 3, 24, 24)
    assert discriminator(x).shape == (8, 1, 3, 3)
    assert torch.allclose(discriminator(x)[:2], discriminator(x[:2]), atol=1e-5)
    opponent, blurred = Adversary(3, 8, 1.0, 0), nn.functional.avg_pool2d(x, 3, 1, 1)
    optimizer = torch.optim.Adam(opponent.parameters(), 1e-3)
    for _ in range(40):
        opponent.images = x, blurred
        optimizer.zero_grad()
        loss = opponent.losses(opponent).mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.3


@pytest.mark.parametrize(
    "build",
    [
        lambda: MultiBetaVAE(sample_size=16, channels=(8, 16), latent_channels=4, embedding_dim=8),
        lambda: MultiBetaVAE(sample_size=16, channels=(8, 16), latent_channels=4, embedding_dim=8, block="resnet"),
        lambda: BetaDiffusionAutoencoder(sample_size=16, latent_channels=4, modulator_depth=1, decoder_depth=1),
    ],
    ids=["conv", "resnet", "tokens"],
)
def test_the_last_layer_is_the_one_that_the_picture_is_linear_in(build):
    torch.manual_seed(0)
    model = build().eval()
    weight, z, t = model.get_parameter(last_layer(model)), torch.randn(2, *model.latent_shape), torch.tensor([0.2, 0.7])
    with torch.no_grad():
        pictures = []
        for _ in range(3):
            pictures.append(model.decode(z, t))
            weight.add_(torch.ones_like(weight) * 0.1)
    first, second, third = pictures
    assert not torch.allclose(first, second, atol=1e-3)
    assert torch.allclose(third - second, second - first, atol=1e-4)


@pytest.fixture(scope="module")
def lpips_weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("lpips") / "alex.safetensors"
    save_file(weights("AlexNet_0", ALEX), file)
    return str(file)


def test_l1_and_lpips_add_up_and_have_gradients(lpips_weights):
    torch.manual_seed(0)
    x, x_hat = torch.rand(2, 3, 32, 32) * 2 - 1, (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    l1 = PerceptualConfig(l1=2.0)
    both = PerceptualConfig(l1=2.0, lpips=0.5, lpips_weights=lpips_weights)
    absolute = 2 * (x - x_hat).abs().mean((1, 2, 3))
    assert torch.allclose(Perceptual(l1, (3, 32, 32), CPU)(x, x_hat), absolute)
    perceptual = Perceptual(both, (3, 32, 32), CPU)
    total = perceptual(x, x_hat)
    distance = torch.from_numpy(perceptual.lpips(x, x_hat.detach()))
    assert torch.allclose(total, absolute + 0.5 * distance, rtol=1e-5)
    gradient = torch.autograd.grad(total.sum(), x_hat)[0]
    closer = x_hat - 1e-2 * gradient / gradient.norm()
    assert (perceptual(x, closer) < total).all()
    assert (perceptual(x, x) == 0).all()


def test_images_too_small_for_lpips_are_refused(lpips_weights):
    with pytest.raises(ValueError, match="at least 31 pixels a side"):
        Perceptual(PerceptualConfig(lpips=1.0, lpips_weights=lpips_weights), (3, 16, 16), CPU)

"""What makes stage "vae" of beta-Diffusion harder: hidden patches, noise in the latent."""

import numpy as np
import pytest
import torch

from betadiffusion.cli.main import main
from betadiffusion.data import Subset, load
from betadiffusion.models.beta_diffusion import BetaDiffusionAutoencoder
from betadiffusion.objectives import multi_beta_objective
from betadiffusion.training.config import PretextConfig
from betadiffusion.training.pretext import draw_pretext
from betadiffusion.training.vae_stage import VAEStage

CPU = torch.device("cpu")
VIT = {
    "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 16, "patch_size": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return BetaDiffusionAutoencoder(
        encoder=VIT, image_mean=(0.4, 0.5, 0.6), image_std=(0.2,), sample_size=16, latent_channels=2,
        modulator_width=16, decoder_width=16, head_dim=8, decoder="attention",
    ).eval()  # fmt: skip


def test_the_same_share_of_every_image_is_hidden_and_noise_is_uniform():
    generator = torch.Generator().manual_seed(0)
    mask, share, noise = draw_pretext(PretextConfig(mask=0.3, noise=0.8), 2_000, (2, 4, 4), generator)
    assert mask.shape == (2_000, 4, 4)
    assert (mask.flatten(1).sum(1) == round(0.3 * 16)).all()
    assert torch.allclose(mask.float().mean(0), torch.full((4, 4), 5 / 16), atol=0.05)  # every patch alike
    assert share.min() >= 0
    assert 0.79 < share.max() <= 0.8
    assert share.mean() == pytest.approx(0.4, abs=0.02)
    assert noise.shape == (2_000, 2, 4, 4)
    assert noise.std() == pytest.approx(1, abs=0.02)


def test_pixels_under_the_mask_never_reach_the_encoder(model):
    x = torch.rand(3, 3, 16, 16) * 2 - 1
    mask, _, _ = draw_pretext(PretextConfig(mask=0.5), 3, model.latent_shape, torch.Generator().manual_seed(1))
    hidden = torch.kron(mask, torch.ones(4, 4, dtype=torch.bool))[:, None]
    other = torch.where(hidden, torch.rand_like(x), x)
    assert torch.equal(model.features(other, mask), model.features(x, mask))
    assert not torch.allclose(model.features(other), model.features(x))
    mean = torch.tensor([0.4, 0.5, 0.6]).view(-1, 1, 1) * 2 - 1
    assert torch.allclose(model.features(x, mask), model.features(torch.where(hidden, mean, x)), atol=1e-5)


def test_a_share_of_one_leaves_the_decoder_nothing_of_the_image(model):
    x, t, eps = torch.rand(2, 3, 16, 16), torch.full((2,), 0.5), torch.randn(2, 2, 4, 4)
    noise, mask = torch.randn(2, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    outputs = [model(image, t, eps, pretext=(mask, torch.ones(2, 1, 1, 1), noise)).x_hat for image in (x, -x)]
    assert torch.equal(*outputs)
    plain = model(x, t, eps).x_hat
    assert torch.allclose(model(x, t, eps, pretext=(mask, torch.zeros(2, 1, 1, 1), noise)).x_hat, plain, atol=1e-6)


def test_the_loss_is_of_the_whole_image_and_draws_are_those_of_the_plain_stage_at_first(model):
    images = Subset(load("shapes", size=16), np.arange(0, 480_000, 12_000)).keep()
    plain = VAEStage(model, images, images, CPU, pretext=PretextConfig())
    harder = VAEStage(model, images, images, CPU, pretext=PretextConfig(mask=0.75))
    few, more = (stage.draw(32, torch.Generator().manual_seed(0)) for stage in (plain, harder))
    assert len(few) == 2
    assert all(torch.equal(a, b) for a, b in zip(few, more, strict=False))
    losses = [stage.losses(model, np.arange(32), draws) for stage, draws in ((plain, few), (harder, more))]
    assert not torch.allclose(*losses)
    x, (t, eps, *pretext) = torch.from_numpy(images.images(np.arange(32))) / 127.5 - 1, more
    out = model(x, t, eps, pretext=tuple(pretext))
    terms = multi_beta_objective(x, out.x_hat, out.mean, out.sigma, out.pixel_sigma, model.schedule(t))
    assert torch.allclose(losses[1], terms.loss / x[0].numel(), rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pretext.mask", "0.5"], "pretext.mask has no effect with model 'multi_beta_vae'"),
        (["--model", "beta_diffusion", "--pretext.mask", "1"], "pretext.mask must be below 1"),
        (
            ["--model", "beta_diffusion", "--beta_diffusion.train_encoder", "false", "--pretext.noise", "0.5"],
            "pretext.noise has no effect since the encoder is frozen",
        ),
    ],
)
def test_what_has_no_effect_is_refused(options, message, capsys, tmp_path):
    assert main(["train", *options, "--stages", "[vae]", "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err

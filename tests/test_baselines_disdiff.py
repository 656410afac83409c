"""DisDiff: fields of concepts on a frozen diffusion, and the loss that moves one concept alone."""

import shutil

import pytest
import torch
from torch import nn

from baseline_cases import SHAPE, saved, small, trained
from betadiffusion.baselines.disdiff import KEPT, down, up
from betadiffusion.baselines.linear_diffusion import clean, noised
from betadiffusion.baselines.runs import load_baseline
from betadiffusion.evaluation.encoders import random_encoder
from betadiffusion.training.files import write_text
from test_baselines import Images, batch

DRAWS = torch.tensor([0, 300, 999]), torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_what_is_right_leaves_the_image(prediction):
    time, eps = DRAWS
    noisy, target = noised(batch(3), time, eps, prediction)
    torch.testing.assert_close(clean(target, noisy, time, prediction), batch(3), rtol=1e-3, atol=1e-3)


def test_down_and_up_are_the_whole_u_net():
    unet, x, level = small("ddpm").unet, batch(3), torch.tensor([0.0, 0.3, 1.0])
    nn.init.normal_(unet.net.conv_out.weight)
    torch.testing.assert_close(up(unet.net, *down(unet.net, x, level)), unet(x, level))


def silent(model):
    """The model with fields of nothing."""
    for weight in model.unet.conv_out.parameters():
        nn.init.zeros_(weight)
    return model


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_without_fields_it_is_the_base(prediction, tmp_path):
    base = small("ddpm", prediction=prediction)
    model = silent(small("disdiff", base=saved(base, tmp_path)))
    model.prepare("baseline", batch())
    x, concept = batch(3), torch.tensor([0, 1, 2])
    torch.testing.assert_close(model(x, *DRAWS, concept), base(x, *DRAWS))
    found = model.numbers(x, torch.Generator().manual_seed(0))
    assert found["error"] == pytest.approx(found["error_without"])


class Quadrants(nn.Module):
    """An encoder of three concepts of one dimension: how bright three quarters of an image are."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))

    def forward(self, x, embedding):
        quarters = [x[:, 0, :8, :8], x[:, 0, :8, 8:], x[:, 0, 8:, :8]]
        return self.scale * torch.stack([q.mean((1, 2)) for q in quarters], dim=1)[:, :, None, None]


def test_the_disentangling_loss_wants_one_concept_moved_towards_the_image():
    model = small("disdiff", concept_width=1)
    model.encoder = Quadrants()
    without, z = torch.zeros(1, *SHAPE), torch.tensor([[[2.0], [2.0], [2.0]]])

    def loss(change, concept=0):
        image = without.clone()
        image[:, :, :8, :8], image[:, :, :8, 8:] = change
        return model.entangled(without, image, z, torch.tensor([concept]))

    alone, both, other, away = loss((0.4, 0.0)), loss((0.4, 0.4)), loss((0.4, 0.0), 1), loss((-0.4, 0.0))
    assert alone < other
    assert alone < both / 2  # a change twice as great
    assert alone < away
    assert float(loss((0.0, 0.0))) == 0
    # distances moved are (1.6, 0, 0), and as much nearer: cross-entropies of these logits, times the mean square
    logits = torch.tensor([1.6, 0.0, 0.0])
    assert float(alone) == pytest.approx(0.4**2 / 4 * 2 * float(-logits.log_softmax(0)[0]), rel=1e-5)
    image = torch.full((1, *SHAPE), 0.1, requires_grad=True)
    model.entangled(without, image, z, torch.tensor([0])).sum().backward()
    assert image.grad.abs().sum() > 0
    assert model.encoder.scale.grad is None


def test_training_tells_the_diffusion_more_and_leaves_the_base(tmp_path):
    torch.manual_seed(0)
    base = trained(small("ddpm"), Images(), tmp_path / "ddpm", count=500)
    model = small("disdiff", base=saved(base, tmp_path / "base"))
    with pytest.raises(ValueError, match="no codes to draw concepts from"):
        model.sample(2)
    model = trained(model, Images(), tmp_path / "training", count=800, learning_rate=3e-3, batch_size=40).eval()
    for key, value in base.state_dict().items():
        torch.testing.assert_close(model.frozen.state_dict()[key], value, rtol=0, atol=0)
    found = model.numbers(batch(100), torch.Generator().manual_seed(0))
    assert found["error"] < 0.9 * found["error_without"]

    model.finish(batch(100))
    z = model.concepts(batch(100)).detach()
    centred = z - z.mean(0)
    torch.testing.assert_close(model.axis.norm(dim=1), torch.ones(3))
    spread, most = model.encode_mean(batch(100)).var(0).flatten(), torch.linalg.svdvals(centred.transpose(0, 1))[:, 0]
    torch.testing.assert_close(spread, most.square() / 99, rtol=1e-3, atol=1e-6)
    assert model.kept.shape == (KEPT, 3, 5)
    first = model.sample(2, torch.Generator().manual_seed(1), steps=4)
    torch.testing.assert_close(model.sample(3, torch.Generator().manual_seed(1), steps=4)[:2], first)
    assert model.reconstruct(batch(2)).shape == (2, *SHAPE)
    saved(model, tmp_path / "run")
    loaded = load_baseline(tmp_path / "run").eval()
    torch.testing.assert_close(loaded.sample(2, torch.Generator().manual_seed(1), steps=4), first)


def test_each_concept_is_of_a_training_image_of_its_own(monkeypatch):
    model = small("disdiff")
    model.kept.copy_(torch.arange(KEPT)[:, None, None] + 1000.0 * torch.arange(3)[:, None])
    monkeypatch.setattr("betadiffusion.baselines.disdiff.denoise", lambda *given, **_: given[5])
    z = model.sample(50, torch.Generator().manual_seed(0))
    assert (z == z[:, :, :1]).all()  # a concept whole
    image = z[:, :, 0] - 1000 * torch.arange(3)
    assert ((image >= 0) & (image < KEPT)).all()
    assert (image[:, 0] != image[:, 1]).float().mean() > 0.9
    assert len(image[:, 0].unique()) > 40


def test_a_base_that_is_no_diffusion_of_pixels(tmp_path):
    with pytest.raises(ValueError, match="must be the run of a ddpm, not of a VAE"):
        small("disdiff", base=saved(small("vae"), tmp_path))


def test_an_untrained_one_has_codes_that_vary_and_needs_no_base(tmp_path):
    write_text(tmp_path / "run" / "config.yaml", "model: disdiff\n")
    model = small("disdiff", base=saved(small("ddpm"), tmp_path / "base"))
    saved(model, tmp_path / "run")
    shutil.rmtree(tmp_path / "base")
    found = random_encoder(tmp_path / "run", 0, torch.device("cpu")).model
    assert (found.encode_mean(batch(20)).std(0) > 0).all()
    other = random_encoder(tmp_path / "run", 1, torch.device("cpu")).model
    assert not torch.equal(found.axis, other.axis)

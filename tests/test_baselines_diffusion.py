"""The baselines that are a linear diffusion, of pixels or of codes."""

import pytest
import torch

from baseline_cases import SHAPE, small, trained
from betadiffusion.baselines.linear_diffusion import denoise, noise_errors, to_noise
from betadiffusion.baselines.prior import LatentPrior
from betadiffusion.cli.checks import check
from betadiffusion.training.config import RunConfig
from test_baselines import Images, batch

SAMPLED = ("ddpm", "latent_diffusion", "diffae", "infodiffusion")


class Gaussian:
    """The noise that data N(mean, deviation^2) have in them at time t: what a network would have to learn."""

    def __init__(self, mean, deviation):
        self.mean, self.variance = mean, deviation**2
        self.kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)

    def __call__(self, z, t, condition=None):
        kept = self.kept[(1000 * t).round().long()].to(z)[:, None, None, None]
        return (1 - kept).sqrt() * (z - kept.sqrt() * self.mean) / (kept * self.variance + 1 - kept)


def noise(count=2_000):
    return torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_exact_noise_of_a_gaussian_samples_it(eta):
    drawn = denoise(Gaussian(0.4, 0.3), noise(), 250, eta, torch.Generator().manual_seed(1))
    assert float(drawn.mean()) == pytest.approx(0.4, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.3, rel=0.05)


def test_the_exact_noise_has_the_least_error():
    exact, z = Gaussian(0.4, 0.3), 0.4 + 0.3 * noise(4_000)
    generator = torch.Generator().manual_seed(1)
    time = torch.randint(1000, (4_000,), generator=generator)
    eps = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    kept = exact.kept[time]
    # Var[eps | z_t] of jointly Gaussian data and noise
    expected = kept * exact.variance / (kept * exact.variance + 1 - kept)
    errors = noise_errors(exact, z, time, eps)
    assert float(errors.mean()) == pytest.approx(float(expected.mean()), rel=0.02)
    for other in (Gaussian(0.5, 0.3), Gaussian(0.4, 0.35)):
        assert noise_errors(other, z, time, eps).mean() > errors.mean()


def test_there_and_back_is_the_nearer_the_more_steps_there_are():
    z, exact = 0.4 + 0.3 * noise(100), Gaussian(0.4, 0.3)
    errors = []
    for steps in (10, 100, 1000):
        there = to_noise(exact, z, steps)
        errors.append(float((denoise(exact, there, steps) - z).abs().max()))
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert errors[2] < 0.01
    assert float(there.std()) == pytest.approx(1, abs=0.1)


@torch.no_grad()
def test_noise_and_v_say_the_same():
    exact, z, near = Gaussian(0.4, 0.3), noise(10), {"atol": 1e-5, "rtol": 1e-5}

    def v(z, t, condition=None):
        kept = exact.kept[(1000 * t).round().long()].to(z)[:, None, None, None]
        return (exact(z, t) - (1 - kept).sqrt() * z) / kept.sqrt()

    torch.testing.assert_close(denoise(v, z, 50, prediction="v_prediction"), denoise(exact, z, 50), **near)
    torch.testing.assert_close(to_noise(v, z, 50, prediction="v_prediction"), to_noise(exact, z, 50), **near)
    time, eps = torch.full((10,), 600), torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).to(z)
    errors = noise_errors(v, z, time, eps, prediction="v_prediction")  # 1 / a_t of those of the noise
    torch.testing.assert_close(exact.kept[600] * errors, noise_errors(exact, z, time, eps), **near)


def test_steps_and_eta_that_cannot_be():
    with pytest.raises(ValueError, match="eta must be"):
        denoise(Gaussian(0, 1), noise(1), 10, 1.5)
    for steps in (0, 1, 3, 334, 375, 501, 750, 1001):
        with pytest.raises(ValueError, match=f"751 to 1000 steps, not {steps}"):
            denoise(Gaussian(0, 1), noise(1), steps)


@pytest.mark.parametrize("steps", [4, 333, 376, 500, 751, 1000])
def test_sampling_begins_where_there_is_noise_alone(steps):
    exact = Gaussian(0.6, 0.1)
    drawn = denoise(exact, noise(), steps)
    assert float(drawn.mean()) == pytest.approx(0.6, abs=0.05)


def ready(name, scale=0.1):
    """A small model with a prior, whose outputs are not all zero as they are at the start."""
    torch.manual_seed(0)
    model = small(name).eval()
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=scale)
    model.prepare("prior", batch())
    return model


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("name", SAMPLED)
@torch.no_grad()
def test_an_image_of_a_seed_is_the_same_in_any_batch(name, eta):
    model = ready(name)
    whole = model.sample(4, torch.Generator().manual_seed(5), steps=4, eta=eta)
    generator = torch.Generator().manual_seed(5)
    parts = torch.cat([model.sample(3, generator, steps=4, eta=eta), model.sample(1, generator, steps=4, eta=eta)])
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-4)
    assert (whole[0] - whole[1]).abs().max() > 0.01
    other = model.sample(4, torch.Generator().manual_seed(6), steps=4, eta=eta)
    assert (whole - other).abs().max() > 0.01


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["diffae", "infodiffusion"])
@torch.no_grad()
def test_code_and_noise_hold_the_image(name, prediction):
    few, many = (small(name, steps=steps, prediction=prediction).eval() for steps in (5, 100))
    few.load_state_dict(ready(name, 0.003).state_dict())
    many.load_state_dict(few.state_dict())
    errors = [float((model.reconstruct(batch()) - batch()).square().mean().sqrt()) for model in (few, many)]
    assert errors[1] < 0.05
    assert errors[1] < errors[0] / 5


@pytest.mark.parametrize("name", ["diffae", "infodiffusion"])
@torch.no_grad()
def test_the_code_matters(name):
    model = ready(name)
    each = [torch.Generator().manual_seed(0)]
    one, other = (model.images(model.encode_mean(batch(2))[i : i + 1], each, 4, 0.0) for i in range(2))
    assert (one - other).abs().max() > 1e-3


def test_training_lowers_the_error_below_that_of_noise(tmp_path):
    torch.manual_seed(0)
    model = trained(small("ddpm"), Images(), tmp_path, count=1_500, learning_rate=5e-3)
    assert model.numbers(batch(100), torch.Generator().manual_seed(0))["loss"] < 0.5  # one where nothing is said


def test_a_prior_learns_where_codes_are(tmp_path):
    """Means and deviations of what is drawn, of codes that are anything but standard normal."""
    torch.manual_seed(0)
    prior, generator = LatentPrior((3, 1, 1), 32, 1), torch.Generator().manual_seed(0)
    mean, deviation = torch.tensor([5.0, -3, 0])[:, None, None], torch.tensor([0.1, 2, 1])[:, None, None]
    prior.calibrate(torch.zeros(()), torch.tensor(3.0))
    optimizer = torch.optim.Adam(prior.parameters(), 3e-3)
    for _ in range(600):
        z = mean + deviation * torch.randn(256, 3, 1, 1, generator=generator)
        time = torch.randint(1000, (256,), generator=generator)
        loss = prior(z, time, torch.randn(z.shape, generator=generator)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        drawn = prior.sample([torch.Generator().manual_seed(i) for i in range(1_000)], 50, 0.0)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.4, rtol=0)
    torch.testing.assert_close(drawn.std(0)[1:], deviation[1:], atol=0.3, rtol=0.15)


def test_priors_are_of_codes_of_the_right_scale():
    for name, variance in (("latent_diffusion", 1.0), ("diffae", 1.0)):
        model = small(name)
        x = batch(50)
        model.prepare("prior", x)
        z = (model.encode_mean(x) - model.prior.shift) / model.prior.scale
        assert float(z.var()) == pytest.approx(variance, rel=0.05)


def test_grids_of_codes_have_a_transformer():
    prior = LatentPrior((4, 4, 4), 64, 1)
    drawn = prior.sample([torch.Generator().manual_seed(i) for i in range(2)], 4, 0.0)
    assert drawn.shape == (2, 4, 4, 4)


def test_the_mmd_makes_codes_standard_normal(tmp_path):
    divergences = []
    for weight in (0.0, 30.0):
        torch.manual_seed(0)
        model = trained(
            small("infodiffusion", code_mmd=weight), Images(), tmp_path / str(weight), count=1_000, learning_rate=5e-3
        )
        divergences.append(model.numbers(batch(200), torch.Generator().manual_seed(0))["mmd"])
    assert divergences[1] < divergences[0] / 2


def test_the_terms_of_infodiffusion_add_up():
    models = [small("infodiffusion", code_mmd=m, code_kl=k) for m, k in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))]
    x, draws = batch(), models[0].draw(6, torch.Generator().manual_seed(0))
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    plain, with_mmd, with_kl = (model(x, *draws) for model in models)
    mean, sigma = models[0].posterior(x)
    z = (mean + sigma * draws[0]).flatten(1)
    distances = torch.cdist(torch.cat([z, draws[1].flatten(1)]), torch.cat([z, draws[1].flatten(1)])).square()
    signs = torch.tensor([1.0] * 6 + [-1.0] * 6)
    expected = (signs[:, None] * signs * (-distances / 16).exp()).sum() / 36  # 4 dimensions, squared
    torch.testing.assert_close(with_mmd - plain, expected.expand(6), atol=1e-5, rtol=1e-4)
    kl = 0.5 * (mean.square() + sigma.square() - 1 - sigma.square().log()).flatten(1).sum(1)
    torch.testing.assert_close(with_kl - plain, kl, atol=1e-5, rtol=1e-4)


def test_a_denoiser_of_pixels_has_no_encoder():
    model = small("ddpm")
    assert not hasattr(model, "encode_mean")
    assert not hasattr(model, "reconstruct")
    assert model.image_shape == SHAPE


def test_only_what_has_an_effect_can_be_set():
    config = RunConfig(model="ddpm", stages=["baseline"])
    config.vae.latent_channels = 8
    with pytest.raises(ValueError, match=r"vae.latent_channels has no effect with model 'ddpm'"):
        check(config)
    config = RunConfig(model="vq_vae", stages=["baseline", "prior"])
    config.vae.layers_per_block, config.out = 2, "/tmp/a-run"
    check(config)  # the demo's blocks have no layers, those of the VQ-VAE have
    with pytest.raises(ValueError, match="751 to 1000 steps, not 2000"):
        small("diffae", steps=2_000)

import math

import numpy as np
import pytest
import torch
from PIL import Image

from betadiffusion import BetaDiffusionPipeline, MultiBetaVAE, NonlinearDenoiser
from betadiffusion.data.arrays import ArrayImages
from betadiffusion.gaussian import standard_normal_kl
from betadiffusion.models.presets import vae_preset
from betadiffusion.nn.curves import LevelCurve, RisingLevelCurve
from betadiffusion.nn.embedding import LevelEmbedding
from betadiffusion.oracle import gaussian_oracle
from betadiffusion.training.diffusion_stage import encode_with_velocity
from betadiffusion.training.images import load_images
from betadiffusion.training.vae_stage import VAEStage

SMALL = {"sample_size": 16, "channels": (16, 32), "latent_channels": 4, "embedding_dim": 16}
RESNET = SMALL | {"block": "resnet", "layers_per_block": 1}


@pytest.fixture(params=[SMALL, RESNET], ids=["conv", "resnet"])
def vae(request):
    torch.manual_seed(0)
    return MultiBetaVAE(**request.param).eval()


def images(count=3, seed=0):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def own_sigma():
    """A VAE whose posterior has a sigma of each image and dimension."""
    torch.manual_seed(0)
    return MultiBetaVAE(**SMALL, sigma_from="image").eval()


def test_sigma_of_the_image_is_the_posterior_s(own_sigma):
    x, t = images(), torch.tensor([0.0, 0.5, 1.0])
    with torch.no_grad():
        mean, sigma = own_sigma.posterior(x, t)
        assert (sigma > 0).all()
        assert sigma[0].std() > 0
        assert torch.allclose(sigma[2], torch.ones(()), atol=1e-5)  # the boundary: the prior at level 1
        assert mean[2].abs().max() < 1e-5
        out = own_sigma(x, t, torch.zeros_like(mean))
        assert torch.equal(out.sigma, sigma)
        drawn = own_sigma.encode_sample(x, t, torch.Generator().manual_seed(1))
        eps = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(drawn, mean + sigma * eps)


def test_the_diffusion_walks_means_with_sigma_of_the_level(own_sigma):
    own_sigma.calibrate_sigma(torch.linspace(0.1, 1, 65)[:, None].expand(-1, 4))
    x, mean = (images() + 1) / 2, own_sigma.encode_mean(images(), torch.tensor(0.5)).detach()
    noised = BetaDiffusionPipeline(own_sigma).noised(x, 0.5, [torch.Generator().manual_seed(i) for i in range(3)])
    eps = torch.stack([torch.randn(mean.shape[1:], generator=torch.Generator().manual_seed(i)) for i in range(3)])
    assert torch.allclose(noised, mean + 0.55 * eps, atol=1e-4)
    with pytest.raises(ValueError, match="nothing to calibrate"):
        MultiBetaVAE(**SMALL).calibrate_sigma(torch.ones(65, 4))
    with pytest.raises(ValueError, match="unknown sigma_from"):
        MultiBetaVAE(**SMALL, sigma_from="pixels")


def test_sigma_of_the_level_is_the_geometric_mean_over_training_images(own_sigma):
    source = ArrayImages("noise", np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), np.uint8))
    stage = VAEStage(own_sigma, source, source, torch.device("cpu"))
    stage.calibrate(own_sigma)
    x = load_images(source, np.arange(40), torch.device("cpu"))
    for level in (0.0, 0.25, 1.0):
        with torch.no_grad():
            sigma = own_sigma.posterior(x, torch.full((40,), level))[1]
        assert sigma.std() > 0 or level == 1
        assert float(own_sigma.sigma(torch.tensor(level))) == pytest.approx(float(sigma.log().mean().exp()), rel=1e-4)


def with_channel_noise(vae):
    """The same networks, not calibrated."""
    model = MultiBetaVAE(**SMALL, sigma_from="image", channel_noise=True).eval()
    networks = {name: value for name, value in vae.state_dict().items() if name != "sigma_curve.log_value"}
    assert model.load_state_dict(networks, strict=False).missing_keys == ["sigma_curve.log_value"]
    return model


def test_the_noise_of_a_channel_is_its_geometric_mean_over_training_images(own_sigma):
    """log sigma_c = E_x log sigma_c(x), in units of the prior, made to rise with the level."""
    model = with_channel_noise(own_sigma)
    source = ArrayImages("noise", np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), np.uint8))
    stage = VAEStage(model, source, source, torch.device("cpu"))
    x, knots = load_images(source, np.arange(40), torch.device("cpu")), torch.linspace(0, 1, 65)
    with torch.no_grad():
        mean = torch.stack([own_sigma.posterior(x, t)[1].log().mean((0, 2, 3)) for t in knots])
    for _ in range(2):  # what is calibrated already does not matter
        stage.calibrate(model)
        noise = model.sigma(knots)[:, None] / model.prior_scale(knots)[..., 0, 0]
        wanted = mean.exp().cummax(0).values
        assert torch.allclose(noise, wanted, rtol=1e-4)
        assert wanted[20].std() > 1e-3
        assert torch.allclose(model.sigma(knots), wanted.log().mean(1).exp(), rtol=1e-4)


def test_the_noise_of_channels_is_a_matter_of_units_for_the_vae(own_sigma):
    """Codes, posteriors and images are those without it, times tau; what the diffusion walks is noisier by as much."""
    model = with_channel_noise(own_sigma)
    own = torch.tensor([0.1, 0.2, 0.4, 0.8]) ** (1 - torch.linspace(0, 1, 65)[:, None])
    model.calibrate_sigma(own)
    x, t = images(), torch.tensor(0.5)
    with torch.no_grad():
        tau = model.prior_scale(t)
        assert torch.allclose(tau[:, 0, 0], own[32].log().mean().exp() / own[32])
        for scaled, plain in zip(model.posterior(x, t), own_sigma.posterior(x, t), strict=True):
            assert torch.allclose(scaled, tau * plain, rtol=1e-5)
        z = torch.randn(3, *model.latent_shape, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(model.decode(tau * z, t), own_sigma.decode(z, t), atol=1e-5)
        assert torch.equal(model(x, t.expand(3), z).x_hat, own_sigma(x, t.expand(3), z).x_hat)
        assert torch.allclose(model.prior_scale(torch.tensor(1.0)), torch.ones(4, 1, 1))
        noise = [torch.Generator().manual_seed(i) for i in range(3)]
        noised = BetaDiffusionPipeline(model).noised((x + 1) / 2, 0.5, noise) / tau
        eps = torch.stack([torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(i)) for i in range(3)])
        assert torch.allclose(noised, own_sigma.encode_mean(x, t) + own[32][:, None, None] * eps, atol=1e-4)


def test_encoding_is_deterministic_and_sampling_adds_sigma_eps(vae):
    x, t = images(), torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        mean = vae.encode_mean(x, t)
        assert torch.equal(mean, vae.encode_mean(x, t))
        drawn = vae.encode_sample(x, t, torch.Generator().manual_seed(1))
        eps = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
        assert torch.allclose(drawn, mean + vae.sigma(t)[:, None, None, None] * eps)
        assert mean.shape[1:] == vae.latent_shape
        assert vae.decode(drawn, t).shape == x.shape


def test_a_level_for_all_equals_the_same_level_for_each(vae):
    x = images()
    with torch.no_grad():
        assert torch.allclose(vae.encode_mean(x, torch.tensor(0.3)), vae.encode_mean(x, torch.full((3,), 0.3)))


def test_images_of_a_batch_do_not_meet(vae):
    x, t = images(), torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        assert torch.allclose(vae.encode_mean(x, t)[1:2], vae.encode_mean(x[1:2], t[1:2]), atol=1e-5)


def test_the_boundary_holds_by_construction(vae):
    x, one = images(), torch.ones(3)
    with torch.no_grad():
        mean = vae.encode_mean(x, one)
        assert mean.abs().max() < 1e-5
        assert vae.sigma(one).tolist() == [1, 1, 1]
        assert standard_normal_kl(mean, vae.sigma(one)).max() < 1e-6
        plain = MultiBetaVAE(**SMALL, boundary=False)
        assert plain.encode_mean(x, one).abs().max() > 1e-3  # erratum 6: nothing else makes it so


def test_encoder_and_decoder_follow_the_level_in_every_block():
    """Silence the level in all blocks but one: the output still depends on it."""
    for part in ("encoder", "decoder"):
        vae = MultiBetaVAE(**SMALL).eval()
        blocks = [m for m in getattr(vae, part).modules() if hasattr(m, "modulation")]
        assert len(blocks) == 2 + (part == "decoder")
        weights = [b.modulation.weight.detach().clone() for b in blocks]
        for i, block in enumerate(blocks):
            for other in blocks:
                torch.nn.init.zeros_(other.modulation.weight)
            block.modulation.weight.data.copy_(weights[i])
            given = images() if part == "encoder" else torch.randn(3, 4, 1, 1)
            with torch.no_grad():
                out = [getattr(vae, part)(given, vae.embedding(torch.full((3,), t))) for t in (0.1, 0.9)]
            assert not torch.allclose(*out)


@pytest.mark.parametrize("channels", [0, 3])
def test_level_channels_tell_the_decoder_the_level_beside_the_latent(channels):
    """With the level silenced in every block, only then does it draw another image at another level."""
    vae = MultiBetaVAE(**SMALL, level_channels=channels).eval()
    for block in (m for m in vae.decoder.modules() if hasattr(m, "modulation")):
        torch.nn.init.zeros_(block.modulation.weight)
    z = torch.ones(1, 4, 1, 1)
    with torch.no_grad():
        low, high = (vae.decode(z, torch.tensor(t)) for t in (0.1, 0.9))
    assert torch.allclose(low, high) == (channels == 0)
    with pytest.raises(ValueError, match="level_channels is from 0 to embedding_dim"):
        MultiBetaVAE(**SMALL, level_channels=10_000)


@pytest.mark.parametrize("sigma_from", ["level", "image"])
def test_gates_are_open_at_first_and_shut_a_channel_at_one_level_alone(sigma_from):
    shape = SMALL | {"sigma_from": sigma_from}
    vae = MultiBetaVAE(**shape, gates=True).eval()
    without = MultiBetaVAE(**shape).eval()
    without.load_state_dict({k: v for k, v in vae.state_dict().items() if "_gate." not in k})
    x, z, t = images(), torch.randn(3, 4, 1, 1, generator=torch.Generator().manual_seed(1)), torch.tensor(0.3)
    other, elsewhere = z + torch.tensor([0.0, 5.0, 0.0, 0.0])[:, None, None], torch.tensor(0.6)
    with torch.no_grad():
        assert torch.equal(vae.encode_mean(x, t), without.encode_mean(x, t))
        assert torch.equal(vae.decode(z, t), without.decode(z, t))
        for gate in (vae.encoder_gate, vae.decoder_gate):  # the scale of channel 1 becomes 0 at level 0.3, not at 0.6
            here, there = vae.embedding(torch.stack([t, elsewhere]))
            direction = here - (here @ there) / (there @ there) * there
            gate.weight[1] = -direction / (direction @ here)
        mean = vae.encode_mean(x, t)[:, :, 0, 0].abs().amax(0)
        assert mean[1] < 1e-5 < mean[0]
        assert torch.allclose(vae.encode_mean(x, elsewhere), without.encode_mean(x, elsewhere), atol=1e-5)
        assert torch.allclose(vae.decode(other, t), vae.decode(z, t), atol=1e-4)
        assert not torch.allclose(vae.decode(other, elsewhere), vae.decode(z, elsewhere), atol=1e-2)


def test_velocity_is_the_derivative_of_the_mean(vae):
    """Against forward-mode differentiation, for which GroupNorm's and attention's kernels are not made everywhere."""
    x, t = images(), torch.tensor([0.0, 0.5, 1.0])
    f, velocity = encode_with_velocity(vae, x, t)
    with torch.no_grad():
        assert torch.allclose(f, vae.encode_mean(x, t), atol=3e-4)
    if vae.config.block == "conv":
        exact = torch.func.jvp(lambda level: vae.encode_mean(x, level), (t,), (torch.ones(3),))[1]
        assert torch.allclose(velocity[1], exact[1], rtol=5e-3, atol=5e-3)
        assert torch.allclose(velocity, exact, rtol=0.1, atol=0.1)
    half = encode_with_velocity(vae, x[1:2], t[1:2] + 0.01)[0] - encode_with_velocity(vae, x[1:2], t[1:2] - 0.01)[0]
    assert torch.allclose(velocity[1:2], half / 0.02, rtol=0.05, atol=0.02)


def test_sigma_rises_whatever_its_parameters():
    for fixed_end in (True, False):
        curve = RisingLevelCurve(33, start=0.1, fixed_end=fixed_end)
        t = torch.linspace(0, 1, 200)
        assert curve(t)[[0, -1]].tolist() == pytest.approx([0.1, 1.0], abs=1e-6)
        assert torch.allclose(curve(curve.knots), 0.1 + 0.9 * curve.knots, atol=1e-5)
        curve.log_value.data = 3 * torch.randn(33, generator=torch.Generator().manual_seed(0))
        assert (curve(t).diff() > 0).all()
        assert (float(curve(t)[-1]) == pytest.approx(1)) == fixed_end


def test_curves_are_piecewise_linear_in_the_logarithm():
    curve = LevelCurve(5, start=0.3)
    curve.log_value.data = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    assert curve(torch.tensor([0.0, 0.125, 0.25, 0.75])).log().tolist() == pytest.approx([0, 0.5, 1, 2], abs=1e-6)
    assert curve(torch.tensor(0.5, dtype=torch.float64)).shape == ()


def test_the_embedding_is_smooth():
    torch.manual_seed(0)
    embedding, t = LevelEmbedding(32), torch.linspace(0, 1, 1001)
    steps = embedding(t).diff(dim=0).norm(dim=1)
    assert steps.max() < 0.05 * embedding(t).norm(dim=1).mean()


def test_saved_models_are_the_same_models(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    again = MultiBetaVAE.from_pretrained(tmp_path)
    x, t = images(), torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        assert torch.equal(vae.encode_mean(x, t), again.encode_mean(x, t))
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".safetensors"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"sample_size": 20, "channels": (8, 8, 8)}, "cannot be halved 3 times"),
        ({"block": "vit"}, "unknown block 'vit'"),
        ({"activation": "relu"}, "unknown activation 'relu'"),
        ({"dropout": 0.1}, "need block 'resnet'"),
        ({"schedule": "cosine"}, "unknown schedule"),
    ],
)
def test_settings_that_do_not_exist_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        MultiBetaVAE(**(SMALL | changes)).schedule(torch.zeros(1))


def test_log_beta_ends_where_the_prior_wins():
    vae = MultiBetaVAE(**SMALL, schedule="log_beta")
    assert float(vae.schedule(torch.tensor(1.0)).kl) == pytest.approx(3 * 16 * 16 / 4)
    with pytest.raises(ValueError, match="has no effect with 'conv'"):
        vae_preset("demo", dropout=0.1)


def gaussian_denoiser(dimension=4):
    """A denoiser calibrated on f = cos(pi t / 2) x, x Gaussian: exact before any training."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, dimension, 1, 1, generator=generator) * torch.tensor([0.3, 1, 2, 1e-4])[:, None, None]
    knots = torch.linspace(0, 1, 33)
    a, slope = (math.pi / 2 * knots).cos(), -math.pi / 2 * (math.pi / 2 * knots).sin()
    model = NonlinearDenoiser((dimension, 1, 1), width=16, depth=1)
    sigma = 0.03 + 0.97 * torch.linspace(0, 1, 65)
    f, v = (x[:, None] * scale[None, :, None, None, None] for scale in (a, slope))
    model.preconditioning.calibrate(sigma.log(), f, v)
    return model, x


def test_an_untrained_denoiser_is_the_gaussian_oracle():
    model, x = gaussian_denoiser()
    covariance = torch.diag(x.flatten(1).var(0)).double()
    oracle = gaussian_oracle(covariance, lambda t: (math.pi / 2 * t).cos(), lambda t: 0.03 + 0.97 * t)
    z = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).double()
    for level in (0.25, 0.5, 0.75):  # knots of both tables, where nothing is interpolated
        t, s = torch.tensor([level, level - 1e-4], dtype=torch.float64)
        eps, delta = oracle.predict(z, t, s)
        eps_hat, delta_hat = model.predict(z.float()[:, :, None, None], t, s)
        assert torch.allclose(eps_hat.flatten(1), eps.float(), atol=0.03)
        assert torch.allclose(delta_hat.flatten(1), delta.float(), rtol=0.05, atol=1e-5)


def test_what_the_gaussian_part_leaves_over_has_unit_scale():
    model, x = gaussian_denoiser()
    for level in (0.25, 0.5, 0.75):
        t = torch.full((len(x),), level)
        f, v = math.cos(math.pi / 2 * level) * x, -math.pi / 2 * math.sin(math.pi / 2 * level) * x
        eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
        given = model.preconditioning(f + model.sigma(t)[:, None, None, None] * eps, t, t)
        for left in ((eps - given.eps) / given.eps_scale, (v - given.velocity) / given.velocity_scale):
            assert torch.allclose(left.flatten(1).std(0)[:3], torch.ones(3), atol=0.05)
            assert (left.flatten(1).std(0)[3] < 0.1).all()  # a shut channel does not ask for capacity
        assert given.z.std() == pytest.approx(1, abs=0.03)


def test_delta_is_a_velocity_times_the_step():
    model, _ = gaussian_denoiser()
    torch.nn.init.normal_(model.network.head.weight)
    z, t = torch.randn(3, 4, 1, 1), torch.tensor(0.5)
    near, far = (model.predict(z, t, torch.tensor(s)) for s in (0.4, 0.1))
    assert torch.equal(near[0], far[0])
    assert torch.allclose(4 * near[1], far[1], rtol=1e-4)


@pytest.mark.parametrize("arguments", [{"architecture": "rnn"}, {"latent_shape": (4, 8, 8)}])
def test_a_denoiser_that_does_not_fit_is_refused(arguments):
    with pytest.raises(ValueError, match=r"unknown architecture 'rnn'|needs vector latents"):
        NonlinearDenoiser(**arguments)


@pytest.fixture
def pipeline():
    torch.manual_seed(0)
    vae = MultiBetaVAE(**SMALL).eval()
    denoiser = NonlinearDenoiser(vae.latent_shape, width=16, depth=1).eval()
    denoiser.preconditioning.log_sigma.copy_(vae.sigma_curve.log_values().detach())
    return BetaDiffusionPipeline(vae, denoiser)


def test_a_saved_pipeline_draws_the_same_images(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    again = BetaDiffusionPipeline.from_pretrained(tmp_path)
    made = [
        p(num_images=3, steps=4, generator=torch.Generator().manual_seed(1), output_type="pt").images
        for p in (pipeline, again)
    ]
    assert torch.equal(*made)
    assert made[0].shape == (3, 3, 16, 16)
    assert made[0].min() >= 0
    assert made[0].max() <= 1
    assert not list(tmp_path.rglob("*.bin")) + list(tmp_path.rglob("*.pt"))


def test_images_of_every_kind_are_the_same_images(pipeline):
    array = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pictures = [Image.fromarray(a.permute(1, 2, 0).numpy()) for a in array]
    kinds = [array, array.numpy(), array.float() / 255, pictures]
    latents = [pipeline.encode(kind, 0.3) for kind in kinds]
    assert all(torch.allclose(latents[0], other, atol=1e-5) for other in latents[1:])
    assert torch.equal(pipeline.encode(pictures[0], 0.3), pipeline.encode(pictures[:1], 0.3))
    output = pipeline.reconstruct(pictures, 0.0).images
    assert [picture.size for picture in output] == [(16, 16), (16, 16)]


def test_walking_no_distance_changes_nothing(pipeline):
    z = torch.randn(2, *pipeline.vae.latent_shape)
    assert torch.equal(pipeline.walk(z, 0.4, end=0.4), z)
    x = (images() + 1) / 2
    generator = torch.Generator().manual_seed(0)
    walked = pipeline.denoise(x, 0.0, generator=generator, output_type="pt").images
    alone = pipeline.reconstruct(x, 0.0, torch.Generator().manual_seed(0), output_type="pt").images
    assert torch.equal(walked, alone)


def test_bad_input_is_refused_in_a_sentence(pipeline):
    with pytest.raises(ValueError, match=r"shape \(B, 3, 16, 16\) are needed, not \(1, 3, 8, 8\)"):
        pipeline.reconstruct(torch.zeros(1, 3, 8, 8), 0.5)
    with pytest.raises(ValueError, match=r"a level lies in \[0, 1\], not 1.5"):
        pipeline.encode(images(), 1.5)
    with pytest.raises(ValueError, match="'pil' or 'pt'"):
        pipeline(num_images=1, steps=1, output_type="jpg")


def test_every_sigma_of_an_image_begins_at_a_tenth():
    shape = {"sample_size": 16, "channels": (8, 16), "latent_channels": 4, "embedding_dim": 16}
    vae = MultiBetaVAE(**shape, sigma_from="image", boundary=False, channel_noise=False)
    for weight in vae.encoder.head.parameters():
        torch.nn.init.zeros_(weight)
    with torch.no_grad():
        sigma = vae.posterior(torch.rand(2, 3, 16, 16), torch.tensor([0.3, 0.9]))[1]
    torch.testing.assert_close(sigma, torch.full_like(sigma, 0.1), rtol=2e-3, atol=0)

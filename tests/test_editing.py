"""Algorithms 4 and 5, and directions: ends, inverses, and Gaussian codes whose best directions are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from betadiffusion import BetaDiffusionPipeline, MultiBetaVAE, NonlinearDenoiser
from betadiffusion.gaussian import split
from betadiffusion.pipelines import directions as named
from betadiffusion.pipelines.interpolation import dimensions, slerp, with_linear_means

SMALL = {"sample_size": 16, "channels": (8, 16), "embedding_dim": 16, "knots": 9}
LEVELS = [0.0, 0.4, 1.0]


@pytest.fixture(scope="module", params=["vector", "spatial"])
def pipeline(request):
    """A pipeline of untrained models whose walk moves codes, with latents 4x1x1 or 4x8x8."""
    torch.manual_seed(0)
    if request.param == "vector":
        vae = MultiBetaVAE(**SMALL, latent_channels=4)
        denoiser = NonlinearDenoiser((4, 1, 1), width=8, depth=1, knots=5, sigma_knots=9)
    else:
        vae = MultiBetaVAE(**SMALL, latent_channels=4, block="resnet", layers_per_block=1)
        denoiser = NonlinearDenoiser(
            (4, 8, 8), "unet", channels=(8,), layers_per_block=1, attention_resolutions=(), knots=5, sigma_knots=9
        )
    return BetaDiffusionPipeline(vae.eval(), denoiser.eval())


@pytest.fixture
def decoded(pipeline, monkeypatch):
    """The latents that the decoder got, in order."""
    seen = []
    decode = pipeline.vae.decode
    monkeypatch.setattr(pipeline.vae, "decode", lambda z, t: seen.append(z) or decode(z, t))
    return seen


def images(count=2, seed=0):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def noise():
    return torch.Generator().manual_seed(5)


def direction(pipeline, seed=1):
    return torch.randn(pipeline.vae.latent_shape, generator=torch.Generator().manual_seed(seed))


# Algorithm 4


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sampling", [{}, {"steps": 3, "method": "multistep"}, {"steps": 4, "eta": 1.0}])
def test_an_edit_of_strength_zero_is_denoise(pipeline, level, sampling):
    asked = {"generator": noise(), "output_type": "pt"} | sampling
    edited = pipeline.edit(images(), direction(pipeline), 0.0, level, **asked).images
    assert torch.equal(edited, pipeline.denoise(images(), level, **asked | {"generator": noise()}).images)


@pytest.mark.parametrize("level", LEVELS)
def test_an_edit_of_strength_zero_by_the_vae_alone_is_reconstruct(pipeline, level):
    asked = {"denoise": False, "output_type": "pt"}
    mean = pipeline.edit(images(), direction(pipeline), 0.0, level, code="mean", **asked).images
    assert torch.equal(mean, pipeline.reconstruct(images(), level, output_type="pt").images)
    draw = pipeline.edit(images(), direction(pipeline), 0.0, level, generator=noise(), **asked).images
    assert torch.equal(draw, pipeline.reconstruct(images(), level, noise(), "pt").images)


def test_a_direction_and_minus_it_cancel(pipeline, decoded):
    """The code moved by 2 of a direction, minus 2 of it, is the code; so is the mean of there and back."""
    along = direction(pipeline)
    for strength in (2.0, -2.0, 0.0):
        pipeline.edit(images(), along, strength, 0.4, denoise=False, generator=noise())
    there, back, code = decoded
    assert torch.allclose(there - 2 * along, code, atol=1e-5)
    assert torch.allclose((there + back) / 2, code, atol=1e-5)
    assert not torch.allclose(there, code, atol=0.1)


def test_an_edit_is_denoised_from_the_level_it_was_made_at(pipeline, decoded):
    along, level = direction(pipeline), 0.7
    pipeline.edit(images(), along.flatten(), 1.5, level, generator=noise(), steps=3)
    z = pipeline.encode(images(), level, noise()) + 1.5 * along
    assert torch.allclose(decoded[0], pipeline.walk(z, level, steps=3), atol=1e-5)


def test_a_walk_that_ends_above_zero_is_decoded_there(pipeline):
    edited = pipeline.edit(images(), direction(pipeline), 1.0, 0.7, generator=noise(), end=0.3, output_type="pt").images
    z = pipeline.encode(images(), 0.7, noise()) + direction(pipeline)
    with torch.no_grad():
        expected = pipeline.vae.decode(pipeline.walk(z, 0.7, end=0.3), torch.tensor(0.3))
    assert torch.allclose(edited, (expected / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_a_score_is_a_share_or_an_auroc():
    told = {kind: named.Direction("a", kind, 0.4, torch.ones(3), 0.25, 10).told for kind in ("pca", "disco", "means")}
    assert told == {"pca": "25.0% of the variance", "disco": "25.0% of the variance", "means": "AUROC 0.250"}


def test_a_named_direction_is_its_vector_at_its_own_level_alone(pipeline):
    along = direction(pipeline)
    pipeline.directions = [named.Direction("age", "means", level, along * level, 0.9, 10) for level in (0.4, 0.6)]
    asked = {"generator": noise(), "output_type": "pt"}
    by_name = pipeline.edit(images(), "age", 1.0, 0.6, **asked).images
    assert torch.equal(by_name, pipeline.edit(images(), along * 0.6, 1.0, 0.6, **asked | {"generator": noise()}).images)
    with pytest.raises(ValueError, match=r"'age' is known at level 0\.4, 0\.6, not at 0\.5"):
        pipeline.edit(images(), "age", 1.0, 0.5)
    with pytest.raises(ValueError, match="there is no direction 'hair'; the names are: age"):
        pipeline.edit(images(), "hair", 1.0, 0.6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"denoise": False, "steps": 5}, "steps have no effect without denoise"),
        ({"code": "middle"}, "code is 'draw' or 'mean', not 'middle'"),
    ],
)
def test_what_an_edit_cannot_do_is_said(pipeline, options, text):
    with pytest.raises(ValueError, match=text):
        pipeline.edit(images(), direction(pipeline), 1.0, 0.5, **options)
    with pytest.raises(ValueError, match="a direction must have the latent's shape"):
        pipeline.edit(images(), torch.zeros(3), 1.0, 0.5)


# Algorithm 5


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("options", [{"interpolation": "linear"}, {}, {"code": "mean"}, {"denoise": False}])
def test_weights_zero_and_one_are_the_ends(pipeline, decoded, level, options):
    a, b = images(seed=1), images(seed=2)
    pipeline.interpolate(a, b, [0, 0.5, 1], level, generator=noise(), **options)
    each = None if "code" in options else split(noise(), 2)  # a pair's noise is its own
    codes = [pipeline.encode(x, level, each) for x in (a, b)]
    walk = {} if "denoise" in options else {"steps": 20}
    ends = [pipeline.walk(z, level, **walk) if walk else z for z in codes]
    made = decoded[0].unflatten(0, (2, 3))
    assert torch.allclose(made[:, 0], ends[0], atol=1e-5)
    assert torch.allclose(made[:, 2], ends[1], atol=1e-5)
    if "denoise" in options:  # before any walk, exactly
        assert torch.equal(made[:, 0], codes[0])
        assert torch.equal(made[:, 2], codes[1])


@pytest.mark.parametrize("interpolation", ["slerp", "linear"])
def test_dimensions_that_are_not_named_stay_the_first_images(pipeline, decoded, interpolation):
    a, b = images(seed=1), images(seed=2)
    shape = pipeline.vae.latent_shape
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[1:3] = True
    asked = {"interpolation": interpolation, "denoise": False}
    for dims in (mask, mask.flatten().nonzero().flatten().tolist()):
        pipeline.interpolate(a, b, [0.3, 1], 0.5, dims, generator=noise(), **asked)
    assert torch.equal(decoded[0], decoded[1])
    each = split(noise(), 2)
    z_a, z_b = (pipeline.encode(x, 0.5, each) for x in (a, b))
    made = decoded[0].unflatten(0, (2, 2))
    assert torch.equal(made[:, :, ~mask], z_a[:, None, ~mask].expand(2, 2, -1))
    assert torch.equal(made[:, 1, mask], z_b[:, mask])
    assert not torch.isclose(made[:, 0, mask], z_a[:, mask]).any()


def test_a_pair_is_the_same_whatever_the_batch(pipeline, decoded):
    a, b = images(3, seed=1), images(3, seed=2)
    asked = {"weights": [0.2, 0.7], "level": 0.6, "steps": 2, "eta": 1.0}
    pipeline.interpolate(a, b, generator=noise(), **asked)
    for i, one in enumerate(split(noise(), 3)):
        pipeline.interpolate(a[i : i + 1], b[i : i + 1], generator=[one], **asked)
    assert torch.allclose(decoded[0], torch.cat(decoded[1:]), atol=1e-5)


def test_slerp_keeps_the_length_and_divides_the_angle():
    a = torch.nn.functional.normalize(torch.randn(5, 7, generator=noise()), dim=1)
    b = torch.nn.functional.normalize(torch.randn(5, 7, generator=torch.Generator().manual_seed(6)), dim=1)
    whole = torch.acos((a * b).sum(1))
    for weight in (0.2, 0.5, 0.9):
        c = slerp(a, b, weight)
        assert torch.allclose(c.norm(dim=1), torch.ones(5))
        assert torch.allclose(torch.acos((a * c).sum(1)), weight * whole, atol=1e-4)


def test_slerp_is_straight_where_there_is_no_arc():
    a = torch.tensor([[1.0], [2.0], [0.0]])
    b = torch.tensor([[3.0], [-2.0], [1.0]])
    assert torch.allclose(slerp(a, b, 0.25), 0.75 * a + 0.25 * b)


def test_linear_means_keep_the_scale_of_the_noise():
    """Means on a line; noise of both has unit variance at every weight, where a line of codes would lose half of it."""
    generator = noise()
    noise_a, noise_b = torch.randn(2, 1, 40_000, generator=generator)
    f_a, f_b = torch.tensor([[2.0]]), torch.tensor([[-1.0]])
    for weight in (0.0, 0.3, 0.5, 1.0):
        z = with_linear_means(f_a + noise_a, f_b + noise_b, f_a, f_b, weight)
        assert z.mean().item() == pytest.approx(2 - 3 * weight, abs=0.02)
        assert z.var().item() == pytest.approx(1, abs=0.02)


def test_what_an_interpolation_cannot_do_is_said(pipeline):
    one, two = images(1), images(2)
    for arguments, text in [
        ((one, two, [0.5], 0.5), "as many images are needed on both sides, not 1 and 2"),
        ((one, one, [], 0.5), "weights must be numbers from 0 to 1"),
        ((one, one, [1.2], 0.5), "weights must be numbers from 0 to 1"),
        ((one, one, [0.5], 0.5, [10_000]), "dims must be from 0 to"),
        ((one, one, [0.5], 0.5, [-1]), "dims must be from 0 to"),
        ((one, one, [0.5], 0.5, []), "dims must name at least one dimension"),
        ((one, one, [0.5], 0.5, torch.ones(3, dtype=torch.bool)), "a mask of dimensions must have the latent's shape"),
    ]:
        with pytest.raises(ValueError, match=text):
            pipeline.interpolate(*arguments)
    with pytest.raises(ValueError, match="interpolation is 'slerp' or 'linear', not 'cubic'"):
        pipeline.interpolate(one, one, [0.5], 0.5, interpolation="cubic")
    assert dimensions(None, (2, 3, 1)).all()


# Directions of Gaussian codes


COVARIANCE = np.array([[2.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 0.04]])
SHIFT = np.array([1.0, 0.0, 0.2])
SIGMA = 0.6


def gaussian_codes(count, seed, shift=SHIFT):
    """Means of images, half of which are shifted, and which these are."""
    random = np.random.default_rng(100 + seed)
    has = random.random(count) < 0.5
    return random.multivariate_normal(np.zeros(3), COVARIANCE, count) + has[:, None] * shift, has


def as_codes(train, test, sigma=SIGMA):
    return named.Codes(0.5, (3, 1, 1), train, test, sigma)


def cosine(found, known):
    vector = found.vector.flatten().double().numpy()
    return vector @ known / np.linalg.norm(vector) / np.linalg.norm(known)


def test_contrasts_are_the_fisher_direction_and_the_difference_of_means():
    (train, has), (test, test_has) = gaussian_codes(20_000, 0), gaussian_codes(20_000, 1)
    logistic, means = named.contrast(as_codes(train, test), "age", has, test_has)
    assert (logistic.name, logistic.kind, means.name, means.kind) == ("age", "logistic", "age-means", "means")
    total = COVARIANCE + SIGMA**2 * np.eye(3)
    fisher = np.linalg.solve(total, SHIFT)  # of codes as they are drawn, noise and all
    variance = torch.from_numpy(np.diag(total) + 0.25 * SHIFT**2).reshape(3, 1, 1)  # of each latent, over both kinds
    normal = replace(logistic, vector=logistic.vector / variance)  # the move is the normal times the variance
    assert cosine(normal, fisher) > 0.995
    assert cosine(normal, np.linalg.solve(COVARIANCE, SHIFT)) < 0.8  # not that of the means
    assert cosine(means, SHIFT) > 0.995
    for found, along in ((logistic, fisher), (means, SHIFT)):
        distance = along @ SHIFT / math.sqrt(along @ total @ along)  # between the two kinds, in deviations
        assert found.score == pytest.approx(0.5 + 0.5 * math.erf(distance / 2), abs=0.01)
        unit = found.vector.flatten().double().numpy()
        unit /= np.linalg.norm(unit)
        spread = math.sqrt(unit @ (total + 0.25 * np.outer(SHIFT, SHIFT)) @ unit)  # over both kinds
        assert found.vector.norm().item() == pytest.approx(spread, rel=0.02)


def test_contrasts_do_not_depend_on_the_units_of_the_latents():
    (train, has), (test, test_has) = gaussian_codes(2_000, 0), gaussian_codes(2_000, 1)
    units = np.array([0.1, 1.0, 30.0])
    own = named.contrast(named.Codes(0.5, (3, 1, 1), train, test, 0.0), "x", has, test_has)
    other = named.contrast(named.Codes(0.5, (3, 1, 1), units * train, units * test, 0.0), "x", has, test_has)
    for a, b in zip(own, other, strict=True):
        assert cosine(b, units * a.vector.flatten().double().numpy()) > 0.9999
    assert other[0].score == pytest.approx(own[0].score, abs=1e-3)  # by the regression


def test_labels_that_mean_nothing_separate_nothing():
    (train, _), (test, _) = gaussian_codes(2_000, 0), gaussian_codes(4_000, 1)
    random = np.random.default_rng(2)
    for found in named.contrast(as_codes(train, test), "x", random.random(2_000) < 0.5, random.random(4_000) < 0.5):
        assert found.score == pytest.approx(0.5, abs=0.05)


def test_images_left_out_of_a_contrast_do_not_count():
    (train, has), (test, test_has) = gaussian_codes(500, 0), gaussian_codes(500, 1)
    expected = named.contrast(as_codes(train, test), "x", has, test_has)[1]
    wild = np.full((300, 3), 50.0) * np.random.default_rng(0).standard_normal((300, 1))
    more = as_codes(np.concatenate([train, wild]), np.concatenate([test, wild]))
    out = np.full(300, -1)
    found = named.contrast(more, "x", np.concatenate([has, out]), np.concatenate([test_has, out]))[1]
    assert cosine(found, expected.vector.flatten().double().numpy()) == pytest.approx(1)
    assert found.count == 500
    assert found.score == pytest.approx(expected.score, abs=0.02)


def test_principal_components_are_those_of_the_covariance():
    (train, _), (test, _) = gaussian_codes(20_000, 0, np.zeros(3)), gaussian_codes(20_000, 1, np.zeros(3))
    variances, axes = np.linalg.eigh(COVARIANCE)
    for found, variance, axis in zip(
        named.principal(as_codes(train, test), 3), variances[::-1], axes.T[::-1], strict=True
    ):
        assert abs(cosine(found, axis)) > 0.99
        assert found.score == pytest.approx(variance / variances.sum(), abs=0.01)  # of the means
        assert found.vector.norm().item() == pytest.approx(math.sqrt(variance + SIGMA**2), rel=0.02)  # of drawn codes


def test_a_slope_is_how_codes_follow_a_factor():
    random = np.random.default_rng(0)
    values = random.integers(0, 8, 5_000)
    codes = np.outer(values, [0.5, -1.0, 0.0]) + 0.3 * random.standard_normal((5_000, 3))
    found = named.slope(as_codes(codes[:4_000], codes[4_000:], 0.1), "scale", values[:4_000], values[4_000:])
    assert cosine(found, np.array([0.5, -1.0, 0.0])) > 0.999
    assert found.score > 0.99
    with pytest.raises(ValueError, match="'scale' has the same value in all images"):
        named.slope(as_codes(codes, codes), "scale", np.full(5_000, 3), values)


def test_a_scale_per_image_counts_as_its_mean_square():
    train, has = gaussian_codes(400, 0)
    scales = np.where(np.arange(400)[:, None] % 2, 0.0, SIGMA * math.sqrt(2)) * np.ones((1, 3))
    one, many = (named.contrast(as_codes(train, train, s), "x", has, has)[1] for s in (SIGMA, scales))
    assert torch.allclose(one.vector, many.vector)


def test_codes_without_images_have_no_directions():
    with pytest.raises(ValueError, match=r"at level 0\.5 the codes say nothing of the images"):
        as_codes(np.zeros((10, 3)), np.zeros((10, 3)))
    (train, has), _ = gaussian_codes(50, 0), None
    with pytest.raises(ValueError, match="'x' needs images that have it and images that have not"):
        named.contrast(as_codes(train, train), "x", has, np.ones(50, bool))
    with pytest.raises(ValueError, match="at most 3 principal components"):
        named.principal(as_codes(train, train), 4)


# Keeping them


def some(level, *names):
    return [
        named.Direction(name, "means", level, torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(i)), 0.7, 9)
        for i, name in enumerate(names)
    ]


def test_directions_come_back_as_they_were_saved(tmp_path):
    first, second = some(0.6, "a", "wall_hue:0:5"), some(0.25, "a")
    named.save(tmp_path, first, "model")
    named.save(tmp_path, second, "model")
    back = named.load(tmp_path, "model")
    assert [(d.name, d.level) for d in back] == [("a", 0.25), ("a", 0.6), ("wall_hue:0:5", 0.6)]
    for was, now in zip([second[0], *first], back, strict=True):
        assert torch.equal(was.vector, now.vector)
        assert (was.kind, was.score, was.count) == (now.kind, now.score, now.count)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["level-0.25.safetensors", "level-0.6.safetensors"]


def test_a_name_saved_again_is_replaced_and_others_stay(tmp_path):
    named.save(tmp_path, some(0.6, "a", "b"), "model")
    named.save(tmp_path, some(0.6, "x", "b"), "model")
    back = {direction.name: direction for direction in named.load(tmp_path, "model")}
    assert set(back) == {"a", "b", "x"}


def test_directions_of_another_encoder_do_not_count(tmp_path):
    named.save(tmp_path, some(0.6, "a"), "old")
    assert named.load(tmp_path, "new") == []
    named.save(tmp_path, some(0.6, "b"), "new")
    assert [direction.name for direction in named.load(tmp_path, "new")] == ["b"]


def test_a_damaged_file_is_one_sentence(tmp_path):
    path = named.save(tmp_path, some(0.6, "a"), "model")
    whole = path.read_bytes()
    for broken in (whole[:40], b"", None):
        if broken is None:
            save_file(load_file(path), path, {"model": "model"})  # tensors without what is known of them
        else:
            path.write_bytes(broken)
        with pytest.raises(ValueError, match=r"level-0\.6\.safetensors does not hold directions .*compute them again"):
            named.load(tmp_path, "model")
        path.write_bytes(whole)

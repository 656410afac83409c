"""DisCo: directions found in the codes of a frozen model."""

import pytest
import torch
from torch.nn.functional import normalize

from baseline_cases import SHAPE, Mover, saved, small, trained
from betadiffusion.baselines.disco import LEAST_SHIFT, contrast
from betadiffusion.baselines.runs import load_baseline
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.training.files import write_folder
from test_baselines import Images, batch


def test_the_contrast_knows_which_go_together():
    one, other = torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0])
    apart, direction = torch.stack([one, one, other, other]), torch.tensor([0, 0, 1, 1])
    # two cosines of 1 and two negatives at 0, without the one with itself
    own, negative = torch.log1p(torch.exp(torch.tensor(-1.0))), torch.log(torch.tensor(2.0))
    torch.testing.assert_close(contrast(apart, direction, 2.0), ((own + 2 * negative) / 3).expand(4))
    mixed = contrast(torch.stack([one, other, one, other]), direction, 2.0)
    assert (mixed > contrast(apart, direction, 2.0)).all()


def test_negatives_that_are_alike_are_flipped():
    v = normalize(torch.tensor([[1.0, 0.0], [1.0, 0.1]]), dim=1)
    direction = torch.tensor([0, 1])
    cosine = v[0] @ v[1]
    assert cosine > 0.95
    softplus = torch.nn.functional.softplus
    torch.testing.assert_close(contrast(v, direction, 2.0), softplus(cosine).expand(2))
    torch.testing.assert_close(contrast(v, direction, 0.95), (softplus(cosine) - cosine**2).expand(2))


def test_the_base_stays_as_it_is_and_is_saved_with_the_rest(tmp_path):
    torch.manual_seed(0)
    base = small("vae")
    model = small("disco", base=saved(base, tmp_path / "base"))
    model = trained(model, Images(), tmp_path / "training", count=600)
    saved(model, tmp_path / "run")
    (tmp_path / "base").rename(tmp_path / "gone")
    loaded = load_baseline(tmp_path / "run")
    for key, value in base.state_dict().items():
        torch.testing.assert_close(loaded.frozen.state_dict()[key], value, rtol=0, atol=0)
    torch.testing.assert_close(loaded.encode_mean(batch()), model.encode_mean(batch()))
    z, still = base.encode_mean(batch()), torch.zeros(6)
    torch.testing.assert_close(loaded.moved(z, torch.zeros(6, dtype=torch.int64), still), base.decode(z))


def cosines(model, count=200):
    """Mean cosines of variations by the same direction, and by different ones."""
    direction, strength = model.draw(count, torch.Generator().manual_seed(9))
    with torch.no_grad():
        z = model.codes(torch.zeros(count, *SHAPE))
        before, after = (
            model.encode_mean(model.frozen.decode(z)),
            model.encode_mean(model.moved(z, direction, strength)),
        )
    variation = normalize((after - before).flatten(1).abs(), dim=1)
    same, cosine = direction[:, None] == direction, variation @ variation.T
    return float(cosine[same & ~torch.eye(count, dtype=torch.bool)].mean()), float(cosine[~same].mean())


def test_the_representation_comes_to_tell_directions_apart():
    """Rows and columns of a known generator."""
    torch.manual_seed(0)
    base, codes = small("vae"), torch.Generator().manual_seed(1)
    base.config.backbone["latent_channels"], base.decoder = 2, Mover(reach=2)
    base.encoded = lambda x: 0.7 * torch.randn(len(x), 4, 1, 1, generator=codes)
    model = small("disco", directions=2, shift=1.0)
    model.frozen, model.navigator = base, torch.nn.Parameter(torch.eye(2))
    same, other = cosines(model)
    assert same - other < 0.1
    optimizer, generator = torch.optim.Adam(model.parameters(), 5e-3), torch.Generator().manual_seed(0)
    model.train()
    for _ in range(80):
        optimizer.zero_grad()
        model(torch.zeros(96, *SHAPE), *model.draw(96, generator)).mean().backward()
        optimizer.step()
    same, other = cosines(model)
    assert same - other > 0.5
    found = normalize(model.navigator.detach(), dim=1)
    assert (found[0] @ found[1]).abs() < 0.3


def test_levels_of_a_base_that_has_them(tmp_path):
    vae = MultiBetaVAE(sample_size=16, in_channels=1, latent_channels=4, channels=(8, 8), embedding_dim=8)
    write_folder(tmp_path / "vae" / "model", vae.save_pretrained)
    model = small("disco", base=str(tmp_path), base_level=0.3)
    model.prepare("baseline", batch())
    torch.testing.assert_close(model.codes(batch()), vae.encode_mean(batch(), torch.tensor(0.3)))
    assert set(model.pictures(batch())) == {f"direction {i}" for i in range(4)}


def test_bases_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="must be the folder of a run with a trained VAE or baseline"):
        small("disco", base=str(tmp_path))
    with pytest.raises(ValueError, match="must encode and decode, which a DDPM does not"):
        small("disco", base=saved(small("ddpm"), tmp_path / "ddpm"))
    with pytest.raises(ValueError, match="base_level has no effect with a VAE"):
        small("disco", base=saved(small("vae"), tmp_path / "vae"), base_level=0.3)
    with pytest.raises(ValueError, match=r"is for images \(3, 16, 16\), not \(1, 16, 16\)"):
        small("disco", base=saved(small("vae", (3, 16, 16)), tmp_path / "colour")).prepare("baseline", batch())


def test_shifts_are_of_some_size_in_both_directions():
    _, strength = small("disco").draw(1_000, torch.Generator().manual_seed(0))
    assert float(strength.abs().min()) == LEAST_SHIFT
    assert (strength > 0).float().mean() == pytest.approx(0.5, abs=0.05)


def test_a_variation_of_one_dimension_costs_less_than_one_of_many():
    model, x = small("disco"), batch(2)
    codes = {"one": torch.tensor([3.0, 0, 0, 0]), "three": torch.tensor([0, 3.0, 3.0, 3.0])}
    losses = {}
    for name, moved in codes.items():
        model.encode_mean = lambda images, moved=moved: torch.cat([torch.zeros(2, 4), moved.expand(2, 4)])
        losses[name] = model(x, torch.tensor([0, 0]), torch.tensor([1.0, 1.0]))  # contrast is the same for both
    assert (losses["one"] < losses["three"]).all()

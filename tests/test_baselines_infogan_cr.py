"""InfoGAN-CR: whose gradient is whose, pairs that have one dimension in common, and codes that are read back."""

import pytest
import torch
from torch.nn.functional import softplus

from baseline_cases import SHAPE, Mover, small, trained
from betadiffusion.baselines.infogan_cr import apart
from test_baselines import Images, batch


def drawn(model, count=6):
    return model.draw(count, torch.Generator().manual_seed(0))


def gradients(model, *terms):
    """Gradients by the network's name, after the sum of the terms."""
    model.zero_grad(set_to_none=True)
    sum(term.sum() for term in terms).backward()
    return {
        name: None if part[0] is None else torch.cat([g.flatten() for g in part])
        for name in ("encoder", "decoder", "comparer")
        if (part := [p.grad for p in getattr(model, name).parameters()])
    }


def test_pairs_are_uniform_where_they_are_apart():
    a, b = 2 * torch.rand(2, 20_000, generator=torch.Generator().manual_seed(0)) - 1
    assert all(torch.equal(x, y) for x, y in zip(apart(a, b, 0.0), (a, b), strict=True))
    x, y = apart(a, b, 0.7)
    assert torch.cat([x, y]).abs().max() <= 1
    distance = (x - y).abs()
    assert distance.min() >= 0.7 - 1e-6
    kept = (a - b).abs() >= 0.7  # those that happen to be
    for share in (0.1, 0.5, 0.9):
        assert distance.quantile(share) == pytest.approx(float((a - b).abs()[kept].quantile(share)), abs=0.03)
        assert x.quantile(share) == pytest.approx(float(a[kept].quantile(share)), abs=0.03)


def test_a_pair_has_one_dimension_of_the_code_in_common():
    model = small("infogan_cr", gap=0.5, gap_images=10, noise=3)
    first, second = drawn(model, 200)[1].unbind(1)
    same = drawn(model, 200)[2]
    assert first.shape == (200, 4 + 3, 1, 1)
    equal = (first == second).flatten(1)
    assert (equal.sum(1) == 1).all()
    assert equal[torch.arange(200), same].all()
    assert set(same.tolist()) == {0, 1, 2, 3}
    others = (first - second).abs().flatten(1)[:, :4]
    assert others[~equal[:, :4]].min() >= 0.5 - 1e-6
    model.begin(10)
    assert (drawn(model, 200)[1].diff(dim=1).abs().flatten(1)[:, :4] < 0.5).float().mean() > 0.4


def test_each_network_learns_from_its_own_loss():
    model = small("infogan_cr", info=0.0, contrast=0.0, r1=0.0)
    x, draws = batch(), drawn(small("infogan_cr"))
    found = gradients(model, model(x, *draws))
    generator = gradients(model, softplus(-model.read(model.made(draws[0]))[1]))["decoder"]
    made = model.made(draws[0]).detach()
    discriminator = gradients(model, softplus(-model.read(x)[1]), softplus(model.read(made)[1]))["encoder"]
    torch.testing.assert_close(found["decoder"], generator)
    torch.testing.assert_close(found["encoder"], discriminator)


def test_the_generator_gets_the_contrast_in_its_time():
    model = small("infogan_cr", contrast_images=100)
    plain = small("infogan_cr", contrast=0.0)
    plain.load_state_dict(model.state_dict())
    x, draws = batch(), drawn(model)
    for images in (99, 100):
        model.begin(images)
        found, without = (gradients(m, m(x, *draws)) for m in (model, plain))
        assert torch.equal(found["decoder"], without["decoder"]) == (images < 100)
        assert found["comparer"].abs().max() > 0


class Ramp(torch.nn.Module):
    """A discriminator whose verdict has a slope of `slope` at every pixel, and that reads nothing."""

    slope = 0.1

    def forward(self, x, embedding):
        verdict = self.slope * x.flatten(1).sum(1)
        return torch.stack([torch.zeros_like(verdict), verdict], dim=1)[:, :, None, None]


def test_the_slope_at_real_images_is_held_down():
    model, x = small("infogan_cr", r1=3.0), batch()
    model.encoder = Ramp()
    verdict = 0.1 * x.flatten(1).sum(1)
    torch.testing.assert_close(model.on_real(x), softplus(-verdict) + 1.5 * 0.1**2 * x[0].numel())
    with torch.no_grad():  # as in validation
        torch.testing.assert_close(model.on_real(x), softplus(-verdict) + 1.5 * 0.1**2 * x[0].numel())
    free = small("infogan_cr", r1=0.0)
    free.encoder = Ramp()
    torch.testing.assert_close(free.on_real(x), softplus(-verdict))


def test_pairs_are_told_apart():
    """By what they have in common, rows or columns, of a known generator."""
    torch.manual_seed(0)
    model = small("infogan_cr", gap=1.0, gap_images=1)
    model.config.backbone["latent_channels"], model.decoder = 2, Mover(reach=6)
    optimizer, generator = torch.optim.Adam(model.comparer.parameters(), 5e-3), torch.Generator().manual_seed(0)
    for _ in range(200):
        _, pair, same = model.draw(64, generator)
        images = model.made(pair.flatten(0, 1)).unflatten(0, (-1, 2))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model.shared(images[:, 0], images[:, 1])[:, :2], same).backward()
        optimizer.step()
    _, pair, same = model.draw(300, generator)
    images = model.made(pair.flatten(0, 1)).unflatten(0, (-1, 2))
    told = model.shared(images[:, 0], images[:, 1])[:, :2].argmax(1)
    assert (told == same).float().mean() > 0.85


def test_the_code_is_read_back(tmp_path):
    torch.manual_seed(0)
    options = {"count": 3_000, "learning_rate": 1e-3, "muon_rate": 0.0, "adam_betas": (0.5, 0.999)}
    model = trained(small("infogan_cr", info=1.0), Images(), tmp_path, **options).eval()
    numbers = model.numbers(batch(50), torch.Generator().manual_seed(1))
    assert numbers["code_error"] < 0.25  # a third for who reads nothing
    images = model.sample(4, torch.Generator().manual_seed(2))
    assert images.shape == (4, *SHAPE)
    assert images.abs().max() <= 1
    torch.testing.assert_close(model.sample(2, torch.Generator().manual_seed(2)), images[:2])
    rows = model.pictures(batch(5))
    assert len(rows) == 4
    assert all(len(row) == 5 for row in rows.values())


def test_what_validates_has_the_gap_that_training_is_at(tmp_path):
    model = small("infogan_cr", gap=1.9, gap_images=300, contrast_images=100)
    averaged = trained(model, Images(), tmp_path, count=500)
    assert float(averaged.gap_now) == 0
    assert bool(averaged.contrasting)

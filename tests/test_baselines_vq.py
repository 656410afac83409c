"""The VQ-VAE: its quantiser, its gradients and its prior of codes."""

import pytest
import torch

from baseline_cases import small, trained
from betadiffusion.baselines.presets import PRESETS
from betadiffusion.baselines.vq_vae import FASTER
from betadiffusion.gaussian import split
from test_baselines import Images, batch


def test_the_vectors_of_the_codebook_stay_as_they_are():
    model = small("vq_vae")
    book = model.quantizer.embedding.weight
    channels, side, _ = model.latent_shape
    assert side > 1
    indices = torch.arange(2 * side**2).reshape(2, side**2) % len(book)
    vectors = model.vectors(indices)
    torch.testing.assert_close(vectors.permute(0, 2, 3, 1).reshape(-1, channels), FASTER * book[indices.flatten()])
    quantised, again = model.quantised(vectors)
    assert torch.equal(again.flatten(1), indices)
    torch.testing.assert_close(quantised, vectors)


def test_the_gradient_passes_the_quantiser_unchanged():
    model = small("vq_vae")
    z = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    (model.quantised(z)[0] * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights)


def test_the_loss_is_that_of_the_paper():
    model, x = small("vq_vae", commitment=0.5), batch()
    z, e = model.encoded(x), model.encode_mean(x)
    apart = (z - e).square().flatten(1).mean(1)
    expected = model.nll(x, model.decoded(e)) / x[0].numel() + 1.5 * apart
    torch.testing.assert_close(model(x), expected)


def test_training_keeps_many_codes_in_use(tmp_path):
    torch.manual_seed(0)
    model = trained(small("vq_vae"), Images(), tmp_path, count=2_000, learning_rate=5e-3)
    numbers = model.numbers(batch(100), torch.Generator())
    assert numbers["perplexity"] > 4  # one where the codebook has collapsed
    assert numbers["codes_used"] > 6
    assert numbers["mse"] < 0.5 * float(batch(100).var())
    collapsed = small("vq_vae")
    collapsed.quantizer.embedding.weight.data.fill_(1.0)
    assert collapsed.numbers(batch(), torch.Generator())["perplexity"] == pytest.approx(1)


def test_the_prior_looks_back_only():
    model = small("vq_vae").eval()
    indices = torch.randint(16, (2, 64), generator=torch.Generator().manual_seed(0))
    before = model.code_logits(indices)
    indices[:, 40] = (indices[:, 40] + 1) % 16
    after = model.code_logits(indices)
    torch.testing.assert_close(after[:, :41], before[:, :41])
    assert (after[:, 41:] - before[:, 41:]).abs().max() > 1e-4


class Alike(Images):
    """One image, many times."""

    def __init__(self):
        super().__init__()
        self.array = self.array[:1].repeat(len(self.array), 0)


def test_the_prior_learns_codes_that_are_always_the_same(tmp_path):
    torch.manual_seed(0)
    model = trained(small("vq_vae"), Alike(), tmp_path, "prior", count=4_000, learning_rate=1e-2)
    assert model.numbers(batch(1), torch.Generator())["nats_per_code"] < 0.1  # 2.8 at the start


def test_codes_are_drawn_as_the_prior_says():
    """With the cache of keys and values, one by one, each image from its own numbers."""
    model = small("vq_vae").eval()
    model.prior.lm_head.weight.data.mul_(30)  # far from uniform
    model.prepare("prior", batch())
    with torch.no_grad():
        drawn = model.sample(4, torch.Generator().manual_seed(3))
        again = torch.cat([model.sample(2, generator := torch.Generator().manual_seed(3)), model.sample(2, generator)])
        torch.testing.assert_close(drawn, again)
        indices = _drawn_slowly(model, 4, torch.Generator().manual_seed(3))
        torch.testing.assert_close(drawn, model.decode(model.vectors(indices)))
    assert len(indices.unique()) > 4


def _drawn_slowly(model, count, generator):
    uniform = torch.stack([torch.rand(64, generator=each) for each in split(generator, count)])
    indices = torch.zeros(count, 64, dtype=torch.int64)
    for i in range(64):
        cumulative = model.code_logits(indices)[:, i].double().softmax(1).cumsum(1)
        indices[:, i] = (cumulative < uniform[:, i : i + 1]).sum(1)
    return indices


def test_no_samples_before_the_prior_is_trained():
    for name, preset in PRESETS.items():
        if "prior" in preset.stages:
            model = small(name)
            model.prepare("baseline", batch())
            with pytest.raises(ValueError, match="train its stage 'prior' first"):
                model.sample(1, torch.Generator())

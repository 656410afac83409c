"""Conditions: what a step sees of them, what networks make of them, texts, and whole runs that are asked for something.

Guidance itself is tested against closed forms in tests/test_guidance.py.
"""

import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from betadiffusion.data import DataError, Subset
from betadiffusion.data.arrays import ArrayImages
from betadiffusion.data.captions import CaptionedImages
from betadiffusion.levels import uniform
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.text import TextEncoder
from betadiffusion.nn.condition import ConditionEmbedding, ConditionSpec
from betadiffusion.oracle import example_path
from betadiffusion.pipelines.conditions import condition_tensor
from betadiffusion.samplers import sample
from betadiffusion.training.conditions import Conditions, make_conditions
from betadiffusion.training.config import ConditionConfig
from betadiffusion.training.denoising import denoising_errors

LABELS = ConditionSpec("labels", "adaln", ("cat", "dog", "cow"))
ATTRIBUTES = ConditionSpec("attributes", "adaln", ("big", "red", "old", "new"))
WORDS = ["<pad>", "<s>", "</s>", "<unk>", "a", "cat", "dog", "on", "grass", "red", "boat"]
CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# What a step sees


def test_the_dropout_share_of_labels_says_nothing_and_the_rest_is_true():
    labels = np.arange(20_000) % 3
    conditions = Conditions(LABELS, 0.1, labels)
    seen = conditions.at(np.arange(20_000), conditions.draw(20_000, generator()))
    assert float((seen == -1).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(seen[seen >= 0], torch.from_numpy(labels)[seen >= 0])


def test_of_attributes_any_number_but_all_is_left_unsaid_and_of_the_dropped_all():
    values = np.random.default_rng(0).integers(0, 2, (20_000, 4))
    conditions = Conditions(ATTRIBUTES, 0.2, values)
    seen = conditions.at(np.arange(20_000), conditions.draw(20_000, generator()))
    unsaid = (seen == -1).sum(1)
    shares = torch.bincount(unsaid, minlength=5) / len(seen)
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.2, 0.2, 0.2, 0.2]), atol=0.015, rtol=0)
    each = (seen[unsaid == 1] == -1).float().mean(0)  # none is left out more often than the others
    torch.testing.assert_close(each, torch.full((4,), 0.25), atol=0.03, rtol=0)
    assert torch.equal(seen[seen >= 0], torch.from_numpy(values)[seen >= 0])


def test_every_caption_of_an_image_comes_as_often_as_its_others():
    codes = np.arange(1, 7, dtype=np.float16)[:, None, None] * np.ones((6, 3, 4), np.float16)
    spec = ConditionSpec("text", "cross_attention", (), "encoder", 4, 2)
    conditions = Conditions(spec, 0.25, codes, np.array([0, 4]), np.array([4, 2]))
    indices = np.arange(20_000) % 2
    seen = conditions.at(indices, conditions.draw(20_000, generator()))[:, 0, 0]
    for image, captions, share in ((0, (1, 2, 3, 4), 0.75 / 4), (1, (5, 6), 0.75 / 2)):
        own = seen[torch.from_numpy(indices) == image]
        assert float((own == 0).float().mean()) == pytest.approx(0.25, abs=0.015)
        assert set(own.tolist()) == {0, *captions}
        for caption in captions:
            assert float((own == caption).float().mean()) == pytest.approx(share, abs=0.015)


def test_what_an_image_is_asked_does_not_depend_on_the_others_of_its_batch():
    conditions = Conditions(ATTRIBUTES, 0.3, np.random.default_rng(0).integers(0, 2, (50, 4)))
    draws, indices = conditions.draw(50, generator()), np.random.default_rng(1).permutation(50)
    whole = conditions.at(indices, draws)
    parts = [conditions.at(indices[i::3], draws[i::3]) for i in range(3)]
    assert all(torch.equal(part, whole[i::3]) for i, part in enumerate(parts))


# What networks make of them


def spec_of(kind, by):
    if kind == "text":
        return ConditionSpec("text", by, (), "encoder", 6, 0 if by == "adaln" else 3)
    return ConditionSpec(kind, by, LABELS.names if kind == "labels" else ATTRIBUTES.names)


def some_conditions(spec, count=4):
    if spec.kind == "labels":
        return torch.arange(count) % 3
    if spec.kind == "attributes":
        return torch.randint(0, 2, (count, 4), generator=generator(1))
    codes = torch.randn(count, 1 + spec.tokens, 6, generator=generator(1))
    codes[0, 2:] = 0  # a shorter text
    return codes


SHAPES = {"mlp": (8, 1, 1), "unet": (4, 8, 8), "dit": (4, 4, 4)}


def make(architecture, spec, prediction="velocity"):
    sizes = {"width": 32, "depth": 2} if architecture != "unet" else {"channels": (16, 32), "layers_per_block": 1}
    more = {"attention_resolutions": (4,)} if architecture == "unet" else {}
    more |= {"head_dim": 16} if architecture == "dit" else {}
    condition = None if spec is None else dataclasses.asdict(spec)
    return NonlinearDenoiser(
        SHAPES[architecture], architecture, **sizes, **more, condition=condition, prediction=prediction
    ).eval()  # fmt: skip


def scatter(model, seed=0):
    """Random weights everywhere, also where networks start at zero."""
    for name, weight in sorted(model.named_parameters()):
        nn.init.normal_(weight, 0, 0.2, generator(seed + sum(name.encode())))
    return model


def given(architecture, count=4):
    z = torch.randn(count, *SHAPES[architecture], generator=generator(2))
    return z, torch.linspace(0.2, 0.9, count), torch.linspace(0.1, 0.8, count)


COMBINATIONS = [
    (architecture, kind, by)
    for architecture in SHAPES
    for kind in ("labels", "attributes", "text")
    for by in ("adaln", "cross_attention", "tokens")
    if by != "tokens" or architecture == "dit"
]


@pytest.mark.parametrize(("architecture", "kind", "by"), COMBINATIONS)
def test_each_sample_follows_its_own_condition_alone(architecture, kind, by):
    spec = spec_of(kind, by)
    model, inputs, condition = scatter(make(architecture, spec)), given(architecture), some_conditions(spec)
    before = model.predict(*inputs, condition)
    changed = condition.clone()
    changed[2] = spec.null(1)[0]
    after = model.predict(*inputs, changed)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new[[0, 1, 3]], old[[0, 1, 3]])
        assert (new[2] - old[2]).abs().max() > 1e-4
    order = torch.tensor([3, 1, 0, 2])
    permuted = model.predict(*(x[order] for x in inputs), condition[order])
    for old, new in zip(before, permuted, strict=True):
        torch.testing.assert_close(new, old[order])


@pytest.mark.parametrize(("architecture", "kind", "by"), COMBINATIONS)
def test_no_condition_is_the_null_condition(architecture, kind, by):
    spec = spec_of(kind, by)
    model, inputs = scatter(make(architecture, spec)), given(architecture)
    for told, untold in zip(model.predict(*inputs, spec.null(4)), model.predict(*inputs), strict=True):
        assert torch.equal(told, untold)


@pytest.mark.parametrize("by", ["adaln", "cross_attention"])
@pytest.mark.parametrize("architecture", ["mlp", "unet", "dit"])
def test_at_the_start_every_condition_says_nothing(architecture, by):
    spec = spec_of("labels", by)
    fresh = make(architecture, spec)
    condition_part = {name for name, _ in fresh.named_parameters() if "condition_" in name or ".cross" in name}
    assert condition_part
    shared = scatter(make(architecture, spec)).state_dict()
    kept = {name for name in shared if name in condition_part or ".attn2.to_out" in name}
    fresh.load_state_dict({name: value for name, value in shared.items() if name not in kept}, strict=False)
    inputs = given(architecture)
    unconditional = fresh.predict(*inputs)
    for old, new in zip(unconditional, fresh.predict(*inputs, some_conditions(spec)), strict=True):
        torch.testing.assert_close(new, old)
    if (architecture, by) != ("unet", "cross_attention"):  # which is another network
        plain = make(architecture, None)
        plain.load_state_dict({name: shared[name] for name in plain.state_dict()})
        for old, new in zip(plain.predict(*inputs), unconditional, strict=True):
            torch.testing.assert_close(new, old)


@pytest.mark.parametrize(("architecture", "kind", "by"), COMBINATIONS)
def test_every_weight_learns(architecture, kind, by):
    spec = spec_of(kind, by)
    model = scatter(make(architecture, spec)).train()
    condition = some_conditions(spec)
    condition[1] = spec.null(1)[0]
    sum(x.square().sum() for x in model(*given(architecture), condition)).backward()
    unused = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not unused


@pytest.mark.parametrize("by", ["cross_attention", "tokens"])
def test_room_for_longer_texts_changes_nothing(by):
    short, long = (ConditionSpec("text", by, (), "encoder", 6, tokens) for tokens in (3, 7))
    models_, condition = [scatter(make("dit", spec)) for spec in (short, long)], some_conditions(short)
    longer = torch.cat([condition, torch.zeros(4, 4, 6)], dim=1)
    torch.testing.assert_close(models_[1].predict(*given("dit"), longer), models_[0].predict(*given("dit"), condition))


def test_an_attribute_unsaid_is_neither_had_nor_lacked():
    embedding = scatter(ConditionEmbedding(ATTRIBUTES, 8))
    rows = torch.tensor([[1, -1, -1, -1], [-1, 0, -1, -1], [1, 0, -1, -1], [-1, -1, -1, -1]])
    big, not_red, both, null = embedding(rows).tokens[:, 0]
    torch.testing.assert_close(big + not_red, both)
    torch.testing.assert_close(null, embedding.null)


@pytest.mark.parametrize("kind", ["labels", "attributes", "text"])
def test_a_denoiser_is_saved_with_its_condition(kind, tmp_path):
    spec = spec_of(kind, "cross_attention")
    model = scatter(make("mlp", spec))
    model.save_pretrained(tmp_path)
    loaded = NonlinearDenoiser.from_pretrained(tmp_path)
    assert loaded.condition_spec == spec
    for a, b in zip(*(m.predict(*given("mlp"), some_conditions(spec)) for m in (model, loaded)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("architecture", "spec", "text"),
    [
        ("mlp", {"kind": "labels", "by": "tokens", "names": ["a"]}, "has no tokens"),
        ("unet", {"kind": "labels", "by": "tokens", "names": ["a"]}, "has no tokens"),
        ("mlp", {"kind": "colours", "names": ["a"]}, "unknown kind of condition"),
        ("mlp", {"kind": "labels", "by": "film", "names": ["a"]}, "unknown way"),
        ("mlp", {"kind": "labels"}, "needs the names"),
        ("mlp", {"kind": "text", "by": "adaln", "width": 4, "tokens": 3}, "a text needs"),
        ("mlp", {"kind": "text", "by": "cross_attention", "width": 4}, "a text needs"),
    ],
)
def test_what_a_network_cannot_be_told_is_refused(architecture, spec, text):
    sizes = {"channels": (16, 32), "attention_resolutions": (4,)} if architecture == "unet" else {"width": 32}
    with pytest.raises(ValueError, match=text):
        NonlinearDenoiser(SHAPES[architecture], architecture, **sizes, condition=spec)


def test_a_condition_for_a_denoiser_without_any_is_refused():
    with pytest.raises(ValueError, match="trained without conditions"):
        make("mlp", None)(*given("mlp"), torch.zeros(4))


def test_a_denoiser_learns_what_each_class_looks_like_and_all_of_them_without_one():
    a, sigma = example_path()
    spec, draw = ConditionSpec("labels", "adaln", ("left", "right")), generator()
    torch.manual_seed(0)
    model = NonlinearDenoiser((1, 1, 1), width=64, depth=2, knots=9, condition=dataclasses.asdict(spec))
    labels = torch.arange(4096) % 2
    x = (4.0 * labels - 2 + 0.3 * torch.randn(4096, generator=draw))[:, None, None, None]
    knots = torch.linspace(0, 1, 9)[None, :, None, None, None]
    slope = -torch.pi / 2 * (torch.pi / 2 * knots).sin()
    log_sigma = sigma(torch.linspace(0, 1, 65)).log()
    model.preconditioning.calibrate(log_sigma, a(knots) * x[:, None], slope * x[:, None])
    conditions = Conditions(spec, 0.2, labels.numpy())
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(250):
        indices = torch.randint(0, 4096, (256,), generator=draw)
        t, eps = torch.rand(256, generator=draw), torch.randn(256, 1, 1, 1, generator=draw)
        condition = conditions.at(indices.numpy(), conditions.draw(256, draw))

        def path(t, own=x[indices]):
            level = t[:, None, None, None]
            return a(level) * own, -torch.pi / 2 * (torch.pi / 2 * level).sin() * own

        errors = denoising_errors(model, model, path, sigma(t), t, t - 1, eps, condition)
        optimizer.zero_grad()
        errors.mean().backward()
        optimizer.step()
    z = torch.randn(400, 1, 1, 1, generator=draw)
    for condition, share in ((torch.zeros(400).long(), 0.0), (torch.ones(400).long(), 1.0), (spec.null(400), 0.5)):
        walked = sample(lambda z, t, s, c=condition: model.predict(z, t, s, c), z, uniform(20), model.sigma)
        assert float((walked > 0).float().mean()) == pytest.approx(share, abs=0.03 if share != 0.5 else 0.12)
        assert float(walked.abs().mean()) == pytest.approx(2, abs=0.15)


# What a person asks for


def test_a_class_by_name_and_by_number_attributes_and_tensors():
    def ask(spec, wanted, count=2):
        return condition_tensor(spec, wanted, count, lambda texts: torch.ones(len(texts), 1, 6)).tolist()

    assert ask(LABELS, "dog") == ask(LABELS, 1) == ask(LABELS, "1") == ask(LABELS, ["dog", 1]) == [1, 1]
    assert ask(LABELS, ["cow", "cat"]) == ask(LABELS, torch.tensor([2, 0])) == [2, 0]
    assert ask(ATTRIBUTES, {"red": True, "new": 0}) == [[-1, 1, -1, 0]] * 2
    assert ask(ATTRIBUTES, [{"big": 0}, {}]) == [[0, -1, -1, -1], [-1] * 4]
    text = ConditionSpec("text", "adaln", (), "encoder", 6)
    assert ask(text, "a dog") == ask(text, ["a dog", "a cat"]) == [[[1.0] * 6]] * 2


@pytest.mark.parametrize(
    ("spec", "wanted", "text"),
    [
        (LABELS, "dogg", "no class 'dogg': did you mean 'dog'"),
        (LABELS, "zebra", "choose from cat, dog, cow"),
        (LABELS, 3, "no class 3: they are 0 to 2"),
        (LABELS, -1, "no class -1"),
        (LABELS, {"red": 1}, "is a class .*, not attributes"),
        (LABELS, ["cat"] * 3, "3 conditions do not fit 2 images"),
        (LABELS, torch.tensor([0, 3]), "whole numbers from -1 to 2"),
        (LABELS, torch.tensor([0]), "of shape"),
        (ATTRIBUTES, "red", "is attributes .*, not 'red'"),
        (ATTRIBUTES, {"rad": 1}, "did you mean 'red'"),
        (ATTRIBUTES, {"red": 2}, "is 1 or 0, not 2"),
        (ConditionSpec("text", "adaln", (), "encoder", 6), 3, "is a text, not 3"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(spec, wanted, text):
    with pytest.raises(ValueError, match=text):
        condition_tensor(spec, wanted, 2, lambda texts: torch.ones(len(texts), 1, 6))


# Texts


def make_text_encoder(folder, kind="bert", width=16):
    """A text encoder as hubs have them, small and random."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=12, **names).save_pretrained(folder)
    sizes = {"vocab_size": len(WORDS), "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    if kind == "bert":
        model = BertModel(BertConfig(hidden_size=width, max_position_embeddings=16, **sizes))
    elif kind == "clip":
        special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        model = CLIPTextModel(CLIPTextConfig(hidden_size=width, max_position_embeddings=16, **sizes, **special))
    else:
        model = T5EncoderModel(
            T5Config(vocab_size=len(WORDS), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        )
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["bert", "clip", "t5"])
def test_codes_of_a_text_do_not_depend_on_the_others(kind, tmp_path):
    encoder = TextEncoder(str(make_text_encoder(tmp_path, kind)), 6)
    texts = ["a cat", "a dog on grass", "a red boat on a red boat on a red boat on a red boat"]
    codes = encoder(texts)
    assert codes.shape == (3, 7, 16)
    torch.testing.assert_close(codes, torch.cat([encoder([text]) for text in texts]))
    torch.testing.assert_close(codes[:, 0].norm(dim=1), torch.ones(3))
    assert codes.ne(0).any(2).tolist() == [[True] * 5 + [False] * 2, [True] * 7, [True] * 7]
    assert (codes[0, 0] - codes[1, 0]).norm() > 1e-3
    torch.testing.assert_close(TextEncoder(str(tmp_path), 0)(texts), codes[:, :1])
    if kind != "clip":
        whole = nn.functional.normalize(codes[0, 1:5].mean(0), dim=0)
        torch.testing.assert_close(codes[0, 0], whole)
    assert not any(weight.requires_grad for weight in encoder.parameters())


def test_a_text_encoder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="no text encoder can be had from"):
        TextEncoder(str(tmp_path / "nothing"))


# Where conditions come from


def pictures(count=6, **known):
    return ArrayImages("pictures", np.zeros((count, 1, 16, 16), np.uint8), **known)


def split(images):
    half = len(images) // 2
    return [Subset(images, np.arange(half)), Subset(images, np.arange(half, len(images)))]


def test_labels_factors_and_groupings_are_classes(tmp_path):
    factors = np.stack([np.arange(6) % 2, np.arange(6) // 2], 1)
    images = pictures(labels=np.array([0, 1, 1, 0, 3, 2]), label_names=("a", "b", "c", "d"),
                      factor_names=("side", "row"), factor_sizes=(2, 3), factors=factors)  # fmt: skip
    images.groupings = {"age": (np.array([1, 1, 0, 0, 1, 0]), ("young", "old"))}

    def made(**options):
        parts = make_conditions(ConditionConfig(kind="labels", **options), split(images), tmp_path, CPU)
        return parts[0].spec.names, np.concatenate([part.values for part in parts]).tolist()

    assert made() == (("a", "b", "c", "d"), [0, 1, 1, 0, 3, 2])
    assert made(classes="row") == (("0", "1", "2"), [0, 0, 1, 1, 2, 2])
    assert made(classes="age") == (("young", "old"), [1, 1, 0, 0, 1, 0])
    images.labels = None
    with pytest.raises(DataError, match=r"has no labels: set condition\.classes to one of age, side, row"):
        made()
    with pytest.raises(DataError, match="no classes called 'rows'"):
        made(classes="rows")


def test_chosen_attributes_in_the_order_they_are_named(tmp_path):
    values = np.random.default_rng(0).integers(0, 2, (6, 3)).astype(bool)
    images = split(pictures(attribute_names=("big", "red", "old"), attributes=values))
    parts = make_conditions(ConditionConfig(kind="attributes", attributes=["old", "big"]), images, tmp_path, CPU)
    assert parts[0].spec.names == ("old", "big")
    assert np.array_equal(np.concatenate([part.values for part in parts]), values[:, [2, 0]])
    with pytest.raises(DataError, match="no attribute 'new'"):
        make_conditions(ConditionConfig(kind="attributes", attributes=["new"]), images, tmp_path, CPU)


def test_captions_are_encoded_once(tmp_path, monkeypatch):
    folder = make_text_encoder(tmp_path / "encoder")
    texts = [["a cat"], ["a dog", "a red dog"], ["grass"], ["a boat", "red", "a cat on grass"]]
    images = split(CaptionedImages(pictures(4), [], texts))
    config = ConditionConfig(kind="text", by="cross_attention", text_encoder=str(folder), text_tokens=4)
    parts = make_conditions(config, images, tmp_path / "codes", CPU, quiet=True)
    monkeypatch.setattr(TextEncoder, "forward", None)  # a second call would fail
    again = make_conditions(config, images, tmp_path / "codes", CPU, quiet=True)
    monkeypatch.undo()
    encoder, never = TextEncoder(str(folder), 4), dataclasses.replace(parts[1], dropout=0.0)
    for conditions in (never, dataclasses.replace(again[1], dropout=0.0)):
        for k, u in enumerate((0.0, 0.5, 0.99)):
            seen = conditions.at(np.array([1]), torch.tensor([[0.5, u]]))
            torch.testing.assert_close(seen, encoder([texts[3][k]]), atol=2e-3, rtol=2e-3)
    with pytest.raises(DataError, match="has no captions"):
        make_conditions(config, split(pictures()), tmp_path, CPU)
    with pytest.raises(DataError, match="has no attributes"):
        make_conditions(ConditionConfig(kind="attributes"), split(pictures()), tmp_path, CPU)

import csv
import json
import math
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch

from betadiffusion.data import DataError
from betadiffusion.data.rendered import RenderedSet
from betadiffusion.evaluation import evaluate as module
from betadiffusion.evaluation.encoders import Encoder, Function, load_function, pixel_encoder
from betadiffusion.evaluation.evaluate import Options, Subject, check_alike, level_grid, make_plan
from betadiffusion.evaluation.figures import charts
from betadiffusion.evaluation.names import GENERATION, PICTURES, SCORES, SLOW, MetricName, ScoreName
from betadiffusion.evaluation.page import page
from betadiffusion.evaluation.pool import candidates, draw, trained_on, training_images
from betadiffusion.evaluation.scores import FUNCTIONS, Coded, compute, possible
from betadiffusion.evaluation.summary import summarise
from betadiffusion.evaluation.sweep import Repetition
from betadiffusion.evaluation.write import table, write_evaluation
from betadiffusion.metrics import result
from betadiffusion.training.config import DataConfig, RunConfig, with_keys
from betadiffusion.training.runs import load_split

CPU = torch.device("cpu")


class Panes(RenderedSet):
    """Three factors, each the brightness of one channel; the fourth, many-valued one is noise in a single pixel."""

    name = "panes"
    factor_names = ("red", "green", "blue", "speck")
    factor_sizes = (5, 4, 3, 16)

    def __init__(self):
        super().__init__(8, 3)

    def images(self, indices):
        factors = self.factors(indices)
        images = np.repeat(np.repeat(factors[:, :3, None, None] * 50, 8, 2), 8, 3).astype(np.uint8)
        images[:, :, 0, 0] = factors[:, 3:] * 15
        return images


def factors_in_order(x):
    """The four factors themselves, from images in [-1, 1]."""
    return torch.cat([x[:, :, 4, 4], x[:, :1, 0, 0]], dim=1)


def fading(x, t):
    """A code that is the factors at level 0, noisier with the level, and nothing at level 1."""
    noise = torch.sin(1e4 * x.flatten(1).double().cumsum(1)[:, -4:]).float()  # of the picture, so deterministic
    return ((1 - t)[:, None] * factors_in_order(x) + (0.5 - (t - 0.5).abs())[:, None] * noise) * (t < 1)[:, None]


fading.has_levels = True


def make_encoder(function=fading, name="fading"):
    takes_level = function is fading
    return Encoder(name, Function(function, takes_level), (3, 8, 8), takes_level)


def make_pool(seed=0, count=500, test_count=200):
    source = Panes()
    return draw(source, np.arange(len(source)), count, test_count, seed)


def test_codes_that_are_the_factors_score_as_they_should():
    coded = Coded(make_pool(), make_encoder(factors_in_order).codes(make_pool().images, 0.0).mean)
    assert possible(coded.pool) == {name for name, score in SCORES.items() if score.needs != "attributes"}
    numbers = {}
    for name in possible(coded.pool) - {"dci_gbt"}:
        numbers |= compute(name, coded)
    parts = ("dci_disentanglement", "dci_completeness", "dci_informativeness")
    for name in ("mig", "modularity", "irs", "factor_vae", "beta_vae", *parts):
        assert numbers[name] > 0.9, name
    assert np.argmax(numbers["information_by_latent"], axis=0).tolist() == [0, 1, 2, 3]


def test_codes_of_nothing_score_nothing():
    pool = make_pool()
    coded = Coded(pool, np.random.default_rng(0).normal(size=(len(pool.images), 4)).astype(np.float32))
    numbers = {}
    for name in ("mig", "factor_vae", "dci", "knn_probe"):
        numbers |= compute(name, coded)
    assert numbers["mig"] < 0.05
    assert numbers["factor_vae"] < 0.4
    assert numbers["knn_probe"] < 0.35


def test_one_pass_a_level_and_the_best_level_is_the_best(tmp_path, monkeypatch):
    passes = []
    original = Encoder.codes

    def counted(self, images, level, progress=False):
        passes.append(level)
        return original(self, images, level, progress)

    monkeypatch.setattr(Encoder, "codes", counted)
    repetition = Repetition(make_encoder(), make_pool(), tmp_path, fixed=0.5)
    levels = np.linspace(0, 1, 6).round(3).tolist()
    repetition.sweep(levels, ["mig"], progress=False)
    repetition.at(repetition.best, ["mig", "irs"])
    repetition.at(0.5, ["mig", "irs"])
    assert sorted(passes) == sorted([*levels, 0.5])
    scores = {level: repetition.at(level, ["mig"])["mig"] for level in [*levels, 0.5]}
    assert repetition.best == max(scores, key=scores.get) == 0.0
    assert repetition.at(1.0, ["mig"])["mig"] == 0
    assert repetition.at(1.0, ["mig"])["active_units"] == 0


def test_an_interrupted_sweep_goes_on_where_it_stopped(tmp_path, monkeypatch):
    levels = [0.0, 0.25, 0.75, 1.0]

    def sweep(folder):
        repetition = Repetition(make_encoder(), make_pool(), folder, fixed=0.5)
        repetition.sweep(levels, ["mig", "factor_vae"], progress=False)
        return [repetition.at(level, ["mig", "factor_vae"]) for level in [*levels, 0.5]]

    whole = sweep(tmp_path / "whole")
    original, passes = Encoder.codes, []

    def interrupted(self, images, level, progress=False):
        if len(passes) == 3:
            raise KeyboardInterrupt
        passes.append(level)
        return original(self, images, level, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "codes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(tmp_path / "cut")
        passes.clear()
        assert sweep(tmp_path / "cut") == whole
    assert len(passes) == 2  # the two levels that were missing
    assert not list((tmp_path / "cut").rglob("*.partial"))


def test_other_images_or_another_model_have_other_cells(tmp_path):
    folders = {
        Repetition(make_encoder(f, "x"), make_pool(seed, count), tmp_path, 0.5).folder
        for f in (fading, factors_in_order)
        for seed in (0, 1)
        for count in (500, 400)
    }
    assert len(folders) == 8


def test_held_out_images_are_none_that_the_run_was_trained_on():
    config = RunConfig(data=DataConfig(source="dsprites", size=8, limit=500, held_out=50), seed=3)
    train, held_out = load_split(config.data, 8, 3)
    source = train.base
    indices = candidates(source, "heldout", config)
    assert not set(indices) & set(train.indices)
    assert set(held_out.indices) < set(indices)
    assert len(indices) == len(source) - len(train)
    np.testing.assert_array_equal(training_images(source, config), train.indices)
    assert len(candidates(source, "all", config)) == len(candidates(source, "heldout", None)) == len(source)
    with pytest.raises(DataError, match="no partition 'test'"):
        candidates(source, "test", None)


def test_data_are_those_of_a_run_however_they_are_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    spellings = ["set", "./set/", str(tmp_path / "set"), "coil20:set", f"coil20:{tmp_path}/set"]
    for own in spellings:
        config = RunConfig(data=DataConfig(source=own))
        assert all(trained_on(config, source) for source in spellings)
        assert not trained_on(config, "shapes")
        assert not trained_on(config, "other")
    assert trained_on(RunConfig(data=DataConfig(source="shapes")), "shapes")


def test_runs_of_another_model_are_no_repetitions(monkeypatch):
    runs = {
        "a": RunConfig(), "b": RunConfig(seed=1, out="b"), "c": RunConfig(model="vae"),
        "d": with_keys(RunConfig(), {"levels.free_nats": 1.0}),
        "e": with_keys(RunConfig(), {"data.source": "fashion-mnist"}),
        "f": with_keys(RunConfig(), {"vae_training.images": 100}),
    }  # fmt: skip
    based = RunConfig(model="disco")
    runs["on a"] = with_keys(based, {"baseline.base": "runs/a"})
    runs["on b"] = with_keys(based, {"baseline.base": "runs/b", "vae_training.checkpoint_images": 7})
    monkeypatch.setattr(module, "load_config", lambda run: runs[run])
    check_alike(("a", "b"))
    check_alike(("on a", "on b"))
    for other, key in (
        ("c", "model"), ("d", "levels.free_nats"), ("e", "data.source"), ("f", "vae_training.images"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{other} is no repetition of a, which has {key}"):
            check_alike(("a", "b", other))


def test_a_pool_is_divided_alike_where_images_are_few():
    source = Panes()
    pool = draw(source, np.arange(90), 10_000, 5_000, 0)
    assert (len(pool.images), pool.count, len(pool.test)) == (90, 60, 30)
    assert len(set(pool.images.indices)) == 90
    np.testing.assert_array_equal(pool.factors, source.factors(pool.images.indices))
    with pytest.raises(DataError, match="fewer than 20"):
        draw(source, np.arange(19), 10, 5, 0)


def test_standard_errors_are_over_repetitions():
    values = [1.0, 2.0, 4.0]
    summary = summarise({"mig": v, "information": [v, 0.0], "latents": [1, 2]} for v in values)
    assert summary["mig"]["mean"] == pytest.approx(7 / 3)
    assert summary["mig"]["se"] == pytest.approx(math.sqrt(7 / 3) / math.sqrt(3))
    assert summary["information"]["mean"] == pytest.approx([7 / 3, 0])
    assert summary["latents"] == [1, 2]
    assert summarise([{"mig": 1.0}])["mig"] == {"mean": 1.0, "se": None}


def test_a_training_counts_once_among_several_however_often_it_is_measured():
    rows = [{"mig": v, "auroc": [v, -v]} for v in (0.0, 2.0, 2.0, 4.0, 5.0, 7.0)]
    summary = summarise(rows, [0, 0, 1, 1, 2, 2])
    alone = summarise({"mig": v, "auroc": [v, -v]} for v in (1.0, 3.0, 6.0))
    for name in ("mig", "auroc"):
        assert summary[name]["mean"] == pytest.approx(alone[name]["mean"])
        assert summary[name]["se"] == pytest.approx(alone[name]["se"])
    assert summarise(rows, [0] * 6) == summarise(rows)


def test_pixels_are_the_picture_averaged_to_about_as_many_values_as_the_code():
    encoder = pixel_encoder((3, 8, 8), 10, CPU)
    pool = make_pool()
    codes = encoder.codes(pool.images, 0.5).mean
    assert (encoder.name, codes.shape[1]) == ("pixels, 2x2", 12)
    x = pool.images.images(np.arange(4)).astype(np.float64) / 127.5 - 1
    expected = x.reshape(4, 3, 2, 4, 2, 4).mean((3, 5)).reshape(4, 12)
    np.testing.assert_allclose(codes[:4], expected, atol=1e-6)


class Model:
    def encode_mean(self, x, t):
        return x.flatten(1)[:, :2] * t[:, None]


def made():
    return Model()


instance = Model()
network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))


def pair(x):
    return x.flatten(1)[:, :2]


def by_level(x, t):
    return x.flatten(1)[:, :2] * t[:, None]


@pytest.mark.parametrize(
    ("attribute", "levels"),
    [("Model", True), ("made", True), ("instance", True), ("network", False), ("pair", False), ("by_level", True)],
)
def test_a_model_is_an_object_a_maker_of_one_or_a_function(attribute, levels, monkeypatch):
    monkeypatch.syspath_prepend(__file__.rsplit("/", 1)[0])
    encoder = load_function(f"test_evaluation:{attribute}", (3, 8, 8), CPU)
    assert encoder.has_levels == levels
    codes = encoder.codes(make_pool().images, 0.5).mean
    assert codes.shape == (700, 2)
    if attribute == "network":
        assert not encoder.model.function.training


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("nothing", "package.module:function"),
        ("not_a_module_at_all:f", "cannot be imported"),
        ("math:no_such", "has no no_such"),
        ("math:pi", "must have encode_mean"),
        ("shutil:copyfileobj3", "has no"),
    ],
)
def test_what_is_no_model_is_refused(name, match):
    with pytest.raises(ValueError, match=match):
        load_function(name, (3, 8, 8), CPU)


def test_codes_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="gives codes of shape"):
        make_encoder(lambda x: x.mean()).codes(make_pool().images, 0.0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"metrics": ("tad",)}, "tad needs images with known attributes"),
        ({"metrics": ("ssim",)}, "in one pass"),
        ({"metrics": ("frechet",)}, "stage 'diffusion'"),
        ({"metrics": ("mig",), "chosen_metrics": ("tad",)}, "tad needs"),
    ],
)
def test_what_data_or_model_cannot_give_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        make_plan(Options(**options), make_pool(), has_decoder=False, can_sample=False)


def test_the_plan_takes_what_is_named_and_by_default_all_but_the_slow():
    pool = make_pool()
    plan = make_plan(Options(), pool, True, True)
    assert plan.every == ["mig", "modularity", "factor_vae", "irs"]
    assert "dci_gbt" not in plan.scores
    assert not plan.generation
    plan = make_plan(Options(metrics=("sap", "kernel", "ssim"), chosen_metrics=("dci_gbt", "sap")), pool, True, True)
    assert (plan.every, plan.chosen, plan.pictures, plan.generation) == (["sap"], ["dci_gbt"], ["ssim"], ["kernel"])


@pytest.mark.parametrize(("varying", "left_out"), [(1, {"beta_vae", "tad"}), (0, set(SCORES))])
def test_scores_of_factors_need_factors_that_vary(varying, left_out):
    pool = make_pool()
    pool.factors[:, varying:] = 0
    assert set(SCORES) - possible(pool) == left_out
    if varying:
        for name in possible(pool) - SLOW:
            assert compute(name, Coded(pool, pool.factors.astype(float)))
    else:
        pool.factors[: pool.count, 0] = np.arange(pool.count) % 2  # in one part alone
        assert not possible(pool)


def test_the_fixed_level_is_among_the_levels():
    assert level_grid(Options(levels=4)) == [0.0, 0.333333, 0.5, 0.666667, 1.0]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """An evaluation of two encoders, as files: two repetitions of a function with levels."""
    out = tmp_path_factory.mktemp("out")
    subjects = [Subject(make_encoder(fading, name), Panes()) for name in ("a", "b")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "subjects", lambda options, device: subjects)
        options = Options(model="x:y", levels=3, count=400, test_count=200, seeds=(0, 1), preset="paper-table2")
        numbers = write_evaluation(options, out, progress=False)
    return out, numbers


def test_the_files_hold_every_number(written):
    out, numbers = written
    assert json.loads((out / "evaluation.json").read_text()) == json.loads(json.dumps(numbers))
    rows = list(csv.DictReader((out / "evaluation.csv").open()))
    migs = [float(r["value"]) for r in rows if r["number"] == "mig" and r["level"] == "0.5" and r["encoder"] in "ab"]
    assert len(migs) == 4  # two encoders, two seeds
    assert numbers["rows"]["fixed"]["mig"]["mean"] == pytest.approx(np.mean(migs))
    assert {row["encoder"] for row in rows} == {"a", "b", "pixels"}
    assert numbers["rows"]["best"]["level"]["mean"] == 0.0
    assert table(numbers).count("\n") == len(rows) + 1


def test_the_page_shows_table_charts_and_the_published_rows_and_needs_nothing_else(written):
    out, numbers = written
    html = (out / "evaluation.html").read_text()
    for text in ("MIG", "fixed beforehand", "pixels", "InfoGAN-CR", "standard errors over 4 repetitions", "±"):
        assert text in html, text
    assert 'src="http' not in html
    assert "href" not in html
    assert {path.stem for path in out.glob("*.png")} == set(charts(numbers)) == {"scores", "information", "heatmap"}
    for figure in charts(numbers).values():
        for ax in figure.axes[:1]:
            assert ax.get_xlabel()
            assert ax.get_ylabel()


def test_a_score_of_several_parts_has_no_line_of_its_own(written):
    numbers = json.loads(json.dumps(written[1]))
    numbers["context"]["plan"]["every"].append("dci")
    assert page(numbers, {"scores": b""}) == page(written[1], {"scores": b""})


def test_a_code_that_does_not_vary_keeps_its_value():
    constant = make_encoder(lambda x: torch.full((len(x), 2), 3.0) + 1e-6 * x.flatten(1)[:, :2], "constant")
    mean = constant.codes(make_pool().images, 0.0).mean
    assert np.allclose(mean, 3, atol=1e-5)
    assert (mean == mean[0]).all()


def test_images_come_back_without_a_noise_scale_too(tmp_path):
    class Brighter:
        encode_mean = staticmethod(lambda x, t: x.flatten(1)[:, :4])
        decode = reconstruct = staticmethod(lambda x, generator: x + 0.5)

    encoder = Encoder("brighter", Brighter(), (3, 8, 8), has_levels=False)
    assert encoder.has_decoder
    assert not encoder.has_scale
    assert not make_encoder().has_decoder
    numbers = Repetition(encoder, make_pool(), tmp_path, 0.0).at(0.0, [])
    assert numbers["mse"] == pytest.approx(0.25)
    assert "rate" not in numbers


def test_text_from_outside_is_escaped(written):
    _, numbers = written
    numbers = json.loads(json.dumps(numbers))
    numbers["context"]["data"] = "<script>alert(1)</script>"
    assert "<script>" not in page(numbers, {})


class Gaussian:
    """mean = level times four pixels, sigma = 0.1 + the first pixel's brightness, so of each image its own."""

    latent_shape = (4, 1, 1)
    config = SimpleNamespace(sigma_from="image")

    def posterior(self, x, t):
        mean = t[:, None, None, None] * x[:, 0, 4, :4].reshape(-1, 4, 1, 1)
        return mean, (0.6 + x[:, 0, 4, 4] / 2)[:, None, None, None].expand(mean.shape)

    def encode_mean(self, x, t):
        return self.posterior(x, t)[0]

    def sigma(self, t):
        return torch.full_like(t, 0.5)

    def decode(self, z, t):
        return torch.zeros(len(z), 3, 8, 8)


def test_a_noise_scale_of_each_image_is_that_of_the_rate(tmp_path):
    encoder, pool = Encoder("gaussian", Gaussian(), (3, 8, 8)), make_pool()
    numbers = Repetition(encoder, pool, tmp_path, 0.5).at(0.5, [])
    x = torch.from_numpy(pool.images.images(np.arange(len(pool.images)))).float() / 127.5 - 1
    mean, sigma = Gaussian().posterior(x, torch.full((len(x),), 0.5))
    kl = (0.5 * (mean**2 + sigma**2 - 1) - sigma.log()).flatten(1).sum(1)
    assert numbers["rate"] == pytest.approx(float(kl.mean()), rel=1e-5)
    assert numbers["mse"] == pytest.approx(float(x[pool.count :].square().mean()), rel=1e-5)


class Decoded(Gaussian):
    def decode(self, z, t):
        return torch.ones(len(z), 3, 8, 8)


def test_numbers_are_kept_apart_by_all_that_they_depend_on(tmp_path):
    pool = make_pool()
    first = Repetition(Encoder("g", Gaussian(), (3, 8, 8)), pool, tmp_path, 0.5)
    assert Repetition(Encoder("g", Decoded(), (3, 8, 8)), pool, tmp_path, 0.5).folder != first.folder
    relabelled = make_pool()
    relabelled.__dict__["factors"] = pool.factors[::-1]
    assert relabelled.fingerprint != pool.fingerprint

    def repetition(fixed, weights, value):
        measure = SimpleMeasure(weights, value)
        return Repetition(Encoder("g", Gaussian(), (3, 8, 8)), pool, tmp_path, fixed, {"lpips": measure}).at(0.25, [])

    assert repetition(0.5, "a", 1.0)["lpips"] == 1.0
    assert repetition(0.5, "a", 2.0)["lpips"] == 1.0  # kept
    assert repetition(0.5, "b", 2.0)["lpips"] == 2.0  # other weights
    of_zero = repetition(0.0, "a", 1.0)["latents"]  # at level 0 all means are 0: the first latents
    assert of_zero == [0, 1, 2, 3]
    codes = Encoder("g", Gaussian(), (3, 8, 8)).codes(pool.images, 0.5).mean
    assert repetition(0.5, "a", 1.0)["latents"] == np.argsort(-codes.var(axis=0), kind="stable").tolist()


class SimpleMeasure:
    def __init__(self, weights_sha256, value):
        self.weights_sha256, self.value = weights_sha256, value

    def __call__(self, x, x_hat):
        return torch.full((len(x),), self.value)


def test_the_command_line_offers_every_name_that_there_is():
    assert set(get_args(ScoreName)) == set(SCORES) == set(FUNCTIONS)
    assert set(get_args(MetricName)) == {*SCORES, *PICTURES, *GENERATION}
    assert GENERATION == result.GENERATION

import base64
import dataclasses
import json
import math
import re
from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml
from torch.nn.functional import adaptive_avg_pool2d

from betadiffusion.data import Subset
from betadiffusion.data.arrays import ArrayImages
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.report import write
from betadiffusion.report.context import context
from betadiffusion.report.distances import SAMPLERS, Judge, level_distances, sampler_row, walk_back
from betadiffusion.report.figures import charts
from betadiffusion.report.generate import (
    Pictures,
    Sampler,
    default_levels,
    default_sampler,
    pictures,
    reconstructions,
    samples,
)
from betadiffusion.report.grids import TILE, grids, tiles
from betadiffusion.report.measure import finite, measure
from betadiffusion.report.summary import number, own_sampler
from betadiffusion.training.config import DataConfig, ReportConfig, RunConfig
from betadiffusion.training.runs import load_config, load_split

SIZE = 16


class MeanPixels:
    """Features that cost nothing: the means of a 3x3 grid."""

    name, short_name, dim = "means of a 3x3 grid", "Means", 9

    def __call__(self, images):
        return adaptive_avg_pool2d(images.float().mean(1), 3).flatten(1).numpy()


def make_pipeline(channels=1):
    torch.manual_seed(0)
    vae = MultiBetaVAE(
        sample_size=SIZE, in_channels=channels, latent_channels=4, channels=(8, 16), embedding_dim=8, knots=9
    )
    denoiser = NonlinearDenoiser(latent_shape=(4, 1, 1), width=16, depth=1, knots=5, sigma_knots=9)
    with torch.no_grad():  # an untrained network predicts zero; here the walk must depend on the noise it is given
        for p in denoiser.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    denoiser.preconditioning.log_sigma.copy_(vae.sigma_curve.log_values())
    return BetaDiffusionPipeline(vae.eval(), denoiser.eval())


def make_config(**changes):
    data = DataConfig(source="dsprites", size=SIZE, limit=80, held_out=30)
    return RunConfig(data=data, report=ReportConfig(count=12, levels=[0.0, 0.5, 0.9]), cpu=True, seed=3, **changes)


def without_seconds(value):
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if k not in ("seconds", "minutes")}
    return [without_seconds(v) for v in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of untrained models, with its report written."""
    folder = tmp_path_factory.mktemp("run")
    make_pipeline().save_pretrained(folder / "pipeline")
    config = json.loads(json.dumps(dataclasses.asdict(make_config())))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for stage, extra in (("vae", {"rate@0.0": 9.0, "rate@1.0": float("nan")}), ("diffusion", {"loss": 0.5})):
        (folder / stage).mkdir()
        history = [{"images": 100 * i, "train_loss": 1.0 / i} | extra for i in (1, 2, 3)]
        (folder / stage / "history.json").write_text(json.dumps(history))
        summary = {"images": 300, "seconds": 90.0, "parameters": 1234, "device": "cpu", "precision": "fp32"}
        (folder / stage / "summary.json").write_text(json.dumps(summary))
    write.write_report(folder, progress=False, extractor=MeanPixels())
    return folder


@pytest.fixture(scope="module")
def numbers(run):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads((run / "report.json").read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def shown():
    _, held_out = load_split(make_config().data, SIZE, 3)
    return pictures(make_pipeline(), held_out.images(np.arange(8)), make_config())


def test_numbers_are_the_same_when_measured_again():
    def measured(seed):
        config = make_config()
        config.seed = seed
        parts = load_split(make_config().data, SIZE, 3)
        return without_seconds(measure(make_pipeline(), *parts, config, False, MeanPixels()))

    first, again, other = measured(3), measured(3), measured(4)
    assert first == again
    assert first["samplers"][0]["distance"] != other["samplers"][0]["distance"]
    assert first["levels"][5]["mse"] != other["levels"][5]["mse"]


def test_level_table(numbers):
    pipeline, (_, held_out) = make_pipeline(), load_split(make_config().data, SIZE, 3)
    table = numbers["levels"]
    assert [row["level"] for row in table] == pytest.approx(np.linspace(0, 1, 21))
    assert numbers["rate_falls"] == all(b["rate"] < a["rate"] for a, b in pairwise(table))
    for row in table:
        assert row["psnr"] == pytest.approx(10 * math.log10(4 / row["mse"]))
        assert row["sigma"] == pytest.approx(pipeline.vae.sigma(torch.tensor(row["level"])).item())
    middle = table[10]
    f = pipeline.encode(torch.from_numpy(held_out.images(np.arange(12))), 0.5).flatten(1).double()
    variance = middle["sigma"] ** 2
    rate = 0.5 * (f.square() + variance - 1 - math.log(variance)).sum(1).mean()
    assert middle["rate"] == pytest.approx(float(rate), rel=1e-5)
    assert middle["log_snr"] == pytest.approx(math.log(float(f.square().mean()) / variance), rel=1e-5)
    assert middle["active_units"] == int((f.var(0) > 0.01).sum())


def test_level_one_is_the_prior_and_holds_no_code(numbers):
    last, terminal = numbers["levels"][-1], numbers["terminal"]
    assert terminal["sigma"] == pytest.approx(1)
    assert terminal["rate"] == pytest.approx(0, abs=1e-6)
    assert terminal["aggregate_kl_max"] == pytest.approx(0, abs=1e-6)
    assert last["mig"] == 0
    assert max(last["information"]) == 0


def test_information_on_factors_and_the_best_level(numbers):
    factors, table = numbers["factors"], numbers["levels"]
    assert factors["images"] == 30  # all that is held out; the other numbers are of 12
    assert all(0 <= share <= 1 + 1e-9 for row in table for share in row["information"])
    assert factors["best"]["mig"] == max(row["mig"] for row in table)
    assert factors["fixed"] == {"level": 0.5, "mig": table[10]["mig"]}


def test_images_without_factors_have_no_mig():
    array = np.random.default_rng(0).integers(0, 256, (40, 1, SIZE, SIZE), np.uint8)
    images = ArrayImages("noise", array, skipped=["a.png (broken)"])
    parts = Subset(images, np.arange(20)), Subset(images, np.arange(20, 40))
    result = measure(make_pipeline(), *parts, make_config(), False, MeanPixels())
    assert result["factors"] is None
    assert "mig" not in result["levels"][0]
    assert (result["context"]["skipped"], result["context"]["skipped_first"]) == (1, ["a.png (broken)"])
    assert "mig" not in charts({**result, "history": {}})


def test_judge_is_zero_on_its_own_reference_and_grows_with_damage():
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (200, 1, SIZE, SIZE), np.uint8)
    judge = Judge(MeanPixels(), real[:100], real[100:])
    assert judge(torch.from_numpy(real[:100])) == pytest.approx(0, abs=1e-6)
    assert judge.floor == judge(torch.from_numpy(real[100:]))
    assert judge.floor < judge(torch.from_numpy(real[100:] // 2)) < judge(torch.from_numpy(real[100:] // 4))


def test_the_dial_s_psnr_is_to_the_images_themselves(monkeypatch):
    real = np.random.default_rng(0).integers(0, 246, (100, 1, SIZE, SIZE), np.uint8)
    made = torch.from_numpy(real) + 10, torch.from_numpy(real)
    monkeypatch.setattr("betadiffusion.report.distances.reconstructions", lambda *arguments: made)
    (row,) = level_distances(None, Judge(MeanPixels(), real, real), RunConfig(report=ReportConfig(levels=[0.0])), False)
    assert row["vae_psnr"] == pytest.approx(20 * math.log10(255 / 10))
    assert row["walked_psnr"] == math.inf


def test_walk_back_takes_the_first_far_level():
    rows = [{"level": t, "vae": v, "walked": w} for t, v, w in ((0, 2, 2), (0.5, 5, 3), (0.8, 6, 3), (0.9, 60, 4))]
    assert walk_back(rows) == {"level": 0.8, "vae": 6, "walked": 3, "times_level_zero": 3, "divided_by": 2}
    assert walk_back(rows[:2]) is None


def test_sampler_table_has_the_rows_that_are_compared(numbers):
    rows = {(row["method"], row["evaluations"]) for row in numbers["samplers"]}
    default = own_sampler(numbers)
    assert default == Sampler("multistep", 20)
    assert default.evaluations == 20
    assert {("heun", 20), ("heun", 50), ("euler", 20)} | {
        (m, n) for m in ("eta=1", "algorithm2") for n in (20, 200)
    } <= rows
    assert (default.method, 20) in rows
    assert len(rows) == len(SAMPLERS)
    spaced = {row["spacing"]: row for row in numbers["spacings"]}
    assert spaced.keys() == {"fitted", "uniform", "log_snr", "rate_linear"}
    assert spaced["fitted"]["distance"] == sampler_row(numbers["samplers"], default)["distance"]
    assert len({row["distance"] for row in spaced.values()}) == 4


def test_samplers_start_from_the_same_noise_and_stop_where_the_pipeline_does():
    pipeline, config, default = make_pipeline(), make_config(), Sampler("multistep", 20)
    stops = [1.0]
    noise = torch.randn(5, 4, 1, 1, generator=torch.Generator().manual_seed(config.seed + 3))
    z = pipeline.walk(noise, 1.0, callback=lambda i, z, level: stops.append(float(level)))
    assert default_sampler(pipeline) == default
    assert stops == default_levels(pipeline, default).tolist()
    image = ((pipeline.vae.decode(z, torch.tensor(0.0)) / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    assert torch.equal(samples(pipeline, default, 5, config), image)
    for sampler in (Sampler("eta=1", 3), Sampler("algorithm2", 3), Sampler("euler", 3)):
        assert not torch.equal(samples(pipeline, sampler, 5, config), image)
    assert default_levels(pipeline, Sampler("algorithm2", 4)).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_reconstructions_share_one_draw():
    pipeline, (_, held_out) = make_pipeline(), load_split(make_config().data, SIZE, 3)
    images = held_out.images(np.arange(4))
    alone, walked = reconstructions(pipeline, images, 0.0, seed=1)
    assert torch.equal(alone, walked)
    alone, walked = reconstructions(pipeline, images, 0.9, seed=1)
    z = pipeline.encode(torch.from_numpy(images), 0.9, torch.Generator().manual_seed(1))
    expected = pipeline.vae.decode(pipeline.walk(z, 0.9), torch.tensor(0.0))
    assert torch.equal(walked, ((expected / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8))
    assert not torch.equal(alone, walked)


def test_finite_leaves_nothing_that_json_lacks():
    assert finite({"a": [1.5, float("nan")], "b": {"c": -math.inf}, "d": "x"}) == {
        "a": [1.5, None],
        "b": {"c": None},
        "d": "x",
    }


def test_page_holds_every_picture_and_needs_no_other_file(run):
    html = (run / "report.html").read_text()
    inside = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', html)]
    files = sorted((run / "report").iterdir())
    assert {f.suffix for f in files} == {".png"}
    assert {f.stem for f in files} >= {"dial", "samples", "rate_distortion", "mig", "training_vae"}
    assert sorted(inside) == sorted(f.read_bytes() for f in files)
    assert html.count("src=") == len(files)
    assert not re.search(r"https?:|<script|<link|@import|url\(", html)
    text = re.sub(r'src="[^"]*"', "", html).replace("not with FID", "")
    assert "FID" not in text
    assert "FD-Means" in text


def test_page_escapes_what_users_name(run, numbers):
    odd = deepcopy(numbers)
    odd["context"]["data"] = "<b>cats & dogs</b>"
    html = write.page(odd, {})
    assert "<b>cats" not in html
    assert "&lt;b&gt;cats &amp; dogs" in html


def test_headline_holds_the_main_numbers(run, numbers):
    text = write.headline(numbers)
    rows = {row["method"] + str(row["evaluations"]): number(row["distance"]) for row in numbers["samplers"]}
    for key in ("heun50", "eta=1200", "algorithm220", "algorithm2200"):
        assert rows[key] in text
    assert number(numbers["frechet"]["floor"]) in text
    assert number(numbers["factors"]["best"]["mig"]) in text
    assert "vae 1.5 + diffusion 1.5" in text
    assert text.endswith(str(run / "report.html"))
    starts = {re.match(r"(.*?\S)  +\S", line).end() for line in text.splitlines()}
    assert len(starts) == 1  # the second column is straight


def test_every_figure_says_what_its_axes_are(numbers, shown):
    figures = charts(numbers) | grids(shown, numbers)
    assert len(figures) == 10
    for name, figure in figures.items():
        for ax in figure.axes:
            assert ax.get_xlabel(), name
            assert ax.get_ylabel(), name
    rows = [label.get_text() for label in figures["dial"].axes[0].get_yticklabels()]
    assert len(rows) == 1 + 2 * 3
    assert rows[3].startswith("level 0.5\nVAE alone\nFD-Means ")


def test_no_label_leaves_its_figure(numbers, shown):
    for name, figure in (charts(numbers) | grids(shown, numbers)).items():
        figure.canvas.draw()
        box, page = figure.get_tightbbox(), figure.get_size_inches()
        assert min(box.x0, box.y0) >= 0, name
        assert box.x1 <= page[0], name
        assert box.y1 <= page[1], name


def test_tiles_keep_every_pixel():
    images = torch.arange(4 * SIZE * SIZE).reshape(4, 1, SIZE, SIZE).to(torch.uint8)
    canvas, scale = tiles(images, 2), TILE // SIZE
    assert canvas.dtype == np.uint8
    second = canvas[:TILE, -TILE:, 0]
    assert np.array_equal(second[scale // 2 :: scale, scale // 2 :: scale], images[1, 0].numpy())
    assert np.array_equal(second[:scale, :scale], np.full((scale, scale), images[1, 0, 0, 0]))


def test_pictures_are_of_the_configured_levels(shown):
    assert isinstance(shown, Pictures)
    assert shown.alone.keys() == shown.walked.keys() == {0.0, 0.5, 0.9}
    assert shown.default.shape == shown.posterior.shape == (64, 1, SIZE, SIZE)


@pytest.mark.parametrize("stage", ["page", "png", "measure"])
def test_a_report_cut_short_leaves_the_old_one(run, numbers, monkeypatch, stage):
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "measure", lambda *args: deepcopy(numbers))
    monkeypatch.setattr(write, stage, fail)
    with pytest.raises(KeyboardInterrupt):
        write.write_report(run, progress=False, extractor=MeanPixels())
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_the_networks_are_those_of_the_model(run):
    config, pipeline = load_config(run), BetaDiffusionPipeline.from_pretrained(run / "pipeline")
    parts = load_split(config.data, pipeline.vae.image_shape[1], config.seed)
    for model, presets in (("multi_beta_vae", ("demo", "demo")), ("beta_diffusion", ("scratch32", "dit"))):
        config.model = model
        found = context(pipeline, *parts, config)
        assert (found["model"], found["vae"], found["denoiser"]) == (model, *presets)


def test_an_unfinished_run_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"seed": 1}))
    with pytest.raises(ValueError, match="has no trained pipeline"):
        write.write_report(tmp_path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (0.12345, "0.123"),
        (12.345, "12.3"),
        (999.9, "1,000"),
        (12345.6, "12,346"),
        (1e-5, "1.0e-05"),
    ],
)
def test_number(value, text):
    assert number(value) == text

"""`betadiffusion evaluate` on a run of untrained models, as a user types it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.functional import adaptive_avg_pool2d

from betadiffusion.cli.main import main
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.training.config import DataConfig, RunConfig, VAEConfig

SIZE = 16


def means_of_a_grid(images):
    """Features that cost nothing."""
    return adaptive_avg_pool2d(images.float().mean(1), 3).flatten(1)


def make_run(folder, source="dsprites"):
    torch.manual_seed(0)
    shape = {"latent_channels": 4, "channels": [8, 16], "embedding_dim": 8, "level_channels": 4, "knots": 9}
    config = RunConfig(
        data=DataConfig(source=str(source), size=SIZE, limit=300, held_out=60, channels=1),
        vae=VAEConfig(preset="demo", **shape),
        cpu=True,
    )
    vae = MultiBetaVAE(sample_size=SIZE, in_channels=1, schedule="log_beta", **shape)
    denoiser = NonlinearDenoiser(latent_shape=(4, 1, 1), width=16, depth=1, knots=5, sigma_knots=9)
    denoiser.preconditioning.log_sigma.copy_(vae.sigma_curve.log_values())
    vae.save_pretrained(folder / "vae" / "model")
    BetaDiffusionPipeline(vae.eval(), denoiser.eval()).save_pretrained(folder / "pipeline")
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


FEW = ["--count", "120", "--test-count", "60", "--levels", "3"]


def test_a_run_is_evaluated_and_more_metrics_are_added_to_what_is_there(run, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(__file__.rsplit("/", 1)[0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out"
    features = ["--features", "effnet:32", "--samples", "50"]
    first = ["evaluate", str(run), *FEW, "--out", str(out), "--metrics", "mig", "frechet", "ssim", *features]
    assert main(first) == 0
    text = capsys.readouterr().out
    assert "MIG" in text
    assert "random weights" in text
    assert "N=50 against 50 of dsprites, training images" in text
    numbers = json.loads((out / "evaluation.json").read_text())
    assert [row["level"]["mean"] for row in numbers["levels"]] == [0, 0.5, 1]
    rates = [row["rate"]["mean"] for row in numbers["levels"]]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1e-6  # f(x,1) = 0 and sigma(1) = 1
    end = numbers["levels"][-1]
    normal = np.exp(-np.square(numbers["grid"]) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(end["densities"], np.tile(normal, (4, 1)), atol=1e-3)
    assert numbers["generation"][0]["metric"] == "FD-EffNet"
    assert 0 <= numbers["levels"][0]["ssim"]["mean"] <= 1

    kept = {path: path.stat().st_mtime_ns for path in out.rglob("samples-*.json")}
    assert main([*first, "--chosen-metrics", "sap"]) == 0
    again = json.loads((out / "evaluation.json").read_text())
    assert "sap" in again["rows"]["fixed"]
    assert again["levels"] == numbers["levels"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("samples-*.json")} == kept


def test_distances_in_features_of_a_plain_function_are_never_kept(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(__file__.rsplit("/", 1)[0])
    arguments = ["evaluate", str(run), *FEW, "--out", str(tmp_path), "--metrics", "frechet", "--samples", "20"]
    arguments += ["--features", "test_evaluate_command:means_of_a_grid"]
    stamps = set()
    for _ in range(2):
        assert main(arguments) == 0
        stamps |= {path.stat().st_mtime_ns for path in tmp_path.rglob("samples-*.json")}
    assert len(stamps) == 2
    numbers = json.loads((tmp_path / "evaluation.json").read_text())
    assert numbers["generation"][0]["metric"] == "FD-means_of_a_grid"


def test_rate_and_distortion_are_those_of_the_model(run, tmp_path):
    assert main(["evaluate", str(run), *FEW, "--out", str(tmp_path), "--metrics", "mig"]) == 0
    numbers = json.loads((tmp_path / "evaluation.json").read_text())
    csv = (tmp_path / "evaluation.csv").read_text().splitlines()
    assert csv[0] == "run,encoder,seed,level,number,value"
    row = numbers["levels"][1]
    assert row["psnr"]["mean"] == pytest.approx(10 * np.log10(4 / row["mse"]["mean"]))
    assert row["rate"]["mean"] > 0


def test_a_preset_fixes_what_the_user_does_not(run, tmp_path):
    arguments = ["--preset", "paper-table2", "--chosen-metrics", "irs", *FEW, "--out", str(tmp_path)]
    assert main(["evaluate", str(run), *arguments]) == 0
    numbers = json.loads((tmp_path / "evaluation.json").read_text())
    assert numbers["context"]["plan"]["every"] == ["mig"]
    assert numbers["context"]["plan"]["chosen"] == ["irs"]
    assert len(numbers["levels"]) == 3
    assert "InfoGAN-CR" in (tmp_path / "evaluation.html").read_text()


def test_two_runs_give_standard_errors(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    arguments = [
        "evaluate",
        str(run),
        str(other),
        *FEW,
        "--seeds",
        "0",
        "1",
        "--metrics",
        "mig",
        "--out",
        str(tmp_path),
    ]
    assert main(arguments) == 0
    numbers = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(numbers["context"]["repetition_of"]) == 4
    assert numbers["levels"][0]["mig"]["se"] == 0  # the same training twice: other images do not count as another one
    del arguments[2]
    assert main(arguments) == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["levels"][0]["mig"]["se"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "evaluate needs the folders of runs"),
        (["RUN", "--model", "a:b"], "and not both"),
        (["RUN", "RUN"], "runs must be there once each"),
        (["RUN", "--seeds", "0", "0"], "seeds must be there once each: 0, 0"),
        (["RUN", "--metrics", "mig", "--samples", "3"], "--features and --samples have no effect without one of"),
        (["RUN", "--levels", "1"], "--levels must be at least 2"),
        (["RUN", "--fixed-level", "1.5"], "--fixed-level must be from 0 to 1"),
        (["RUN", "--metrics", "migg"], "metrics"),
        (["RUN", "--metrics", "tad"], "tad needs images with known attributes, and dsprites has none"),
        (["RUN", "--metrics", "lpips"], "lpips needs its weights"),
        (["RUN", "--lpips", "x.safetensors"], "--lpips has no effect"),
        (["RUN", "--size", "32"], "--size and --channels go with --model"),
        (["RUN", "--split", "test"], "no partition 'test'"),
        (["RUN", "--data", "no-such-set"], "There is no data set or path"),
        (["RUN", "--seeds", "-1"], "--seeds must not be negative"),
        (["--model", "math:pi"], "--model needs --data"),
        (["--model", "math:pi", "--data", "dsprites"], "must have encode_mean"),
        (["no/such/run"], "is not the folder of a run"),
        (["RUN", "--metrics", "frechet", "--features", "resnet"], "not known"),
        (["RUN", "--metrics", "frechet", "--features", "inception:nowhere.pth"], "InceptionV3"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_nothing_is_written(run, tmp_path, arguments, sentence, capsys):
    arguments = [str(run) if argument == "RUN" else argument for argument in arguments]
    assert main(["evaluate", *arguments, *([] if "--levels" in arguments else FEW), "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("evaluation.*"))


def test_images_of_which_nothing_is_known_have_rate_and_distortion(tmp_path):
    images = tmp_path / "pictures"
    images.mkdir()
    random = np.random.default_rng(0)
    for i in range(150):
        Image.fromarray(random.integers(0, 255, (20, 20), dtype=np.uint8)).save(images / f"{i}.png")
    run = make_run(tmp_path / "run", images)
    assert main(["evaluate", str(run), *FEW]) == 0
    numbers = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert numbers["chooser"] is None
    assert numbers["levels"][0]["rate"]["mean"] > 0
    assert "best" not in numbers["rows"]

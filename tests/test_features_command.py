"""`betadiffusion features` and `probe` on a run of untrained models."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from betadiffusion.cli.main import main
from betadiffusion.data import load
from betadiffusion.evaluation import encoders
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.training.runs import load_vae
from test_evaluate_command import SIZE, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(random.integers(0, 255, (20, 20), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def test_features_are_the_posterior_means_of_the_images_by_name(run, pictures, tmp_path):
    out = tmp_path / "f.safetensors"
    assert main(["features", str(run), str(pictures), "--level", "0.3", "--out", str(out)]) == 0
    arrays = load_file(out)
    vae, images = load_vae(run), load(pictures, SIZE, 1)
    x = torch.from_numpy(images.images(np.arange(12))).float() / 127.5 - 1
    with torch.no_grad():
        expected = vae.encode_mean(x, torch.tensor(0.3)).numpy()
        sigma = float(vae.sigma(torch.tensor(0.3)))
    np.testing.assert_allclose(arrays["codes"], expected, atol=1e-5)
    assert arrays["sigma"] == pytest.approx(sigma)
    with safe_open(out, "numpy") as file:
        assert json.loads(file.metadata()["names"]) == [f"{i:02d}.png" for i in range(12)]


@pytest.mark.parametrize("sigma_from", ["image", "channel"])
def test_features_are_codes_as_the_decoder_takes_them(sigma_from, pictures, tmp_path):
    """Also where the prior has a scale of each channel."""
    run, out = make_run(tmp_path / "run"), tmp_path / "f.npz"
    shape = {"sample_size": SIZE, "in_channels": 1, "latent_channels": 4, "channels": [8, 16], "knots": 9}
    vae = MultiBetaVAE(**shape, sigma_from=sigma_from, channel_noise=sigma_from == "image").eval()
    with torch.no_grad():
        vae.sigma_curve.log_value += torch.linspace(0, 1, 4)
    vae.save_pretrained(run / "vae" / "model")
    assert main(["features", str(run), str(pictures), "--level", "0.3", "--out", str(out)]) == 0
    x = torch.from_numpy(load(pictures, SIZE, 1).images(np.arange(12))).float() / 127.5 - 1
    with torch.no_grad():
        mean, sigma = vae.posterior(x, torch.tensor(0.3))
    arrays = np.load(out, allow_pickle=False)
    np.testing.assert_allclose(arrays["codes"], mean.numpy(), atol=1e-5)
    np.testing.assert_allclose(np.broadcast_to(arrays["sigma"], mean.shape), sigma.expand_as(mean).numpy(), atol=1e-5)


def test_a_model_without_levels_is_asked_for_none(run, pictures, tmp_path, capsys, monkeypatch):
    plain = dataclasses.replace(encoders.load_run(run, torch.device("cpu")), has_levels=False)
    monkeypatch.setattr(encoders, "load_run", lambda *_: plain)
    command = ["features", str(run), str(pictures), "--out", str(tmp_path / "f.npz")]
    for option in (["--level", "0.2"], ["--beta", "3"]):
        assert main([*command, *option]) == 2
        assert "whose model has no levels" in capsys.readouterr().err
    assert main(command) == 0
    assert "12 images, codes: codes (12, 4, 1, 1)" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_one_sentence(run, pictures, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "folder.npz").mkdir()
    for out, said in (("file/x.npz", f"{tmp_path}/file is a file"), ("folder.npz", "folder.npz is a folder")):
        assert main(["features", str(run), str(pictures), "--out", str(tmp_path / out)]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "again.npz").touch()
    assert main(["features", str(run), str(pictures), "--out", str(tmp_path / "again.npz")]) == 0


def test_a_beta_names_the_level_that_has_it(run, pictures, tmp_path):
    schedule = load_vae(run).schedule
    beta = float(schedule(torch.tensor(0.3, dtype=torch.float64)).kl)
    paths = tmp_path / "level.npz", tmp_path / "beta.npz"
    assert main(["features", str(run), str(pictures), "--level", "0.3", "--out", str(paths[0])]) == 0
    assert main(["features", str(run), str(pictures), "--beta", str(beta), "--out", str(paths[1])]) == 0
    a, b = (np.load(path, allow_pickle=False) for path in paths)
    np.testing.assert_allclose(a["codes"], b["codes"], atol=1e-5)
    assert a["names"].tolist() == [f"{i:02d}.png" for i in range(12)]


def test_what_labels_mean_stands_beside_them(run, tmp_path):
    for i in range(12):
        folder = tmp_path / "classes" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (i, i, i)).save(folder / f"{i}.png")
    for name in ("f.npz", "f.safetensors"):
        assert main(["features", str(run), f"imagenet:{tmp_path}/classes", "--out", str(tmp_path / name)]) == 0
    arrays = np.load(tmp_path / "f.npz", allow_pickle=False)
    with safe_open(tmp_path / "f.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["label_names"]) == ["cat", "dog"] == arrays["label_names"].tolist()
    assert sorted(arrays["labels"].tolist()) == [0] * 6 + [1] * 6


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--level", "0.3", "--beta", "2"], "not both"),
        (["--level", "1.3"], "--level must be from 0 to 1"),
        (["--beta", "0.5"], "a beta must be from 1 to 64"),
        (["--raw"], "no features before its bottleneck"),
        (["--raw", "--level", "0"], "have no effect with --raw"),
        (["--out", "codes.txt"], "--out must be a .safetensors or a .npz"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_nothing_is_written(run, pictures, arguments, text, tmp_path, capsys):
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "f.npz")]
    assert main(["features", str(run), str(pictures), *arguments, *out]) == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_probe_reads_factors_level_by_level(run, tmp_path, capsys):
    few = ["--count", "120", "--test-count", "60", "--levels", "3"]
    assert main(["probe", str(run), *few, "--out", str(tmp_path)]) == 0
    numbers = json.loads((tmp_path / "evaluation.json").read_text())
    assert [0 <= row["linear_probe"]["mean"] <= 1 for row in numbers["levels"]] == [True] * 3
    end = numbers["levels"][-1]  # f(x,1) = 0: a guess
    assert end["linear_probe"]["mean"] < numbers["levels"][0]["linear_probe"]["mean"]
    assert "pixels" in capsys.readouterr().out

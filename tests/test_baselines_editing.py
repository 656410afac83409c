"""`directions`, `edit` and `interpolate` for runs of baselines, as far as their codes can be decoded."""

import dataclasses
import json

import pytest
import torch
import yaml
from PIL import Image

from baseline_cases import saved, small
from betadiffusion.cli.loading import load_pipeline
from betadiffusion.cli.main import main
from betadiffusion.pipelines.directions import load
from betadiffusion.training.config import BaselineConfig, DataConfig, RunConfig, VAEConfig
from betadiffusion.training.stored import fingerprint
from test_baselines import batch
from test_editing_commands import TILE, sentence
from test_evaluate_command import make_run

FEW = ["--count", "80", "--num-images", "2"]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def run_of(model, folder, **hyperparameters):
    """The folder of a run of an untrained baseline on rendered images."""
    torch.manual_seed(0)
    saved(small(model, **hyperparameters), folder)
    config = RunConfig(model=model, stages=["baseline"], cpu=True)
    config.data = DataConfig(source="dsprites", size=16, limit=300, held_out=60, channels=1)
    config.vae, config.baseline = VAEConfig(channels=[16, 16], latent_channels=4), BaselineConfig(**hyperparameters)
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))))
    return folder


@pytest.mark.parametrize("model", ["ae", "vae", "hierarchical_vae", "multi_rate_vae", "vq_vae", "latent_diffusion"])
def test_the_ends_of_the_way_are_the_reconstructions(model, tmp_path):
    pipeline = load_pipeline(run_of(model, tmp_path), needs_denoiser=False)
    a, b = batch()[:2], batch()[2:4]
    at = {"t": torch.tensor(0.0)} if pipeline.vae.has_levels else {}
    with torch.no_grad():
        expected = [(pipeline.vae.reconstruct(x, **at) / 2 + 0.5).clamp(0, 1) for x in (a, b)]
    options = {"denoise": False, "code": "mean", "output_type": "pt"}
    made = pipeline.interpolate(a / 2 + 0.5, b / 2 + 0.5, [0.0, 1.0], 0.0, **options).images
    torch.testing.assert_close(made[0::2], expected[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(made[1::2], expected[1], rtol=0, atol=1e-4)
    still = torch.zeros(pipeline.vae.latent_shape)
    torch.testing.assert_close(pipeline.edit(a / 2 + 0.5, still, 1.0, 0.0, **options).images, made[0::2])


def test_the_commands_edit_a_baseline(tmp_path, capsys):
    run = run_of("vae", tmp_path)
    assert main(["directions", str(run), "--pca", "1", "--factors", "scale", *FEW]) == 0
    assert sorted(path.name for path in (run / "directions" / "level-0").iterdir()) == ["pca-1.png", "scale.png"]
    assert main(["edit", str(run), "--direction", "pca-1", "scale", "--strengths", "0", "2", "--num-images", "1"]) == 0
    assert main(["interpolate", str(run), "--frames", "3"]) == 0
    with Image.open(run / "interpolation.png") as picture:
        assert picture.height == 26 + TILE
    capsys.readouterr()
    for arguments, said in (
        (["interpolate", "--level", "0.5"], "--level has no effect with a baseline without levels: leave it out"),
        (["edit", "--direction", "pca-1", "--level", "0"], "--level has no effect with a baseline without levels"),
        (["edit", "--direction", "pca-1", "--steps", "9"], "--steps has no effect with --show alone"),
        (["interpolate", "--show", "walked"], "a baseline without a diffusion between levels"),
    ):
        assert main([arguments[0], str(run), *arguments[1:]]) == 2
        assert said in sentence(capsys)


def test_the_codes_of_a_baseline_with_levels_are_those_of_a_level(tmp_path):
    run = run_of("multi_rate_vae", tmp_path)
    assert main(["directions", str(run), "--pca", "1", "--level", "0.3", *FEW]) == 0
    assert [d.level for d in load(run / "directions", fingerprint(load_pipeline(run, False).vae))] == [0.3]
    assert main(["interpolate", str(run), "--level", "0", "1", "--frames", "2"]) == 0


@pytest.mark.parametrize("model", ["ddpm", "diffae", "cvae", "disco"])
def test_what_does_not_encode_and_decode_is_refused(model, tmp_path, capsys):
    run = run_of(model, tmp_path)
    for command in (["interpolate"], ["edit", "--direction", "pca-1"], ["directions"]):
        assert main([command[0], str(run), *command[1:]]) == 2
        assert f"is a run of model {model!r}, which does not both encode and decode" in sentence(capsys)


def test_directions_of_disco_are_kept_in_the_run_that_they_are_of(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    disco = run_of("disco", tmp_path / "disco", base=str(run))
    wrong = run_of("disco", tmp_path / "wrong", base=str(run_of("vae", tmp_path / "vae")))
    pipeline = load_pipeline(run, needs_denoiser=False)
    trained = small("disco", base=str(run))
    trained.frozen.load_state_dict(pipeline.vae.state_dict())  # as `prepare` does
    saved(trained, disco)
    ask = ["directions", str(run), "--show", "alone", *FEW, "--pca", "0", "--disco"]
    assert main([*ask, str(disco)]) == 0
    found = load(run / "directions", fingerprint(pipeline.vae))
    assert [(d.name, d.kind, d.level) for d in found] == [(f"disco-{i}", "disco", 0.5) for i in (1, 2, 3, 4)]
    for direction, row in zip(found, trained.navigator.detach(), strict=True):
        cosine = torch.cosine_similarity(direction.vector.flatten(), row, dim=0)
        torch.testing.assert_close(cosine, torch.tensor(1.0))
    assert main(["edit", str(run), "--direction", "disco-2", "--show", "alone", "--num-images", "1"]) == 0
    capsys.readouterr()
    for arguments, said in (
        ([str(disco), "--level", "0.6"], "the directions of --disco are of level 0.5"),
        ([str(wrong)], "are of another model: its baseline.base was not this run"),
        ([str(run)], "--disco must be the folder of a run of model 'disco'"),
    ):
        assert main([*ask, *arguments]) == 2
        assert said in sentence(capsys)

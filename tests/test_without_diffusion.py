"""What a run can do whose stage "diffusion" was never trained."""

import shutil

import pytest
import torch
from PIL import Image

from betadiffusion.cli.main import main
from betadiffusion.gaussian import split
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.training.runs import load_vae
from test_evaluate_command import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("run"))
    shutil.rmtree(folder / "pipeline")
    return folder


def test_samples_of_the_prior_are_what_the_decoder_makes_of_noise(run, tmp_path):
    out = tmp_path / "images"
    assert main(["sample", str(run), "--prior", "--level", "0.9", "--num-images", "3", "--out", str(out)]) == 0
    vae = load_vae(run).eval()
    each = split(torch.Generator().manual_seed(0), 3)
    z = torch.stack([torch.randn(vae.latent_shape, generator=one) for one in each])
    with torch.no_grad():
        x = (vae.decode(z, torch.tensor(0.9)) / 2 + 0.5).clamp(0, 1)
    expected = (x * 255).round().to(torch.uint8)
    for i, path in enumerate(sorted(out.iterdir())):
        assert Image.open(path).tobytes() == expected[i].numpy().tobytes()


def test_a_beta_is_the_level_that_has_it(run, tmp_path):
    schedule = load_vae(run).schedule
    beta = float(schedule(torch.tensor(0.9, dtype=torch.float64)).kl)
    for name, which in (("level", ["--level", "0.9"]), ("beta", ["--beta", str(beta)])):
        assert main(["sample", str(run), "--prior", *which, "--out", str(tmp_path / f"{name}.png")]) == 0
    assert (tmp_path / "level.png").read_bytes() == (tmp_path / "beta.png").read_bytes()


def test_reconstructions_over_beta(run, tmp_path, capsys):
    out = tmp_path / "grid.png"
    assert main(["reconstruct", str(run), "--betas", "1", "8", "64", "--num-images", "2", "--out", str(out)]) == 0
    assert "2 images, beta 1, beta 8, beta 64" in capsys.readouterr().out
    assert out.exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["sample"], "its training has not finished"),
        (["sample", "--level", "0.5"], "have no effect without --prior"),
        (["sample", "--prior", "--steps", "5"], "--steps has no effect with --prior"),
        (["sample", "--prior", "--level", "2"], "--level must be from 0 to 1"),
        (["reconstruct", "--betas", "0.1"], "a beta must be from 1 to 64"),
        (["reconstruct", "--denoise"], "its training has not finished"),
    ],
)
def test_what_needs_more_is_one_sentence(run, arguments, text, tmp_path, capsys):
    command, *rest = arguments
    assert main([command, str(run), *rest, "--out", str(tmp_path / "x.png")]) == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_pipeline_without_a_denoiser_saves_loads_and_refuses_to_walk(run, tmp_path):
    pipeline = BetaDiffusionPipeline(load_vae(run).eval())
    pipeline.save_pretrained(tmp_path)
    loaded = BetaDiffusionPipeline.from_pretrained(tmp_path)
    assert loaded.denoiser is None
    images = loaded.sample_prior(2, generator=torch.Generator().manual_seed(0)).images
    assert len(loaded.reconstruct(images, 0.5).images) == 2
    with pytest.raises(ValueError, match="no denoiser"):
        loaded(2)

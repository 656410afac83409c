"""Presets: exact sizes, fitting pairs, helpful errors, and no heavy imports."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.presets import (
    DENOISER_PRESETS,
    VAE_PRESETS,
    DenoiserArguments,
    VAEArguments,
    denoiser_preset,
    vae_preset,
)
from betadiffusion.models.vae import MultiBetaVAE

COUNTS = {  # (VAE, denoiser)
    "demo": (746_788, 690_112),
    "toy": (2_472_613, 690_112),
    "celeba64": (3_703_561, 25_723_784),
    "ldm256": (148_639_881, 376_009_480),
}


def build(name):
    with torch.device("meta"):
        return MultiBetaVAE(**vae_preset(name)), NonlinearDenoiser(**denoiser_preset(name))


def test_every_preset_is_pinned():
    assert list(VAE_PRESETS) == list(COUNTS)
    assert list(DENOISER_PRESETS) == [*COUNTS, "dit"]


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_and_shapes(name):
    vae, denoiser = build(name)
    assert (vae.num_parameters(), denoiser.num_parameters()) == COUNTS[name]
    assert vae.latent_shape == denoiser_preset(name)["latent_shape"]
    with torch.device("meta"):
        z = vae.encode_mean(torch.empty(2, *vae.image_shape), torch.empty(2))
        assert z.shape[1:] == vae.latent_shape
        assert vae.decode(z, torch.empty(2)).shape[1:] == vae.image_shape
        assert denoiser.network(z, torch.empty(2)).shape[1] == 2 * z.shape[1]


def test_the_document_prints_these_counts():
    document = Path(__file__).parents[1].joinpath("docs", "presets.md").read_text(encoding="utf-8")
    for name, counts in COUNTS.items():
        for kind, count in zip(("VAE", "denoiser"), counts, strict=True):
            assert f"| {kind} | `{name}` | {count:,} |" in document


@pytest.mark.parametrize(("model", "arguments"), [(MultiBetaVAE, VAEArguments), (NonlinearDenoiser, DenoiserArguments)])
def test_arguments_are_those_of_the_model(model, arguments):
    assert set(arguments.__annotations__) == set(inspect.signature(model).parameters)


def test_overrides_replace_and_leave_the_preset_alone():
    arguments = vae_preset("celeba64", sample_size=128, dropout=0.1)
    assert arguments == VAE_PRESETS["celeba64"] | {"sample_size": 128, "dropout": 0.1}
    assert vae_preset("celeba64")["sample_size"] == 64
    assert denoiser_preset("toy", depth=2)["depth"] == 2


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda: vae_preset("celeba46"), "unknown VAE preset 'celeba46': did you mean 'celeba64'"),
        (lambda: denoiser_preset("ldm-256"), "unknown denoiser preset 'ldm-256': did you mean 'ldm256'"),
        (lambda: vae_preset("demo", latent_chanels=8), "VAE argument 'latent_chanels': did you mean 'latent_channels'"),
        (lambda: denoiser_preset("demo", widht=8), "denoiser argument 'widht': did you mean 'width'"),
        (lambda: vae_preset("xyz"), "Known: demo, toy, celeba64, ldm256"),
    ],
)
def test_unknown_names_suggest_the_nearest(call, nearest):
    with pytest.raises(ValueError, match=nearest):
        call()


def test_presets_import_no_torch():
    code = "import sys, betadiffusion.models.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0

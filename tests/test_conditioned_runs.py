"""Whole runs with a condition: what a step is told, resuming, and the commands that ask."""

import dataclasses
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from betadiffusion import BetaDiffusionPipeline, samplers
from betadiffusion.cli.checks import check
from betadiffusion.cli.main import main
from betadiffusion.training import runs
from betadiffusion.training.conditions import make_conditions
from betadiffusion.training.config import ConditionConfig, RunConfig
from betadiffusion.training.diffusion_stage import DiffusionStage
from betadiffusion.training.distillation_stage import DistillationStage
from test_conditioning import generator, scatter
from test_runs import configured, final, same

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    out = tmp_path_factory.mktemp("labelled")
    changes = {
        "condition__kind": "labels", "condition__classes": "shape", "vae_training__images": 512, "cache__levels": 4,
        "diffusion_training__images": 1024, "diffusion_training__checkpoint_images": 256,
        "diffusion_training__validate_images": 1024, "diffusion_training__keep_checkpoints": 99,
        "diffusion_training__warmup_images": 32,
    }  # fmt: skip
    run = runs.run(configured(out, **changes))
    pipeline = BetaDiffusionPipeline.from_pretrained(run / "pipeline")
    for part in (pipeline.denoiser.network, pipeline.denoiser.condition_embedding):
        scatter(part)  # which so few steps hardly train
    pipeline.save_pretrained(run / "pipeline")
    return run


def test_a_run_conditioned_on_classes_samples_them(labelled):
    pipeline = BetaDiffusionPipeline.from_pretrained(labelled / "pipeline")
    spec = pipeline.denoiser.condition_spec
    assert (spec.kind, len(spec.names)) == ("labels", 4)
    ask = {"num_images": 3, "steps": 2, "output_type": "pt"}

    def draw(**more):
        return pipeline(**ask, generator=generator(), **more).images

    assert torch.equal(draw(condition=2), draw(condition=[2, 2, 2]))
    torch.testing.assert_close(draw(condition=2, guidance=0.0), draw())
    mixed = draw(condition=[2, 1, 2])
    changed = (mixed - draw(condition=2)).abs().amax((1, 2, 3)) > 1e-5
    assert changed.tolist() == [False, True, False]
    assert not torch.equal(draw(condition=2, guidance=3.0), draw(condition=2))
    assert torch.equal(draw(condition=2, guidance=3.0, guidance_interval=(0.2, 0.2)), draw(condition=2))
    x = torch.rand(3, 3, 16, 16, generator=generator())
    plain, asked = (pipeline.denoise(x, 0.9, steps=2, output_type="pt", condition=c).images for c in (None, 1))
    assert not torch.equal(plain, asked)
    along = torch.ones(pipeline.vae.latent_shape)
    edited = pipeline.edit(x, along, 0.0, 0.9, steps=2, output_type="pt", condition=1).images
    torch.testing.assert_close(edited, asked)
    for wrong, text in (({"guidance": 2.0}, "without a condition"),
                        ({"condition": 1, "guidance_interval": (0, 0.5)}, "no effect with guidance 1")):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            draw(**wrong)


def test_a_step_is_told_the_conditions_of_its_own_images(labelled):
    config, vae = runs.load_config(labelled), runs.load_vae(labelled)
    parts = runs.load_split(config.data, 16, config.seed)
    conditions = make_conditions(config.condition, parts, labelled, CPU)
    denoiser = runs.build_denoiser(config, vae, conditions[0].spec)
    stage, told = DiffusionStage(denoiser, vae, *parts, None, CPU, None, conditions), []

    def network(z, t, s, condition):
        told.append(condition)
        return denoiser(z, t, s, condition)

    indices, draws = np.arange(64), stage.draw(64, generator())
    stage.losses(network, indices, draws)
    shapes = torch.from_numpy(parts[0].factors(indices)[:, parts[0].factor_names.index("shape")])
    kept = told[0] >= 0
    assert torch.equal(told[0][kept], shapes[kept])
    assert 0 < int(kept.sum()) < 64
    assert [draw.shape[0] for draw in draws] == [64] * 4
    assert torch.equal(stage.draw(64, generator())[-1], draws[-1])


def test_a_conditioned_run_goes_on_as_if_it_had_not_stopped(labelled, tmp_path):
    copy = shutil.copytree(labelled, tmp_path / "copy")
    for late in sorted((copy / "diffusion" / "checkpoints").iterdir())[2:]:
        shutil.rmtree(late)
    shutil.rmtree(copy / "pipeline")
    runs.run(dataclasses.replace(runs.load_config(copy), out=str(copy), stages=["diffusion"]))
    assert same(final(copy, "diffusion"), final(labelled, "diffusion"))
    config = runs.load_config(copy)
    config.condition.dropout = 0.2
    with pytest.raises(ValueError, match=r"condition.dropout = 0.1, not 0.2"):
        runs.run(dataclasses.replace(config, out=str(copy)))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"by": "tokens"}, "condition.by has no effect with condition.kind 'none'"),
        ({"kind": "labels", "dropout": 0.0}, "condition.dropout must be positive"),
        ({"kind": "labels", "dropout": 1.0}, "condition.dropout must be below 1"),
        ({"kind": "labels", "attributes": ["red"]}, "condition.attributes has no effect unless"),
        ({"kind": "attributes", "classes": "age"}, "condition.classes has no effect unless"),
        ({"kind": "labels", "text_encoder": "x"}, "condition.text_encoder has no effect unless"),
        ({"kind": "text"}, "needs condition.text_encoder"),
        ({"kind": "text", "text_encoder": "x", "text_tokens": 8}, "text_tokens has no effect with condition.by"),
    ],
)
def test_a_configuration_that_cannot_be_asked_is_refused_before_training(tmp_path, options, text):
    config = RunConfig(condition=ConditionConfig(**options), out=str(tmp_path))
    with pytest.raises(ValueError, match=text):
        check(config)


def test_a_flow_map_is_told_what_its_teacher_was_asked_for(labelled):
    config, pipeline = runs.load_config(labelled), BetaDiffusionPipeline.from_pretrained(labelled / "pipeline")
    config.diffusion.prediction = "flow_map"
    parts = runs.load_split(config.data, 16, config.seed)
    conditions = make_conditions(config.condition, parts, labelled, CPU)
    given, told = (pipeline.vae, *parts, CPU, pipeline.denoiser), []
    model = runs.build_denoiser(config, pipeline.vae, conditions[0].spec)
    stage = DistillationStage(model, *given, conditions, count=96)

    def network(z, t, s, condition):
        told.append(condition)
        return model(z, t, s, condition)

    draws = stage.draw(64, generator())
    stage.losses(network, np.arange(64), draws)
    for classed in (-1, 1, 2):
        of_class = told[0] == classed
        walks = stage.walks[draws[0][of_class]]
        predict = partial(pipeline.denoiser.predict, condition=told[0][of_class])
        levels, sigma = stage.walk_levels[0].double(), pipeline.denoiser.sigma
        own = {"method": "multistep", "variable": "standard", "moments": pipeline.denoiser.moments()}
        again = samplers.sample(predict, walks[:, 0], levels, sigma, **own)
        torch.testing.assert_close(again, walks[:, -1], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="trained with another condition"):
        DistillationStage(runs.build_denoiser(config, pipeline.vae), *given)


def test_a_network_that_cannot_be_told_is_refused_before_training(tmp_path, capsys):
    out = tmp_path / "run"
    code, error = call(capsys, "train", "--condition.kind", "labels", "--condition.by", "tokens", "--out", out)
    assert (code, out.exists()) == (2, False)
    assert "has no tokens" in error


def call(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err.strip()


def test_sample_asks_for_a_class(labelled, tmp_path, capsys):
    sheet = ["--num-images", 2, "--steps", 2, "--out"]
    files = [tmp_path / f"{i}.png" for i in range(3)]
    assert call(capsys, "sample", labelled, "--class", 3, "--guidance", 20, *sheet, files[0])[0] == 0
    assert call(capsys, "sample", labelled, "--class", "3", "--guidance", 20, *sheet, files[1])[0] == 0
    assert call(capsys, "sample", labelled, "--class", 1, "--guidance", 20, *sheet, files[2])[0] == 0
    one, again, other = (file.read_bytes() for file in files)
    assert one == again != other


@pytest.mark.parametrize("command", [["reconstruct", "--denoise", "--levels", 0.9], ["edit", "--direction", "pca-1"],
                                     ["interpolate", "--level", 0.9, "--frames", 2]])  # fmt: skip
def test_whatever_walks_can_be_told_a_class(labelled, tmp_path, capsys, command):
    """It is the pipeline's own walk: guidance 0 is no condition, and other classes make other pictures."""
    if command[0] == "edit":
        assert (
            call(capsys, "directions", labelled, "--pca", 1, "--count", 64, "--level", 0.9, "--show", "alone")[0] == 0
        )
    made = []
    for words in ([], ["--class", 1, "--guidance", 0], *(["--class", c, "--guidance", 40] for c in (1, 3))):
        out = tmp_path / f"{len(made)}.png"
        walked = [*words, "--steps", 2, "--out", out]
        assert call(capsys, command[0], labelled, *command[1:], *walked) == (0, "")
        made.append(np.asarray(Image.open(out).convert("RGB"), np.int64))
    plain, unguided, one, three = made
    assert np.abs(plain - unguided).max() <= 1
    assert min(np.abs(a - b).max() for a, b in ((plain, one), (plain, three), (one, three))) > 4


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["reconstruct", "--class", 1], "no effect without --denoise"),
        (["interpolate", "--show", "alone", "--class", 1], "no effect with --show alone"),
        (["edit", "--direction", "pca-1", "--show", "alone", "--text", "a dog"], "no effect with --show alone"),
        (["interpolate", "--attribute", "female=1"], "this run was trained to be asked by --class"),
        (["interpolate", "--guidance", 2], "--guidance needs --class, --attribute or --text"),
    ],
)
def test_what_a_walk_cannot_be_told_is_one_sentence(labelled, tmp_path, capsys, words, text):
    code, error = call(capsys, words[0], labelled, *words[1:], "--out", tmp_path / "x.png")
    assert (code, error.count("\n"), (tmp_path / "x.png").exists()) == (2, 0, False)
    assert text in error


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--guidance", 2], "--guidance needs --class, --attribute or --text"),
        (["--class", 9], "there is no class 9: they are 0 to 3"),
        (["--class", "sphere"], "there is no class 'sphere'"),
        (["--attribute", "female=1"], "--attribute cannot be asked for: this run was trained to be asked by --class"),
        (["--attribute", "female"], "--attribute is NAME=1 or NAME=0, not 'female'"),
        (["--text", "a dog"], "--text cannot be asked for: this run was trained to be asked by --class"),
        (["--class", 1, "--text", "a dog"], "only one of --class, --attribute and --text"),
        (["--class", 1, "--prior"], "no effect with --prior"),
        (["--class", 1, "--guidance", 2, "--guidance-interval", 0.5], "--guidance-interval is two levels"),
        (["--class", 1, "--guidance", 2, "--guidance-interval", 0.9, 0.5], "guidance interval"),
        (["--class", 1, "--guidance-interval", 0.1, 0.5], "no effect with guidance 1"),
    ],
)
def test_what_sample_cannot_do_is_one_sentence(labelled, tmp_path, capsys, options, text):
    code, error = call(capsys, "sample", labelled, *options, "--out", tmp_path / "x.png")
    assert code == 2
    assert text in error
    assert error.count("\n") == 0

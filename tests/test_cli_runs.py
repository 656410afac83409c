"""Commands on a run, as a user types them: what they write, and what is refused in a sentence."""

import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from betadiffusion.cli import commands
from betadiffusion.cli.main import main
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from cli_cases import left_over, sentence

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run whose models were never trained: 8x8 images, latent 4."""
    from betadiffusion.models.denoiser import NonlinearDenoiser
    from betadiffusion.models.vae import MultiBetaVAE

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    vae = MultiBetaVAE(sample_size=8, latent_channels=4, channels=(8, 8), embedding_dim=8, knots=5)
    denoiser = NonlinearDenoiser(latent_shape=(4, 1, 1), width=8, depth=1, knots=5, sigma_knots=5)
    BetaDiffusionPipeline(vae=vae, denoiser=denoiser).save_pretrained(folder / "pipeline")
    folder.joinpath("config.yaml").write_text("data: {source: dsprites, channels: 3, limit: 60, held_out: 12}")
    return folder


def test_a_run_knows_its_data_from_every_folder(call, monkeypatch, tmp_path):
    configs = []
    monkeypatch.setattr("betadiffusion.training.runs.run", configs.append)
    Path("faces").mkdir()
    assert call("train", "--data.source", "faces", "--stages", "[vae]")[0] == 0
    assert call("compare", "vae", "--data", "faces", "--images", 100, "--jobs", 0, "--out", "comparison")[0] == 0
    assert configs[0].data.source == str(tmp_path / "faces")
    assert f'"{tmp_path / "faces"}"' in Path("comparison/plan.json").read_text()


def test_sample_writes_one_sheet(finished, call):
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        code, out, error = call(
            "sample", finished, "--num-images", 5, "--steps", 2, "--seed", seed, "--out", f"{name}.png"
        )
        assert (code, out, error) == (0, f"5 images, 2 network evaluations each: {name}.png\n", "")
    with Image.open("a.png") as image:
        assert image.size == (3 * 66 - 2, 2 * 66 - 2)  # 8x8 enlarged to 64, gaps of 2
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert Path("a.png").read_bytes() != Path("c.png").read_bytes()


def test_sample_writes_a_folder_in_batches(finished, call, monkeypatch):
    monkeypatch.setattr(commands, "BATCH", 2)
    assert call("sample", finished, "--num-images", 5, "--steps", 1, "--eta", 0.5, "--out", "images")[0] == 0
    files = sorted(Path("images").iterdir())
    assert [file.name for file in files] == [f"{i:05}.png" for i in range(5)]
    assert len({file.read_bytes() for file in files}) == 5
    assert Image.open(files[0]).size == (8, 8)
    code, _, error = call("sample", finished, "--out", "images")
    assert (code, sentence(error)) == (2, "--out images must be a new or an empty folder")


@pytest.mark.parametrize("out", ["images", "sheet.png"])
def test_a_failure_half_way_leaves_nothing(out, finished, monkeypatch, tmp_path):

    made = []

    def fail_at_second(self, *arguments, **options):
        made.append(arguments)
        if len(made) == 2:
            raise RuntimeError("defect")
        return types.SimpleNamespace(images=[Image.new("RGB", (8, 8))] * 2)

    monkeypatch.setattr(commands, "BATCH", 2)
    monkeypatch.setattr(BetaDiffusionPipeline, "__call__", fail_at_second)
    with pytest.raises(RuntimeError, match="defect"):
        main(["sample", str(finished), "--num-images", "4", "--out", out])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["file/sheet.png", "folder.png"])
def test_a_place_that_cannot_be_written_is_one_sentence(out, finished, call, tmp_path):
    Path("file").touch()
    Path("folder.png").mkdir()
    code, _, error = call("sample", finished, "--num-images", 1, "--steps", 1, "--out", out)
    assert code == 2
    assert sentence(error).startswith(f"{out} cannot be written (")
    assert not left_over(tmp_path)


def test_reconstruct_shows_held_out_images_by_default(finished, call):
    code, out, _ = call("reconstruct", finished, "--levels", 0, 0.5, "--num-images", 3, "--out", "grid.png")
    assert (code, out) == (0, "3 images, level 0, level 0.5: grid.png\n")
    plain = Image.open("grid.png").size
    argv = ["--denoise", "--steps", 2, "--method", "euler", "--seed", 3, "--out", "walked.png"]
    assert call("reconstruct", finished, "--levels", 0, 0.5, "--num-images", 3, *argv)[0] == 0
    walked = Image.open("walked.png").size
    assert walked[0] == plain[0]
    assert 3 * walked[1] == 5 * plain[1]  # originals, then one row a level, then two


def test_reconstruct_takes_files_and_folders_of_any_size(finished, call):
    Path("folder").mkdir()
    for i, size in enumerate([(30, 20), (8, 8), (9, 50)]):
        Image.new("RGB", size, (40 * i, 0, 0)).save(f"folder/{i}.png")
    Image.new("L", (100, 60)).save("grey.jpg")
    argv = ["reconstruct", finished, "grey.jpg", "folder", "--num-images", 2, "--levels", 0.5, "--out", "new/grid.png"]
    assert call(*argv)[:2] == (0, "3 images, level 0.5: new/grid.png\n")
    Path("broken.png").write_bytes(b"\x89PNG")
    code, _, error = call("reconstruct", finished, "broken.png", "--out", "b.png")
    assert (code, sentence(error)) == (2, "broken.png cannot be read as an image (not an image)")
    assert not Path("b.png").exists()


def test_pictures_are_cut_as_in_training():
    from betadiffusion.cli.pictures import read_images
    from betadiffusion.data import load

    random = np.random.default_rng(0)
    Path("folder").mkdir()
    Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save("folder/a.png")
    trained_on = load("folder", 8, 3).images(np.arange(1))
    assert np.array_equal(read_images(["folder/a.png"], (3, 8, 8), 1), trained_on)
    assert np.array_equal(read_images(["folder"], (3, 8, 8), 1), trained_on)


def test_an_unfinished_run_is_named(call):
    Path("run").mkdir()
    Path("run/config.yaml").write_text("model: multi_beta_vae")
    for command in ("sample", "reconstruct", "report"):
        code, _, error = call(command, "run")
        assert code == 2
        assert sentence(error) == "run has no pipeline/model_index.json: its training has not finished"
    assert [path.name for path in Path("run").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no keys"),
        ("- 1", "it has no keys"),
        ("a: [", "is not YAML"),
        ("modell: vae", "is not that of a run of this version: "),
        ("seed: abc", "is not that of a run of this version: "),
    ],
)
def test_a_damaged_configuration_is_one_sentence(text, said, finished, call, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(text)
    code, _, error = call("reconstruct", tmp_path / "run")
    assert code == 2
    assert said in sentence(error)


def test_damaged_weights_are_one_sentence(finished, call, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (weights,) = (tmp_path / "run" / "pipeline" / "vae").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    for command in ("sample", "report"):
        code, _, error = call(command, tmp_path / "run")
        assert code == 2
        assert "pipeline cannot be read" in sentence(error)


def test_a_walk_goes_down(finished, call):
    for argv in (
        ["reconstruct", finished, "--denoise", "--levels", 0.5, "--end", 0.7],
        ["interpolate", finished, "--level", 0.5, "--end", 0.5],
    ):
        code, _, error = call(*argv)
        assert code == 2
        assert "--end must be below the level that is walked from, 0.5" in sentence(error)
    code, _, error = call("reconstruct", finished, "--levels", 0.3, "--betas", 4)
    assert (code, sentence(error)) == (2, "give --levels or --betas, not both")


@pytest.mark.parametrize(
    ("file", "text"), [("model_index.json", "[1]"), ("denoiser/config.json", "{}"), ("vae/config.json", "{")]
)
def test_a_damaged_pipeline_is_one_sentence_that_names_it(file, text, finished, call, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "pipeline" / file).write_text(text)
    code, _, error = call("sample", "run", "--steps", 1)
    assert code == 2
    assert sentence(error).startswith("run/pipeline cannot be read")
    assert "ignore_mismatched_sizes" not in error


def test_weights_that_are_missing_are_one_sentence(finished, call, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (file,) = (tmp_path / "run" / "pipeline" / "denoiser").glob("*.safetensors")
    weights = load_file(file)
    weights.pop(next(name for name in weights if name.startswith("network")))
    save_file(weights, file)
    code, _, error = call("sample", "run", "--steps", 1)
    assert (code, "weights are missing" in sentence(error)) == (2, True)


def test_a_count_has_no_effect_on_files(finished, call):
    Image.new("RGB", (8, 8)).save("a.png")
    for command in (["reconstruct"], ["edit", "--direction", "pca-1"]):
        code, _, error = call(command[0], finished, "a.png", *command[1:], "--num-images", 3)
        assert (code, sentence(error)[:28]) == (2, "--num-images has no effect w")


@pytest.mark.parametrize("arguments", ["--help | true", "--help > /dev/full"])
def test_who_does_not_read_on_sees_no_traceback(arguments):
    found = subprocess.run(
        f"'{sys.executable}' -m betadiffusion {arguments}",
        shell=True, executable="/bin/bash", capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr
    if "full" in arguments:
        assert (found.returncode, sentence(found.stderr)[:6]) == (2, "a file")


def test_a_disk_without_room_is_one_sentence(finished, call, monkeypatch):
    def full(*arguments, **options):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(commands, "load_pipeline", full)
    code, _, error = call("sample", finished)
    assert (code, "No space left on device" in sentence(error)) == (2, True)


def test_data_without_a_name_are_not_this_folder(call):
    assert call("data", "")[0] == 2
    assert sentence(call("data", "")[2]) == "The data have no name: give a path, or '.' for this folder."

"""`betadiffusion directions`, `edit` and `interpolate` on runs of untrained models."""

import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

from betadiffusion.cli.main import main
from betadiffusion.cli.pictures import FRAME_RATE
from betadiffusion.data import Subset
from betadiffusion.data.arrays import ArrayImages
from betadiffusion.evaluation.directions import find_directions
from betadiffusion.pipelines.directions import load
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.training.runs import load_vae
from betadiffusion.training.stored import fingerprint
from test_evaluate_command import SIZE, make_run

TILE = 64 + 2  # of the grids: a 16x16 image enlarged, and the gap


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Images with attributes: grey noise, called as UTKFace's files are."""
    folder = tmp_path_factory.mktemp("faces")
    random = np.random.default_rng(0)
    for i in range(120):
        pixels = random.integers(0, 100 + i, (SIZE, SIZE), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i % 90}_{i % 2}_0_{i:08d}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on rendered images, with directions at two levels."""
    folder = make_run(tmp_path_factory.mktemp("run"))
    few = ["--count", "80", "--num-images", "2", "--show", "alone"]
    assert main(["directions", str(folder), "--pca", "2", "--level", "0.4", *few]) == 0
    assert main(["directions", str(folder), "--pca", "0", "--factors", "scale", "shape:0:2", *few]) == 0
    return folder


def sentence(capsys):
    error = capsys.readouterr().err
    return error[error.rindex("betadiffusion: ") :].removeprefix("betadiffusion: ").rstrip("\n")


def test_directions_are_kept_by_name_and_level_each_with_a_picture(run):
    folder = run / "directions"
    assert sorted(path.name for path in folder.iterdir()) == [
        "level-0.4", "level-0.4.safetensors", "level-0.6", "level-0.6.safetensors",
    ]  # fmt: skip
    found = load(folder, fingerprint(load_vae(run)))
    assert {(d.name, d.kind, d.level, d.count) for d in found if d.level == 0.4} == {
        ("pca-1", "pca", 0.4, 80), ("pca-2", "pca", 0.4, 80),
    }  # fmt: skip
    at = {d.name: d for d in found if d.level == 0.6}
    assert {name: d.kind for name, d in at.items()} == {
        "scale": "slope", "shape:0:2": "logistic", "shape:0:2-means": "means",
    }  # fmt: skip
    assert at["scale"].count == 80
    assert at["shape:0:2"].count < 80  # images of the two shapes alone
    names = sorted(path.name for path in (folder / "level-0.6").iterdir())
    assert names == ["scale.png", "shape_0_2-means.png", "shape_0_2.png"]
    with Image.open(folder / "level-0.6" / "scale.png") as picture:
        assert picture.size == (124 + 6 * TILE, 26 + 2 * TILE)  # original and 5 strengths, 2 images


def test_the_table_names_every_direction(faces, tmp_path, capsys):
    folder = make_run(tmp_path / "run", source=faces)
    options = ["--attributes", "all", "--pca", "1", "--num-images", "1", "--show", "alone"]
    assert main(["directions", str(folder), *options, "--out", str(tmp_path / "pictures")]) == 0
    out = capsys.readouterr().out
    names = ["child", "over_50", "female", "bright", "high_contrast"]
    rows = [line.split() for line in out.splitlines()[1:-2]]
    assert [row[:2] for row in rows] == [
        ["pca-1", "pca"],
        *([name + end, kind] for name in names for end, kind in (("", "logistic"), ("-means", "means"))),
    ]
    assert len(list((tmp_path / "pictures").iterdir())) == 11
    assert [path.name for path in (folder / "directions").iterdir()] == ["level-0.6.safetensors"]


def test_class_labels_have_a_direction_each(run):
    random = np.random.default_rng(0)
    array = random.integers(0, 255, (60, 1, SIZE, SIZE), dtype=np.uint8)
    labels = np.arange(60) % 3
    array[labels == 1] = 255
    for label_names, expected in ((None, "label-1"), (("a", "b", "c"), "label-b")):
        images = Subset(ArrayImages("x", array, labels=labels, label_names=label_names), np.arange(60))
        pipeline = BetaDiffusionPipeline(load_vae(run).eval())
        found = {d.name: d for d in find_directions(pipeline, images, images, 0.0, labels=True)}
        assert len(found) == 6
        assert found[expected].score > 0.95


def test_an_edit_is_a_grid_of_images_by_strengths(run, faces, tmp_path, capsys):
    one = sorted(faces.iterdir())[3]
    out = tmp_path / "edit.png"
    options = ["--direction", "pca-1", "pca-2", "--strengths", "-2", "0", "2", "--steps", "2", "--show", "both"]
    assert main(["edit", str(run), str(one), *options, "--out", str(out)]) == 0
    assert "1 images along pca-1, pca-2 at level 0.4" in capsys.readouterr().out
    with Image.open(out) as picture:
        width, height = picture.size
        pixels = np.asarray(picture)
    assert height == 26 + 4 * TILE  # 2 directions, 2 ways
    tiles = pixels[26:, width - 4 * TILE :].reshape(4, TILE, 4, TILE, 3).swapaxes(1, 2)[:, :, :64, :64]
    assert np.array_equal(tiles[0, 0, ::4, ::4, 0], np.asarray(Image.open(one)))  # the original
    assert np.array_equal(tiles[0, 2], tiles[2, 2])  # strength 0 is the same along every direction
    assert np.array_equal(tiles[1, 2], tiles[3, 2])
    assert not np.array_equal(tiles[0, 1], tiles[0, 3])
    assert not np.array_equal(tiles[0, 1], tiles[2, 1])


def test_the_vae_alone_of_an_edit_is_what_reconstruct_shows(run, tmp_path):
    edited, kept = tmp_path / "edit.png", tmp_path / "kept.png"
    options = ["--direction", "pca-1", "--strengths", "0", "--show", "alone", "--num-images", "1"]
    assert main(["edit", str(run), *options, "--out", str(edited)]) == 0
    assert main(["reconstruct", str(run), "--levels", "0.4", "--num-images", "1", "--out", str(kept)]) == 0
    a, b = (np.asarray(Image.open(path)) for path in (edited, kept))
    assert np.array_equal(a[26 : 26 + 64, 124 + TILE : 124 + TILE + 64], b[TILE : TILE + 64, 124 : 124 + 64])


def test_the_same_command_draws_the_same_picture_and_another_seed_another(run, tmp_path):
    made = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        out = tmp_path / f"{name}.png"
        options = ["--direction", "scale", "--steps", "2", "--eta", "0.5", "--num-images", "2", "--seed", seed]
        assert main(["edit", str(run), *options, "--out", str(out)]) == 0
        made.append(out.read_bytes())
    assert made[0] == made[1] != made[2]


def test_a_walk_from_the_mean_has_no_draw_to_seed(run, tmp_path):
    made = []
    for name, options in (("a", ["--seed", "0"]), ("b", ["--seed", "1"]), ("c", ["--code", "draw"])):
        out = tmp_path / f"{name}.png"
        options = ["--code", "mean", "--direction", "scale", "--steps", "2", "--num-images", "1", *options]
        assert main(["edit", str(run), *options, "--out", str(out)]) == 0
        made.append(out.read_bytes())
    assert made[0] == made[1] != made[2]


def test_directions_of_an_earlier_training_are_not_used(run, tmp_path, capsys):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    pipeline = BetaDiffusionPipeline.from_pretrained(other / "pipeline")
    for parameter in pipeline.vae.parameters():
        parameter.data += 0.01
    pipeline.save_pretrained(other / "pipeline")
    assert main(["edit", str(other), "--direction", "scale"]) == 2
    assert "has no directions yet, or of another training" in sentence(capsys)


def test_interpolations_are_strips_and_animations(run, faces, tmp_path, capsys):
    ends = [str(path) for path in sorted(faces.iterdir())[:2]]
    options = ["--frames", "4", "--level", "0.3", "0.8", "--steps", "2", "--dims", "0-1", "3"]
    assert main(["interpolate", str(run), *ends, *options, "--out", str(tmp_path / "a.png")]) == 0
    assert "4 images from one to the other at level 0.3, 0.8" in capsys.readouterr().out
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (124 + 6 * TILE, 26 + 2 * TILE)
        assert np.array_equal(
            np.asarray(picture)[26 : 26 + 64 : 4, 124 : 124 + 64 : 4, 0], np.asarray(Image.open(ends[0]))
        )
    assert main(["interpolate", str(run), "--frames", "4", "--show", "both", "--out", str(tmp_path / "a.gif")]) == 0
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 6  # there and back
        assert animation.info["duration"] == pytest.approx(1000 / FRAME_RATE, abs=10)
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(animation)]
    assert np.array_equal(frames[1][26:], frames[5][26:])
    assert not np.array_equal(frames[0][26:], frames[3][26:])


def test_dimensions_that_are_left_out_stay(run, tmp_path):
    """All four named together are the whole way; one of them is another."""
    strips = {}
    for name, dims in (("all", ["0-3"]), ("none said", []), ("one", ["2"])):
        out = tmp_path / f"{name}.png"
        words = ["--dims", *dims] if dims else []
        assert main(["interpolate", str(run), "--frames", "2", "--show", "alone", *words, "--out", str(out)]) == 0
        strips[name] = out.read_bytes()
    assert strips["all"] == strips["none said"] != strips["one"]


def test_a_video_is_what_ffmpeg_makes_of_the_frames(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    options = ["interpolate", str(run), "--frames", "3", "--show", "alone"]
    if shutil.which("ffmpeg") is None:
        monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
        assert main([*options, "--out", str(tmp_path / "a.mp4")]) == 2
        assert sentence(capsys) == ("an .mp4 needs the program ffmpeg, which is not installed: give --out a .gif")
    stub = tmp_path / "ffmpeg"
    stub.write_text('#!/bin/sh\nfor last; do :; done\n/bin/cat > "$last"\n')
    stub.chmod(0o755)
    assert main([*options, "--out", str(tmp_path / "a.mp4")]) == 0
    width, height = 124 + TILE, 26 + TILE
    assert (tmp_path / "a.mp4").stat().st_size == 4 * width * height * 3  # there and back, as raw pixels
    stub.write_text("#!/bin/sh\n/bin/cat > /dev/null\necho no encoder >&2\nexit 3\n")
    assert main([*options, "--out", str(tmp_path / "b.mp4")]) == 2
    assert "b.mp4 cannot be written (ffmpeg: no encoder)" in sentence(capsys)
    assert not [path for path in os.listdir(tmp_path) if path.startswith((".", "b"))]


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("directions --level 1.2", "--level must be from 0 to 1, not 1.2"),
        ("directions --level 1", "at level 1 the codes say nothing of the images: choose a lower level"),
        ("directions --pca 0", "--pca must be positive, or 0 beside other directions, not 0"),
        ("directions --pca 9", "there are at most 4 principal components of these codes, not 9"),
        ("directions --count 1", "--count must be at least 2 and --num-images positive, not 1 and 6"),
        ("directions --attributes child", "the images of this run have no attributes to find directions of"),
        ("directions --labels", "the images of dsprites have no labels to find directions of"),
        ("directions --factors hue", "there is no factor 'hue'; the images have shape, scale, orientation, x, y"),
        ("directions --factors shape:0:3", "'shape:0:3' must be NAME:LOW:HIGH with two values from 0 to 2"),
        ("directions --factors shape:0", "'shape:0' must be NAME:LOW:HIGH with two values from 0 to 2"),
        ("edit", "--direction is missing: give one or more names of betadiffusion directions"),
        ("edit --direction hair", "there is no direction 'hair'; the names are: pca-1, pca-2, shape:0:2, "
         "shape:0:2-means, scale"),
        ("edit --direction pca-1 --level 0.6", "the direction 'pca-1' is known at level 0.4, not at 0.6: compute it "
         "there"),
        ("edit --direction pca-1 scale", "--level is missing: there are directions of this name at 0.4, 0.6"),
        ("edit --direction scale --show alone --steps 3", "--steps has no effect with --show alone"),
        ("edit --direction scale --eta -1", "--eta must not be negative, not -1.0"),
        ("edit --direction scale --num-images 0", "--num-images must be positive, not 0"),
        ("edit --direction scale --out a.gif", "--out must be a .png, not a.gif"),
        ("interpolate --frames 1", "--frames must be at least 2, not 1"),
        ("interpolate --level 2", "--level must be from 0 to 1, not 2.0"),
        ("interpolate --dims 3-1", "dims must be numbers or ranges such as 0-15, not '3-1'"),
        ("interpolate --dims 9", "dims must be from 0 to 3, the latent's dimensions, not 9"),
        ("interpolate --out a.webp", "--out must be a .png, .gif or .mp4, not a.webp"),
        ("interpolate dsprites", "interpolate needs two images, not 1"),
    ],
)  # fmt: skip
def test_a_slip_is_one_sentence_and_nothing_is_written(run, command, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name, *options = command.split()
    before = sorted(run.rglob("*"))
    assert main([name, str(run), *options]) == 2
    assert sentence(capsys) == text
    assert sorted(run.rglob("*")) == before
    assert not list(tmp_path.iterdir())


def test_without_a_diffusion_the_vae_alone_can_be_edited(run, tmp_path, capsys):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    shutil.rmtree(other / "pipeline")
    assert main(["edit", str(other), "--direction", "scale", "--show", "alone"]) == 0
    assert main(["directions", str(other), "--pca", "1", "--show", "alone", "--count", "50"]) == 0
    assert (other / "directions" / "level-0.6" / "pca-1.png").is_file()
    capsys.readouterr()
    assert main(["directions", str(other)]) == 2
    assert "its training has not finished" in sentence(capsys)

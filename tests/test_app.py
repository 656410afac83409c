"""The explorer without a browser: uploads, walks that can be given up, the tabs' functions, and what it refuses."""

import io
import shlex
import shutil
import socket
import struct
import threading
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from app_cases import alike, make_run, pictures
from betadiffusion.app import actions, html, uploads
from betadiffusion.app.actions import Asked, Walk
from betadiffusion.app.runs import Run
from betadiffusion.app.stream import Newest, Result, walk_in_steps
from betadiffusion.cli.loading import load_pipeline
from betadiffusion.cli.main import main
from betadiffusion.data.decode import decode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("app") / "run", steps=20)


@pytest.fixture(scope="module")
def run(folder):
    return Run(folder, load_pipeline(folder))


def png(width, height, mode="RGB"):
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 64).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def bomb(side):
    """A PNG of side x side pixels whose pixels were never there."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0")
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (header, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# Uploads


def test_an_upload_is_read_as_training_reads_it(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(png(40, 30, "RGBA"))
    assert np.array_equal(uploads.read_upload(file, 16, 3), decode(file.read_bytes(), 16, 3))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not an image that can be read"),
        (b"hello", "not an image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image that can be read"),
        (png(64, 64)[:-200], "this image is broken"),
        (bomb(7_000), "this image has 7000 x 7000 pixels, more than the 40,000,000 that are read"),
        (bomb(60_000), "this image has more than the 40,000,000 pixels that are read"),
    ],
)
def test_what_is_no_image_is_one_sentence(tmp_path, data, text):
    file = tmp_path / "a.png"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=text) as error:
        uploads.read_upload(file, 16, 1)
    assert "\n" not in str(error.value)


# Walks


def test_a_walk_shows_its_steps_and_then_its_result():
    def walk(callback):
        for i in range(4):
            time.sleep(0.06)
            callback(i, torch.tensor(float(i)), torch.tensor(1 - i / 4))
        return "done"

    *steps, result = walk_in_steps(walk, lambda: True)
    assert result == Result("done")
    assert [step.done for step in steps] == sorted({step.done for step in steps})
    assert len(steps) >= 2
    assert all(step.z == step.done - 1 for step in steps)


@pytest.mark.parametrize("how", ["superseded", "closed"])
def test_a_walk_that_nobody_waits_for_ends_at_its_next_step(how):
    wanted, taken, ended = [True], [], threading.Event()

    def walk(callback):
        try:
            for i in range(10_000):
                taken.append(i)
                callback(i, torch.zeros(()), torch.zeros(()))
        finally:
            ended.set()

    steps = walk_in_steps(walk, lambda: wanted[0])
    next(steps)
    if how == "superseded":
        wanted[0] = False
        assert not any(isinstance(step, Result) for step in steps)
    else:
        steps.close()
    assert ended.wait(5)
    assert len(taken) < 10_000


def test_what_a_walk_raises_is_raised():
    def walk(callback):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(walk_in_steps(walk, lambda: True))


def test_walks_at_once_do_not_disturb_each_other(run):
    """Two threads cannot differentiate at once: they take turns, and each makes what it would make alone."""
    x = run.fit(run.held_out[0])

    def last(seed):
        return list(actions.walk_back(run, x, 0.5, Walk(30, seed), lambda: True))[-1]

    alone = [last(seed) for seed in range(4)]
    made = [None] * 4
    threads = [threading.Thread(target=lambda i=i: made.__setitem__(i, last(i))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == alone
    assert len(set(alone)) == 4


def test_the_newest_request_of_each_session_counts():
    newest = Newest()
    newest.ask("a", 1)
    newest.ask("b", 2)
    newest.ask("a", 3)
    assert not newest.wants("a", 1)
    assert newest.wants("a", 3)
    assert newest.wants("b", 2)


# What the tabs show


def test_the_vae_and_the_walk_are_the_pipelines_own(run):
    x, walk = run.fit(run.held_out[2]), Walk(5, 7)
    figure, (rate, error) = actions.keep(run, x, 0.3, walk)
    (kept,) = pictures(figure)
    (expected,) = run.pipeline.reconstruct(x, 0.3, walk.noise()).images
    assert alike(kept, np.asarray(expected))
    assert f"{rate:.1f} nats" in figure
    assert error == pytest.approx(np.square((kept / 127.5 - 1) - (run.held_out[2][0] / 127.5 - 1)).mean(), abs=1e-2)
    *_, last = actions.walk_back(run, x, 0.3, walk, lambda: True)
    (walked,) = run.pipeline.denoise(x, 0.3, 5, generator=walk.noise()).images
    assert alike(pictures(last)[0], np.asarray(walked))


def test_an_edit_along_several_directions_is_their_sum(run):
    x, walk = run.fit(run.held_out[0]), Walk(3, 0)
    a, b = (direction.vector for direction in run.directions[0.2])
    *_, last = actions.edit(run, x, {"pca-1": 2.0, "pca-2": -1.0}, 0.2, walk, lambda: True)
    (expected,) = run.pipeline.edit(x, 2 * a - b, 1.0, 0.2, steps=3, generator=walk.noise()).images
    assert alike(pictures(last)[0], np.asarray(expected))
    assert "pca-1 +2, pca-2 -1" in last


@pytest.mark.parametrize(
    "asked",
    [
        Asked(3, 4, "euler", 0.0, 5),
        Asked(5, 7, "heun", 0.35, 2**31 - 1),
        Asked(2, 6, "multistep3", 0.0, 0, "heart", 2.3),
    ],
)
def test_the_command_line_makes_the_same_picture(run, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    *_, last = actions.generate(run, asked, lambda: True)
    words = shlex.split(asked.command(run))
    assert main(words[1:]) == 0
    assert alike(pictures(last)[0], np.asarray(Image.open(tmp_path / "samples.png")))


def test_evaluations_are_spent_as_steps():
    assert [Asked(1, 20, method, 0, 0).steps for method in ("euler", "heun", "multistep", "multistep3")] == [
        20, 10, 20, 19,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="heun needs more than 1 evaluations"):
        _ = Asked(1, 1, "heun", 0, 0).steps


def test_the_chart_has_the_levels_point_on_the_curve(run):
    def point(level):
        chart = html.rate_distortion([("run", run.curve)], level)
        return chart[chart.index('class="point') :].split("/>")[0]

    assert len({point(level) for level in (0, 0.4, 1)}) == 3
    assert run.curve.at(0.25) == pytest.approx((19.5, (0.01 * 0.05) ** 0.5))


def test_an_image_of_another_run_is_made_to_fit(run):
    colour = np.full((3, 40, 40), 128, np.uint8)
    assert run.fit(colour).shape == (1, 1, 16, 16)
    assert alike(run.fit(run.held_out[0])[0].numpy(), run.held_out[0])


# The command


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ([], "a run is missing: give the folder of one, or of several to compare"),
        (["RUN", "RUN"], "a run is given twice"),
        (["RUN", "--port", "0"], "--port must be from 1 to 65535, not 0"),
        (["nowhere"], "there is no folder nowhere: give the folder of a run"),
    ],
)
def test_a_slip_is_one_sentence(folder, argv, text, capsys):
    assert main(["app", *[str(folder) if word == "RUN" else word for word in argv]]) == 2
    assert capsys.readouterr().err == f"betadiffusion: {text}\n"


def test_a_port_that_is_taken_is_said_at_once(folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["app", str(folder), "--port", str(port)]) == 2
    assert f"port {port} of 127.0.0.1 cannot be had" in capsys.readouterr().err


def test_weights_that_are_pickled_are_not_loaded(folder, tmp_path, capsys):
    other = tmp_path / "run"
    shutil.copytree(folder, other)
    weights = other / "pipeline" / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    assert main(["app", str(other)]) == 2
    assert "cannot be read" in capsys.readouterr().err

"""Whole runs, both stages, as small as they can be: 16x16 rendered images, a few seconds."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from betadiffusion import BetaDiffusionPipeline
from betadiffusion.baselines.frozen import describe
from betadiffusion.baselines.runs import load_baseline
from betadiffusion.pipelines.walk_levels import fit_clock
from betadiffusion.training import runs
from betadiffusion.training.config import RunConfig
from betadiffusion.training.files import sole

SETTINGS = {
    "data.size": 16, "data.limit": 300, "data.held_out": 50, "vae.channels": [8, 16], "vae.embedding_dim": 16,
    "denoiser.width": 16, "denoiser.depth": 1, "stages": ["vae", "diffusion"], "cache.tolerance": 9.0,
    "vae_training.images": 2048, "vae_training.batch_size": 32, "vae_training.validate_images": 1024,
    "vae_training.checkpoint_images": 256, "diffusion_training.images": 4096, "diffusion_training.batch_size": 32,
    "diffusion_training.validate_images": 2048, "diffusion_training.checkpoint_images": 512, "precision": "fp32",
    "cpu": True,
}  # fmt: skip


def configured(out, **changes):
    config = RunConfig(out=str(out))
    for key, value in (SETTINGS | {k.replace("__", "."): v for k, v in changes.items()}).items():
        *groups, name = key.split(".")
        target = config
        for group in groups:
            target = getattr(target, group)
        setattr(target, name, value)
    return config


def command(out, *more):
    flags = [f"--{k}={json.dumps(v) if isinstance(v, (list, bool)) else v}" for k, v in SETTINGS.items()]
    return ["train", f"--out={out}", *flags, *more]


def final(run, stage, kind="ema"):
    return load_file(sorted((run / stage / "checkpoints").iterdir())[-1] / f"{kind}.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return runs.run(configured(out))


def test_a_run_leaves_everything_a_user_needs(whole):
    pipeline = BetaDiffusionPipeline.from_pretrained(whole / "pipeline")
    assert pipeline(num_images=2, steps=2).images[0].size == (16, 16)
    assert pipeline.denoiser.config.fitted_clock == pytest.approx(fit_clock(pipeline.denoiser))
    for stage in ("vae", "diffusion"):
        history = json.loads((whole / stage / "history.json").read_text())
        assert len(history) == 2
        assert len(list((whole / stage / "grids").glob("*.png"))) == 2
        summary = json.loads((whole / stage / "summary.json").read_text())
        assert summary["images"] == history[-1]["images"]
    assert runs.load_config(whole) == configured(whole)
    assert not [path for path in whole.rglob("*") if path.suffix in (".pt", ".bin", ".pkl", ".partial")]


def test_the_pipeline_holds_the_averaged_weights(whole):
    pipeline = BetaDiffusionPipeline.from_pretrained(whole / "pipeline")
    vae, averaged = pipeline.vae.state_dict(), final(whole, "vae")
    table, before = (weights.pop("sigma_curve.log_value") for weights in (vae, averaged))  # calibrated after training
    assert same(vae, averaged)
    assert (table.diff(dim=0) >= 0).all()
    assert not torch.equal(table, before)
    denoiser = final(whole, "diffusion")
    assert (denoiser.pop("in_training.mean_square") != 1).any()  # of training alone
    assert same(pipeline.denoiser.state_dict(), denoiser)
    assert not same(final(whole, "vae"), final(whole, "vae", "model"))


def test_a_finished_run_is_not_trained_again(whole):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("checkpoints/*/model.safetensors")}
    runs.run(configured(whole))
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("checkpoints/*/model.safetensors")} == before


def test_settings_that_do_not_go_with_a_run_leave_it_alone(whole):
    kept = (whole / "config.yaml").read_text()
    with pytest.raises(ValueError, match=r"training.learning_rate = 0.002, not 0.1"):
        runs.run(configured(whole, vae_training__learning_rate=0.1))
    assert (whole / "config.yaml").read_text() == kept


def test_a_cache_that_is_too_coarse_is_refused_and_training_goes_on(tmp_path, whole, capsys):
    out = tmp_path / "run"
    out.mkdir()
    (out / "vae").symlink_to(whole / "vae")
    runs.run(configured(out, stages=["diffusion"], cache__tolerance=1e-6, diffusion_training__images=256))
    assert "refused (cache.tolerance 1e-06): encoding at every step" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["vae", "diffusion"])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, whole, stage):
    """SIGKILL from outside once the stage has a checkpoint, then the same command again."""
    process = subprocess.Popen(
        [sys.executable, "-m", "betadiffusion", *command(tmp_path)], stderr=subprocess.DEVNULL, env=single_thread()
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / stage).glob("checkpoints/0*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    runs.run(configured(tmp_path))
    for each in ("vae", "diffusion"):
        for kind in ("model", "ema", "optimizer"):
            assert same(final(tmp_path, each, kind), final(whole, each, kind))
        histories = [json.loads((run / each / "history.json").read_text()) for run in (tmp_path, whole)]
        assert histories[0] == histories[1]


def test_two_processes_give_the_losses_of_one(tmp_path, whole):
    """The same batch over two processes, gradients averaged between them by gloo."""
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "betadiffusion",
    ]
    done = subprocess.run(
        [*launch, *command(tmp_path, "--stages=[vae]")],
        capture_output=True,
        text=True,
        env=single_thread(),
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "vae" / "summary.json").read_text())["processes"] == 2
    two, one = (json.loads((run / "vae" / "history.json").read_text()) for run in (tmp_path, whole))
    for a, b in zip(two, one, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
        assert a["rate@0.5"] == pytest.approx(b["rate@0.5"], rel=2e-2)


def single_thread():
    return os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}


def test_a_flow_map_learns_from_another_run(tmp_path, whole):
    taught = {
        "stages": ["diffusion"], "diffusion__prediction": "flow_map", "diffusion__teacher": str(whole),
        "diffusion__walks": 64, "diffusion_training__images": 512, "diffusion_training__validate_images": 512,
    }  # fmt: skip
    run = runs.run(configured(tmp_path / "map", **taught))
    teacher, pipeline = (BetaDiffusionPipeline.from_pretrained(folder / "pipeline") for folder in (whole, run))
    assert same(pipeline.vae.state_dict(), teacher.vae.state_dict())
    assert pipeline.denoiser.config.prediction == "flow_map"
    assert pipeline(num_images=2, steps=1).images[0].size == (16, 16)
    other = configured(tmp_path / "other", **taught)
    runs.build_vae(other, (3, 16, 16)).save_pretrained(tmp_path / "other" / "vae" / "model")
    with pytest.raises(ValueError, match="walks the levels of another VAE"):
        runs.run(other)
    wrong = configured(tmp_path / "wrong", **taught | {"diffusion__teacher": str(run)})
    with pytest.raises(ValueError, match="a denoiser of the velocity teaches a flow map"):
        runs.run(wrong)
    assert not (tmp_path / "wrong").exists()  # nothing of the teacher's is left


def test_stages_are_the_same_by_one_command_and_by_several(tmp_path):
    few = {"vae_training__images": 64, "vae_training__validate_images": 64, "diffusion_training__images": 64,
           "diffusion_training__validate_images": 64, "cache__levels": 0,
           "decoder__adversarial": 0.5, "decoder__channels": 4, "decoder_training__images": 64}  # fmt: skip
    few |= {"perceptual__adversarial": 0.5, "perceptual__channels": 4}
    every = ["vae", "diffusion", "decoder"]
    runs.run(configured(tmp_path / "one", **few, stages=every))
    for stage in every:
        runs.run(configured(tmp_path / "several", **few, stages=[stage]))
    for stage in every:
        assert same(final(tmp_path / "one", stage), final(tmp_path / "several", stage))


def test_what_the_cache_gave_is_not_gone_on_with_without_it(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    with pytest.raises(ValueError, match="was made with cached = True, not False"):
        runs.run(configured(tmp_path / "run", cache__tolerance=1e-9, stages=["diffusion"]))


def test_a_slip_in_a_later_stage_shows_before_the_first(tmp_path):
    for changes, said in (
        ({"stages": ["vae", "decoder"], "decoder__lpips": 1.0, "decoder__lpips_weights": "nope"}, "nope is not a file"),
        ({"stages": ["vae", "report"], "report__features": "classifier", "data__source": str(tmp_path / "pictures")},
         "has no factors or labels"),
    ):  # fmt: skip
        (tmp_path / "pictures").mkdir(exist_ok=True)
        for i in range(20):
            Image.new("RGB", (16, 16), (i, i, i)).save(tmp_path / "pictures" / f"{i}.png")
        with pytest.raises(ValueError, match=said):
            runs.run(configured(tmp_path / "run", **changes))
        assert not (tmp_path / "run").exists()


def test_images_that_a_teacher_was_trained_on_are_not_held_out(whole, tmp_path):
    taught = {"stages": ["diffusion"], "diffusion__prediction": "flow_map", "diffusion__teacher": str(whole)}
    with pytest.raises(ValueError, match=r"take for held out: give --seed 0 --data\.held_out 50 --data\.limit 300"):
        runs.run(configured(tmp_path / "map", **taught, seed=1))
    fewer = configured(tmp_path / "map", seed=0, data__limit=200)
    source = range(480_000)
    with pytest.raises(ValueError, match="was trained on 100 images"):
        runs.check_trained_within(whole, fewer, source)
    runs.check_trained_within(whole, configured(tmp_path / "map", data__limit=400), source)
    runs.check_trained_within(whole, configured(tmp_path / "map", seed=1, data__source="dsprites"), source)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"is not the folder of a run: it has no config\.yaml"):
        runs.load_config(Path(tmp_path))
    with pytest.raises(ValueError, match="run stage 'vae' there first"):
        runs.load_vae(Path(tmp_path))


@pytest.mark.parametrize("stage", ["diffusion", "decoder"])
def test_a_stage_on_a_trained_vae_refuses_to_be_asked_for_another(stage, tmp_path):
    kept = {"vae__latent_channels": 4, "stages": [stage]}
    runs.build_vae(configured(tmp_path, **kept), (3, 16, 16)).save_pretrained(tmp_path / "vae" / "model")
    assert runs.trained_vae(configured(tmp_path, **kept), (3, 16, 16)).latent_shape == (4, 1, 1)
    for key, asked, said in (
        ("latent_channels", 8, "vae.latent_channels 4, not 8"),
        ("channels", [8, 8], r"vae.channels \[8, 16\], not \[8, 8\]"),
        ("channel_noise", False, "vae.channel_noise True, not False"),
    ):
        with pytest.raises(ValueError, match=f"was trained with {said}: leave the option out"):
            runs.run(configured(tmp_path, **kept | {f"vae__{key}": asked}))
    with pytest.raises(ValueError, match="3 channels and 16 pixels, not 3 and 32: give --data"):
        runs.run(configured(tmp_path, **kept, data__size=32))
    assert not (tmp_path / stage).exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 1}, "seed = 0, not 1"),
        ({"data__limit": 200}, "data.limit = 300, not 200"),
        ({"data__source": "dsprites"}, "data.source = 'shapes', not 'dsprites'"),
        ({"model": "beta_diffusion"}, "model = 'multi_beta_vae', not 'beta_diffusion'"),
    ],
)
def test_a_run_is_not_taken_over_by_another(changes, said, whole, tmp_path):
    runs.check_same_run(configured(whole))
    runs.check_same_run(configured(whole, resume="never", **changes))
    runs.check_same_run(configured(tmp_path, **changes))
    with pytest.raises(ValueError, match=f"holds a run with {said}"):
        runs.run(configured(whole, stages=["diffusion"], **changes))


def test_two_trainings_do_not_share_a_folder(whole, tmp_path):
    with sole(tmp_path / "run"), pytest.raises(ValueError, match="another process trains there"):
        runs.run(configured(tmp_path / "run", stages=["vae"]))
    assert not (tmp_path / "run" / "config.yaml").exists()
    with sole(tmp_path / "run"):
        pass


def test_a_damaged_checkpoint_is_named(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    newest = max((tmp_path / "run" / "vae" / "checkpoints").iterdir())
    for file, text in (("model.safetensors", b"half"), ("state.json", b"{")):
        (newest / file).write_bytes(text)
        with pytest.raises(ValueError, match=f"{newest.name} is damaged"):
            runs.run(configured(tmp_path / "run", stages=["vae"]))


def test_a_denoiser_does_not_go_on_with_another_vae(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    vae = runs.load_vae(tmp_path / "run")
    with torch.no_grad():
        vae.encoder.head.bias += 0.1
    vae.save_pretrained(tmp_path / "run" / "vae" / "model")
    with pytest.raises(ValueError, match="was made with encoder = "):
        runs.run(configured(tmp_path / "run", stages=["diffusion"]))


def test_tensorboard_is_written_when_asked(tmp_path):
    config = configured(tmp_path, trackers=["tensorboard"], stages=["vae"], vae_training__images=1024)
    runs.run(config)
    assert list(tmp_path.rglob("events.out.tfevents.*"))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_description_of_a_model_is_one_sentence(text, tmp_path):
    for stage, loaded in (("vae", runs.load_vae), ("vae", describe), ("baseline", load_baseline)):
        (model := tmp_path / stage / "model").mkdir(parents=True, exist_ok=True)
        (model / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json is not that of a model"):
            loaded(tmp_path)

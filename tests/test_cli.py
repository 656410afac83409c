"""The command line: options reach their function, a slip is one sentence with an exit code, files are whole."""

import dataclasses
import inspect
import json
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from betadiffusion import clocks, samplers
from betadiffusion.cli import checks, commands, parsing, walking
from betadiffusion.cli.main import COMMANDS, main
from betadiffusion.data import DataError
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.training.config import OptimisationConfig, ReportConfig, RunConfig
from betadiffusion.training.errors import Interrupted, TrainingError

CONFIGS = sorted(Path(__file__).parents[1].joinpath("configs").glob("*.yaml"))
WALKING = "--steps, --method, --variable, --eta, --churn, --clock"
HEAVY = {"torch", "diffusers", "matplotlib", "accelerate", "sklearn", "scipy", "numpy", "gradio"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def call(capsys):
    """Runs a command line; returns exit code, stdout, stderr."""

    def run(*argv):
        code = main([str(argument) for argument in argv])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def calls(monkeypatch):
    """What training and report were asked to do, without doing it."""
    made = []
    runs = types.ModuleType("betadiffusion.training.runs")
    runs.run = lambda config: made.append(("run", config)) or Path(config.out)
    report = types.ModuleType("betadiffusion.report.write")
    runs.check_same_run = lambda config: None
    report.asked = []
    report.write_report = lambda run, options: (
        made.append(("report", run)) or report.asked.append(options) or {"path": run / "report.html"}
    )
    report.headline = lambda numbers: f"headline of {numbers['path']}"
    monkeypatch.setitem(sys.modules, runs.__name__, runs)
    monkeypatch.setitem(sys.modules, report.__name__, report)
    monkeypatch.setattr(commands, "_build_on_meta", lambda config: None)
    monkeypatch.setattr(commands, "require_pipeline", lambda run: None)
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run whose models were never trained: 8x8 images, latent 4."""
    from betadiffusion.models.denoiser import NonlinearDenoiser
    from betadiffusion.models.vae import MultiBetaVAE
    from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    vae = MultiBetaVAE(sample_size=8, latent_channels=4, channels=(8, 8), embedding_dim=8, knots=5)
    denoiser = NonlinearDenoiser(latent_shape=(4, 1, 1), width=8, depth=1, knots=5, sigma_knots=5)
    BetaDiffusionPipeline(vae=vae, denoiser=denoiser).save_pretrained(folder / "pipeline")
    folder.joinpath("config.yaml").write_text("data: {source: dsprites, channels: 3, limit: 60, held_out: 12}")
    return folder


def sentence(error):
    """The one line on stderr, without the program's name."""
    assert error.startswith("betadiffusion: ")
    assert error.count("\n") == 1
    return error.removeprefix("betadiffusion: ").rstrip("\n")


def left_over(folder):
    return [path for path in folder.rglob("*") if "partial" in path.name]


# Help


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_kept_by_a_command():
    code = """
import resource
from betadiffusion.cli.main import main

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [bytearray(2**24) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults() + faults())
main(["--version"])
faults()
print(faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    before, _, after = done.stdout.split()
    assert int(before) > 2 * 30_000  # 2^15 pages of 4 KiB in the blocks, each time
    assert int(after) < 1_000


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_is_quick_and_loads_nothing_heavy(argv):
    code = f"""
import sys
from betadiffusion.cli.main import main
try:
    main({argv!r})
except SystemExit as end:
    assert end.code == 0
assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)
"""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("usage: betadiffusion")
        if seconds[-1] < 1:
            break
    assert min(seconds) < 1


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["demo"], "10 being what those take"),
        (["demo"], "--data SOURCE"),
        (["train"], "keep_checkpoints KEEP_CHECKPOINTS newest checkpoints kept (a whole number; default: 2)"),
        (["train"], "--data-path for short"),
        (["sample"], "how many (a whole number; default: 16)"),
    ],
)
def test_help_explains(argv, text, capsys):
    with pytest.raises(SystemExit):
        main([*argv, "--help"])
    assert text in " ".join(capsys.readouterr().out.split())


def test_every_key_has_help_and_a_type():
    _, keys = parsing.make_parser("train", commands.train)
    assert list(keys) == sorted(checks.flat(RunConfig()), key=list(keys).index)
    assert "" not in {parsing.describe(kind) for kind in keys.values()}


def test_overview_names_every_command(call):
    code, out, _ = call("--help")
    assert code == 0
    assert all(f"\n  {name} " in out for name in COMMANDS)


def test_methods_are_the_samplers():
    assert walking.Method == samplers.Method
    assert walking.Variable == samplers.Variable
    assert walking.Clock == clocks.Clock
    walk = inspect.signature(BetaDiffusionPipeline.walk).parameters
    assert {name: walk[name].default for name in walking.DEFAULTS} == walking.DEFAULTS


# Slips on the command line and in YAML


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ("", f"a command is missing: {', '.join(COMMANDS)}; see betadiffusion --help"),
        ("tran", "unknown command 'tran': did you mean 'train'?"),
        ("xyz", f"unknown command 'xyz': the commands are {', '.join(COMMANDS)}"),
        (
            "train --vae_training.clip_nor 1",
            "unknown option --vae_training.clip_nor on the command line: did you mean --vae_training.clip_norm?",
        ),
        (
            "train --batch-size=3",
            "unknown option --batch-size on the command line: did you mean --vae_training.batch_size or "
            "--diffusion_training.batch_size or --decoder_training.batch_size?",
        ),
        ("sample r --num_images 3", "unknown option --num_images on the command line: did you mean --num-images?"),
        ("train --se 3", "unknown option --se on the command line: did you mean --seed?"),  # no abbreviations
        ("train --zzz 3", "unknown option --zzz on the command line; --help lists the options"),
        ("train shapes", "the argument 'shapes' is one too many; --help lists the options"),
        ("train --seed", "--seed needs a value"),
        ("sample", "the following arguments are required: run"),
        ("train --vae_training.images many", "--vae_training.images must be a whole number, not 'many'"),
        ("train --vae_training.images 1.5", "--vae_training.images must be a whole number, not '1.5'"),
        ("train --vae_training.learning_rate x", "--vae_training.learning_rate must be a number, not 'x'"),
        ("train --vae.preset tiny", "--vae.preset must be demo, toy, celeba64 or ldm256, not 'tiny'"),
        ("train --data.channels 2", "--data.channels must be 1 or 3, or null, not '2'"),
        ("train --vae.channels 8", "--vae.channels must be a list of whole numbers, or null, not '8'"),
        ("train --vae_training.adam_betas [0.9]", "--vae_training.adam_betas must be a list of 2 numbers, not '[0.9]'"),
        (
            "train --stages [vae,fly]",
            "--stages must be a list of vae, diffusion, joint, decoder, report, baseline or prior, not 'fly'",
        ),
        ("train --cpu maybe", "--cpu must be true or false, not 'maybe'"),
        ("reconstruct r --levels 0 high", "--levels must be a number, not 'high'"),
        ("train --config none.yaml", "the config file none.yaml cannot be read (No such file or directory)"),
        ("demo --minutes 0", "--minutes must be positive, not 0.0"),
        ("sample r --num-images 0", "--num-images must be positive, not 0"),
        ("sample r --steps 0", "--steps must be positive, not 0"),
        ("sample r --eta -1", "--eta must not be negative, not -1.0"),
        ("sample r --seed -1", "--seed must be from 0 to 2^63 - 1, not -1"),
        ("sample r --out a.jpg", "--out must be a .png or a folder, not a.jpg"),
        ("sample r", "there is no folder r: give the folder of a run"),
        ("sample .", ". is not the folder of a run: it has no config.yaml"),
        ("report .", ". is not the folder of a run: it has no config.yaml"),
        ("reconstruct r --levels 0.5 1.5", "--levels must be from 0 to 1, not 1.5"),
        ("reconstruct r --num-images 0", "--num-images must be positive, not 0"),
        ("reconstruct r --out grid", "--out must be a .png, not grid"),
        ("reconstruct r --steps 5", f"{WALKING}, --end and --seed have no effect without --denoise"),
        ("sample r --prior --churn 1", f"{WALKING} and --end have no effect with --prior"),
        ("sample r --churn -1", "--churn must not be negative, not -1.0"),
        ("sample r --end 1", "--end must be a level from 0 to below 1, not 1.0"),
        ("data shapes --out grid.jpg", "--out must be a .png, not grid.jpg"),
        ("data nowhere/at/all", "There is no file or folder nowhere/at/all."),
    ],
)
def test_a_slip_is_one_sentence(argv, text, call, monkeypatch):
    monkeypatch.setattr(commands, "_build_on_meta", lambda config: pytest.fail("work has started"))
    code, out, error = call(*argv.split())
    assert (code, out, sentence(error)) == (2, "", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vae_training:\n  learning_rat: 1", "c.yaml, line 2: unknown key 'vae_training.learning_rat': did you mean "
         "'learning_rate'?"),
        ("clip_norm: 1", "c.yaml, line 1: unknown key 'clip_norm': did you mean 'vae_training.clip_norm' or "
         "'diffusion_training.clip_norm' or 'decoder_training.clip_norm'?"),
        ("cache:\n  zzz: 1", "c.yaml, line 2: unknown key 'cache.zzz': choose from features, levels, limit_gb, "
         "tolerance"),
        ("seed: 1\nout: a\nseed: 2", "c.yaml, line 3: the key 'seed' is already on line 1"),
        ("seed: 1\ncache:\n  levels: few", "c.yaml, line 3: cache.levels must be a whole number, not 'few'"),
        ("seed: true", "c.yaml, line 1: seed must be a whole number, not 'True'"),
        ("data: shapes", "c.yaml, line 1: data must hold keys, one 'key: value' a line"),
        ("- 1", "c.yaml, line 1: the file must hold keys, one 'key: value' a line"),
        ("# nothing", "c.yaml must hold keys, one 'key: value' a line"),
    ],
)  # fmt: skip
def test_a_slip_in_yaml_names_its_line(text, message, call, calls):
    Path("c.yaml").write_text(text)
    code, _, error = call("train", "--config", "c.yaml")
    assert (code, sentence(error)) == (2, message)
    assert not calls


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed: [1\nout: a", "c.yaml, line 2: this is not YAML ("),
        (b"\xff\xfe", "the config file c.yaml is not text in UTF-8"),
    ],
)
def test_a_file_that_is_not_yaml(content, message, call, calls):
    Path("c.yaml").write_bytes(content)
    code, _, error = call("train", "--config=c.yaml")
    assert code == 2
    assert sentence(error).startswith(message)
    assert not calls


# train and demo


def test_without_options_the_configuration_is_the_default(call, calls):
    assert call("train") == (0, "headline of runs/demo/report.html\n", "")
    assert calls == [("run", RunConfig()), ("report", Path("runs/demo"))]


def test_options_win_over_the_file_and_the_rest_stays(call, calls):
    Path("c.yaml").write_text("vae_training: {images: 7, learning_rate: 2e-4, adam_betas: [0.5, 0.6]}\nseed: 1")
    argv = ["--vae_training.images", 10_000, "--config", "c.yaml", "--data-path=faces", "--vae.channels", "[8, 16]"]
    argv = [*argv[2:], *argv[:2]]
    assert call("train", *argv)[0] == 0
    expected = RunConfig(seed=1)
    expected.vae_training = OptimisationConfig(images=10_000, learning_rate=2e-4, adam_betas=(0.5, 0.6))
    expected.data.source = "faces"
    expected.vae.channels = [8, 16]
    assert calls[0] == ("run", expected)


@pytest.mark.parametrize(
    ("stages", "expected"),
    [("[vae]", ["run"]), ("[vae,diffusion]", ["run"]), ("[diffusion,report]", ["run", "report"])],
)
def test_stages(stages, expected, call, calls):
    assert call("train", "--stages", stages)[0] == 0
    assert [name for name, _ in calls] == expected


def test_report_alone_needs_the_pipeline_and_trains_nothing(call, calls):
    code, _, error = call("train", "--stages", "[report]")
    assert code == 2
    assert "stage 'diffusion' makes it" in error
    Path("runs/demo/pipeline").mkdir(parents=True)
    assert call("train", "--stages", "[report]", "--report.count", 7)[0] == 0
    assert calls == [("report", Path("runs/demo"))]
    assert sys.modules["betadiffusion.report.write"].asked == [ReportConfig(count=7)]


def test_demo_is_the_default_on_other_data_and_three_tenths_of_the_images(call, calls):
    Path("My.faces").mkdir()
    Path("a.zip").touch()
    for argv, out in [([], "shapes"), (["--data", "dsprites"], "dsprites"), (["--data=My.faces"], "My.faces")]:
        assert call("demo", *argv)[0] == 0
        config = calls[-2][1]
        assert config.out == f"runs/{out}"
        config.out, config.data.source = "runs/demo", "shapes"
        for training in (config.vae_training, config.diffusion_training, config.decoder_training):
            training.images = round(training.images / 0.3)
        assert config == RunConfig()
    call("demo", "--data", "a.zip")
    assert calls[-1] == ("report", Path("runs/a"))
    call("demo", "--out", "there")
    assert calls[-1] == ("report", Path("there"))


def test_demo_at_64_takes_the_toy_preset_unless_told(call, calls):
    call("demo", "--size", 64)
    assert (calls[-2][1].data.size, calls[-2][1].vae.preset) == (64, "toy")
    call("demo", "--size", 64, "--vae.preset", "demo")
    assert calls[-2][1].vae.preset == "demo"
    Path("c.yaml").write_text("vae: {preset: demo}\ndata: {size: 64}")
    call("demo", "--config", "c.yaml")
    assert calls[-2][1].vae.preset == "demo"
    call("demo", "--size", 48)
    assert calls[-2][1].vae.preset == "demo"


def test_a_progress_bar_writes_few_lines_to_a_file():
    code = "import time, betadiffusion.cli\nfrom tqdm import tqdm\nfor _ in tqdm(range(10)): time.sleep(0.12)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert 1 <= done.stderr.count(b"\r") <= 3  # by default one line each tenth of a second


def test_minutes_scale_the_images_of_both_stages(call, calls):
    default = RunConfig()
    call("demo", "--minutes", 2 * commands.FULL_MINUTES, "--diffusion_training.images", 999)
    config = calls[-2][1]
    assert config.vae_training.images == 2 * default.vae_training.images
    assert config.diffusion_training.images == 999
    call("demo", "--minutes", commands.FULL_MINUTES / 4)
    assert calls[-2][1].diffusion_training.images == default.diffusion_training.images // 4


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (TrainingError("bad loss at step 3"), 1, "bad loss at step 3"),
        (Interrupted(signal.SIGTERM, "stopped"), 143, "stopped"),
        (Interrupted(signal.SIGINT, "stopped"), 130, "stopped"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ValueError("wrong"), 2, "wrong"),
        (DataError("no images"), 2, "no images"),
    ],
)
def test_errors_have_a_sentence_and_a_code(error, code, text, call, calls, monkeypatch):
    def fail(config):
        raise error

    monkeypatch.setattr(sys.modules["betadiffusion.training.runs"], "run", fail)
    got, out, err = call("train")
    assert (got, out, sentence(err)) == (code, "", text)
    assert not calls


@pytest.mark.parametrize("error", [RuntimeError("defect"), json.JSONDecodeError("defect", "", 0), KeyError("defect")])
def test_a_defect_keeps_its_traceback(error, calls, monkeypatch):
    def fail(config):
        raise error

    monkeypatch.setattr(sys.modules["betadiffusion.training.runs"], "run", fail)
    with pytest.raises(type(error), match="defect"):
        main(["train"])


# Refused before training


def test_a_refused_configuration_starts_nothing(call, calls):
    code, _, error = call("train", "--vae_training.accumulation", 3)
    assert (code, calls) == (2, [])
    assert "cannot be divided" in sentence(error)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--data.size", 20], "image size 20 cannot be halved 3 times"),
        (["--vae.preset", "celeba64", "--denoiser.attention_resolutions", "[7]"], "attention_resolutions [7]"),
    ],
)
def test_models_that_do_not_fit_are_refused_before_training(argv, text, call, monkeypatch):
    from betadiffusion.training import runs

    monkeypatch.setattr(runs, "run", lambda config: pytest.fail("training started"))
    code, _, error = call("train", *argv)
    assert code == 2
    assert text in sentence(error)


# sample, reconstruct, report, data


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
    from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline

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


def test_report_writes_and_prints(finished, call, calls):
    assert call("report", finished) == (0, f"headline of {finished}/report.html\n", "")
    assert calls == [("report", finished)]


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


def test_data_of_a_factor_set(call):
    code, out, _ = call("data", "dsprites", "--size", 16)
    assert code == 0
    assert "dsprites" in out
    assert "737,280" in out
    assert "1 x 16 x 16" in out
    assert "shape (3), scale (6), orientation (40), x (32), y (32)" in out
    with Image.open("data-dsprites.png") as image:
        assert (image.size, image.mode) == ((8 * 66 - 2, 8 * 66 - 2), "L")


def test_data_names_the_skipped_files(call, tmp_path):
    Path("folder").mkdir()
    for i in range(120):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(f"folder/{i}.png")
    Path("folder/broken.png").write_bytes(b"\x89PNG")
    code, out, _ = call("data", "folder", "--size", 8, "--out", "grid.png")
    assert code == 0
    assert "images      120\n" in out
    assert "skipped     1 files\n            broken.png (not an image)\n" in out
    assert Path("grid.png").exists()
    assert not left_over(tmp_path)


def test_a_sheet_is_as_square_as_it_can_be():
    from betadiffusion.cli.pictures import as_pictures
    from betadiffusion.training.pictures import sheet

    pixels = np.zeros((7, 1, 64, 64), np.uint8)
    assert sheet(as_pictures(pixels)).size == (3 * 66 - 2, 3 * 66 - 2)
    assert sheet(as_pictures(pixels[:1])).size == (64, 64)


def test_config_dataclasses_hold_only_documented_fields():
    for section in [RunConfig(), *(v for v in vars(RunConfig()).values() if dataclasses.is_dataclass(v))]:
        documented = parsing.argument_help(type(section).__doc__.replace("\n    ", "\n"))
        assert list(documented) == [field.name for field in dataclasses.fields(section)]


def test_data_names_attributes_and_partition(call):
    lines = ["file_name,age,gender,race"]
    Path("faces").mkdir()
    for i in range(40):
        Image.new("RGB", (8, 8), (6 * i, 0, 100)).save(f"faces/{i}.png")
        lines.append(f"{i}.png,{i + 1},{i % 2},0")
    Path("faces/metadata.csv").write_text("\n".join(lines))
    code, out, _ = call("data", "faces", "--size", 8, "--out", "grid.png")
    assert code == 0
    assert "attributes  child (30%), over_50 (0%), female (50%), bright (50%)" in out

"""The command line: options reach their function, a slip is one sentence with an exit code, files are whole."""

import dataclasses
import inspect
import json
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
from betadiffusion.cli import commands, parsing, walking
from betadiffusion.cli.main import COMMANDS, main
from betadiffusion.data import DataError
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.training.config import OptimisationConfig, ReportConfig, RunConfig
from betadiffusion.training.errors import Interrupted, TrainingError
from betadiffusion.training.files import flat
from cli_cases import left_over, sentence

pytestmark = pytest.mark.usefixtures("elsewhere")
CONFIGS = sorted(Path(__file__).parents[1].joinpath("configs").glob("*.yaml"))
HEAVY = {"torch", "diffusers", "matplotlib", "accelerate", "sklearn", "scipy", "numpy", "gradio"}


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
    assert list(keys) == sorted(flat(RunConfig()), key=list(keys).index)
    assert "" not in {parsing.describe(kind) for kind in keys.values()}


def test_functions_of_the_working_folder_can_be_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["betadiffusion", "--version"])
    assert str(tmp_path) not in sys.path
    assert main() == 0
    assert str(tmp_path) in sys.path


def test_guidance_has_its_cost_said():
    assert walking.Walking(method="heun", steps=10).cost == "20 network evaluations each"
    guided = walking.Walking(steps=1, class_="cat", guidance=2.0)
    assert guided.cost == "1 network evaluation each, where guidance acts of twice the cost"


def test_overview_names_every_command(call):
    code, out, _ = call("--help")
    assert code == 0
    assert all(f"\n  {name} " in out for name in COMMANDS)


def test_choices_are_the_samplers():
    assert walking.Method == samplers.Method
    assert walking.Variable == samplers.Variable
    assert walking.Clock == clocks.Clock


def test_a_walk_that_nothing_is_asked_of_is_the_pipelines():
    walk = inspect.signature(BetaDiffusionPipeline.walk).parameters
    options = walking.Walking().options(None)
    assert {name: walk[name].default for name in options} == options
    conditions = {"condition", "guidance", "guidance_interval"}
    assert {*options} | conditions == {*walk} - {"self", "z", "level", "generator", "callback"}


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
        ("reconstruct r --steps 5", "--steps has no effect without --denoise"),
        ("sample r --prior --churn 1 --text a", "--text and --churn have no effect with --prior"),
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


# report, data


def test_report_writes_and_prints(call, calls):
    assert call("report", "run") == (0, "headline of run/report.html\n", "")
    assert calls == [("report", Path("run"))]


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

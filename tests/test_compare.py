"""`betadiffusion compare`: the plan, its tasks, the table; as a user types it."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from betadiffusion.baselines.presets import baseline_arguments
from betadiffusion.cli.compare import checked, named, rows_of
from betadiffusion.cli.main import main
from betadiffusion.evaluation import compare, compare_table
from betadiffusion.evaluation.compare import Budget, Row, check_data, folder_of, read_plan, run_task, tasks, write_plan
from betadiffusion.evaluation.presets import COMPARE_PRESETS, COMPARED
from betadiffusion.training.config import RunConfig

OPTIONS = {
    "levels": 2, "fixed_level": 0.5, "metrics": ["mig"], "chosen_metrics": [], "count": 60, "test_count": 30,
    "features": "effnet", "samples": 20, "preset": None, "cpu": True,
}  # fmt: skip


def config(model, stages, **training):
    made = RunConfig(model=model, stages=stages, cpu=True, precision="fp32")
    made.data.limit, made.data.held_out = 300, 60
    made.vae.channels, made.vae.latent_channels = [8, 8], 4
    for key, value in training.items():
        setattr(made.vae_training, key, value)
    return made


def rows():
    return [
        Row("vae", config("vae", ["baseline"])),
        Row("ours", config("multi_beta_vae", ["vae"])),
    ]


def test_every_model_and_seed_is_trained_and_measured_once(tmp_path):
    assert write_plan(rows(), (0, 1), Budget(images=200), OPTIONS, tmp_path) == 4
    plan = read_plan(tmp_path)
    assert [(t[0]["name"], t[0]["seed"]) for t in tasks(plan)] == [("vae", 0), ("ours", 0), ("vae", 1), ("ours", 1)]
    assert "--array=0-3" in (tmp_path / "slurm.sh").read_text()
    for number in range(4):
        run_task(tmp_path, number, progress=False)
    results = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/seed-*/result.json")}
    assert len(results) == 4
    run_task(tmp_path, 0, progress=False)  # is done already
    assert results == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/seed-*/result.json")}
    numbers, missing = compare_table.write_tables(tmp_path)
    assert missing == 0
    assert [row["name"] for row in numbers["rows"]] == ["vae", "ours, level 0.5", "ours, best level"]
    first = numbers["rows"][0]
    single = [json.loads((tmp_path / "vae" / f"seed-{seed}" / "result.json").read_text()) for seed in (0, 1)]
    migs = [result["codes"][""]["mig"] for result in single]
    assert first["mig"]["mean"] == pytest.approx(sum(migs) / 2)
    assert first["mig"]["se"] == pytest.approx(abs(migs[0] - migs[1]) / 2)  # s / sqrt(2), with s = difference / sqrt(2)
    assert first["images"]["mean"] == 200
    assert first["evaluations"]["mean"] == 1
    with (tmp_path / "compare.csv").open() as file:
        kept = [row for row in csv.DictReader(file) if row["number"] == "mig" and row["model"] == "vae"]
    assert [float(row["value"]) for row in kept] == pytest.approx(migs)
    assert r"ours, level 0.5 & 2" in (tmp_path / "compare.tex").read_text()
    assert "Kingma and Welling" in (tmp_path / "compare.html").read_text()


def test_another_comparison_needs_another_place(tmp_path):
    write_plan(rows(), (0,), Budget(images=200), OPTIONS, tmp_path)
    write_plan(rows(), (0,), Budget(images=200), OPTIONS, tmp_path)
    with pytest.raises(ValueError, match=r"budget.images = 200, not 300"):
        write_plan(rows(), (0,), Budget(images=300), OPTIONS, tmp_path)


def test_a_run_that_builds_on_another_shares_its_task(tmp_path):
    based = Row("found", config("vae", ["baseline"]), base="ours")
    based.config.baseline.base = None
    plan = {"runs": [{"name": r.name, "seed": s, "base": r.base} for s in (0, 1) for r in [*rows(), based]]}
    assert [[run["name"] for run in task] for task in tasks(plan)] == [["vae"], ["ours", "found"]] * 2


def test_minutes_are_divided_among_the_stages_and_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "rates", lambda config: {"vae": 100.0, "diffusion": 1000.0})
    both = config("multi_beta_vae", ["vae", "diffusion"])
    folder = folder_of(tmp_path, "ours", 0)
    given = compare.within(Budget(minutes=2.0), both, folder)
    assert (given.vae_training.images, given.diffusion_training.images) == (6_000, 60_000)
    monkeypatch.setattr(compare, "rates", lambda config: pytest.fail("measured again"))
    assert compare.within(Budget(minutes=2.0), both, folder) == given


def test_images_are_those_of_the_first_stage_and_the_proportion_of_the_others_stays(tmp_path):
    both = config("multi_beta_vae", ["vae", "diffusion"], images=700)
    both.diffusion_training.images = 2_100
    given = compare.within(Budget(images=100), both, tmp_path)
    assert (given.vae_training.images, given.diffusion_training.images) == (100, 300)


def test_a_model_without_an_encoder_has_no_scores(tmp_path):
    ddpm = config("ddpm", ["baseline"])
    ddpm.vae.channels, ddpm.vae.latent_channels, ddpm.baseline.unet_channels = None, None, [8, 8]
    write_plan([Row("ddpm", ddpm)], (0,), Budget(images=100), OPTIONS, tmp_path)
    run_task(tmp_path, 0, progress=False)
    result = json.loads((tmp_path / "ddpm" / "seed-0" / "result.json").read_text())
    assert result["codes"] == {}
    assert result["cost"]["evaluations"] == 20


def test_without_a_budget_a_run_is_as_configured(tmp_path):
    both = config("multi_beta_vae", ["vae", "diffusion"], images=700)
    before = dataclasses.asdict(both)
    assert dataclasses.asdict(compare.within(Budget(), both, tmp_path)) == before


def test_speeds_are_of_a_training_that_leaves_nothing(tmp_path):
    made = config("vae", ["baseline"])
    made.out = str(tmp_path / "run")
    assert compare.rates(made)["baseline"] > 0
    assert list(tmp_path.iterdir()) == []


def test_speeds_are_of_the_second_training(monkeypatch):
    """And of one that does not stop to validate."""
    seen = []

    def train(made):
        seen.append((made.vae_training.images, made.vae_training.validate_images, made.data.limit))
        folder = Path(made.out) / "baseline"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({"images_per_second": len(seen)}))

    monkeypatch.setattr(compare, "train", train)
    made = config("vae", ["baseline"])
    made.data.limit, made.data.held_out = None, 100
    assert compare.rates(made) == {"baseline": 2}
    assert seen == [(256, 256, 2_148), (2_048, 2_048, 2_148)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["vaee"], "unknown model 'vaee'"),
        (["vae", "vae"], "'vae' is there twice"),
        (["vae", "--images", "10", "--minutes", "1"], "not both"),
        (["vae", "--images", "0"], "--images must be positive"),
        (["vae", "--jobs", "-1"], "--jobs must be 0 or more"),
        (["--jobs", "0"], "name the models to compare"),
        (["vae", "--seeds", "1", "1"], "once each"),
        ([], "holds no comparison yet"),
        (["--seeds", "1"], "name the models to compare"),
        (["vae", "--task", "0"], "only --out goes with --task"),
        (["ddpm", "disdiff"], "disdiff stands on a trained run"),
    ],
)
def test_a_slip_is_one_sentence(arguments, said, tmp_path, capsys):
    assert main(["compare", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_processes_of_their_own(tmp_path, capsys):
    arguments = ["vae", "ae", "--data", "shapes", "--limit", "2300", "--images", "100", "--seeds", "0", "--cpu"]
    arguments += ["--metrics", "mig", "--count", "60", "--test-count", "30", "--jobs", "2", "--out", str(tmp_path)]
    assert main(["compare", *arguments]) == 0
    assert "comparison:" in capsys.readouterr().out
    assert (tmp_path / "compare.html").is_file()


def test_what_is_measured_has_its_table_though_another_run_fails(tmp_path, capsys, monkeypatch):
    write_plan(rows(), (0,), Budget(images=200), OPTIONS, tmp_path)
    run_task(tmp_path, 0, progress=False)
    failing = [sys.executable, "-c", "raise SystemExit(1)"]
    monkeypatch.setattr(compare, "_start", lambda out, number, jobs, place: subprocess.Popen(failing))
    assert main(["compare", "--out", str(tmp_path)]) == 1
    assert "ours seed 0" in capsys.readouterr().err
    assert "1 runs are not measured yet" in (tmp_path / "compare.html").read_text()


@pytest.mark.parametrize(("visible", "dealt"), [(None, "0 1 2 0"), ("2,5,7", "2 5 7 2"), ("6", "6 6 6 6")])
def test_gpus_are_dealt_out_in_turn(visible, dealt, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(compare.torch.cuda, "device_count", lambda: len((visible or "0,1,2").split(",")))
    monkeypatch.setattr(compare.subprocess, "Popen", lambda command, env, **_: env["CUDA_VISIBLE_DEVICES"])
    assert [compare._start(tmp_path, number, 2, number) for number in range(4)] == dealt.split()


@pytest.mark.parametrize("name", ["annealed_vae", "hierarchical_vae", "infogan_cr"])
def test_what_is_annealed_takes_its_share_of_the_budget(name, tmp_path):
    made = named(name)
    arguments = baseline_arguments(name, made.baseline)
    key = next(key for key in ("capacity_images", "kl_warmup_images", "gap_images") if key in arguments)
    share = arguments[key] / made.vae_training.images
    assert 0 < share < 1
    assert getattr(compare.within(Budget(images=1_000), made, tmp_path).baseline, key) == round(1_000 * share)


def test_rows_of_other_data_are_refused_and_scores_that_the_data_cannot_have():
    options = OPTIONS | {"metrics": ("mig",)}
    check_data(rows(), options)
    other = rows()
    other[1].config.data.source = "dsprites"
    with pytest.raises(ValueError, match=r"ours is not of the data of vae, which has data.source = 'shapes'"):
        check_data(other, options)
    with pytest.raises(ValueError, match="tad needs images with known attributes"):
        check_data(rows(), OPTIONS | {"chosen_metrics": ("tad",)})
    with pytest.raises(ValueError, match="lpips needs its weights"):
        check_data(rows(), OPTIONS | {"metrics": ("lpips",)})


def test_no_jobs_at_a_time_only_plans(tmp_path, capsys):
    assert main(["compare", "vae", "--data", "shapes", "--images", "100", "--jobs", "0", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"planned: {tmp_path / 'slurm.sh'}\n"
    assert {file.name for file in tmp_path.iterdir()} == {"plan.json", "slurm.sh"}


@pytest.mark.parametrize("preset", COMPARED)
def test_the_protocols_of_the_paper_can_be_planned(preset, tmp_path):
    rows = [checked(row, {"data.source": "shapes", "data.size": 32}, cpu=True) for row in rows_of((), preset)]
    count = write_plan(rows, (0, 1, 2), Budget(images=1_000), OPTIONS | COMPARE_PRESETS[preset], tmp_path)
    plan = read_plan(tmp_path)
    assert count == 3 * sum(row.base is None for row in rows)
    assert sum(map(len, tasks(plan))) == 3 * len(rows)
    for run in plan["runs"]:
        config = compare.as_config(run["config"])
        if run["base"]:
            assert config.baseline.base == str(folder_of(tmp_path, run["base"], run["seed"]))


def test_the_backbone_is_for_the_models_that_have_it(tmp_path, capsys):
    arguments = ["--data", "shapes", "--latent-channels", "7", "--jobs", "0", "--out", str(tmp_path / "plan")]
    assert main(["compare", "vae", "ddpm", *arguments]) == 0
    found = {run["name"]: run["config"]["vae"]["latent_channels"] for run in read_plan(tmp_path / "plan")["runs"]}
    assert found == {"vae": 7, "ddpm": None}
    capsys.readouterr()
    assert main(["compare", "ddpm", *arguments]) == 2
    assert "--latent-channels has no effect: no model here reads vae.latent_channels" in capsys.readouterr().err


def test_directions_are_found_on_the_frozen_model_of_their_row(tmp_path):
    base = Row("vae", config("vae", ["baseline"]))
    found = Row("disco on vae", config("disco", ["baseline"]), base="vae")
    found.config.baseline.directions = 4
    write_plan([base, found], (0,), Budget(images=200), OPTIONS | {"metrics": ["mig"]}, tmp_path)
    run_task(tmp_path, 0, progress=False)
    of_vae, of_disco = compare_table.write_tables(tmp_path)[0]["rows"]
    assert (of_vae["name"], of_disco["name"]) == ("vae", "disco on vae")
    assert (of_vae["images"]["mean"], of_disco["images"]["mean"]) == (200, 400)  # with its base's
    assert of_disco["seconds"]["mean"] > of_vae["seconds"]["mean"]


def test_what_begins_within_a_training_takes_its_share_of_the_budget(tmp_path):
    made = config("multi_beta_vae", ["vae", "diffusion", "decoder"], images=1_000)
    made.perceptual.start_images, made.levels.kl_warmup_images = 500, 250
    made.decoder.start_images, made.decoder_training.images = 300, 400
    given = compare.within(Budget(images=100), made, tmp_path)
    assert (given.perceptual.start_images, given.levels.kl_warmup_images) == (50, 25)
    assert (given.decoder.start_images, given.decoder_training.images) == (30, 40)
    assert made.perceptual.start_images == 500  # the plan's own is left


def test_speeds_are_of_a_training_whose_phases_are_as_long_in_proportion(monkeypatch):
    seen = []
    monkeypatch.setattr(compare, "train", lambda made: seen.append(made.baseline.contrast_images) or 1 / 0)
    made = named("infogan_cr")
    with pytest.raises(ZeroDivisionError):
        compare.rates(made)
    share = made.baseline.contrast_images / made.vae_training.images
    assert seen == [round(share * compare.WARM_UP_IMAGES)]


def test_scores_of_a_model_that_does_not_decode_are_not_lost_with_those_of_reconstructions(tmp_path):
    gan = named("infogan_cr")
    gan.data.limit, gan.data.held_out, gan.vae.channels = 300, 60, [8, 8]
    gan.cpu, gan.precision = True, "fp32"
    options = OPTIONS | {"metrics": ["ssim"], "chosen_metrics": ["mig"]}
    write_plan([Row("gan", gan)], (0,), Budget(images=100), options, tmp_path)
    run_task(tmp_path, 0, progress=False)
    result = json.loads((tmp_path / "gan" / "seed-0" / "result.json").read_text())
    assert result["codes"][""]["mig"] >= 0


def test_names_cannot_break_a_latex_table():
    text = compare_table.latex(("", "MIG"), [("R&D, 50 %", "0.1 ± 0.2"), ("a_b^c~{$\\#", "–")])
    assert "R\\&D, 50 \\% & 0.1 $\\pm$ 0.2 \\\\" in text
    assert "a\\_b\\textasciicircum{}c\\textasciitilde{}\\{\\$\\textbackslash{}\\# & -- \\\\" in text


def test_tasks_that_run_beside_each_other_have_gpus_of_their_own(tmp_path, monkeypatch):
    write_plan(rows(), (0, 1), Budget(images=200), OPTIONS, tmp_path)
    for name, seed in (("ours", 0), ("ours", 1)):  # tasks 1 and 3: 0 and 2 are left
        folder_of(tmp_path, name, seed).mkdir(parents=True)
        (folder_of(tmp_path, name, seed) / "result.json").write_text("{}")
    dealt = []
    monkeypatch.setattr(compare.torch.cuda, "device_count", lambda: 2)
    process = SimpleNamespace(poll=lambda: 0, returncode=0)
    started = lambda command, env, **_: dealt.append(env["CUDA_VISIBLE_DEVICES"]) or process  # noqa: E731
    monkeypatch.setattr(compare.subprocess, "Popen", started)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    compare.run_all(tmp_path, 2)
    assert dealt == ["0", "1"]

"""`betadiffusion compare`: models trained and measured alike, one table."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from betadiffusion.baselines.presets import PRESETS, baseline_arguments, is_baseline
from betadiffusion.cli.checks import check, check_evaluation
from betadiffusion.cli.parsing import parse
from betadiffusion.evaluation.names import MetricName, ScoreName
from betadiffusion.evaluation.presets import COMPARE_PRESETS, COMPARED
from betadiffusion.training.config import RunConfig, with_keys

if TYPE_CHECKING:
    from betadiffusion.evaluation.compare import Row

OURS = {"multi_beta_vae": ["vae", "diffusion"], "beta_diffusion": ["vae", "diffusion"]}  # stages where nothing is said


def compare(
    given: frozenset[str],
    models: tuple[str, ...],
    *,
    preset: Literal["paper-table1", "paper-table2", "paper-table3", "paper-table7"] | None = None,
    data: str | None = None,
    size: int | None = None,
    channels: Literal[1, 3] | None = None,
    limit: int | None = 22_000,
    vae_preset: Literal["demo", "toy", "celeba64"] | None = None,
    latent_channels: int | None = None,
    images: int | None = None,
    minutes: float | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    levels: int = 50,
    fixed_level: float = 0.5,
    metrics: tuple[MetricName, ...] = (),
    chosen_metrics: tuple[ScoreName, ...] = (),
    count: int = 10_000,
    test_count: int = 5_000,
    features: str = "effnet",
    samples: int = 10_000,
    lpips: str | None = None,
    jobs: int = 1,
    task: int | None = None,
    cpu: bool = False,
    out: Path = Path("runs/compare"),
) -> None:
    """Train several models with the same data, backbone and budget over several seeds, and write one table.

    Writes compare.html, compare.csv, compare.tex and compare.json, with scores, standard errors, training seconds,
    parameters, memory and network passes a sample. Every model and seed is trained and measured in a process of its
    own. Interrupted, the same command goes on where it stopped; with --out alone it goes on with what is planned there.
    OUT/slurm.sh runs the tasks as a Slurm array instead.

    Args:
        models: configuration files as of `train`, or names of models with their defaults: multi_beta_vae, a baseline.
        preset: the models and the protocol of a table of the paper; other options win over it.
        data: the images, as in training, in place of what the configurations name.
        size: side of the square images, in pixels.
        channels: 1 for grey, 3 for colour.
        limit: use at most so many images, held-out ones included; null for all.
        vae_preset: the backbone of all, in place of what the configurations name.
        latent_channels: dimensions of a vector latent of all, channels of a spatial one.
        images: budget of the first stage of a run, in images, of which later ones see as many times that as they are
            configured to; what the configurations have where neither budget is given.
        minutes: budget of a run, in minutes of training, shared evenly by its stages.
        seeds: of training, a run for each.
        levels: how many levels of a model that has them, evenly spaced from 0 to 1.
        fixed_level: the level that is chosen beforehand.
        metrics: scores at every level, measures of reconstructions, and distances of samples, as of `evaluate`.
        chosen_metrics: scores at the fixed and the best level only.
        count: images to fit scores on.
        test_count: images to test scores on.
        features: of the distances of samples, as of `evaluate`.
        samples: how many, for the distances of samples.
        lpips: weights of metric lpips, as of `evaluate`.
        jobs: runs at a time; 0 only plans, for OUT/slurm.sh.
        task: do one task only, by its number, as the Slurm array does.
        cpu: stay on the CPU even where there is a GPU.
        out: folder for runs and tables.
    """
    options: dict[str, Any] = {
        "levels": levels, "fixed_level": fixed_level, "metrics": metrics, "chosen_metrics": chosen_metrics,
        "count": count, "test_count": test_count, "features": features, "samples": samples, "lpips": lpips,
    }  # fmt: skip
    if preset is not None:
        options |= {key: value for key, value in COMPARE_PRESETS[preset].items() if key not in given}
    check_evaluation(options | {"runs": (out,), "model": None, "seeds": seeds, "size": None, "channels": None})
    if jobs < 0:
        raise ValueError(f"--jobs must be 0 or more, not {jobs}")
    from betadiffusion.evaluation.compare import Budget, check_data, run_all, run_task, write_plan
    from betadiffusion.evaluation.compare_table import headline, write_tables
    from betadiffusion.training.errors import TrainingError

    if task is not None:
        if models or given - {"models", "out", "task"}:
            raise ValueError("only --out goes with --task, which does what is planned there")
        run_task(out, task)
        return
    if models or preset:
        if images is not None and minutes is not None:
            raise ValueError("the budget is --images or --minutes, not both")
        for name, value in (("images", images), ("minutes", minutes)):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"--{name} must be positive, not {value}")
        if not seeds:
            raise ValueError("--seeds must be one or more numbers")
        changes = {"data.source": data, "data.size": size, "data.channels": channels, "vae.preset": vae_preset,
                   "vae.latent_channels": latent_channels}  # fmt: skip
        changes = {key: value for key, value in changes.items() if value is not None}
        changes |= {"data.limit": limit} if "limit" in given or not _files(models) else {}
        asked = rows_of(models, preset)
        for key in changes:
            if not any(reads(row, key) for row in asked):
                raise ValueError(f"--{key.split('.')[1].replace('_', '-')} has no effect: no model here reads {key}")
        rows = [checked(row, changes, cpu) for row in asked]
        options |= {"preset": preset, "cpu": cpu}
        check_data(rows, options)
        write_plan(rows, seeds, Budget(images, minutes), options, out)
        if not jobs:
            print(f"planned: {out / 'slurm.sh'}")
            return
    elif not jobs or given - {"models", "out", "jobs"}:
        raise ValueError("name the models to compare, or a --preset; --out alone, with --jobs, goes on with a plan")
    try:
        run_all(out, jobs)
    except TrainingError:
        if any(out.glob("*/seed-*/result.json")):
            write_tables(out)  # of what is measured
        raise
    numbers, _ = write_tables(out)
    print(headline(numbers))
    print(f"comparison: {out / 'compare.html'}")


def _files(models: tuple[str, ...]) -> bool:
    return any(model.endswith((".yaml", ".yml")) for model in models)


def rows_of(models: tuple[str, ...], preset: str | None) -> "list[Row]":
    """What to compare, in the order given; ValueError for a model that is unknown or there twice."""
    from betadiffusion.cli.commands import train
    from betadiffusion.evaluation.compare import Row, folder_of

    rows = []
    for name, changed in COMPARED.get(preset or "", {}).items():
        config = named(changed.get("model", name), changed.get("stages"))
        rows.append(Row(name, with_keys(config, changed.get("set", {})), changed.get("base")))
    for model in models:
        if model.endswith((".yaml", ".yml")):
            config = parse("train", train, ["--config", model])["config"]
            config.stages = [stage for stage in config.stages if stage != "report"]
            rows.append(Row(Path(model).stem, config))
        else:
            rows.append(Row(model, named(model)))
    folders = [folder_of(Path(), row.name, 0) for row in rows]
    if twice := {row.name for row, folder in zip(rows, folders, strict=True) if folders.count(folder) > 1}:
        raise ValueError(f"{min(twice)!r} is there twice: every model needs a name of its own")
    return rows


def named(model: str, stages: list[Any] | None = None) -> RunConfig:
    """The defaults of a model; ValueError for a name that is none."""
    names = [*OURS, *PRESETS]
    if model not in names:
        raise ValueError(f"unknown model {model!r}: give a .yaml file, or one of {', '.join(names)}")
    if model in OURS:
        return RunConfig(model=model, stages=stages or OURS[model])
    return with_keys(RunConfig(model=model, stages=list(PRESETS[model].stages)), PRESETS[model].training)


def reads(row: "Row", key: str) -> bool:
    """Whether a row's model reads a key that is the same for all: some baselines not all of the backbone's."""
    section, _, name = key.partition(".")
    return section != "vae" or not is_baseline(row.config.model) or name in PRESETS[row.config.model].reads


def checked(row: "Row", changes: dict[str, Any], cpu: bool) -> "Row":
    """The row with what is the same for all, as far as it reads that, checked as `train` would."""
    from betadiffusion.data.sources import anywhere

    changes = {key: value for key, value in changes.items() if reads(row, key)}
    config = with_keys(dataclasses.replace(row.config, cpu=row.config.cpu or cpu), changes)
    check(config)
    known = baseline_arguments(config.model, config.baseline) if is_baseline(config.model) else {}
    if known.get("base") == "" and row.base is None:
        raise ValueError(
            f"{row.name} stands on a trained run: give a .yaml file with baseline.base, or a --preset that has both"
        )
    config = with_keys(config, {"data.source": anywhere(config.data.source)})  # tasks may be started anywhere
    return dataclasses.replace(row, config=config)

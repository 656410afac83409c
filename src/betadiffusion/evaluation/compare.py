"""Several models trained alike and measured alike: a plan of runs, each trained and measured in a process of its own.

OUT/plan.json        what is compared: a run for each model and seed; runs that build on another share its task
OUT/NAME/seed-S/     a run, with result.json once it is measured
"""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from betadiffusion.baselines.presets import baseline_arguments, is_baseline
from betadiffusion.baselines.runs import class_of
from betadiffusion.baselines.runs import run as run_baseline
from betadiffusion.data import Subset, load
from betadiffusion.evaluation.evaluate import Options, check_scores, evaluate, make_extractor, make_measures
from betadiffusion.evaluation.generation import generation, load_generative
from betadiffusion.evaluation.names import GENERATION, PICTURES, SCORES
from betadiffusion.evaluation.pool import draw, training_images
from betadiffusion.evaluation.summary import scalars
from betadiffusion.training.config import OptimisationConfig, RunConfig
from betadiffusion.training.errors import Interrupted, TrainingError
from betadiffusion.training.files import write_json, write_text
from betadiffusion.training.models import image_size
from betadiffusion.training.runs import as_config, load_config
from betadiffusion.training.runs import run as run_ours
from betadiffusion.training.trainer import first_difference

TRAINED_BY = {"vae": "vae_training", "baseline": "vae_training", "joint": "vae_training",
              "diffusion": "diffusion_training", "prior": "diffusion_training",
              "decoder": "decoder_training"}  # fmt: skip
WARM_UP_IMAGES = 256
CALIBRATION_IMAGES = 2_048  # of each stage, to see how many images a minute holds
POLL = 0.2  # seconds
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A model to compare: its configuration without data, seed and place. base: the row whose frozen model it takes."""

    name: str
    config: RunConfig
    base: str | None = None


@dataclass(frozen=True)
class Budget:
    """What every run may spend: images of its first stage, or minutes in all, shared evenly by its stages; or neither.

    Stages that follow see as many more or fewer than the first as their configuration has it: codes cost less.
    """

    images: int | None = None
    minutes: float | None = None


def write_plan(rows: list[Row], seeds: tuple[int, ...], budget: Budget, options: Numbers, out: Path) -> int:
    """Writes what is compared, and a Slurm script that runs it; returns the number of tasks.

    options: those of `evaluate.Options` that are not about runs. ValueError where `out` holds another comparison.
    """
    runs = []
    out = out.resolve()  # a task may start anywhere
    for seed in seeds:
        for row in rows:
            config = dataclasses.replace(row.config, seed=seed, out=str(folder_of(out, row.name, seed)), resume="auto")
            if row.base is not None:
                config.baseline.base = str(folder_of(out, row.base, seed))
            runs.append({"name": row.name, "seed": seed, "base": row.base, "config": asdict(config)})
    plan = json.loads(json.dumps({"runs": runs, "budget": asdict(budget), "options": options}))
    file = out / "plan.json"
    if file.is_file() and (difference := first_difference(json.loads(file.read_text()), plan)):
        raise ValueError(f"{out} holds a comparison with {difference}: use the same settings, or another --out")
    write_json(file, plan)
    count = len(tasks(plan))
    command = f'betadiffusion compare --out "{out}"'
    write_text(
        out / "slurm.sh",
        "#!/bin/bash\n# sbatch this; when all are done, the last line alone writes the tables\n"
        f'#SBATCH --array=0-{count - 1}\n{command} --task "$SLURM_ARRAY_TASK_ID"\n# {command}\n',
    )
    return count


def read_plan(out: Path) -> Numbers:
    """The plan of a comparison; ValueError where there is none."""
    if not (out / "plan.json").is_file():
        raise ValueError(f"{out} holds no comparison yet: name the models to compare, or a --preset")
    return json.loads((out / "plan.json").read_text())


def tasks(plan: Numbers) -> list[list[Numbers]]:
    """The runs of a plan by task: each run with those that build on it."""
    own = [run for run in plan["runs"] if run["base"] is None]
    return [[run, *(r for r in plan["runs"] if r["seed"] == run["seed"] and r["base"] == run["name"])] for run in own]


def folder_of(out: Path, name: str, seed: int) -> Path:
    """Where a run is."""
    return out / name.replace(" ", "-") / f"seed-{seed}"


def run_task(out: Path, number: int, progress: bool = True) -> None:
    """Trains and measures the runs of one task, as far as that is not done; ValueError where there is no such task."""
    plan = read_plan(out)
    every = tasks(plan)
    if not 0 <= number < len(every):
        raise ValueError(f"--task must be from 0 to {len(every) - 1}, not {number}")
    trained = []
    for run in every[number]:  # all before any is measured: the peak of memory is that of the process
        folder = folder_of(out, run["name"], run["seed"])
        if not (folder / "result.json").is_file():
            config = within(Budget(**plan["budget"]), as_config(run["config"]), folder)
            train(config)
            trained.append((folder, config))
    for folder, config in trained:
        write_json(folder / "result.json", measure(folder, config, plan["options"], progress))


def train(config: RunConfig) -> Path:
    """Trains ours or a baseline."""
    return run_baseline(config) if is_baseline(config.model) else run_ours(config)


def within(budget: Budget, config: RunConfig, folder: Path) -> RunConfig:
    """The configuration with the images of its stages that a budget allows; a measured speed is kept in `folder`."""
    images: dict[str, int] = {}
    if budget.images is not None:
        configured = {stage: getattr(config, TRAINED_BY[stage]).images for stage in config.stages}
        share = budget.images / configured[config.stages[0]]
        images = {stage: max(1, round(share * count)) for stage, count in configured.items()}
    if budget.minutes is not None:
        file = folder / "budget.json"
        if not file.is_file():
            seconds = 60 * budget.minutes / len(config.stages)
            write_json(file, {stage: max(1, round(rate * seconds)) for stage, rate in rates(config).items()})
        images = json.loads(file.read_text())
    return shortened(config, images)


def shortened(config: RunConfig, images: dict[str, int]) -> RunConfig:
    """The configuration with so many images in a stage, and as large a share of them before what begins or ends."""
    config = copy.deepcopy(config)
    for stage, count in images.items():
        training = getattr(config, TRAINED_BY[stage])
        share = count / training.images
        if stage == "decoder":
            config.decoder.start_images = round(share * config.decoder.start_images)
        elif stage == config.stages[0]:
            config.levels.kl_warmup_images = round(share * config.levels.kl_warmup_images)
            config.perceptual.start_images = round(share * config.perceptual.start_images)
            known = baseline_arguments(config.model, config.baseline) if is_baseline(config.model) else {}
            for key, value in known.items():
                if key.endswith("_images") and value:
                    setattr(config.baseline, key, max(1, round(share * value)))
        setattr(config, TRAINED_BY[stage], with_images(training, count))
    return config


def with_images(training: OptimisationConfig, images: int) -> OptimisationConfig:
    """A training of so many images, with warm-up and half-life no longer than a quarter and a fifth of it."""
    return dataclasses.replace(
        training, images=images, warmup_images=min(training.warmup_images, images // 4),
        ema_images=max(1, min(training.ema_images, images // 5)), validate_images=max(1, images // 2),
        checkpoint_images=max(1, min(training.checkpoint_images, images // 4)),
    )  # fmt: skip


def rates(config: RunConfig) -> dict[str, float]:
    """Images per second of every stage, by the second of two short trainings that leave nothing: the first warms up."""
    few = config.data.held_out + CALIBRATION_IMAGES
    data = dataclasses.replace(config.data, limit=min(few, config.data.limit or few))
    with tempfile.TemporaryDirectory() as scratch:
        for images in (WARM_UP_IMAGES, CALIBRATION_IMAGES):
            short = shortened(config, dict.fromkeys(config.stages, images))
            short = dataclasses.replace(short, data=data, out=f"{scratch}/{images}", resume="never")
            for stage in config.stages:
                getattr(short, TRAINED_BY[stage]).validate_images = images
            train(short)
        summaries = {stage: Path(short.out) / stage / "summary.json" for stage in config.stages}
        return {stage: json.loads(file.read_text())["images_per_second"] for stage, file in summaries.items()}


def measure(folder: Path, config: RunConfig, options: Numbers, progress: bool) -> Numbers:
    """What a trained run cost, the numbers of its codes by row of the evaluation, and the distances of its samples."""
    device = torch.device("cuda" if torch.cuda.is_available() and not options["cpu"] else "cpu")
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    chosen = Options(runs=(folder,), **plain)
    result: Numbers = {"cost": cost(folder, config), "codes": {}, "samples": {}}
    ours = not is_baseline(config.model)
    decodes = ours or hasattr(class_of(config.model), "decode")
    of_codes = tuple(name for name in chosen.metrics if decodes or name not in PICTURES)
    if chosen.metrics and not of_codes:  # none would mean all the usual ones
        of_codes = chosen.chosen_metrics
    if (of_codes or not chosen.metrics) and (ours or hasattr(class_of(config.model), "encode_mean")):
        codes = dataclasses.replace(chosen, metrics=of_codes)
        found = evaluate(codes, folder / "evaluation" / "cells", progress, samples=False)
        places = {"fixed": f"level {chosen.fixed_level:g}", "best": "best level"} if found["levels"] else {}
        result["codes"] = {
            places.get(key, ""): {name: mean for name, (mean, _) in scalars(numbers).items()}
            for key, numbers in found["rows"].items()
            if key in ("fixed", "best")
        }
    model, names = load_generative(folder, device), [name for name in chosen.metrics if name in GENERATION]
    if model is not None:
        result["cost"]["evaluations"] = model.evaluations
        if names:
            source = load(config.data.source, image_size(config), config.data.channels)
            extractor = make_extractor(chosen, device)
            assert extractor is not None
            reference = Subset(source, training_images(source, config))
            name = f"{source.name}, training images"
            rows = generation(
                model, extractor, reference, name, names, chosen.samples, config.seed, folder / "samples", progress
            )
            result["samples"] = {row["metric"]: row["value"] for row in rows} | {"features": extractor.name}
    return result


def cost(folder: Path, config: RunConfig) -> Numbers:
    """Images and seconds of training, parameters, and the most memory in GB, over a run's stages and its base's."""
    stages = [json.loads((folder / stage / "summary.json").read_text()) for stage in config.stages]
    parameters = [stage["parameters"] for stage in stages]
    if config.baseline.base:  # whose parameters are among the run's
        base = Path(config.baseline.base)
        stages += [json.loads((base / s / "summary.json").read_text()) for s in load_config(base).stages]
    return {
        "images": sum(stage["images"] for stage in stages),
        "seconds": sum(stage["seconds"] for stage in stages),
        # a baseline is one model in all its stages
        "parameters": max(parameters) if is_baseline(config.model) else sum(parameters),
        "memory": max(stage["peak_memory_gb"] for stage in stages),
    }


def check_data(rows: list[Row], options: Numbers) -> None:
    """ValueError, before any training, for rows that are not of the same data, and scores that the data cannot have."""
    for row in rows[1:]:
        if difference := first_difference(asdict(rows[0].config.data), asdict(row.config.data)):
            raise ValueError(
                f"{row.name} is not of the data of {rows[0].name}, which has data.{difference}: give it for all, "
                "as --data, --size, --channels or --limit, or make the files alike"
            )
    asked = Options(**options)
    make_measures(asked, torch.device("cpu"))
    if set(SCORES) & {*asked.metrics, *asked.chosen_metrics}:
        config = rows[0].config
        source = load(config.data.source, image_size(config), config.data.channels)
        check_scores(asked, draw(source, np.arange(len(source)), asked.count, asked.test_count, 0))


def run_all(out: Path, jobs: int) -> None:
    """Runs all tasks that are not done, `jobs` at a time, each a process; GPUs are dealt out in turn.

    Raises TrainingError, at the end, where a task failed, and Interrupted after SIGINT or SIGTERM, when all have
    saved where they are.
    """
    plan = read_plan(out)
    waiting = [number for number, runs in enumerate(tasks(plan)) if not _done(out, runs)]
    running: dict[int, subprocess.Popen[bytes]] = {}
    place: dict[int, int] = {}  # of a running task among the `jobs`
    failed: list[int] = []
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)
        for process in running.values():
            process.send_signal(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with tqdm(total=len(waiting), desc="compare", unit=" tasks", disable=jobs == 1 or None) as bar:
            while running or (waiting and not stopped):
                while waiting and len(running) < jobs and not stopped:
                    number = waiting.pop(0)
                    place[number] = min(set(range(jobs)) - {place[other] for other in running})
                    running[number] = _start(out, number, jobs, place[number])
                time.sleep(POLL)
                for number, process in list(running.items()):
                    if process.poll() is not None:
                        del running[number]
                        bar.update()
                        failed += [number] if process.returncode else []
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        raise Interrupted(stopped[0], "stopped; the same command goes on where it was")
    if failed:
        runs = ", ".join(f"{run['name']} seed {run['seed']}" for number in failed for run in tasks(plan)[number])
        logs = "" if jobs == 1 else f"; see {out}/task-*.log"
        raise TrainingError(f"{len(failed)} tasks failed: {runs}{logs}; the same command tries them again")


def _done(out: Path, runs: list[Numbers]) -> bool:
    return all((folder_of(out, run["name"], run["seed"]) / "result.json").is_file() for run in runs)


def _start(out: Path, number: int, jobs: int, place: int) -> "subprocess.Popen[bytes]":
    """A process for one task; of several at a time each writes a log, and has its share of the cores, a GPU by place.

    In a session of its own: a Ctrl-C reaches it once, through `run_all`.
    """
    command = [sys.executable, "-m", "betadiffusion", "compare", "--out", str(out), "--task", str(number)]
    environment = dict(os.environ)
    if devices := torch.cuda.device_count():
        visible = environment.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(devices)))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[place % devices]
    if jobs == 1:
        return subprocess.Popen(command, env=environment, start_new_session=True)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    with (out / f"task-{number}.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

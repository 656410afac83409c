"""Distance of samples against network evaluations, for every sampler, solver's variable and clock, from the same noise.

    python benchmarks/few_steps.py runs/shapes [runs/shapes-seed1 ...] [--methods heun multistep]
        [--variables standard t] [--clocks uniform fitted] [--evaluations 2 5 10 20 50 200] [--count 1000] [--noises 1]
        [--map runs/map] [--out few_steps]

Several runs are training seeds of one configuration: the table then gives the mean and its standard error; of one run
it gives them over `--noises` draws of the noise that the walks start from, the report's own first. Each method takes
the number of steps that comes nearest to the evaluations asked for without exceeding them, if it can. Algorithm 2
stands beside them with 20, 200 and 1,000 steps, and the flow map of `--map` by its own steps, with one evaluation too.
Distances are the report's: its features, held-out images, seeds.

Writes few_steps.json and few_steps.png and prints a table of every row with its ratio to the best of all. Interrupted,
the same command goes on where it stopped, and other options add rows. The default grid takes about 25 minutes a run on
2 CPU cores at 32x32, half of it for the samplers of 200 evaluations and more.
"""

import argparse
import dataclasses
import json
import math
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple, get_args

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from tqdm import tqdm

from betadiffusion import samplers
from betadiffusion.clocks import CLOCKS
from betadiffusion.metrics.features import frechet_name
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.pipelines.walk_levels import walk_levels
from betadiffusion.report.axes import label_axes, log_y, png
from betadiffusion.report.distances import Judge
from betadiffusion.report.generate import RANDOM, Sampler, samples
from betadiffusion.report.measure import make_extractor
from betadiffusion.training.config import RunConfig
from betadiffusion.training.files import write_bytes, write_json
from betadiffusion.training.runs import load_config, load_split

METHODS = (*samplers.METHODS, *RANDOM)
ALGORITHM2_STEPS = (20, 200, 1000)
SEEDS_OF_A_NOISE = 10  # more than the report's streams


class Row(NamedTuple):
    """One way from noise to level 0."""

    method: str
    variable: str
    clock: str
    steps: int

    @property
    def sampler(self) -> Sampler:
        return Sampler(self.method, self.steps, self.variable if self.variable in samplers.VARIABLES else None)

    @property
    def key(self) -> str:
        return " ".join(map(str, self))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--variables", nargs="+", choices=get_args(samplers.Variable), default=["standard", "t"])
    parser.add_argument("--clocks", nargs="+", choices=CLOCKS, default=["uniform", "fitted"])
    parser.add_argument("--evaluations", nargs="+", type=int, default=[2, 4, 5, 10, 20, 50, 200])
    parser.add_argument("--no-algorithm2", action="store_true")
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--noises", type=int, default=1, help="draws of the noise, each with --count samples")
    parser.add_argument("--map", type=Path, help="a run of a flow map on the same VAE")
    parser.add_argument("--out", type=Path, default=Path("few_steps"), help="folder")
    arguments = parser.parse_args()
    maps = [arguments.map] if arguments.map else []
    if missing := [run for run in (*arguments.runs, *maps) if not (run / "pipeline" / "model_index.json").is_file()]:
        parser.error(f"{missing[0]} is not the folder of a run whose training has finished")
    file = arguments.out / "few_steps.json"
    numbers = json.loads(file.read_text()) if file.exists() else {"count": arguments.count, "runs": {}}
    if numbers["count"] != arguments.count:
        parser.error(f"{file} was made with --count {numbers['count']}: use that, or another --out")
    wanted = rows(arguments)
    for run in arguments.runs:
        measure(run, wanted, arguments.noises, numbers, file)
    for run in maps:
        own = [Row("euler", "sigma", "fitted", steps) for steps in sorted({1, *arguments.evaluations})]
        measure(run, own, arguments.noises, numbers, file)
    runs = [str(run) for run in arguments.runs]
    summary, of_map = summarise(numbers, runs), summarise(numbers, [str(arguments.map)]) if maps else []
    write_bytes(arguments.out / "few_steps.png", png(chart(summary, numbers, runs, of_map)))
    print(table(summary))
    if of_map:
        print(f"\nThe flow map, {arguments.map}:\n\n{table(of_map)}")


def rows(arguments: argparse.Namespace) -> list[Row]:
    """Every row asked for, once each, the cheap ones first."""
    made = {
        Row(method, variable, clock, steps_for(method, evaluations))
        for evaluations in arguments.evaluations
        for method in arguments.methods
        for variable in arguments.variables
        for clock in arguments.clocks
    }
    if not arguments.no_algorithm2:
        made |= {Row("algorithm2", "-", "uniform", steps) for steps in ALGORITHM2_STEPS}
    return sorted(made, key=lambda row: (row.sampler.evaluations, row))


def steps_for(method: str, evaluations: int) -> int:
    """The most steps that cost no more than so many evaluations, at least one."""
    fits = [steps for steps in range(1, evaluations + 1) if Sampler(method, steps).evaluations <= evaluations]
    return max(fits, default=1)


def judged(run: Path, count: int) -> tuple[RunConfig, BetaDiffusionPipeline, Judge, str]:
    """A finished run, what tells the distance of `count` of its samples as its report does, and the distance's name."""
    config, pipeline = load_config(run), BetaDiffusionPipeline.from_pretrained(run / "pipeline")
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    train, held_out = load_split(config.data, pipeline.vae.image_shape[-1], config.seed)
    extractor = make_extractor(train, held_out, config, pipeline.device)
    return config, pipeline, Judge.from_split(extractor, train, held_out, count), frechet_name(extractor)


def measure(run: Path, wanted: list[Row], noises: int, numbers: dict[str, Any], file: Path) -> None:
    """Fills numbers["runs"][run] with the distances it lacks, one for each noise, and writes the file after each."""
    known = numbers["runs"].setdefault(str(run), {"rows": {}})
    missing = [(row, noise) for row in wanted for noise in range(len(known["rows"].get(row.key, [])), noises)]
    if not missing:
        return
    config, pipeline, judge, features = judged(run, count := numbers["count"])
    known |= {"floor": judge.floor, "held_out": len(judge.images), "features": features}
    for row, noise in tqdm(missing, desc=str(run)):
        levels = walk_levels(pipeline.denoiser, pipeline.vae.schedule, row.clock, row.steps)
        seeded = dataclasses.replace(config, seed=config.seed + noise * SEEDS_OF_A_NOISE)
        distance = judge(samples(pipeline, row.sampler, count, seeded, levels))
        known["rows"].setdefault(row.key, []).append(distance)
        write_json(file, numbers)


def summarise(numbers: dict[str, Any], runs: list[str]) -> list[dict[str, Any]]:
    """One entry for each row that every run has: mean distance, its standard error, and the ratio to the best."""
    distances = [numbers["runs"][run]["rows"] for run in runs]
    entries = []
    for key in distances[0]:
        if not all(key in each for each in distances):
            continue
        method, variable, clock, steps = key.split()
        row = Row(method, variable, clock, int(steps))
        values = [mean(each[key]) for each in distances] if len(runs) > 1 else distances[0][key]
        error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        entries.append({**row._asdict(), "evaluations": row.sampler.evaluations, "mean": mean(values), "error": error})
    best = min(entry["mean"] for entry in entries)
    return [{**entry, "ratio": entry["mean"] / best} for entry in entries]


def table(summary: list[dict[str, Any]]) -> str:
    """A markdown table, the best of equal cost first."""
    lines = [
        "| evaluations | method | variable | clock | distance | of the best |",
        "| ---: | --- | --- | --- | ---: | ---: |",
    ]
    for entry in sorted(summary, key=lambda e: (e["evaluations"], e["mean"])):
        error = f" ± {entry['error']:.2f}" if entry["error"] is not None else ""
        names = " | ".join(str(entry[name]) for name in ("evaluations", "method", "variable", "clock"))
        lines.append(f"| {names} | {entry['mean']:.2f}{error} | {entry['ratio']:.2f} |")
    return "\n".join(lines)


def chart(
    summary: list[dict[str, Any]], numbers: dict[str, Any], runs: list[str], of_map: list[dict[str, Any]]
) -> Figure:
    """Distance against evaluations: of each method its best variable and clock, by the mean of log distance."""
    figure = Figure(figsize=(8, 5), layout="constrained", dpi=130)
    ax = figure.subplots()

    def draw(entries: list[dict[str, Any]], label: str) -> None:
        points = sorted(entries, key=lambda point: point["evaluations"])
        x, y, e = ([point[name] or 0 for point in points] for name in ("evaluations", "mean", "error"))
        ax.errorbar(x, y, e, fmt="o-", markersize=4, capsize=2, label=label)

    lines: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {}
    for entry in summary:
        lines.setdefault(entry["method"], {}).setdefault((entry["variable"], entry["clock"]), []).append(entry)
    for method, choices in lines.items():
        most = max(map(len, choices.values()))
        full = {key: points for key, points in choices.items() if len(points) == most}
        key = min(full, key=lambda k: mean(math.log(point["mean"]) for point in full[k]))
        draw(full[key], method if method == "algorithm2" else f"{method}, {', '.join(key)}")
    if of_map:
        draw(of_map, "flow map, by its own steps")
    floor, held_out = mean(numbers["runs"][run]["floor"] for run in runs), numbers["runs"][runs[0]]["held_out"]
    ax.axhline(floor, color="grey", linestyle=":", label=f"{held_out:,} held-out images themselves")
    best = min(entry["mean"] for entry in summary + of_map)
    ax.axhline(best, color="black", linestyle="--", linewidth=1, label="best of all")
    ax.set_xscale("log")
    log_y(ax)
    ax.legend(frameon=False, fontsize=8)
    ticks = sorted({entry["evaluations"] for entry in summary + of_map})
    ax.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    ax.xaxis.set_minor_locator(NullLocator())
    features = numbers["runs"][runs[0]]["features"]
    label_axes(ax, "network evaluations", features, f"Distance of {numbers['count']:,} samples to real images")
    return figure


if __name__ == "__main__":
    main()

"""One VAE for every beta against one VAE for each: is a single network as good as those that know one beta only?

    python benchmarks/selectable_vae.py --data shapes [--images 200000] [--one-images N] [--start-power 4]
        [--power 1] [--free-nats 0] [--sigma-from level] [--no-gates] [--alone] [--against FILE] [--out DIR]

Trains the multi-beta VAE over all levels, and one of the same backbone for each of 8 levels, every one on the same
number of images (or the one on N of them); then a plain beta-VAE, whose networks know no level, for a tenth of them,
for what a step costs. On held-out images: Eq. 4 of the one at each level beside the dedicated one's (and on training
images, which tells what is overfitted), rate and distortion, PSNR at equal rate (the one's own curve over 65 levels,
interpolated at the dedicated one's rate), and how far a latent channel keeps its meaning from one beta to the next
(correlation of means over images, channel by channel). Draws the rate-distortion curves and aggregated posteriors of
both beside each other. With --alone it is the one alone, at the 8 levels; with --against FILE it is beside the
dedicated ones of an earlier run's selectable_vae.json, which must be of the same levels, in table and curves. Runs that
are finished are not trained again. Prints a table and writes OUT/selectable_vae.json.
About ten minutes a model on one core of an Intel Xeon, of nine models with the defaults.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from betadiffusion.gaussian import randn
from betadiffusion.metrics import active_units, aggregated_posterior
from betadiffusion.metrics.images import decibels
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.objectives import multi_beta_objective
from betadiffusion.training.config import DataConfig, OptimisationConfig, RunConfig
from betadiffusion.training.files import plain, write_json
from betadiffusion.training.images import load_images
from betadiffusion.training.models import load_vae
from betadiffusion.training.runs import load_config, load_split, run
from betadiffusion.training.trainer import first_difference

EIGHT = tuple(i / 7 for i in range(8))
CURVE = 65  # levels of the one model's curve
BATCH = 250
CHANNELS = 4  # drawn of the aggregated posteriors
GRID = np.linspace(-4, 4, 161)
Numbers = dict[str, float]


class Measured(NamedTuple):
    """What there is of a VAE at a level: numbers, means and sigmas (N, d) in units of the prior."""

    numbers: Numbers
    means: Tensor
    sigmas: Tensor


def configured(options: argparse.Namespace, name: str, levels: list[float]) -> RunConfig:
    """A run of stage "vae": at all levels, or at those given."""
    config = RunConfig(stages=["vae"], seed=options.seed, out=str(options.out / name), cpu=options.cpu)
    config.data = DataConfig(options.data, options.size, limit=options.limit)
    config.vae.sigma_from, config.vae.gates, config.levels.free_nats = options.sigma_from, options.gates, 0.0
    if levels:
        config.levels.distribution, config.levels.values = "grid", levels
    images = options.images
    if name.startswith("one"):
        config.levels.start_power, config.levels.power = options.start_power, options.power
        config.levels.free_nats, config.levels.first_share = options.free_nats, options.first_share
        images = options.one_images or images
    training = config.vae_training
    training.images, training.validate_images, training.checkpoint_images = images, images // 2, images // 4
    return config


def trained(options: argparse.Namespace, name: str, levels: list[float]) -> Path:
    """The folder of a finished run; SystemExit where it holds one of other settings."""
    config = configured(options, name, levels)
    known = load_config(Path(config.out)) if (Path(config.out) / "config.yaml").is_file() else config
    if difference := first_difference(plain(known), plain(config)):
        raise SystemExit(f"{config.out} holds a run with {difference}: use another --out")
    if not (Path(config.out) / "vae" / "model").is_dir():
        print(f"{name}: {config.vae_training.images} images", flush=True)
        run(config)
    return Path(config.out)


def plain_cost(options: argparse.Namespace) -> float:
    """Images per second of a beta-VAE on the same backbone without a level, trained for a tenth of the images."""
    from betadiffusion.baselines.runs import run as run_baseline

    config = configured(options, "plain", [])
    config.model, config.stages = "beta_vae", ["baseline"]
    config.baseline.likelihood = "learned"
    short = OptimisationConfig(images=options.images // 10, validate_images=options.images)
    config.vae_training = short
    return speed(run_baseline(config) / "baseline")


def speed(stage: Path) -> float:
    """Images per second of a stage's training."""
    return json.loads((stage / "summary.json").read_text())["images_per_second"]


@torch.no_grad()
def measure(vae: MultiBetaVAE, x: Tensor, level: float) -> Measured:
    """Eq. 4, rate, squared error and PSNR of images x (N,C,H,W) at a level, with one draw each."""
    generator, objectives, rates, errors, means, sigmas = torch.Generator().manual_seed(1), [], [], [], [], []
    for part in x.split(BATCH):
        t = torch.full((len(part),), level)
        out = vae(part, t, randn((len(part), *vae.latent_shape), part, generator))
        terms = multi_beta_objective(part, *out, vae.schedule(t))
        for kept, value in zip((objectives, rates, errors), (terms.loss, terms.rate, terms.squared_error), strict=True):
            kept.append(value)
        means.append(out.mean.flatten(1))
        sigmas.append(out.sigma.flatten(1))
    objective, rate, error = (float(torch.cat(values).mean()) for values in (objectives, rates, errors))
    error /= x[0].numel()
    every, sigma = torch.cat(means), torch.cat(sigmas)
    numbers = {
        "objective": objective, "rate": rate, "error": error, "psnr": decibels(error),
        "active": active_units(every), "sigma": float(sigma.square().mean().sqrt()),
    }  # fmt: skip
    return Measured(numbers, every, sigma)


def about(vae: MultiBetaVAE, level: float) -> dict[str, Any]:
    """What a row of a level begins with."""
    return {"level": level, "beta": float(vae.schedule(torch.tensor(level)).kl)}


def below(curve: list[Numbers], dedicated: Numbers) -> float | None:
    """PSNR of the dedicated model less that of a curve at the same rate; None where the curve does not reach it."""
    rates, decibels = zip(*sorted((row["rate"], row["psnr"]) for row in curve), strict=True)
    if not rates[0] <= dedicated["rate"] <= rates[-1]:
        return None
    return dedicated["psnr"] - float(np.interp(dedicated["rate"], rates, decibels))


def behind(curve: list[Numbers], one: Numbers, dedicated: Numbers, many: list[Numbers]) -> dict[str, float | None]:
    """How far the one is behind in Eq. 4, as a share of it, and below in PSNR at equal rate.

    "below": its curve, at the dedicated model's rate; "below dedicated": itself, at its own rate, the curve of `many`.
    """
    share = (one["objective"] - dedicated["objective"]) / abs(dedicated["objective"])
    ahead = below(many, one)
    return {
        "behind": share, "below": below(curve, dedicated), "below dedicated": None if ahead is None else -ahead,
    }  # fmt: skip


def most_below(curve: list[Numbers], many: list[Numbers]) -> float:
    """Decibels that the one is below the dedicated models' curve at equal rate, the most over its own levels."""
    return max(-ahead for numbers in curve if (ahead := below(many, numbers)) is not None)


def alignment(codes: list[Tensor]) -> float:
    """Mean absolute correlation of a channel's means at one level and the next, where they vary (> 0.01) at both."""
    found: list[float] = []
    for a, b in itertools.pairwise(codes):
        alive = (a.var(0) > 0.01) & (b.var(0) > 0.01)
        a, b = ((z - z.mean(0)) / z.std(0) for z in (a[:, alive], b[:, alive]))
        found += (a * b).mean(0).abs().tolist()
    return float(np.mean(found))


def draw_curves(path: Path, title: str, curve: list[Numbers], one: list[Numbers], many: list[Numbers]) -> None:
    """Rate against distortion: the one model's curve, its 8 levels, and the dedicated models."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([row["rate"] for row in curve], [row["error"] for row in curve], "-", label="one VAE, 65 levels")
    for models, marker, label in ((one, "o", "one VAE, the 8 levels"), (many, "x", "8 dedicated VAEs")):
        rates, errors = zip(*((model["rate"], model["error"]) for model in models), strict=True)
        axes.plot(rates, errors, marker, label=label)
    axes.set(xscale="symlog", yscale="log", xlabel="rate, nats per image", ylabel="squared error per pixel, in [-1, 1]")
    axes.set_title(title)
    axes.legend()
    figure.savefig(path, dpi=110)


def draw_posteriors(path: Path, levels: list[float], one: list[Measured], many: list[Measured]) -> None:
    """Aggregated posteriors of a few channels, falling beta from left to right."""
    figure = Figure(figsize=(1.5 * len(levels), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(levels), sharex=True)
    for row, (name, models) in enumerate((("dedicated VAEs", many), ("one VAE", one))):
        middle = models[len(models) // 2].means
        channels = middle.var(0).argsort(descending=True)[:CHANNELS]
        for axes, level, model in zip(grid[row], reversed(levels), reversed(models), strict=True):
            for density in aggregated_posterior(model.means[:, channels], model.sigmas[:, channels], GRID):
                axes.plot(GRID, density, lw=1)
            axes.set(yticks=[], xticks=[-3, 0, 3], title=f"t = {level:.2f}" if row == 0 else "")
        grid[row][0].set_ylabel(name)
    figure.supxlabel(f"z of the {CHANNELS} channels that vary most in the middle; beta falls from left to right")
    figure.savefig(path, dpi=110)


def measured_before(file: Path, levels: Sequence[float]) -> list[Numbers]:
    """What an earlier run measured of its dedicated models; SystemExit where it had none, or of other levels."""
    rows = json.loads(file.read_text())["rows"]
    if (there := [row["level"] for row in rows]) != list(levels):
        raise SystemExit(f"{file} is of levels {there}, not {list(levels)}")
    many = [{k.removeprefix("many "): v for k, v in row.items() if k.startswith("many ")} for row in rows]
    if not all(many):
        raise SystemExit(f"{file} has no dedicated models: give that of a run without --alone")
    return many


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    columns = (
        ("t", "level"), ("beta", "beta"), ("Eq. 4, one", "one objective"), ("dedicated", "many objective"),
        ("behind", "behind"), ("on training images, one", "one objective on training images"),
        ("dedicated", "many objective on training images"), ("rate, one", "one rate"), ("dedicated", "many rate"),
        ("PSNR, one", "one psnr"), ("dedicated", "many psnr"), ("dB below at equal rate", "below"),
        ("at its own rate", "below dedicated"),
        ("active, one", "one active"), ("dedicated", "many active"),
    )  # fmt: skip
    lines = ["| " + " | ".join(name for name, _ in columns) + " |", "|" + " ---: |" * len(columns)]
    for row in rows:
        cells = []
        for _, key in columns:
            value = row.get(key)
            cells.append("-" if value is None else f"{100 * value:.1f} %" if key == "behind" else f"{value:.4g}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="shapes")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--limit", type=int, default=22_000)
    parser.add_argument("--images", type=int, default=200_000, help="that every model sees")
    parser.add_argument("--one-images", type=int, help="that the one model sees instead")
    parser.add_argument("--start-power", type=float, default=4.0, help="levels.start_power of the one model")
    parser.add_argument("--power", type=float, default=1.0, help="levels.power of the one model")
    parser.add_argument("--first-share", type=float, default=0.0, help="levels.first_share of the one model")
    parser.add_argument("--free-nats", type=float, default=0.0, help="levels.free_nats of the one model")
    parser.add_argument("--sigma-from", default="image", help="vae.sigma_from of all: level, channel or image")
    parser.add_argument("--gates", action=argparse.BooleanOptionalAction, default=True, help="vae.gates of all")
    parser.add_argument("--alone", action="store_true", help="the one alone, without the dedicated models")
    parser.add_argument("--against", type=Path, help="what an earlier run measured of dedicated models, in their place")
    parser.add_argument("--levels", type=float, nargs="+", default=EIGHT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/selectable"))
    options = parser.parse_args()
    options.alone = options.alone or options.against is not None
    known = measured_before(options.against, options.levels) if options.against else []
    longer = f"-{options.one_images}" if options.one_images else ""
    first = f"{options.first_share:g}-then-" if options.first_share else ""
    powers = f"{first}{options.start_power:g}-to-{options.power:g}"
    ours = trained(options, f"one-powers-{powers}-free-{options.free_nats:g}{longer}", [])
    runs = [] if options.alone else [trained(options, f"level-{level:.3f}", [level]) for level in options.levels]
    config = load_config(ours)
    splits = load_split(config.data, options.size, config.seed)
    trained_on, x = (load_images(split, np.arange(2_000), torch.device("cpu")) for split in splits)
    vae = load_vae(ours).eval()
    one = [measure(vae, x, level) for level in options.levels]
    settings = {key: str(value) for key, value in vars(options).items()}
    curve = [measure(vae, x, i / (CURVE - 1)).numbers for i in range(CURVE)]
    if options.alone:
        rows = [
            about(vae, level) | {f"one {k}": v for k, v in m.numbers.items()}
            for level, m in zip(options.levels, one, strict=True)
        ]
        if known:
            for row, a, b in zip(rows, one, known, strict=True):
                row |= {f"many {k}": v for k, v in b.items()} | behind(curve, a.numbers, b, known)
            draw_curves(options.out / "rate-distortion.png", options.data, curve, [m.numbers for m in one], known)
        result = {"settings": settings, "rows": rows, "curve": curve}
        print(table(rows))
        if known:
            result["most_below"] = most_below(curve, known)
            print(f"the most below, of {CURVE} levels: {result['most_below']:.3g} dB")
        write_json(options.out / "selectable_vae.json", result)
        return
    models = [load_vae(folder).eval() for folder in runs]
    many = [measure(model, x, level) for model, level in zip(models, options.levels, strict=True)]
    numbers = [[m.numbers for m in measured] for measured in (one, many)]
    rows = []
    for level, model, a, b in zip(options.levels, models, *numbers, strict=True):
        row = about(vae, level) | {f"one {k}": v for k, v in a.items()} | {f"many {k}": v for k, v in b.items()}
        for name, autoencoder in (("one", vae), ("many", model)):
            row[f"{name} objective on training images"] = measure(autoencoder, trained_on, level).numbers["objective"]
        rows.append(row | behind(curve, a, b, numbers[1]))
    cost = {"one": speed(ours / "vae"), "dedicated": float(np.median([speed(folder / "vae") for folder in runs]))}
    cost["plain"] = plain_cost(options)
    aligned = {name: alignment([m.means for m in models]) for name, models in (("one", one), ("dedicated", many))}
    draw_curves(options.out / "rate-distortion.png", options.data, curve, *numbers)
    draw_posteriors(options.out / "posteriors.png", list(options.levels), one, many)
    result = {
        "settings": settings, "rows": rows, "images_per_second": cost, "alignment": aligned, "curve": curve,
        "most_below": most_below(curve, numbers[1]),
    }  # fmt: skip
    write_json(options.out / "selectable_vae.json", result)
    print(table(rows))
    print(f"the most below, of {CURVE} levels: {result['most_below']:.3g} dB")
    print(f"images per second: {cost}\ncorrelation of a channel from one level to the next: {aligned}")


if __name__ == "__main__":
    main()

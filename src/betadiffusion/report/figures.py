"""The report's charts: functions of its numbers to matplotlib figures."""

from collections import defaultdict
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator

from betadiffusion.clocks import SNR_FLOOR
from betadiffusion.report.axes import COLOURS, label_axes, log_y, make_figure
from betadiffusion.report.generate import Sampler

Numbers = dict[str, Any]


def charts(numbers: Numbers) -> dict[str, Figure]:
    """Every chart that the numbers allow, by the name of its file."""
    figures = {
        "rate_distortion": rate_distortion(numbers),
        "over_levels": over_levels(numbers),
        "scales": scales(numbers),
        "distance_over_level": distance_over_level(numbers),
        "samplers": samplers(numbers),
    }
    if numbers["factors"]:
        figures["mig"] = factors_over_level(numbers)
    for stage, history in numbers["history"].items():
        if len(history) > 1:
            figures[f"training_{stage}"] = training(stage, history)
    return figures


def rate_distortion(numbers: Numbers) -> Figure:
    """Distortion against rate, one point a level, every second one labelled."""
    figure, (ax,) = make_figure(1)
    rate, mse = _column(numbers, "rate"), _column(numbers, "mse")
    ax.plot(rate, mse, "o-", color=COLOURS[0], markersize=4)
    for row in numbers["levels"][::2]:
        ax.annotate(
            f"{row['level']:g}", (row["rate"], row["mse"]), xytext=(5, 4), textcoords="offset points", fontsize=8
        )
    log_y(ax)
    label_axes(ax, "rate: mean KL, nats", "distortion: mean squared error per pixel", "Rate and distortion, by level")
    return figure


def over_levels(numbers: Numbers) -> Figure:
    """Rate and PSNR over the level."""
    figure, (left, right) = make_figure(2)
    levels = _column(numbers, "level")
    left.plot(levels, _column(numbers, "rate"), "o-", color=COLOURS[0], markersize=4)
    label_axes(left, "level", "rate, nats", "Rate")
    right.plot(levels, _column(numbers, "psnr"), "o-", color=COLOURS[1], markersize=4)
    label_axes(right, "level", "PSNR of a posterior draw, dB", "Reconstruction")
    return figure


def scales(numbers: Numbers) -> Figure:
    """The learned noise scales, and the signal-to-noise ratio of the code."""
    figure, (left, right) = make_figure(2)
    levels = _column(numbers, "level")
    left.plot(levels, _column(numbers, "sigma"), color=COLOURS[0], label="σ(t), latent noise")
    left.plot(levels, _column(numbers, "pixel_sigma"), color=COLOURS[1], label="s(t), pixel noise")
    log_y(left)
    left.legend(frameon=False)
    label_axes(left, "level", "scale", "Noise scales")
    ratio = [row["signal_power"] / row["sigma"] ** 2 for row in numbers["levels"]]
    right.plot(levels, ratio, "o-", color=COLOURS[2], markersize=4)
    right.set_yscale("log")
    right.set_ylim(bottom=SNR_FLOOR / 10)
    label_axes(right, "level", "mean of f² / σ²", "Signal-to-noise ratio of the code")
    return figure


def distance_over_level(numbers: Numbers) -> Figure:
    """Frechet distance of reconstructions over the level, before and after walking back."""
    figure, (ax,) = make_figure(1)
    frechet = numbers["frechet"]
    levels = [row["level"] for row in frechet["levels"]]
    for key, label, colour in (("vae", "VAE alone", COLOURS[1]), ("walked", "walked back to level 0", COLOURS[0])):
        ax.plot(levels, [row[key] for row in frechet["levels"]], "o-", color=colour, label=label)
    ax.axhline(frechet["floor"], color=COLOURS[5], linestyle=":", label="held-out images themselves")
    log_y(ax)
    ax.legend(frameon=False)
    label_axes(ax, "level of the code", frechet["name"], "Distance of reconstructions to real images")
    return figure


def samplers(numbers: Numbers) -> Figure:
    """Frechet distance of samples against network evaluations, one line a method."""
    figure, (ax,) = make_figure(1)
    frechet = numbers["frechet"]
    lines: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in numbers["samplers"]:
        lines[Sampler(row["method"], row["steps"]).label].append((row["evaluations"], row["distance"]))
    for (label, points), colour in zip(lines.items(), COLOURS, strict=False):
        ax.plot(*zip(*sorted(points), strict=True), "o-", color=colour, label=label)
    ax.axhline(frechet["levels"][0]["vae"], color=COLOURS[5], linestyle=":", label="VAE alone at level 0")
    ax.set_xscale("log")
    log_y(ax)
    counts = sorted({row["evaluations"] for row in numbers["samplers"]})
    ax.set_xticks(counts, [str(count) for count in counts])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.legend(frameon=False)
    label_axes(ax, "network evaluations", frechet["name"], "Distance of samples to real images")
    return figure


def factors_over_level(numbers: Numbers) -> Figure:
    """MIG over the level, and by factor the share of its entropy that one code holds."""
    figure, (ax,) = make_figure(1)
    levels = _column(numbers, "level")
    for k, name in enumerate(numbers["factors"]["names"]):
        shares = [row["information"][k] for row in numbers["levels"]]
        ax.plot(levels, shares, color=COLOURS[k % len(COLOURS)], linewidth=1, label=name.replace("_", " "))
    ax.plot(levels, _column(numbers, "mig"), "o-", color="black", linewidth=2, markersize=4, label="MIG")
    ax.set_ylim(0, 1)
    figure.legend(frameon=False, fontsize=8, loc="outside right center")
    label_axes(ax, "level", "share of the factor's entropy", "Codes and factors")
    return figure


def training(stage: str, history: list[dict[str, float]]) -> Figure:
    """What a stage's trainer noted, one panel a quantity, "name@level" as a line of panel "name"."""
    panels: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for key in history[-1]:
        name, _, level = key.partition("@")
        if name != "images":
            held_out = "" if name.startswith("train_") else "held-out"
            panels[name.removeprefix("train_")][key] = f"level {float(level):g}" if level else held_out or "training"
    figure, axes = make_figure(len(panels))
    for ax, (name, lines) in zip(axes, panels.items(), strict=True):
        for i, (key, label) in enumerate(lines.items()):
            points = [(row["images"], row[key]) for row in history if row.get(key) is not None]
            ax.plot(*zip(*points, strict=True), "o-", color=COLOURS[i % len(COLOURS)], markersize=3, label=label)
        ax.legend(frameon=False, fontsize=7)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        label_axes(ax, "images seen", name, f"Stage {stage}: {name}")
    return figure


def _column(numbers: Numbers, name: str) -> list[float]:
    return [row[name] for row in numbers["levels"]]

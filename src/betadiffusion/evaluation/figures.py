"""The charts of an evaluation: functions of its numbers to matplotlib figures."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from betadiffusion.evaluation.names import title
from betadiffusion.report.axes import COLOURS, label_axes, log_y, make_figure

Numbers = dict[str, Any]
DISTINCT_LEVELS = 9  # ridges of the aggregated posteriors
MOST_LATENTS = 32  # rows of the heat map


def charts(numbers: Numbers) -> dict[str, Figure]:
    """Every chart that the numbers allow, by the name of its file."""
    levels, plan, figures = numbers["levels"], numbers["context"]["plan"], {}
    if levels:
        scores = [name for name in plan["every"] if name in levels[0]]
        if scores:
            figures["scores"] = over_levels(numbers, scores)
        if "information" in levels[0]:
            figures["information"] = by_target(levels, "information", numbers["context"]["factor_names"])
        if "auroc" in levels[0]:
            figures["auroc"] = by_target(levels, "auroc", numbers["context"]["attribute_names"])
        if "rate" in levels[0]:
            figures["rate_distortion"] = rate_distortion(levels)
            names = ["psnr", *plan["pictures"], "active_units", "aggregated_kl"]
            figures["codes"] = over_levels(numbers, names)
            figures["posteriors"] = posteriors(levels, numbers["grid"])
    if "information_by_latent" in numbers["rows"].get("fixed", {}):
        figures["heatmap"] = heatmap(numbers)
    return figures


def over_levels(numbers: Numbers, names: list[str]) -> Figure:
    """One panel a number: its mean over the level, a band of one standard error, and what pixels and noise get."""
    figure, axes = make_figure(len(names))
    for ax, name in zip(axes, names, strict=True):
        _line(ax, numbers["levels"], name, COLOURS[0], "the model")
        for i, row in enumerate(("random weights", "pixels")):
            if name in numbers["rows"].get(row, {}) and name in numbers["context"]["plan"]["every"]:
                value = numbers["rows"][row][name]["mean"]
                ax.axhline(value, color=COLOURS[5 - i], linestyle=(":", "--")[i], label=row)
        if len(ax.get_legend_handles_labels()[1]) > 1:
            ax.legend(frameon=False, fontsize=8)
        label_axes(ax, "level", title(name), title(name))
    return figure


def by_target(levels: list[Numbers], name: str, targets: list[str]) -> Figure:
    """A number that every factor or attribute has, over the level, one line each (the paper's Fig. 4)."""
    figure, (ax,) = make_figure(1)
    x = [row["level"]["mean"] for row in levels]
    styles = ("-", "--", ":", "-.")
    for k, target in enumerate(targets):
        y = np.array([row[name]["mean"][k] for row in levels])
        style = styles[k // len(COLOURS) % len(styles)]
        ax.plot(x, y, style, color=COLOURS[k % len(COLOURS)], label=target.replace("_", " "))
        if levels[0][name]["se"]:
            error = np.array([row[name]["se"][k] for row in levels])
            ax.fill_between(x, y - error, y + error, color=COLOURS[k % len(COLOURS)], alpha=0.15, linewidth=0)
    figure.legend(frameon=False, fontsize=8, loc="outside right center")
    if name == "information":
        label_axes(ax, "level", "share of the factor's entropy", "Greatest information of one latent, by factor")
        ax.set_ylim(0, 1)
    else:
        label_axes(ax, "level", "AUROC of the best single latent", "Attributes told by one latent")
        ax.set_ylim(0.5, 1)
    return figure


def rate_distortion(levels: list[Numbers]) -> Figure:
    """Distortion against rate, one point a level, about ten of them labelled."""
    figure, (ax,) = make_figure(1)
    rate, mse = _values(levels, "rate"), _values(levels, "mse")
    bars = {"xerr": _errors(levels, "rate"), "yerr": _errors(levels, "mse")} if levels[0]["rate"]["se"] else {}
    ax.errorbar(rate, mse, **bars, fmt="o-", color=COLOURS[0], markersize=3, linewidth=1)
    for row in levels[:: max(1, len(levels) // 10)]:
        place = (row["rate"]["mean"], row["mse"]["mean"])
        ax.annotate(f"{row['level']['mean']:.2g}", place, xytext=(5, 4), textcoords="offset points", fontsize=8)
    log_y(ax)
    label_axes(ax, "rate: mean KL, nats", "distortion: squared error per pixel", "Rate and distortion, by level")
    return figure


def posteriors(levels: list[Numbers], grid: list[float]) -> Figure:
    """Densities of the aggregated posterior, one panel a latent, one ridge a level, high beta at the top (Fig. 2)."""
    latents = levels[0]["latents"]
    figure, axes = make_figure(len(latents))
    shown = [levels[i] for i in np.unique(np.linspace(0, len(levels) - 1, DISTINCT_LEVELS).round().astype(int))]
    normal = np.exp(-0.5 * np.square(grid)) / np.sqrt(2 * np.pi)
    for c, (ax, latent) in enumerate(zip(axes, latents, strict=True)):
        for place, row in enumerate(shown):
            density = np.array(row["densities"][c])
            height = density / max(density.max(), normal.max())
            ax.fill_between(grid, place, place + 1.2 * height, color=COLOURS[0], alpha=0.55, zorder=-place)
            ax.plot(grid, place + 1.2 * normal / max(density.max(), normal.max()), ":", color="black", linewidth=0.7)
        ax.set_yticks(range(len(shown)), [f"{row['level']['mean']:.2g}" for row in shown])
        label_axes(ax, "value of the latent", "level", f"Latent {latent} (dotted: the prior)")
    return figure


def heatmap(numbers: Numbers) -> Figure:
    """Information of every latent on every factor at the fixed level, as a share of the factor's entropy."""
    row, names = numbers["rows"]["fixed"], numbers["context"]["factor_names"]
    shares = np.array(row["information_by_latent"])
    shown = np.argsort(-shares.max(axis=1), kind="stable")[:MOST_LATENTS]
    figure, (ax,) = make_figure(1)
    picture = ax.imshow(shares[shown].T, aspect="auto", cmap="Blues", vmin=0, vmax=max(0.05, shares.max()))
    ax.set_xticks(range(len(shown)), [str(i) for i in shown], fontsize=7)
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    figure.colorbar(picture, ax=ax, label="share of the factor's entropy")
    label_axes(ax, "latent", "factor", f"Latents and factors at level {row['level']['mean']:g}")
    ax.grid(False)
    return figure


def _line(ax: Axes, levels: list[Numbers], name: str, colour: str, label: str) -> None:
    x, y = _values(levels, "level"), _values(levels, name)
    ax.plot(x, y, "o-", color=colour, markersize=3, label=label)
    if levels[0][name]["se"] is not None:
        error = _errors(levels, name)
        ax.fill_between(x, y - error, y + error, color=colour, alpha=0.2, linewidth=0)


def _values(levels: list[Numbers], name: str) -> np.ndarray:
    return np.array([row[name]["mean"] for row in levels], dtype=float)


def _errors(levels: list[Numbers], name: str) -> np.ndarray:
    return np.array([row[name]["se"] for row in levels], dtype=float)

"""Means and standard errors over repetitions, and the main table."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from betadiffusion.evaluation.names import CONTROLS, title
from betadiffusion.report.summary import number

Numbers = dict[str, Any]
BY_LATENT = ("latents", "densities", "information_by_latent", "auroc_latent")


def summarise(rows: Iterable[Numbers], runs: Sequence[int] = ()) -> dict[str, Any]:
    """Means over repetitions and, from two on, standard errors: {name: {"mean", "se"}}; lists position by position.

    runs: of which training each row is. Where there are several, a training counts once, with the mean of its rows:
    other images say nothing of what another training would give.
    """
    rows = list(rows)
    of = np.array(runs if len(set(runs)) > 1 else range(len(rows)))
    summary: dict[str, Any] = {}
    for name in rows[0]:
        has = [name in row for row in rows]
        values = [row[name] for row in rows if name in row]
        if name in BY_LATENT:
            summary[name] = values[0]  # of the first repetition: a latent of one run is not that of another
            continue
        every = np.array(values, dtype=np.float64)
        array = np.stack([every[of[has] == one].mean(axis=0) for one in dict.fromkeys(of[has])])
        error = array.std(axis=0, ddof=1) / math.sqrt(len(array)) if len(array) > 1 else None
        summary[name] = {"mean": array.mean(axis=0).tolist(), "se": None if error is None else error.tolist()}
    return summary


def scalars(summary: Numbers) -> dict[str, tuple[float | None, float | None]]:
    """The numbers of a row that are one number each: mean and standard error."""
    return {
        name: (value["mean"], value["se"])
        for name, value in summary.items()
        if isinstance(value, dict) and not isinstance(value["mean"], list)
    }


def row_titles(numbers: Numbers) -> dict[str, str]:
    """The rows of the main table, by their keys in the numbers."""
    rows, chooser = numbers["rows"], numbers["chooser"]
    names = {"fixed": f"level {rows['fixed']['level']['mean']:g}, fixed beforehand"}
    if not numbers["levels"]:
        names["fixed"] = "the model"
    elif "best" in rows:
        level = number(rows["best"]["level"]["mean"])
        place = f"level {level}" if rows["best"]["level"]["se"] is None else f"level {level} on average"
        names["best"] = f"best of {len(numbers['levels'])} on {title(chooser)}, {place}"
    names |= {name: name for name in CONTROLS if name in rows}
    return names


def cell(mean: float | None, error: float | None) -> str:
    """A number with its standard error, where there is one."""
    return number(mean) if error is None else f"{number(mean)} ± {number(error)}"


def main_table(numbers: Numbers) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: every score at the fixed level, at the best one, and of what any encoder should beat."""
    titles, plan = row_titles(numbers), numbers["context"]["plan"]
    found = {key: scalars(numbers["rows"][key]) for key in titles}
    scores = (*plan["every"], *plan["chosen"])
    names = [name for name in found["fixed"] if any(name == s or name.startswith(f"{s}_") for s in scores)]
    rows = [(title(n), *(cell(*found[key].get(n, (None, None))) for key in titles)) for n in names]
    return ("", *titles.values()), rows

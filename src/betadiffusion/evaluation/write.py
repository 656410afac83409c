"""An evaluation's files: evaluation.html, .json, .csv and pictures; all are made before the first is written."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from betadiffusion.evaluation.evaluate import Options, evaluate
from betadiffusion.evaluation.figures import charts
from betadiffusion.evaluation.page import distance, page
from betadiffusion.evaluation.summary import main_table
from betadiffusion.report.axes import png
from betadiffusion.training.files import write_bytes, write_text


def write_evaluation(options: Options, out: Path, progress: bool = True) -> dict[str, Any]:
    """Evaluates, or goes on with what `out` already has, and writes the files; returns the numbers."""
    numbers = evaluate(options, out / "cells", progress)
    pngs = {name: png(figure) for name, figure in charts(numbers).items()}
    html = page(numbers, pngs)
    for name, data in pngs.items():
        write_bytes(out / f"{name}.png", data)
    write_text(out / "evaluation.csv", table(numbers))
    write_text(out / "evaluation.json", json.dumps(numbers, allow_nan=False))
    write_text(out / "evaluation.html", html)
    return numbers


def table(numbers: dict[str, Any]) -> str:
    """All single numbers as CSV, one a line: run, encoder, seed, level, number, value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    identity = ("run", "encoder", "seed", "level")
    writer.writerow((*identity, "number", "value"))
    for row in numbers["repetitions"]:
        for name, value in row.items():
            if name not in identity:
                writer.writerow((*(row[key] for key in identity), name, value))
    for row in numbers["generation"]:
        writer.writerow((row["run"], "samples", row["seed"], "", row["metric"], row["value"]))
    return file.getvalue()


def headline(numbers: dict[str, Any]) -> str:
    """The main table, and the distances of samples, as plain text."""
    head, rows = main_table(numbers)
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    padded = [[f"{text:<{width}}" for text, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    lines = ["  ".join(row).rstrip() for row in padded] if rows else []
    return "\n".join([*lines, *(f"{row['run']}: {distance(row)}" for row in numbers["generation"])])

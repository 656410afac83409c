"""The table of a comparison: means and standard errors over seeds, as HTML, CSV, LaTeX and text."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from betadiffusion.baselines.presets import PRESETS, is_baseline
from betadiffusion.evaluation.compare import folder_of, read_plan
from betadiffusion.evaluation.names import SCORES, title
from betadiffusion.evaluation.presets import PUBLISHED
from betadiffusion.evaluation.summary import cell, scalars, summarise
from betadiffusion.report.context import cpu_model
from betadiffusion.report.html import document, heading, pairs, paragraph, table
from betadiffusion.training.files import write_json, write_text

COSTS = {
    "evaluations": "network passes a sample", "images": "training images", "seconds": "training seconds",
    "parameters": "parameters", "memory": "peak memory, GB",
}  # fmt: skip
FIRST = ("rate", "mse")  # columns that every encoder with a posterior has
LATEX = str.maketrans({character: rf"\{character}" for character in "_%&#${}"} | {
    "±": r"$\pm$", "é": r"\'e", "–": "--", "<": r"$<$", ">": r"$>$", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
})  # fmt: skip
Numbers = dict[str, Any]


def write_tables(out: Path) -> tuple[Numbers, int]:
    """Writes compare.html, .csv, .tex and .json from the runs that are measured; the numbers, and how many are not."""
    plan = read_plan(out)
    results, missing = [], 0
    for run in plan["runs"]:
        file = folder_of(out, run["name"], run["seed"]) / "result.json"
        if file.is_file():
            results.append({"name": run["name"], "model": run["config"]["model"], "seed": run["seed"]}
                           | json.loads(file.read_text()))  # fmt: skip
        else:
            missing += 1
    if not results:
        raise ValueError(f"{out}: none of the {missing} runs of this comparison is measured yet")
    numbers = {"plan": plan, "results": results, "rows": rows(results), "cpu": cpu_model()}
    head, body = main_table(numbers)
    write_json(out / "compare.json", numbers)
    write_text(out / "compare.csv", singles(results))
    write_text(out / "compare.tex", latex(head, body))
    write_text(out / "compare.html", page(numbers, missing))
    return numbers, missing


def rows(results: list[Numbers]) -> list[Numbers]:
    """A row for each model, or two where it has levels: name, seeds, and means and standard errors over seeds."""
    found = []
    for name in dict.fromkeys(result["name"] for result in results):
        same = [result for result in results if result["name"] == name]
        for place in dict.fromkeys(place for result in same for place in result["codes"] or [""]):
            values = [
                result["codes"].get(place, {}) | result["cost"]
                | {key: value for key, value in result["samples"].items() if key != "features"}
                for result in same
            ]  # fmt: skip
            label = f"{name}, {place}" if place else name
            found.append({"name": label, "model": same[0]["model"], "seeds": len(same)} | summarise(values))
    return found


def main_table(numbers: Numbers) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows as text: scores asked for, rate and error, distances of samples, and what it cost."""
    options = numbers["plan"]["options"]
    asked = (*options["metrics"], *options["chosen_metrics"])
    found = [scalars({k: v for k, v in row.items() if isinstance(v, dict)}) for row in numbers["rows"]]
    known = list(dict.fromkeys(name for row in found for name in row))
    scores = [name for name in known if any(name == s or name.startswith(f"{s}_") for s in asked or SCORES)]
    samples = dict.fromkeys(name for r in numbers["results"] for name in r["samples"] if name != "features")
    columns = [*scores, *samples, *(name for name in (*FIRST, *COSTS) if name in known)]
    head = ("", "seeds", *(COSTS.get(name) or title(name) for name in columns))
    body = [
        (row["name"], str(row["seeds"]), *(_cell(name, values.get(name)) for name in columns))
        for row, values in zip(numbers["rows"], found, strict=True)
    ]
    return head, body


def _cell(name: str, value: tuple[float | None, float | None] | None) -> str:
    if value is None:
        return "–"
    if name in ("images", "parameters", "evaluations"):
        return f"{value[0]:,.0f}"
    return cell(*value)


def singles(results: list[Numbers]) -> str:
    """Every single number as CSV, one a line: model, place, seed, number, value."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("model", "place", "seed", "number", "value"))
    for result in results:
        parts = {"cost": result["cost"], "samples": result["samples"]} | result["codes"]
        for place, values in parts.items():
            for name, value in values.items():
                writer.writerow((result["name"], place, result["seed"], name, value))
    return file.getvalue()


def latex(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    """A tabular for booktabs."""
    lines = [" & ".join(text.translate(LATEX) for text in row) + r" \\" for row in (head, *body)]
    return "\n".join([rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", lines[0], r"\midrule", *lines[1:],
                      r"\bottomrule", r"\end{tabular}", ""])  # fmt: skip


def page(numbers: Numbers, missing: int) -> str:
    """The table as one HTML page, with what it depends on."""
    plan = numbers["plan"]
    data, options = plan["runs"][0]["config"]["data"], plan["options"]
    budget = {key: value for key, value in plan["budget"].items() if value is not None}
    text = (
        f"All models had the same data and {'the same' if budget else 'each its own'} budget, and were measured on the "
        "same images. Means ± standard errors over training seeds. Where a model has levels, the best one was chosen "
        "on the score itself, so that its score is biased upwards; the fixed level was chosen beforehand."
    )
    absent = f"{missing} runs are not measured yet." if missing else ""
    features = sorted({r["samples"]["features"] for r in numbers["results"] if "features" in r["samples"]})
    about = [
        ("data", str(data["source"])), ("images used", "all" if data["limit"] is None else f"{data['limit']:,}"),
        ("budget", ", ".join(f"{value:,} {key}" for key, value in budget.items()) or "as configured"),
        ("codes", f"{options['count']:,} images to fit scores on, {options['test_count']:,} to test on"),
        ("samples", f"{options['samples']:,}, features of {', '.join(features) or 'nothing'}"),
        ("CPU", str(numbers["cpu"])),
    ]  # fmt: skip
    sources = {r["model"]: PRESETS[r["model"]].source for r in numbers["rows"] if is_baseline(r["model"])}
    sections = [paragraph(text), paragraph(absent) if absent else "", table(*main_table(numbers)), pairs(about)]
    if options.get("preset") in PUBLISHED:
        head, published = PUBLISHED[options["preset"]]
        note = "As published, for its own data sets and sizes: not comparable number by number."
        sections += [heading("The paper's table"), paragraph(note), table(head, published)]
    return document("Comparison", [*sections, heading("Sources"), pairs(sources.items())])


def headline(numbers: Numbers) -> str:
    """The table as plain text."""
    head, body = main_table(numbers)
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in (head, *body)
    )

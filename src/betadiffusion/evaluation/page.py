"""An evaluation as one HTML page that needs no other file."""

from collections.abc import Iterable
from typing import Any

from betadiffusion.evaluation.names import title
from betadiffusion.evaluation.presets import PUBLISHED
from betadiffusion.evaluation.summary import cell, main_table, scalars
from betadiffusion.evaluation.sweep import PICTURES
from betadiffusion.metrics.result import Distance
from betadiffusion.report.html import document, heading, pairs, paragraph, picture, table
from betadiffusion.report.summary import number

Numbers = dict[str, Any]


def page(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    """The whole HTML of an evaluation, with its pictures, PNG by name, inside it."""
    name = f"Evaluation: {', '.join(numbers['context']['encoders'])} on {numbers['context']['data']}"
    sections = [
        _glance(numbers),
        _published(numbers),
        _over_levels(numbers, pngs),
        _targets(numbers, pngs),
        _rate_distortion(numbers, pngs),
        _posteriors(numbers, pngs),
        _generation(numbers),
        _every_level(numbers),
        _context(numbers),
    ]
    return document(name, sections)


def _glance(numbers: Numbers) -> str:
    context = numbers["context"]
    text = (
        f"Codes of {context['count']:,} images of {context['data']} to fit on and {context['test_count']:,} to test on"
        f"{_split(context)}. Random weights are the same network untrained; pixels are the picture averaged down to "
        "about as many values as the code has. A score that random weights or pixels reach says little of training."
    )
    note = (
        "The best level is chosen on the score itself, so its score is biased upwards; the fixed level was chosen "
        f"without looking. {_repetitions(context)}"
    )
    head, rows = main_table(numbers)
    return paragraph(text) + (table(head, rows) + paragraph(note, "quiet") if rows else "")


def _split(context: Numbers) -> str:
    if context["split"] == "heldout":
        return ", none of which it was trained on" if context["own_data"] else ", not the set that it was trained on"
    return f" ({context['split']})" + ("; some of them are training images" if context["own_data"] else "")


def _repetitions(context: Numbers) -> str:
    n = len(context["repetition_of"])
    if n == 1:
        return "One repetition, so no standard error: more --seeds draw other images, more runs other training."
    return f"Means ± standard errors over {n} repetitions (runs and draws of images)."


def _published(numbers: Numbers) -> str:
    preset = numbers["context"]["options"]["preset"]
    if preset is None:
        return ""
    head, rows = PUBLISHED[preset]
    text = (
        "The rows of the paper, for its data sets at its sizes. They compare with the numbers of this page only where "
        "data, size and features are the same; the paper's level is the best of 500 on the score itself (erratum 5)."
    )
    return heading(f"The paper's table ({preset})") + paragraph(text) + table(head, rows)


def _over_levels(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    if "scores" not in pngs:
        return ""
    best = []
    for name in numbers["context"]["plan"]["every"]:
        if name not in numbers["levels"][0]:  # of several parts, as DCI
            continue
        row = max(numbers["levels"], key=lambda row, name=name: row[name]["mean"])
        best.append((title(name), cell(row[name]["mean"], row[name]["se"]), f"{row['level']['mean']:.3g}"))
    return (
        heading("Scores over the level")
        + picture(pngs, "scores", "Scores over the level")
        + table(("score", "greatest", "at level"), best)
    )


def _targets(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    html = ""
    if "information" in pngs:
        html += heading("Factors") + picture(pngs, "information", "Information of the best latent on each factor")
    if "heatmap" in pngs:
        html += picture(pngs, "heatmap", "Information of every latent on every factor")
    fixed, context = numbers["rows"]["fixed"], numbers["context"]
    if "auroc" in fixed:
        text = "By attribute: how often it is true, and the latent that tells it best, with its AUROC (either sign)."
        known = context["attribute_names"], context["attribute_rates"], fixed["auroc_latent"], fixed["auroc"]["mean"]
        rows = [(n.replace("_", " "), f"{rate:.0%}", str(k), f"{a:.3f}") for n, rate, k, a in zip(*known, strict=True)]
        head = ("attribute", "true", "latent", f"AUROC at level {fixed['level']['mean']:g}")
        html += heading("Attributes") + paragraph(text) + picture(pngs, "auroc", "Attributes told by one latent")
        html += table(head, rows)
    return html


def _rate_distortion(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    if "rate_distortion" not in pngs:
        return ""
    text = (
        "Rate is the mean KL to the prior over the whole pool, in nats an image; distortion the mean squared error a "
        f"pixel, in [-1, 1], of a draw from the posterior, decoded ({PICTURES:,} test images or as many as there are)."
    )
    return (
        heading("Rate and distortion")
        + paragraph(text)
        + picture(pngs, "rate_distortion", "Distortion against rate")
        + picture(pngs, "codes", "Codes and reconstructions over the level")
    )


def _posteriors(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    if "posteriors" not in pngs:
        return ""
    text = (
        "The latents that vary most at the fixed level; each ridge is the density of the aggregated posterior at one "
        "level, beta falling downwards, on one scale a ridge. Ridges of one latent that line up are the same axis at "
        "every level."
    )
    return heading("Aggregated posteriors") + paragraph(text) + picture(pngs, "posteriors", "Aggregated posteriors")


def _generation(numbers: Numbers) -> str:
    if not numbers["generation"]:
        return ""
    rows = [
        (row["run"], row["metric"], cell(row["value"], row["standard_error"]), str(distance(row)))
        for row in numbers["generation"]
    ]
    return heading("Samples") + table(("run", "distance", "value", "of"), rows)


def distance(row: Numbers) -> Distance:
    """The distance of samples behind one entry of the numbers."""
    return Distance(**{key: value for key, value in row.items() if key != "run"})


def _every_level(numbers: Numbers) -> str:
    if not numbers["levels"]:
        return ""
    names = [name for name in scalars(numbers["levels"][0]) if name not in ("level", "dimensions")]
    rows = [
        (f"{row['level']['mean']:.3g}", *(number(scalars(row)[name][0]) for name in names)) for row in numbers["levels"]
    ]
    return heading("Every level") + table(("level", *map(title, names)), rows)


def _context(numbers: Numbers) -> str:
    c = numbers["context"]
    features = {(r["features"], r["weights_sha256"]) for r in numbers["generation"]}
    rows: Iterable[tuple[str, str]] = [
        ("models", ", ".join(c["encoders"])),
        ("data", f"{c['data']}: {c['images']:,} images, {'×'.join(map(str, c['image_shape']))}; split {c['split']}"),
        ("images", f"{c['count']:,} to fit on, {c['test_count']:,} to test on"),
        ("repetitions", str(len(c["repetition_of"]))),
        ("files skipped", str(c["skipped"])),
        *(("features", f"{name}, SHA-256 of the weights {sha or 'unknown'}") for name, sha in sorted(features)),
        ("seeds", ", ".join(map(str, c["options"]["seeds"]))),
        ("preset", c["options"]["preset"] or "none"),
        ("hardware", f"{c['cpu']}, {c['cores']} cores" + (f"; {c['gpu']}" if c["gpu"] else "; no GPU")),
        ("versions", f"betadiffusion {c['betadiffusion']}, torch {c['torch']}"),
    ]
    return heading("Data, hardware, versions") + pairs(rows)

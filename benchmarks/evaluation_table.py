"""Prints the tables of docs/evaluation.md from the results of `betadiffusion evaluate`.

python benchmarks/evaluation_table.py docs/results/evaluation-shapes.json [...]
python benchmarks/evaluation_table.py --keep RUN/evaluation/evaluation.json docs/results/evaluation-NAME.json

--keep writes a small copy of a result, without single repetitions, densities and single latents.
"""

import json
import sys
from pathlib import Path
from typing import Any

from betadiffusion.evaluation.page import distance
from betadiffusion.evaluation.summary import BY_LATENT, main_table, scalars


def text(numbers: dict[str, Any]) -> str:
    """What was evaluated, the main table, rate and distortion at a few levels, the distances of samples."""
    context = numbers["context"]
    head, rows = main_table(numbers)
    lines = [
        f"{', '.join(context['encoders'])} on {context['data']}, {context['images']:,} images of "
        f"{'x'.join(map(str, context['image_shape']))}, split {context['split']}: {context['count']:,} to fit on, "
        f"{context['test_count']:,} to test on; {len(context['repetition_of'])} repetitions; {context['cpu']}, "
        f"{context['cores']} cores.",
        "",
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * (len(head) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    levels = numbers["levels"]
    shown = levels[:: max(1, len(levels) // 8)]
    names = [name for name in ("rate", "mse", "psnr", "ssim", "lpips", "active_units") if name in levels[0]]
    lines += ["", "| level | " + " | ".join(f"{row['level']['mean']:.2f}" for row in shown) + " |"]
    lines += ["| --- |" + " ---: |" * len(shown)]
    lines += [f"| {name} | " + " | ".join(f"{scalars(row)[name][0]:.3g}" for row in shown) + " |" for name in names]
    return "\n".join([*lines, "", *(f"- {distance(row)}" for row in numbers["generation"])])


def small(numbers: dict[str, Any]) -> dict[str, Any]:
    """The means and standard errors alone."""
    kept = {key: value for key, value in numbers.items() if key not in ("repetitions", "grid")}
    for row in (*kept["levels"], *kept["rows"].values()):
        for name in BY_LATENT:
            row.pop(name, None)
    return kept


if __name__ == "__main__":
    if sys.argv[1:2] == ["--keep"]:
        source, target = map(Path, sys.argv[2:])
        target.write_text(json.dumps(small(json.loads(source.read_text())), indent=None))
        sys.exit()
    for path in map(Path, sys.argv[1:]):
        print(f"### {path.stem}\n\n{text(json.loads(path.read_text()))}\n")

"""Prints the tables of docs/results.md and of the README from the reports of runs.

python benchmarks/results_table.py docs/results/shapes.json [...]
"""

import json
import sys
from pathlib import Path
from typing import Any


def sampler(numbers: dict[str, Any], method: str, evaluations: int) -> str:
    """Distance of a row of the sampler table."""
    rows = [r for r in numbers["samplers"] if (r["method"], r["evaluations"]) == (method, evaluations)]
    return f"{rows[0]['distance']:.2f}" if rows else "-"


def main_table(reports: dict[str, dict[str, Any]]) -> str:
    """One column a report, one row a number that the demo is judged by."""
    frechet = {name: numbers["frechet"] for name, numbers in reports.items()}
    rows: dict[str, list[str]] = {
        "features": [f["name"] for f in frechet.values()],
        "floor": [f"{f['floor']:.2f}" for f in frechet.values()],
        "rate at level 0, 0.5, 1, in nats": [
            ", ".join(f"{next(r['rate'] for r in n['levels'] if r['level'] == t):.2f}" for t in (0, 0.5, 1))
            for n in reports.values()
        ],
        "VAE alone at level 0": [f"{f['levels'][0]['vae']:.2f}" for f in frechet.values()],
        "first level where the VAE alone is 3 times as far": [
            f"{f['walk_back']['level']:g}: {f['walk_back']['vae']:.1f}" if f["walk_back"] else "none"
            for f in frechet.values()
        ],
        "walked back from there": [
            f"{f['walk_back']['walked']:.2f} (divided by {f['walk_back']['divided_by']:.2f})" if f["walk_back"] else "-"
            for f in frechet.values()
        ],
    }
    for label, method, evaluations in (
        ("samples, multistep, 50 evaluations", "multistep", 50),
        ("samples, multistep, 20 evaluations (the default)", "multistep", 20),
        ("samples, multistep, 10 evaluations", "multistep", 10),
        ("samples, multistep, 5 evaluations", "multistep", 5),
        ("samples, Euler, 20 evaluations", "euler", 20),
        ("samples, Heun, 20 evaluations", "heun", 20),
        ("samples, eta = 1, 200 evaluations", "eta=1", 200),
        ("samples, Algorithm 2, 20 evaluations", "algorithm2", 20),
        ("samples, Algorithm 2, 200 evaluations", "algorithm2", 200),
    ):
        rows[label] = [sampler(numbers, method, evaluations) for numbers in reports.values()]
    head = "| | " + " | ".join(reports) + " |\n| --- |" + " ---: |" * len(reports)
    return "\n".join([head, *(f"| {label} | " + " | ".join(values) + " |" for label, values in rows.items())])


def level_table(numbers: dict[str, Any]) -> str:
    """Distances and PSNR by level, VAE alone and walked back."""
    levels = numbers["frechet"]["levels"]
    lines = [
        "| level | " + " | ".join(f"{row['level']:g}" for row in levels) + " |",
        "| --- |" + " ---: |" * len(levels),
    ]
    labels = {
        "vae": "VAE alone", "walked": "walked back to 0", "vae_psnr": "VAE alone, PSNR in dB",
        "walked_psnr": "walked back to 0, PSNR in dB",
    }  # fmt: skip
    for key, label in labels.items():
        if key not in levels[0]:
            continue  # a report of before
        lines.append(f"| {label} | " + " | ".join(f"{row[key]:.1f}" for row in levels) + " |")
    return "\n".join(lines)


def main() -> None:
    reports = {Path(name).stem: json.loads(Path(name).read_text()) for name in sys.argv[1:]}
    print(main_table(reports))
    for name, numbers in reports.items():
        context = numbers["context"]
        shape = "x".join(map(str, context["image_shape"]))
        print(f"\n{name}: {context['train']} training and {context['held_out']} held-out images, {shape}\n")
        print(level_table(numbers))


if __name__ == "__main__":
    main()

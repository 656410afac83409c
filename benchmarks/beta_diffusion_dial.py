"""Draws what runs of beta-Diffusion keep over beta: rate and squared error on held-out images at their last validation.

    python benchmarks/beta_diffusion_dial.py "attention=runs/a" "mlp=runs/b" --out dial.png --json dial.json

Writes the numbers as JSON too. A second.
"""

import argparse
import itertools
import json
from pathlib import Path

from betadiffusion.report.axes import COLOURS, make_figure
from betadiffusion.training.files import write_json


def over_beta(run: Path) -> list[dict[str, float]]:
    """Rate in nats and squared error per pixel at each beta of the last validation of a run."""
    last = json.loads((run / "vae" / "history.json").read_text())[-1]
    betas = [key.partition("=")[2] for key in last if key.startswith("rate@beta=")]
    return [{"beta": float(b), "rate": last[f"rate@beta={b}"], "error": last[f"mse@beta={b}"]} for b in betas]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="LABEL=RUN")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    found = {label: over_beta(Path(run)) for label, _, run in (given.partition("=") for given in options.runs)}
    figure, axes = make_figure(2)
    for ax, name, title in zip(axes, ("rate", "error"), ("rate, nats", "squared error per pixel"), strict=True):
        for (label, rows), colour in zip(found.items(), COLOURS, strict=False):
            ax.plot([row["beta"] for row in rows], [row[name] for row in rows], "o-", color=colour, label=label)
        ax.set_xscale("log")
        ax.set_xlabel("beta")
        ax.set_ylabel(title)
        ax.legend(frameon=False)
    figure.savefig(options.out)
    write_json(options.json, found)
    for label, rows in found.items():
        falls = all(a["rate"] > b["rate"] and a["error"] < b["error"] for a, b in itertools.pairwise(rows))
        print(f"{label}: rate falls and error rises at every one of {len(rows)} betas: {falls}")


if __name__ == "__main__":
    main()

"""Muon against AdamW in stage "vae": Eq. 4 on held-out images after equal training, and what a step costs.

    python benchmarks/muon.py [--data shapes fashion-mnist] [--images 70000 140000] [--rates 0 5] [--out DIR]

Trains the demo's VAE on each number of images with each `vae_training.muon_rate` (0 is AdamW alone), one after the
other on the same machine. Prints Eq. 4 per pixel by level and images per second, and writes them as OUT/muon.json. Runs
that are finished are not trained again. On one CPU core 4 minutes for 70,000 images.
"""

import argparse
import json
from pathlib import Path

from betadiffusion.training.config import DataConfig, RunConfig
from betadiffusion.training.files import write_json
from betadiffusion.training.runs import run

PREFIX = "objective@"


def measured(options: argparse.Namespace, data: str, images: int, rate: float) -> dict[str, object]:
    """One row: Eq. 4 by level of a training, and its images per second."""
    out = Path(options.out) / f"{data}-{images}-{rate:g}"
    if not (out / "vae" / "model").is_dir():
        config = RunConfig(stages=["vae"], data=DataConfig(data), seed=options.seed, out=str(out), cpu=options.cpu)
        training = config.vae_training
        training.images, training.validate_images, training.checkpoint_images = images, images, images
        training.muon_rate = rate
        run(config)
    last = json.loads((out / "vae" / "history.json").read_text())[-1]
    speed = json.loads((out / "vae" / "summary.json").read_text())["images_per_second"]
    levels = {key.removeprefix(PREFIX): value for key, value in last.items() if key.startswith(PREFIX)}
    return {"data": data, "images": images, "muon_rate": rate, "images_per_second": speed, "objective": levels}


def main() -> None:
    """Trains, prints the table as it grows, and writes OUT/muon.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["shapes", "fashion-mnist"])
    parser.add_argument("--images", nargs="+", type=int, default=[70_000, 140_000])
    parser.add_argument("--rates", nargs="+", type=float, default=[0.0, 5.0])
    parser.add_argument("--out", default="runs/muon")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    rows = []
    for data in options.data:
        for images in options.images:
            for rate in options.rates:
                row = measured(options, data, images, rate)
                if not rows:
                    print("| data | images | muon_rate | images/s | " + " | ".join(row["objective"]) + " |")
                    print("| --- |" + " ---: |" * (3 + len(row["objective"])))
                rows.append(row)
                values = " | ".join(f"{value:.3f}" for value in row["objective"].values())
                print(f"| {data} | {images:,} | {rate:g} | {row['images_per_second']:.0f} | {values} |", flush=True)
                write_json(Path(options.out) / "muon.json", rows)


if __name__ == "__main__":
    main()

"""Does a range of beta learn better features than one beta? Trains the same autoencoder in several ways and probes it.

python benchmarks/beta_diffusion_probe.py --data cifar10:PATH [--ways range "beta 10"] [--images 64000] [--seeds 0 1 2]

"range": beta from 1 to 100, even in log beta; "beta 10": one beta; "beta 0": beta so small that it is none; the others
change one thing in "range". A run is `betadiffusion train` and `betadiffusion probe`, both of which go on where they
were stopped. Prints k-NN and linear accuracy, mean and standard error over seeds, and writes them to OUT/probe.json.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from betadiffusion.data import load
from betadiffusion.training.files import write_json

NONE = 1e-4
PROBES = ("knn_probe", "linear_probe")
WAYS: dict[str, list[str]] = {
    "range": [],
    "beta 10": ["--levels.distribution", "grid", "--levels.betas", "[10.0]"],
    "beta 0": [
        *("--beta_diffusion.beta_min", str(NONE), "--beta_diffusion.beta_max", "1.0"),
        *("--levels.distribution", "grid", "--levels.betas", f"[{NONE}]"),
    ],
    "range, gradients balanced": ["--beta_diffusion.balance", "true"],
    "range, modulator of 4 blocks": ["--beta_diffusion.modulator_depth", "4"],
    "range, half the patches hidden": ["--pretext.mask", "0.5"],
    "range, noise in the latent": ["--pretext.noise", "0.8"],
}
LEVELS = {"range": 6, "beta 10": 2, "beta 0": 2}  # of the others 3
FIXED = {"beta 0": 0.0}  # of the others 0.5, the level of beta 10 in [1, 100]


def train(data: str, preset: str, images: int, seed: int, way: str, out: Path) -> None:
    """One run, unless it is finished."""
    common = ["--model", "beta_diffusion", "--stages", "[vae]", "--beta_diffusion.preset", preset]
    common += ["--data.source", data, "--data.limit", "null", "--data.held_out", "10000", "--seed", str(seed)]
    rates = ["batch_size=128", "learning_rate=2e-3", "muon_rate=0", "warmup_images=4000", f"images={images}"]
    rates += [f"validate_images={images // 4}", f"checkpoint_images={images // 4}"]
    common += [f"--vae_training.{rate}" for rate in rates]
    common += ["--levels.kl_warmup_images", str(images // 4), "--out", str(out)]
    call("train", *common, *WAYS[way])


def call(*arguments: str) -> None:
    """One command of betadiffusion."""
    subprocess.run([sys.executable, "-m", "betadiffusion", *arguments], check=True)


def patch_limit(data: str, size: int, patch: int) -> float:
    """2 lambda_1: above this beta a decoder that sees one token at a time has nothing to gain from it."""
    images = load(data, size, 3)
    some = np.random.default_rng(0).permutation(len(images))[:1000]
    x = images.images(some).astype(np.float64) / 127.5 - 1
    side = x.shape[-1] // patch
    patches = x.reshape(-1, 3, side, patch, side, patch).transpose(0, 2, 4, 1, 3, 5).reshape(-1, 3 * patch * patch)
    # a dimension is kept where its variance exceeds beta / 2 (reverse water-filling of |x - x_hat|^2 + beta KL)
    return 2 * float(np.linalg.eigvalsh(np.cov(patches.T))[-1])


def cells(row: dict[str, Any]) -> str:
    """k-NN and linear accuracy of a row, with standard errors."""
    texts = []
    for name in PROBES:
        mean, error = row[name]["mean"], row[name]["se"]
        texts.append(f"{mean:.3f}" + ("" if error is None else f" ± {error:.3f}"))
    return " | ".join(texts)


def main() -> None:
    """Trains, probes, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="what to train on")
    parser.add_argument("--limits", help="only print 2 lambda_1 of these images, for patches of 4, 8 and 16 pixels")
    parser.add_argument("--size", type=int, default=32, help="side of the images of --limits")
    parser.add_argument("--preset", default="tiny32")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--images", type=int, default=64_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/probe"))
    options = parser.parse_args()
    if options.limits:
        for patch in (4, 8, 16):
            print(f"2 lambda_1 of a {patch}x{patch} patch: {patch_limit(options.limits, options.size, patch):.1f}")
        return
    found: dict[str, dict[str, Any]] = {}
    for way in options.ways:
        name = way.replace(",", "").replace(" ", "-")
        runs = [options.out / f"{name}-{seed}" for seed in options.seeds]
        for seed, run in zip(options.seeds, runs, strict=True):
            train(options.data, options.preset, options.images, seed, way, run)
        result = options.out / f"probe-{name}"
        fixed = ["--fixed-level", str(FIXED.get(way, 0.5)), "--levels", str(LEVELS.get(way, 3))]
        call("probe", *map(str, runs), *fixed, "--out", str(result))
        found[way] = accuracies(way, json.loads((result / "evaluation.json").read_text()))
        write_json(options.out / "probe.json", {"preset": options.preset, "images": options.images, "ways": found})
        print(table(found), flush=True)


def accuracies(way: str, numbers: dict[str, Any]) -> dict[str, Any]:
    """Both probes of what stands in the table, by its name there, from an evaluation."""
    low = NONE if way == "beta 0" else 1.0
    high = 1.0 if way == "beta 0" else 100.0
    rows = {}
    for row in numbers["levels"]:
        level = row["level"]["mean"]
        if way not in ("beta 10", "beta 0") or level == FIXED.get(way, 0.5):
            rows[f"mu at beta {low * (high / low) ** level:.3g}"] = row
    rows["h"] = numbers["rows"]["features"]
    if way == "range":
        rows |= {"h, random weights": numbers["rows"]["features, random weights"], "pixels": numbers["rows"]["pixels"]}
    return {name: {probe: row[probe] for probe in PROBES} for name, row in rows.items()}


def table(found: dict[str, dict[str, Any]]) -> str:
    """All accuracies as Markdown."""
    rows = ["| trained with | probed | k-NN | linear |", "| --- | --- | ---: | ---: |"]
    rows += [f"| {way} | {name} | {cells(row)} |" for way, named in found.items() for name, row in named.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    main()

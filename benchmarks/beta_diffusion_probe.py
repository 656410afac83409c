"""Does a range of beta learn better features than one beta? Trains the same autoencoder three ways and probes it.

python benchmarks/beta_diffusion_probe.py --data cifar10:PATH [--images 64000] [--seeds 0 1 2] [--out runs/probe]

"range": beta from 1 to 100, even in log beta; "beta 10": one beta; "beta 0": beta so small that it is none. A run is
`betadiffusion train` and `betadiffusion probe`, both of which go on where they were stopped. Prints k-NN and linear
accuracy, mean and standard error over seeds.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from betadiffusion.data import load
from betadiffusion.report.summary import number

NONE = 1e-4
WAYS: dict[str, list[str]] = {
    "range": [],
    "beta 10": ["--levels.distribution", "grid", "--levels.betas", "[10.0]"],
    "beta 0": [
        *("--beta_diffusion.beta_min", str(NONE), "--beta_diffusion.beta_max", "1.0"),
        *("--levels.distribution", "grid", "--levels.betas", f"[{NONE}]"),
    ],
}
LEVELS = {"range": 6, "beta 10": 2, "beta 0": 2}
FIXED = {"range": 0.5, "beta 10": 0.5, "beta 0": 0.0}  # the level of beta 10 in [1, 100], and of no beta


def train(data: str, preset: str, images: int, seed: int, way: str, out: Path) -> None:
    """One run, unless it is finished."""
    common = ["--model", "beta_diffusion", "--stages", "[vae]", "--beta_diffusion.preset", preset]
    common += ["--data.source", data, "--data.limit", "null", "--data.held_out", "10000", "--seed", str(seed)]
    rates = ["batch_size=128", "learning_rate=2e-3", "warmup_images=4000", f"images={images}"]
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
    for name in ("knn_probe", "linear_probe"):
        mean, error = row[name]["mean"], row[name]["se"]
        texts.append(number(mean) + ("" if error is None else f" ± {number(error)}"))
    return " | ".join(texts)


def main() -> None:
    """Trains, probes, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="what to train on")
    parser.add_argument("--limits", help="only print 2 lambda_1 of these images, for patches of 4, 8 and 16 pixels")
    parser.add_argument("--size", type=int, default=32, help="side of the images of --limits")
    parser.add_argument("--preset", default="tiny32")
    parser.add_argument("--images", type=int, default=64_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/probe"))
    options = parser.parse_args()
    if options.limits:
        for patch in (4, 8, 16):
            print(f"2 lambda_1 of a {patch}x{patch} patch: {patch_limit(options.limits, options.size, patch):.1f}")
        return
    rows = ["| trained with | probed | k-NN | linear |", "| --- | --- | ---: | ---: |"]
    for way in WAYS:
        runs = [options.out / f"{way.replace(' ', '-')}-{seed}" for seed in options.seeds]
        for seed, run in zip(options.seeds, runs, strict=True):
            train(options.data, options.preset, options.images, seed, way, run)
        result = options.out / f"probe-{way.replace(' ', '-')}"
        fixed = ["--fixed-level", str(FIXED[way]), "--levels", str(LEVELS[way])]
        call("probe", *map(str, runs), *fixed, "--out", str(result))
        numbers = json.loads((result / "evaluation.json").read_text())
        beta = {"range": lambda t: 100**t, "beta 10": lambda t: 100**t, "beta 0": lambda t: NONE ** (1 - t)}[way]
        for row in numbers["levels"]:
            level = row["level"]["mean"]
            if way == "range" or level == FIXED[way]:
                rows.append(f"| {way} | mu at beta {beta(level):.3g} | {cells(row)} |")
        for name in ("features", "features, random weights", "pixels"):
            if way == "range" or name == "features":
                rows.append(f"| {way} | {name.replace('features', 'h')} | {cells(numbers['rows'][name])} |")
        print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()

"""How the clock "fitted" should be fitted: distance of Euler's samples, from the same noise, for several powers of
sigma in the weight of an error, and shares of the clock that are t.

    python benchmarks/fitted_clock.py runs/shapes [runs/shapes-seed1 ...] [--powers 0 0.5 1 2] [--shares 0.125 0.25]
        [--evaluations 4 5 6 8 10 14 20] [--count 1000] [--out fitted_clock.json]

With power 0 and share 0 Euler's steps err alike; a share of 1 is levels even in t, whatever the power. Distances are
the report's: its features, held-out images, seeds. Prints a table for each run and writes all numbers. About three
minutes a run on one CPU core at 32x32.
"""

import argparse
from itertools import product
from pathlib import Path

from tqdm import tqdm

from betadiffusion.pipelines.walk_levels import fit_clock
from betadiffusion.report.generate import Sampler, samples
from betadiffusion.training.files import write_json
from few_steps import judged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--powers", nargs="+", type=float, default=[0.0, 0.5, 1.0, 2.0])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.125, 0.25])
    parser.add_argument("--evaluations", nargs="+", type=int, default=[4, 5, 6, 8, 10, 14, 20])
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--out", type=Path, default=Path("fitted_clock.json"))
    arguments = parser.parse_args()
    numbers = {}
    for run in arguments.runs:
        config, pipeline, judge, features = judged(run, count := arguments.count)
        rows = []
        for power, share in tqdm(list(product(arguments.powers, arguments.shares)), desc=str(run)):
            fit_clock(pipeline.denoiser, share, power)
            walked = (samples(pipeline, Sampler("euler", steps), count, config) for steps in arguments.evaluations)
            rows.append({"power": power, "share of t": share, "distances": [judge(images) for images in walked]})
        numbers[str(run)] = {"features": features, "count": count, "rows": rows}
        print(f"\n{run}, {features}\n\n| power | share of t | {' | '.join(map(str, arguments.evaluations))} |")
        print("| ---: | ---: |" + " ---: |" * len(arguments.evaluations))
        for row in rows:
            distances = " | ".join(f"{distance:.4g}" for distance in row["distances"])
            print(f"| {row['power']:g} | {row['share of t']:g} | {distances} |")
    write_json(arguments.out, {"evaluations": arguments.evaluations, "runs": numbers})


if __name__ == "__main__":
    main()

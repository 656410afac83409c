"""How long the disentanglement metrics take, and whether DCI's fast importance ranks codes as the published one.

    python benchmarks/metrics_speed.py --cache gbt.json --output docs/results/metrics_speed.json
        [--rows 10000] [--dci-rows 10000] [--agreement-rows 1500]

Codes (rows, 10) with factors of dSprites' sizes, half as many rows again to test. Prints and writes: the seconds of
every metric but DCI "gbt", of MIG at 50 levels, of TAD on 1,024 codes and 40 attributes; the seconds of DCI "gbt" and
"forest" on --dci-rows, and their ratio; Spearman's correlation of both over 26 representations of --agreement-rows.
Boosting takes about 5 minutes at 10,000 rows and 15 minutes for the representations at 1,500: each result goes
to --cache at once (with the forest's, run right after it), and a second run goes on from there.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import expm
from scipy.stats import spearmanr

from betadiffusion import metrics

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from metric_cases import CodedSet

SIZES = (3, 6, 40, 32, 32)
TIMED = "noisy 0.3"  # the representation whose metrics are timed: 10 codes, none of them perfect


def draw_factors(rows: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.stack([generator.integers(0, size, rows) for size in SIZES], axis=1)


def representations(factors: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Codes (N, d) of very different quality by name, of factors (N, K) of `SIZES`."""
    generator = np.random.default_rng(seed)
    sizes = np.array(SIZES)
    z = (factors - (sizes - 1) / 2) / np.sqrt((sizes**2 - 1) / 12)

    def noise(scale: float, dim: int = 5) -> np.ndarray:
        return scale * generator.standard_normal((len(z), dim))

    skew = generator.standard_normal((5, 5))
    skew -= skew.T
    wide, deep = generator.standard_normal((5, 64)), generator.standard_normal((64, 10)) / 8
    network = np.tanh(z @ wide / 2) @ deep
    mixture = generator.standard_normal((5, 10)) / 2
    pairs = np.stack([z[:, 0], z[:, 1], z[:, 2], z[:, 3] + z[:, 4], z[:, 3] - z[:, 4]], axis=1)
    angle = 2 * np.pi * factors[:, 2:3] / sizes[2]
    radius, azimuth = np.hypot(z[:, 3], z[:, 4]), np.arctan2(z[:, 3], z[:, 4])
    codes = {"aligned": np.hstack([z + noise(0.05), noise(1)])}
    codes |= {f"rotated {a}": z @ expm(a * skew) + noise(0.05) for a in (0.05, 0.1, 0.15, 0.25, 0.4, 0.8)}
    codes |= {
        f"mixed {w}": np.hstack([z, noise(0.3)]) * (1 - w) + w * z @ mixture + noise(0.05, 10) for w in (0.2, 0.5, 1)
    }
    codes |= {f"noisy {s}": np.hstack([z + noise(s), noise(1)]) for s in (0.3, 1.0, 3.0)}
    return codes | {
        "duplicated": np.hstack([z, z]) + noise(0.1, 10),
        "warped": np.hstack([np.tanh(2 * z[:, :2]), z[:, 2:4] ** 3, np.sin(2 * z[:, 4:])]) + noise(0.05),
        "folded": np.abs(z) + noise(0.05),
        "entangled pair": pairs + noise(0.05),
        "entangled pair and dead codes": np.hstack([pairs, 0 * z]) + noise(0.01, 10),
        "polar position": np.hstack([z[:, :3], radius[:, None], azimuth[:, None]]) + noise(0.05),
        "one factor in two codes": np.hstack([z[:, :2], np.cos(angle), np.sin(angle), z[:, 3:]]) + noise(0.05, 6),
        "two factors only": np.hstack([z[:, 3:] + noise(0.1, 2), noise(1, 8)]),
        "all in one": np.hstack([z.sum(axis=1, keepdims=True), noise(0.3)]) + noise(0.05, 6),
        "products": np.stack([z[:, i] * z[:, (i + 1) % 5] for i in range(5)], axis=1) + noise(0.05),
        "network": network + noise(0.05, 10),
        "half a network": np.hstack([z[:, :3], network[:, :5]]) + noise(0.05, 8),
        "random": noise(1, 10),
    }


def all_codes(rows: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Representations and factors of `rows` rows and half as many to test."""
    factors = draw_factors(rows + rows // 2, seed=0)
    return representations(factors, seed=1), factors


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return round(time.perf_counter() - started, 3)


def time_metrics(rows: int) -> dict[str, float]:
    """Seconds of every metric but DCI gbt on one representation."""
    codes, factors = all_codes(rows)
    train = codes[TIMED][:rows], factors[:rows]
    four = (*train, codes[TIMED][rows:], factors[rows:])
    coded = CodedSet(codes[TIMED], factors)
    return {
        "mig": seconds(lambda: metrics.mig(*train)),
        "modularity": seconds(lambda: metrics.modularity(*train)),
        "irs": seconds(lambda: metrics.irs(*train)),
        "explicitness": seconds(lambda: metrics.explicitness(*four)),
        "sap": seconds(lambda: metrics.sap(*four)),
        "factor_vae_score": seconds(lambda: metrics.factor_vae_score(coded, lambda x: x)),
        "beta_vae_score": seconds(lambda: metrics.beta_vae_score(coded, lambda x: x)),
        "tad": seconds(lambda: metrics.tad(train[0], train[1] == 0)),
        "dci forest": seconds(lambda: metrics.dci(*four, importance="forest")),
    }


def time_large(rows: int) -> dict[str, float]:
    """Seconds of MIG at 50 levels and of TAD on 1,024 codes and 40 attributes."""
    generator = np.random.default_rng(2)
    factors = draw_factors(rows, seed=3)
    levels = [factors[:, [0, 1, 2, 3, 4] * 2] + s * generator.standard_normal((rows, 10)) for s in range(50)]
    codes = generator.standard_normal((rows, 1024))
    attributes = codes[:, :40] + generator.standard_normal((rows, 40)) > 0.5
    table = {"mig, 50 levels": seconds(lambda: [metrics.mig(level, factors) for level in levels])}
    for variant in ("exact", "nashae", "disdiff"):
        table[f"tad {variant}, {rows} x 1024, 40 attributes"] = seconds(
            lambda v=variant: metrics.tad(codes, attributes, v)
        )
    return table


class Comparison:
    """DCI by gbt and by forest, one after the other, kept in a JSON file."""

    def __init__(self, cache: Path) -> None:
        self._path = cache
        self._records = json.loads(cache.read_text()) if cache.exists() else {}

    def records(self, rows: int, names: list[str] | None = None) -> dict[str, Any]:
        """By representation, all or the named, {"gbt": {...}, "forest": {...}} with the scores and seconds of each."""
        codes, factors = all_codes(rows)
        records = {}
        for name in names or list(codes):
            key = f"{name}, {rows} rows"
            if key not in self._records:
                four = codes[name][:rows], factors[:rows], codes[name][rows:], factors[rows:]
                self._records[key] = {kind: self._measure(four, kind) for kind in ("gbt", "forest")}
                temporary = self._path.with_suffix(".tmp")
                temporary.write_text(json.dumps(self._records, indent=1))
                os.replace(temporary, self._path)
                print(key, self._records[key], flush=True)
            records[name] = self._records[key]
        return records

    @staticmethod
    def _measure(four: tuple[np.ndarray, ...], importance: str) -> dict[str, float]:
        started = time.perf_counter()
        result = metrics.dci(*four, importance=importance)
        return {
            "disentanglement": result.disentanglement,
            "completeness": result.completeness,
            "informativeness": result.informativeness,
            "seconds": round(time.perf_counter() - started, 3),
        }


def agreement(records: dict[str, Any]) -> dict[str, Any]:
    """Spearman's correlation and the greatest difference, by score."""
    table = {}
    for score in ("disentanglement", "completeness", "informativeness"):
        gbt, forest = (np.array([record[kind][score] for record in records.values()]) for kind in ("gbt", "forest"))
        table[score] = {
            "spearman": float(spearmanr(gbt, forest)[0]),
            "greatest_difference": float(abs(gbt - forest).max()),
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="JSON file of the results of DCI, made if missing")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--dci-rows", type=int, default=10_000)
    parser.add_argument("--agreement-rows", type=int, default=1_500)
    arguments = parser.parse_args()
    comparison = Comparison(arguments.cache)
    table: dict[str, Any] = {"cores": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS")}
    table["rows"] = {"metrics": arguments.rows, "dci": arguments.dci_rows, "agreement": arguments.agreement_rows}
    table["seconds"] = time_metrics(arguments.rows)
    table["seconds_together"] = round(sum(table["seconds"].values()), 2)
    table["seconds_large"] = time_large(arguments.rows)
    dci = comparison.records(arguments.dci_rows, [TIMED])[TIMED]
    table["dci"] = dci | {"ratio": round(dci["gbt"]["seconds"] / dci["forest"]["seconds"], 1)}
    table["representations"] = comparison.records(arguments.agreement_rows)
    table["agreement"] = agreement(table["representations"])
    print(json.dumps({key: value for key, value in table.items() if key != "representations"}, indent=1))
    temporary = arguments.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(table, indent=1) + "\n")
    os.replace(temporary, arguments.output)


if __name__ == "__main__":
    main()

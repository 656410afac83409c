"""Do samples agree with what they were asked for, and what does guidance cost? For runs with a condition.kind.

python benchmarks/conditioning.py RUN [RUN ...] [--guidance 1 2 4] [--count 2000] [--steps 20] [--out runs/conditioning]

Every sample is asked for by the condition of a held-out image. Beside the samples of every guidance stand those of no
condition at all and the held-out images themselves.
labels, attributes: the share that a classifier trained on real training images tells as asked for.
text: the rank of the caption asked for among 100 captions of held-out images (99 others), by cosine in the text
encoder's own space, where a ridge regression from EfficientNet-lite0's features, trained on real training images, puts
the picture; 50.5 is chance.
Both: the Frechet distance to training images, in the features of the run's own report.
A row is written as soon as it is there, and not computed again. On 2 CPU cores: seconds for the classifier, then for
2,000 samples of 32x32 about a minute a row.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor
from tqdm import tqdm

from betadiffusion.data import Subset
from betadiffusion.metrics.features import EfficientNetLite0, frechet_name
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.report.classifier import ClassifierFeatures, train_classifier
from betadiffusion.report.distances import Judge
from betadiffusion.report.measure import make_extractor
from betadiffusion.report.summary import number
from betadiffusion.training.conditions import Conditions, make_conditions
from betadiffusion.training.files import write_json, write_text
from betadiffusion.training.runs import load_config, load_split
from betadiffusion.training.stored import fingerprint

BATCH, CAPTIONS = 250, 100
Score = Callable[[Tensor], dict[str, float]]  # of images (N,C,H,W) uint8


class Told(Subset):
    """Images whose labels or attributes are their factors, as the classifier wants them."""

    def __init__(self, images: Subset, conditions: Conditions) -> None:
        super().__init__(images, np.arange(len(images)))
        self._values = conditions.values.reshape(len(images), -1)
        labels = conditions.spec.kind == "labels"
        self.factor_names = ("class",) if labels else tuple(conditions.spec.names)
        self.factor_sizes = (len(conditions.spec.names),) if labels else (2,) * len(self.factor_names)

    def factors(self, indices: np.ndarray) -> np.ndarray:
        """What is asked of the images at `indices`, (B,), as (B,K) int64."""
        return self._values[indices]


class Run:
    """A conditioned run: its pipeline, its images, and what each of `count` samples is asked for."""

    def __init__(self, folder: Path, count: int, seed: int, device: torch.device) -> None:
        self.folder, self.config = folder, load_config(folder)
        if self.config.condition.kind == "none":
            raise SystemExit(f"{folder} was trained without conditions")
        self.pipeline = BetaDiffusionPipeline.from_pretrained(folder / "pipeline").to(device)
        self.images = load_split(self.config.data, self.pipeline.vae.image_shape[-1], self.config.seed)
        captions = folder / "diffusion" / "captions"
        self.conditions = make_conditions(self.config.condition, self.images, captions, device)
        held_out, asked = self.images[1], self.conditions[1]
        self.which = np.arange(count) % len(held_out)  # the held-out image behind each sample
        if asked.spec.kind == "text":
            self.caption = asked.first[self.which] + np.arange(count) // len(held_out) % asked.counts[self.which]
            self.condition = torch.from_numpy(asked.values[self.caption].astype(np.float32))
        else:
            self.condition = asked.in_full(self.which)
        self.seed, self.device = seed, device

    def judges(self) -> tuple[Score, Judge]:
        """How far images (N,C,H,W) are as asked, and their Frechet distance."""
        train, held_out = self.images
        extractor = make_extractor(train, held_out, self.config, self.device)
        judge = Judge.from_split(extractor, train, held_out, len(self.which))
        if self.config.condition.kind == "text":
            return self._retrieval(), judge
        told = [Told(*pair) for pair in zip(self.images, self.conditions, strict=True)]
        classifier = train_classifier(*told, self.config.seed, self.device)
        return lambda images: agreement(classifier, images, told[1].factors(self.which[: len(images)])), judge

    def _retrieval(self) -> Score:
        """Rank of the caption asked for, by a probe from features to the text encoder's space."""
        (train, _), (seen, asked) = self.images, self.conditions
        extractor = EfficientNetLite0(size=self.config.report.feature_size, device=self.device)
        parts = np.array_split(np.arange(len(train)), -(-len(train) // BATCH))
        features = np.concatenate([extractor(torch.from_numpy(train.images(part))) for part in parts])
        whole = seen.values[:, 0].astype(np.float64)  # of every caption
        starts = list(zip(seen.first, seen.counts, strict=True))
        targets = np.stack([whole[first : first + count].mean(0) for first, count in starts])
        centre = targets.mean(0)
        probe = RidgeCV(np.logspace(-1, 6, 15)).fit(features, targets - centre)
        pool = distractors(self.which, asked, self.seed)
        candidates = np.concatenate([self.caption[:, None], pool], axis=1)

        def score(images: Tensor) -> dict[str, float]:
            found = unit(np.concatenate([probe.predict(extractor(part)) for part in images.split(BATCH)]))
            cosines = np.einsum("nd,nkd->nk", found, unit(whole[candidates[: len(images)]] - centre))
            ranks = 1 + (cosines[:, 1:] > cosines[:, :1]).sum(1) + 0.5 * (cosines[:, 1:] == cosines[:, :1]).sum(1)
            return {
                "mean rank": float(ranks.mean()), "standard error": float(ranks.std(ddof=1) / len(ranks) ** 0.5),
                "median rank": float(np.median(ranks)), "in first 10": float((ranks <= 10).mean()),
            }  # fmt: skip

        return score

    def samples(self, guidance: float | None, interval: tuple[float, float], steps: int) -> Tensor:
        """Samples (N,C,H,W) uint8 from the same noise whatever the guidance; None asks for nothing."""
        generator, parts = torch.Generator().manual_seed(self.seed), []
        for condition in tqdm(self.condition.split(BATCH), desc=f"guidance {guidance}"):
            asked: dict[str, Any] = {}
            if guidance is not None:
                asked = {"condition": condition, "guidance": guidance}
                asked |= {"guidance_interval": interval} if guidance != 1 else {}
            drawn = self.pipeline(len(condition), steps, generator=generator, output_type="pt", **asked).images
            parts.append((drawn * 255).round().to(torch.uint8))
        return torch.cat(parts)


def agreement(classifier: ClassifierFeatures, images: Tensor, asked: np.ndarray) -> dict[str, float]:
    """Share of what was asked, (N,K), that the classifier sees in images (N,C,H,W); of several attributes each."""
    with torch.no_grad():
        logits = [classifier.logits(classifier.scaled(part)) for part in images.split(BATCH)]
    guesses = np.stack([torch.cat(column).argmax(1).cpu().numpy() for column in zip(*logits, strict=True)], axis=1)
    right = (guesses == asked).mean(1)
    return {"agreement": float(right.mean()), "standard error": float(right.std(ddof=1) / len(right) ** 0.5)}


def distractors(which: np.ndarray, asked: Conditions, seed: int) -> np.ndarray:
    """For each sample captions of CAPTIONS - 1 other held-out images, the first of each: (N, 99)."""
    random, images = np.random.default_rng(seed), np.arange(len(asked.counts))
    if len(images) < CAPTIONS:
        raise SystemExit(f"ranks among {CAPTIONS} captions need as many held-out images, not {len(images)}")
    others = [random.choice(images[images != own], CAPTIONS - 1, replace=False) for own in which]
    return asked.first[np.stack(others)]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., d) of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def key_of(run: Run, row: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a row depends on."""
    settings = {name: getattr(options, name) for name in ("count", "steps", "seed", "interval")}
    weights = [fingerprint(run.pipeline.vae), fingerprint(run.pipeline.denoiser)]
    return {"run": str(run.folder), "row": row, "weights": weights, **settings}


def measure(run: Run, options: argparse.Namespace, rows: list[dict[str, Any]], file: Path) -> None:
    """Adds the rows of one run that are not there yet."""
    walks: dict[str, float | None] = {"no condition": None} | {f"guidance {w:g}": w for w in options.guidance}
    keys = {name: key_of(run, name, options) for name in ("held-out images", *walks)}
    known = [row["key"] for row in rows]
    missing = {name: key for name, key in keys.items() if key not in known}
    if not missing:
        return
    score, judge = run.judges()
    for name, key in missing.items():
        if name == "held-out images":
            distinct = run.which[: len(run.images[1])]
            images, distance = torch.from_numpy(run.images[1].images(distinct)), judge.floor
        else:
            images = run.samples(walks[name], tuple(options.interval), options.steps)
            distance = judge(images)
        about = {"condition": dataclasses.asdict(run.config.condition), "distance of": frechet_name(judge.extractor)}
        rows.append({"key": key, **about, **score(images), "distance": distance})
        write_json(file, rows)


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown of all rows, a table for each run and each choice of options."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps(row["key"] | {"row": None}), []).append(row)
    return "\n".join(map(table, groups.values()))


def table(own: list[dict[str, Any]]) -> str:
    """Markdown of the rows of one run."""
    shown = [name for name in ("agreement", "mean rank", "median rank", "in first 10") if name in own[0]]
    about, key = own[0]["condition"], own[0]["key"]
    low, high = key["interval"]
    lines = [
        f"**{Path(key['run']).name}**: condition {about['kind']} by {about['by']}, {key['count']} samples, "
        f"{key['steps']} steps, guidance at levels {number(low)} to {number(high)}\n",
        f"| images | {' | '.join(shown)} | {own[0]['distance of']} |",
        f"| --- |{' ---: |' * (len(shown) + 1)}",
    ]
    for row in own:
        cells = [number(row[shown[0]]) + f" ± {number(row['standard error'])}", *(number(row[s]) for s in shown[1:])]
        lines.append(f"| {row['key']['row']} | {' | '.join(cells)} | {number(row['distance'])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures every run, prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--interval", type=float, nargs=2, default=[0.0, 1.0], help="levels between which it acts")
    parser.add_argument("--count", type=int, default=2_000, help="samples behind every row")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/conditioning"))
    options = parser.parse_args()
    file = options.out / "conditioning.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for folder in options.runs:
        measure(Run(folder, options.count, options.seed, device), options, rows, file)
    write_text(options.out / "conditioning.md", tables(rows))
    print(tables(rows))


if __name__ == "__main__":
    main()

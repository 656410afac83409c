"""Edits of held-out images along directions of a run: how many change as asked, and what stays as it was.

    python benchmarks/editing.py runs/utkface --directions over_50 child bright --out runs/utkface/editing
    python benchmarks/editing.py runs/shapes --directions scale object_hue:0:5 --levels 0.2 0.4 0.6 0.8

A direction is named as `betadiffusion directions` names it: an attribute, a factor, a factor with two values, or
NAME-means for the difference of means. It is computed from training images at each level; the judge is a classifier of
all attributes or factors, trained on real training images. Images that have what the direction names (the upper half of
a factor's values) are moved against it, the others along it, half of each, only such as the classifier reads rightly.
By strength, with the VAE alone (code: the mean) and walked back to level 0 (code: a draw, or with --ways the mean):

    changed    share of images of which the classifier now says what was asked
    kept       share of its verdicts on all other attributes or factors that are as on the original
    distance   of an edited image to its original in features, in units of the distance between two real images
    FD         Frechet distance of the edited images to training images, in the same features

and, as one rule for all, what there is at the strength that changes 80 % (or --share). Writes editing.json,
editing.md, editing.png (curves) and pictures-*.png; a row that is there is not computed again. About 40 seconds a row
(direction, level, way) of 400 images at 32x32 on one CPU core, after a minute for the classifier.
"""

import argparse
import hashlib
import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import balanced_accuracy_score

from betadiffusion.cli.pictures import save
from betadiffusion.data import AttributeSet, FactorSet, Subset
from betadiffusion.evaluation.directions import find_directions
from betadiffusion.metrics import FeatureStatistics, frechet_from_statistics
from betadiffusion.metrics.features import EfficientNetLite0, FeatureExtractor, frechet_name
from betadiffusion.pipelines.directions import find
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.report.axes import COLOURS, label_axes, make_figure, png
from betadiffusion.report.classifier import ClassifierFeatures, train_classifier
from betadiffusion.training.files import write_bytes, write_json, write_text
from betadiffusion.training.pictures import grid
from betadiffusion.training.runs import load_config, load_split
from betadiffusion.training.stored import fingerprint

BATCH = 128
WAYS: dict[str, dict[str, Any]] = {
    "VAE alone": {"denoise": False, "code": "mean"},
    "walked back": {},
    "walked back from the mean": {"code": "mean"},
}
LINES = dict(zip(WAYS, (":", "-", "--"), strict=True))
PICTURED = (-4.0, -2.0, 0.0, 2.0, 4.0)


class AsFactors(Subset):
    """The attributes of images as factors of two values, for the classifier."""

    def __init__(self, part: Subset) -> None:
        super().__init__(part.base, part.indices)
        self.factor_names, self.factor_sizes = self.attribute_names, (2,) * len(self.attribute_names)

    def factors(self, indices: np.ndarray) -> np.ndarray:
        """Attributes (B, A) int64, 0 or 1."""
        return self.attributes(indices).astype(np.int64)


class Ask(NamedTuple):
    """What a direction is asked to change: head `k` of the classifier, from the values `low` to the values `high`."""

    k: int
    low: np.ndarray
    high: np.ndarray


class Judge:
    """What a classifier trained on real images, and features, say of edited images and their originals."""

    def __init__(self, classifier: ClassifierFeatures, features: FeatureExtractor, reference: np.ndarray) -> None:
        self.classifier, self.features = classifier, features
        real = features(torch.from_numpy(reference))
        self.reference = FeatureStatistics.from_features(real)
        half = len(real) // 2  # in random order
        self.unit = float(np.linalg.norm(real[:half] - real[half : 2 * half], axis=1).mean())

    @torch.no_grad()
    def verdicts(self, images: torch.Tensor) -> np.ndarray:
        """The classifier's value of every head, (N, K), of uint8 images (N,C,H,W)."""
        logits = [self.classifier.logits(self.classifier.scaled(batch)) for batch in images.split(BATCH)]
        return torch.cat([torch.stack([guess.argmax(1) for guess in each], 1) for each in logits]).cpu().numpy()

    def accuracy(self, held_out: FactorSet) -> dict[str, float]:
        """Balanced accuracy of every head on real images."""
        everything = np.arange(len(held_out))
        true, said = held_out.factors(everything), self.verdicts(torch.from_numpy(held_out.images(everything)))
        heads = enumerate(held_out.factor_names)
        return {name: float(balanced_accuracy_score(true[:, k], said[:, k])) for k, name in heads}

    def __call__(self, edited: torch.Tensor, originals: torch.Tensor, ask: Ask, up: np.ndarray) -> dict[str, float]:
        """The four numbers, of uint8 images (N,C,H,W); up (N,) whether an image was asked for the high values."""
        said, before = self.verdicts(edited), self.verdicts(originals)
        changed = np.where(up, np.isin(said[:, ask.k], ask.high), np.isin(said[:, ask.k], ask.low))
        others = np.delete(said == before, ask.k, axis=1)
        features = self.features(edited)
        distance = np.linalg.norm(features - self.features(originals), axis=1).mean() / self.unit
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # few images: biased upwards, alike for all rows
            frechet = frechet_from_statistics(self.reference, FeatureStatistics.from_features(features))
        return {
            "changed": float(changed.mean()),
            "kept": float(others.mean()),
            "distance": float(distance),
            "frechet": frechet,
        }


def make_ask(name: str, images: FactorSet) -> Ask:
    """The head and values that a direction's name means: of two values each, or the halves of a factor's values."""
    base, *ends = name.removesuffix("-means").split(":")
    if base not in images.factor_names:
        raise SystemExit(f"there is no {base!r}; the images have {', '.join(images.factor_names)}")
    k = images.factor_names.index(base)
    values = np.arange(images.factor_sizes[k])
    if ends:
        low, high = map(int, ends)
        return Ask(k, values[[low]], values[[high]])
    return Ask(k, *np.array_split(values, 2))


def choose(ask: Ask, held_out: FactorSet, judge: Judge, count: int) -> tuple[torch.Tensor, np.ndarray]:
    """Held-out images (N,C,H,W), half of them with the low values, and which these are, (N,); rightly read ones."""
    everything = np.arange(len(held_out))
    true = held_out.factors(everything)[:, ask.k]
    images = torch.from_numpy(held_out.images(everything))
    right = judge.verdicts(images)[:, ask.k] == true
    sides = [np.flatnonzero(right & np.isin(true, values))[: count // 2] for values in (ask.low, ask.high)]
    least = min(len(side) for side in sides)
    chosen = np.concatenate([side[:least] for side in sides])
    return images[chosen], np.arange(2 * least) < least


def edited(
    pipeline: BetaDiffusionPipeline, x: torch.Tensor, up: np.ndarray, name: str, strength: float, level: float, way: str
) -> torch.Tensor:
    """uint8 (N,C,H,W): images that are asked for the high values moved by +strength, the others by -strength."""
    generator = torch.Generator().manual_seed(0)
    result = torch.empty_like(x)
    for sign in (1, -1):
        indices = torch.from_numpy(np.flatnonzero(up == (sign > 0)))
        for part in indices.split(BATCH) if len(indices) else ():
            made = pipeline.edit(
                x[part], name, sign * strength, level, generator=generator, output_type="pt", **WAYS[way]
            )
            result[part] = (made.images * 255).round().to(torch.uint8)
    return result


def measure(
    pipeline: BetaDiffusionPipeline, judge: Judge, name: str, level: float, way: str, options: argparse.Namespace,
    held_out: FactorSet,
) -> dict[str, Any]:  # fmt: skip
    """One row: the four numbers by strength."""
    ask = make_ask(name, held_out)
    x, up = choose(ask, held_out, judge, options.count)
    strengths = [
        {"strength": s, **judge(edited(pipeline, x, up, name, s, level, way), x, ask, up)} for s in options.strengths
    ]
    auroc = find(pipeline.directions, name, level).score
    return {"direction": name, "level": level, "way": way, "auroc": auroc, "images": len(x), "strengths": strengths}


def at_share(row: dict[str, Any], share: float) -> dict[str, float] | None:
    """The numbers where so many first have changed, on straight lines between the strengths; None where never."""
    for before, after in pairwise(row["strengths"]):
        if before["changed"] < share <= after["changed"]:
            w = (share - before["changed"]) / (after["changed"] - before["changed"])
            return {key: (1 - w) * before[key] + w * after[key] for key in before}
    return None


def table(rows: list[dict[str, Any]], share: float, frechet: str) -> str:
    """Markdown: what is kept at strength 0, and where `share` of the images have changed."""
    lines = [
        f"| direction | level | way | AUROC | kept at 0 | {frechet} at 0 | most changed | strength for {share:.0%} "
        f"| kept | distance | {frechet} |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        zero, most = row["strengths"][0], max(each["changed"] for each in row["strengths"])
        found = at_share(row, share)
        end = "- | - | - | -"
        if found:
            end = f"{found['strength']:.2f} | {found['kept']:.3f} | {found['distance']:.2f} | {found['frechet']:.1f}"
        lines.append(
            f"| {row['direction']} | {row['level']:g} | {row['way']} | {row['auroc']:.3f} | {zero['kept']:.3f} "
            f"| {zero['frechet']:.1f} | {most:.3f} | {end} |"
        )
    return "\n".join(lines)


def curves(rows: list[dict[str, Any]], frechet: str) -> Figure:
    """For each direction two panels over the share changed: what is kept, and the Frechet distance."""
    names = list(dict.fromkeys(row["direction"] for row in rows))
    levels = sorted({row["level"] for row in rows})
    figure, axes = make_figure(2 * len(names))
    for i, name in enumerate(names):
        for ax, key, label in zip(
            axes[2 * i :], ("kept", "frechet"), ("other verdicts kept", f"{frechet} to real images"), strict=False
        ):
            for row in (row for row in rows if row["direction"] == name):
                ax.plot(
                    [each["changed"] for each in row["strengths"]],
                    [each[key] for each in row["strengths"]],
                    color=COLOURS[levels.index(row["level"]) % len(COLOURS)],
                    linestyle=LINES[row["way"]],
                    marker=".",
                    label=f"level {row['level']:g}, {row['way']}",
                )
            label_axes(ax, "share changed as asked", label, name)
    axes[0].legend(fontsize=7)
    return figure


def draw(
    pipeline: BetaDiffusionPipeline, judge: Judge, held_out: FactorSet, name: str, options: argparse.Namespace
) -> Image.Image:
    """Two images of each side, moved both ways, the ways one below the other."""
    x, _ = choose(make_ask(name, held_out), held_out, judge, 4)
    everyone = np.ones(len(x), bool)
    made = {
        way: [edited(pipeline, x, everyone, name, s, options.picture_level, way) for s in PICTURED]
        for way in options.ways
    }
    rows = {
        f"image {i + 1}, {way}": torch.stack([original, *(each[i] for each in images)]) / 127.5 - 1
        for i, original in enumerate(x)
        for way, images in made.items()
    }
    return grid(rows, ["original", *(f"{s:+g} sd" if s else "0" for s in PICTURED)])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--directions", nargs="+", required=True)
    parser.add_argument("--levels", type=float, nargs="+", default=[0.2, 0.4, 0.6, 0.8])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["VAE alone", "walked back"])
    parser.add_argument("--strengths", type=float, nargs="+", default=[0, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6])
    parser.add_argument("--count", type=int, default=400, help="held-out images of each direction")
    parser.add_argument("--fit-count", type=int, default=8_000, help="training images to compute directions from")
    parser.add_argument("--classifier-images", type=int, default=100_000, help="to train it, repeats counted")
    parser.add_argument("--share", type=float, default=0.8, help="the share changed at which rows are compared")
    parser.add_argument("--picture-level", type=float, default=0.6)
    parser.add_argument("--out", type=Path, help="RUN/editing by default")
    return parser.parse_args()


def main() -> None:
    options = parse()
    options.strengths = sorted({0.0, *options.strengths})
    options.out = options.out or options.run / "editing"
    config = load_config(options.run)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = BetaDiffusionPipeline.from_pretrained(options.run / "pipeline").to(device)
    train, held_out = load_split(config.data, pipeline.vae.image_shape[-1], config.seed)
    if not isinstance(train, FactorSet | AttributeSet):
        raise SystemExit(f"the images of {options.run} have neither factors nor attributes")
    factors = isinstance(train, FactorSet)
    if not factors:
        train, held_out = AsFactors(train), AsFactors(held_out)
    classifier = train_classifier(train, held_out, config.seed, pipeline.device, options.classifier_images)
    features = classifier if factors else EfficientNetLite0(64, batch_size=32, device=device)
    judge = Judge(classifier, features, train.images(np.arange(min(2_000, len(train)))))
    accuracy = judge.accuracy(held_out)
    print("classifier, balanced held-out accuracy:", ", ".join(f"{k} {v:.3f}" for k, v in accuracy.items()))

    rows = rows_of(pipeline, judge, train, held_out, "factors" if factors else "attributes", options)
    frechet = frechet_name(features)
    text = table(rows, options.share, frechet)
    context = {"classifier": classifier.name, "balanced_accuracy": accuracy, "features": features.name}
    write_json(options.out / "editing.json", {**context, "share": options.share, "rows": rows})
    write_text(options.out / "editing.md", f"{text}\n")
    write_bytes(options.out / "editing.png", png(curves(rows, frechet)))
    print(f"\n{text}\n\n{options.out}")


def rows_of(
    pipeline: BetaDiffusionPipeline, judge: Judge, train: FactorSet, held_out: FactorSet, kind: str,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:  # fmt: skip
    """Every row, from its file where it is there, and the pictures; by direction, level and way."""
    same = [options.strengths, options.count, options.fit_count, judge.classifier.weights_sha256]
    key = json.dumps([same, fingerprint(pipeline.vae), fingerprint(pipeline.denoiser)])
    names = list(dict.fromkeys(name.removesuffix("-means") for name in options.directions))
    fit = Subset(train, np.arange(min(options.fit_count, len(train))))
    rows = []
    for level in sorted({*options.levels, options.picture_level}):
        pipeline.directions = find_directions(pipeline, fit, held_out, level, **{kind: names})
        for name in options.directions:
            for way in options.ways if level in options.levels else ():
                digest = hashlib.sha256(f"{key} {name} {level} {way}".encode()).hexdigest()[:16]
                path = options.out / "rows" / f"{digest}.json"
                if not path.exists():
                    write_json(path, measure(pipeline, judge, name, level, way, options, held_out))
                rows.append(json.loads(path.read_text()))
                print(f"{name}, level {level:g}, {way}: {at_share(rows[-1], options.share)}", flush=True)
            if level == options.picture_level:
                picture = draw(pipeline, judge, held_out, name, options)
                save(options.out / f"pictures-{name.replace(':', '_')}.png", picture)
    order = options.directions.index
    return sorted(rows, key=lambda row: (order(row["direction"]), row["level"], options.ways.index(row["way"])))


if __name__ == "__main__":
    main()

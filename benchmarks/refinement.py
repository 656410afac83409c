"""Refinement of the beta-Selectable VAE beside the non-linear diffusion: pictures, distances and ELBO, step by step.

    python benchmarks/refinement.py RUN [--steps 50] [--ascents 5] [--count 500] [--start 0.95] [--out DIR]

On a run with a schedule of (1, beta). From draws of the prior at level 1, and from reconstructions at --start, beta
falls in even steps of the level to 0: images are fed back through the VAE, by draws of q(z|x;t) or with the mean
improved by gradient ascent on the ELBO. Beside it the diffusion walks the same codes down in as many steps. For each
step: Frechet distance to training images in the report's features, the step's own ELBO (Eq. 4 of what went in, nats),
and, from reconstructions, the squared error to the image that was encoded. Prints a table, writes OUT/refinement.json
and draws OUT/refinement.png (curves) and OUT/refinement-prior.png, -reconstruction.png (pictures over the steps). About
5 minutes on 2 CPU cores.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.pipelines.refinement import Refined, refine
from betadiffusion.report.distances import Judge
from betadiffusion.report.measure import make_extractor
from betadiffusion.training.files import write_json
from betadiffusion.training.pictures import save_grid
from betadiffusion.training.runs import load_config, load_split

SHOWN = 8
BATCH = 250
STARTS = ("prior", "reconstruction")


def as_bytes(x: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def walked(pipeline: BetaDiffusionPipeline, z: Tensor, levels: Tensor, start: float) -> Iterator[Refined]:
    """The same codes, walked by the diffusion with a step for each of the levels, decoded at each."""
    kept: list[Tensor] = []
    kept_levels: list[float] = []

    def keep(i: int, z: Tensor, level: Tensor) -> None:
        kept.append(pipeline.vae.decode(z, level))
        kept_levels.append(float(level))

    with torch.no_grad():
        pipeline.walk(z, start, steps=len(levels), callback=keep)
    for level, images in zip(kept_levels, kept, strict=True):
        yield Refined(level, images, torch.full((len(images),), float("nan")))


def follow(steps: list[Iterator[Refined]], judge: Judge, x: Tensor | None, every: int) -> list[dict[str, Any]]:
    """Level, ELBO, distance and error to x of every step, over batches that step together; distances each `every`."""
    rows: list[dict[str, Any]] = []
    for number, parts in enumerate(zip(*steps, strict=True)):
        images = torch.cat([part.images for part in parts])
        row: dict[str, Any] = {"level": parts[0].level, "elbo": float(torch.cat([p.elbo for p in parts]).mean())}
        if x is not None:
            row["error"] = float((images - x).square().mean())
        if number % every == every - 1:
            row["distance"] = judge(as_bytes(images))
            row["pictures"] = images[:SHOWN]
        rows.append(row)
    return rows


def draw(path: Path, found: dict[str, list[dict[str, Any]]]) -> None:
    """Distance and ELBO against the level, a line for each way and start."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, rows in found.items():
        measured = [row for row in rows if "distance" in row]
        left.plot([row["level"] for row in measured], [row["distance"] for row in measured], ".-", label=name)
        right.plot([row["level"] for row in rows], [row["elbo"] for row in rows], "-", label=name)
    left.set(xlabel="level (beta falls to the left)", ylabel="Fréchet distance", yscale="log")
    right.set(xlabel="level (beta falls to the left)", ylabel="ELBO of the step, nats")
    left.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--ascents", type=int, default=5, help="gradient steps on the ELBO in each step")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--start", type=float, default=0.9, help="level of the reconstructions")
    parser.add_argument("--every", type=int, default=5, help="steps between distances")
    parser.add_argument("--out", type=Path, default=Path("runs/refinement"))
    options = parser.parse_args()
    config = load_config(options.run)
    pipeline = BetaDiffusionPipeline.from_pretrained(options.run / "pipeline")
    vae = pipeline.vae.eval().requires_grad_(False)
    train, held_out = load_split(config.data, vae.image_shape[1], config.seed)
    extractor = make_extractor(train, held_out, config, torch.device("cpu"))
    judge = Judge.from_split(extractor, train, held_out, options.count)
    x = torch.from_numpy(judge.images) / 127.5 - 1
    found: dict[str, list[dict[str, Any]]] = {}
    for start in STARTS:
        top = 1.0 if start == "prior" else options.start
        generator, t = torch.Generator().manual_seed(0), torch.tensor(top)
        noise = torch.randn(len(x), *vae.latent_shape, generator=generator)
        with torch.no_grad():
            f = torch.cat([vae.encode_mean(part, t) for part in x.split(BATCH)])
            z = noise if start == "prior" else f + vae.sigma(t) * noise
            first = torch.cat([vae.decode(part, t) for part in z.split(BATCH)]).clamp(-1, 1)
        levels = torch.linspace(top, 0, options.steps + 1)[1:]
        ways: dict[str, Callable[[int], Iterator[Refined]]] = {
            "fed back": lambda i, levels=levels, first=first: refine(
                vae, first.split(BATCH)[i], levels, generator=torch.Generator().manual_seed(i + 1)
            ),
            f"fed back, {options.ascents} ascents": lambda i, levels=levels, first=first: refine(
                vae, first.split(BATCH)[i], levels, ascents=options.ascents,
                generator=torch.Generator().manual_seed(i + 1),
            ),
            "diffusion": lambda i, levels=levels, z=z, top=top: walked(pipeline, z.split(BATCH)[i], levels, top),
        }  # fmt: skip
        rows: dict[str, Tensor] = {} if start == "prior" else {"original": x[:SHOWN]}
        rows[f"start, {top:g}"] = first[:SHOWN]
        for name, way in ways.items():
            steps = [way(i) for i in range(len(first.split(BATCH)))]
            key = f"{name}, from {start}"
            found[key] = follow(steps, judge, None if start == "prior" else x, options.every)
            pictures = [(row["level"], row.pop("pictures")) for row in found[key] if "pictures" in row]
            shown = pictures[1::3] if pictures[1::3][-1] is pictures[-1] else [*pictures[1::3], pictures[-1]]
            rows |= {f"{name}, {level:.2f}": images for level, images in shown}
            ends = [f"{found[key][-1][what]:.4g} {what}" for what in ("distance", "elbo", "error")
                    if what in found[key][-1]]  # fmt: skip
            print(f"{key}: at the end {', '.join(ends)}", flush=True)
        found[f"start, from {start}"] = [{"level": top, "distance": judge(as_bytes(first)), "elbo": float("nan")}]
        save_grid(options.out / f"refinement-{start}.png", rows)
    draw(options.out / "refinement.png", {k: v for k, v in found.items() if not k.startswith("start")})
    print("\n| | level | Frechet distance | ELBO of the step, nats | squared error to the original |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, steps in found.items():
        for row in [row for row in steps if "distance" in row][-1:]:
            values = [f"{row[key]:.4g}" if key in row else "-" for key in ("level", "distance", "elbo", "error")]
            print(f"| {name} | {' | '.join(values)} |")
    print(f"\nHeld-out images: {judge.floor:.4g}")
    clean = {k: [{a: b for a, b in row.items() if b == b} for row in v] for k, v in found.items()}
    settings = {key: str(value) for key, value in vars(options).items()}
    write_json(options.out / "refinement.json", {"settings": settings, "floor": judge.floor, "steps": clean})


if __name__ == "__main__":
    main()

"""Stage "decoder" on a trained run: L1 alone, with LPIPS, with the adversarial term, beside the run as it was.

    python benchmarks/decoder_tuning.py runs/shapes [--images 150000] [--lpips FILE] [--walked 0.5] [--out runs/decoder]

Copies the run's models for each row into a folder below --out, tunes the decoder there, resumed where it stopped, and
measures. The run itself stays as it is. Prints the table, writes OUT/decoder_tuning.json and draws the same held-out
images for every row in OUT/decoder_tuning.png. Up to half an hour a row on one core for the demo's networks.

Columns: the distances of benchmarks/joint_training.py; the mean absolute error of a pixel and, with --lpips, LPIPS on
held-out images at level 0; seconds of tuning.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from betadiffusion.cli.checks import check
from betadiffusion.metrics.lpips import LPIPS
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.training.accelerator import make_accelerator
from betadiffusion.training.config import DecoderConfig, RunConfig
from betadiffusion.training.files import write_json
from betadiffusion.training.pictures import save_grid
from betadiffusion.training.runs import load_config, load_split, run
from joint_training import DISTANCES, WALK, distances, extractor_of, table

PICTURES = 10


def rows(lpips: str | None, walked: float) -> dict[str, DecoderConfig | None]:
    """What each row lowers; None for the run as it was."""
    named: dict[str, DecoderConfig | None] = {"before": None, "L1": DecoderConfig(adversarial=0.0)}
    known = {"lpips": 1.0, "lpips_weights": lpips} if lpips else {}
    named[last := "L1 + adversarial"] = DecoderConfig()
    if lpips:
        named["L1 + LPIPS"] = DecoderConfig(adversarial=0.0, **known)
        named[last := "L1 + LPIPS + adversarial"] = DecoderConfig(**known)
    if walked:
        named[f"{last}, walked {walked:g}"] = DecoderConfig(walked=walked, **known)
    return named


def copied(source: Path, folder: Path) -> None:
    """The models of a run, copied into a new folder: whole, or not there at all."""
    if (folder / "config.yaml").is_file():
        return
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("vae/model", "pipeline"):
        shutil.copytree(source / part, folder / part)
    shutil.copy(source / "config.yaml", folder / "config.yaml")


@torch.no_grad()
def errors(folder: Path, lpips: str | None) -> dict[str, float]:
    """Mean absolute error of a pixel in [-1, 1], and LPIPS, of held-out images from draws of their codes at level 0."""
    config = load_config(folder)
    pipeline = BetaDiffusionPipeline.from_pretrained(folder / "pipeline").to(make_accelerator(config).device)
    _, held_out = load_split(config.data, pipeline.vae.image_shape[1], config.seed)
    x = torch.from_numpy(held_out.images(np.arange(min(config.report.count, len(held_out)))))
    made = pipeline.reconstruct(x, 0.0, torch.Generator().manual_seed(0), output_type="pt").images * 2 - 1
    x = x.float() / 127.5 - 1
    distance = {"LPIPS": float(LPIPS(lpips)(x, made).mean())} if lpips else {}
    return {"L1": float((x - made).abs().mean())} | distance


def pictures(folders: dict[str, Path]) -> dict[str, torch.Tensor]:
    """Rows of a grid: held-out images, and of every folder draws of their codes at level 0 and walks back to it."""
    rows: dict[str, torch.Tensor] = {}
    for name, folder in folders.items():
        config = load_config(folder)
        pipeline = BetaDiffusionPipeline.from_pretrained(folder / "pipeline").to(make_accelerator(config).device)
        _, held_out = load_split(config.data, pipeline.vae.image_shape[1], config.seed)
        x = torch.from_numpy(held_out.images(np.arange(PICTURES)))
        rows.setdefault("original", x.float() / 127.5 - 1)
        made = pipeline.reconstruct(x, 0.0, torch.Generator().manual_seed(0), output_type="pt").images
        rows[f"{name}: level 0"] = made * 2 - 1
        walked = pipeline.denoise(x, WALK, generator=torch.Generator().manual_seed(0), output_type="pt").images
        rows[f"{name}: from {WALK:g}"] = walked * 2 - 1
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=150_000)
    parser.add_argument("--lpips", help="weights, a .safetensors")
    parser.add_argument("--walked", type=float, default=0.0, help="a further row: share of codes walked back")
    parser.add_argument("--out", type=Path, default=Path("runs/decoder"))
    options = parser.parse_args()
    extractor = extractor_of(load_config(options.run))
    results: dict[str, list[dict[str, Any]]] = {}
    folders: dict[str, Path] = {}
    for name, decoder in rows(options.lpips, options.walked).items():
        folder = (
            options.run if decoder is None else options.out / name.replace(" + ", "-").replace(", walked ", "-walked-")
        )
        file = options.out / f"{folder.name}.json"
        if not file.is_file():
            seconds = 0.0
            if decoder is not None:
                copied(options.run, folder)
                config = load_config(options.run)
                config.decoder, config.stages, config.out = decoder, ["decoder"], str(folder)
                training = config.decoder_training = RunConfig().decoder_training  # the defaults, not the run's
                training.images, training.warmup_images = options.images, min(5_000, options.images // 4)
                training.validate_images = training.checkpoint_images = max(1, options.images // 4)
                check(config)
                run(config)
                seconds = json.loads((folder / "decoder" / "summary.json").read_text())["seconds"]
            numbers = distances(folder, extractor) | errors(folder, options.lpips) | {"seconds": seconds}
            write_json(file, numbers)
        folders[name] = folder
        results[name] = [json.loads(file.read_text())]
        print(f"{name}: {results[name][0]}", flush=True)
    print(table(results, [*DISTANCES, *(key for key in results["before"][0] if key not in DISTANCES)]))
    settings = {key: str(value) for key, value in vars(options).items()}
    save_grid(options.out / "decoder_tuning.png", pictures(folders))
    write_json(options.out / "decoder_tuning.json", {"settings": settings, "rows": results})


if __name__ == "__main__":
    main()

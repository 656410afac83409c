"""From a run's folder to its report: report.html, report.json and report/*.png."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from betadiffusion.metrics.features import FeatureExtractor
from betadiffusion.report.axes import png
from betadiffusion.report.figures import charts
from betadiffusion.report.generate import pictures
from betadiffusion.report.grids import grids
from betadiffusion.report.measure import finite, measure
from betadiffusion.report.page import page
from betadiffusion.report.summary import headline
from betadiffusion.training.config import ReportConfig
from betadiffusion.training.files import write_bytes
from betadiffusion.training.models import load_pipeline
from betadiffusion.training.runs import load_config, load_split

__all__ = ["headline", "write_report"]

STAGES = ("vae", "diffusion", "joint", "decoder")


def write_report(
    run: Path, options: ReportConfig | None = None, progress: bool = True, extractor: FeatureExtractor | None = None
) -> dict[str, Any]:
    """Measures a finished run and writes its report into its folder; returns the numbers, "path" is the page's.

    Nothing is written before all of it is made. options: what to measure, by default the run's own. extractor: the
    features of the Frechet distance, as in `measure`. Raises ValueError where the folder is not that of a finished run.
    """
    started = time.perf_counter()
    config = load_config(run)
    config.report = options or config.report
    pipeline = load_pipeline(run)
    if torch.cuda.is_available() and not config.cpu:
        pipeline.to("cuda")
    pipeline.vae.to(memory_format=torch.channels_last)  # decodes twice as fast on a CPU
    train, held_out = load_split(config.data, pipeline.vae.image_shape[1], config.seed)
    numbers = measure(pipeline, train, held_out, config, progress, extractor)
    numbers["stages"] = {stage: read for stage in STAGES if (read := _read(run / stage / "summary.json"))}
    numbers["history"] = {stage: read for stage in STAGES if (read := _read(run / stage / "history.json"))}
    shown = pictures(pipeline, held_out.images(np.arange(min(8, len(held_out)))), config)
    pngs = {name: png(figure) for name, figure in (charts(numbers) | grids(shown, numbers)).items()}

    numbers["minutes"] = {stage: summary["seconds"] / 60 for stage, summary in numbers["stages"].items()}
    numbers["minutes"]["report"] = (time.perf_counter() - started) / 60
    numbers["path"] = str(run / "report.html")
    html = page(numbers, pngs)
    for name, data in pngs.items():
        write_bytes(run / "report" / f"{name}.png", data)
    write_bytes(run / "report.json", json.dumps(numbers, indent=1, allow_nan=False).encode())
    write_bytes(run / "report.html", html.encode())
    return numbers


def _read(path: Path) -> Any:
    """What a JSON file holds, without NaN; None where there is no file."""
    return finite(json.loads(path.read_text())) if path.is_file() else None

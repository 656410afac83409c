"""Labelled picture grids."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

LEAST_SIDE = 64  # smaller images are enlarged to at least this, by whole pixels
LABEL = 124
GAP = 2


def grid(rows: Mapping[str, Tensor]) -> Image.Image:
    """One picture: a row of images (B,C,H,W) in [-1, 1] for every label, the label to its left."""
    side = next(iter(rows.values())).shape[-1]
    zoom = max(1, -(-LEAST_SIDE // side))
    side *= zoom
    columns = max(len(images) for images in rows.values())
    canvas = Image.new("RGB", (LABEL + columns * (side + GAP), len(rows) * (side + GAP)), "white")
    draw = ImageDraw.Draw(canvas)
    for r, (label, images) in enumerate(rows.items()):
        y = r * (side + GAP)
        draw.text((4, y + side // 2), label, fill="black", anchor="lm", font_size=13)
        pixels = ((images.float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        for c, array in enumerate(pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()):
            array = np.repeat(np.repeat(array, zoom, 0), zoom, 1)
            canvas.paste(Image.fromarray(array), (LABEL + c * (side + GAP), y))
    return canvas


def save_grid(path: Path, rows: Mapping[str, Tensor]) -> None:
    """Writes `grid(rows)` as a PNG, to a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    grid(rows).save(partial, format="PNG")
    os.replace(partial, path)

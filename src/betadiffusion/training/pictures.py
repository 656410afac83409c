"""Sheets of images, and labelled grids of them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from betadiffusion.atomic import atomic

LEAST_SIDE = 64  # smaller images are enlarged to at least this, by whole pixels
LABEL = 124
GAP = 2
FONT = 13


def sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Images of one size on one sheet, row by row, as nearly square as they make it."""
    columns = math.ceil(math.sqrt(len(images)))
    zoom = math.ceil(LEAST_SIDE / images[0].width)
    width, height = (zoom * side for side in images[0].size)
    rows = math.ceil(len(images) / columns)
    canvas = Image.new(images[0].mode, (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        large = image.resize((width, height), Image.Resampling.NEAREST)
        canvas.paste(large, (column * (width + GAP), row * (height + GAP)))
    return canvas


def grid(rows: Mapping[str, Tensor], columns: Sequence[str] = ()) -> Image.Image:
    """One picture: a row of images (B,C,H,W) in [-1, 1] for every label, the label to its left; `columns` on top."""
    side = next(iter(rows.values())).shape[-1]
    zoom = max(1, -(-LEAST_SIDE // side))
    side *= zoom
    across = max(len(images) for images in rows.values())
    font = ImageFont.load_default(FONT)
    left = max(LABEL, *(int(font.getlength(label)) + 12 for label in rows))
    top = 2 * FONT if columns else 0
    canvas = Image.new("RGB", (left + across * (side + GAP), top + len(rows) * (side + GAP)), "white")
    draw = ImageDraw.Draw(canvas)
    for c, label in enumerate(columns):
        draw.text((left + c * (side + GAP) + side // 2, top // 2), label, fill="black", anchor="mm", font=font)
    for r, (label, images) in enumerate(rows.items()):
        y = top + r * (side + GAP)
        draw.text((4, y + side // 2), label, fill="black", anchor="lm", font=font)
        pixels = ((images.float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        for c, array in enumerate(pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()):
            array = np.repeat(np.repeat(array, zoom, 0), zoom, 1)
            canvas.paste(Image.fromarray(array), (left + c * (side + GAP), y))
    return canvas


def save_grid(path: Path, rows: Mapping[str, Tensor]) -> None:
    """Writes `grid(rows)` as a PNG, to a temporary name first."""
    with atomic(path) as partial:
        grid(rows).save(partial, format="PNG")

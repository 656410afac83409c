"""The report's pictures: strips and squares of images on matplotlib figures, every pixel kept sharp."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from betadiffusion.report.distances import sampler_row
from betadiffusion.report.generate import POSTERIOR, Pictures
from betadiffusion.report.summary import number, own_sampler

TILE = 96  # least side of an image on the page; smaller ones are enlarged by whole pixels
DPI = 100
GAP = 3


def grids(pictures: Pictures, numbers: dict[str, Any]) -> dict[str, Figure]:
    """Every figure made of images, by the name of its file."""
    return {"dial": dial(pictures, numbers), "samples": sample_squares(pictures, numbers)}


def dial(pictures: Pictures, numbers: dict[str, Any]) -> Figure:
    """Held-out images in columns; by level what the VAE alone makes of them, and below the same code walked back."""
    name = numbers["frechet"]["name"]
    strips = [("originals\n(held out)", pictures.originals)]
    for row in numbers["frechet"]["levels"]:
        level = row["level"]
        strips.append((f"level {level:g}\nVAE alone\n{name} {number(row['vae'])}", pictures.alone[level]))
        strips.append((f"level {level:g}\nwalked back to 0\n{name} {number(row['walked'])}", pictures.walked[level]))
    pixels = [tiles(images, len(images)) for _, images in strips]
    height = pixels[0].shape[0]
    tops = np.cumsum([0, *(height + (3 * GAP if i % 2 == 0 else GAP) for i in range(len(strips) - 1))])
    canvas = np.full((tops[-1] + height, *pixels[0].shape[1:]), 255, np.uint8)
    for top, strip in zip(tops, pixels, strict=True):
        canvas[top : top + height] = strip
    figure, (ax,) = _exact([canvas], left=160, bottom=30, top=10)
    ax.set_yticks(tops + height / 2, [label for label, _ in strips], fontsize=9)
    ax.set_xlabel(f"{len(pictures.originals)} held-out images")
    ax.set_ylabel("level of the code")
    return figure


def sample_squares(pictures: Pictures, numbers: dict[str, Any]) -> Figure:
    """New images from the same noise by the pipeline's own sampler and by eta=1 with 200 evaluations."""
    chosen = [(own_sampler(numbers), pictures.default)]
    if pictures.posterior is not None:
        chosen.append((POSTERIOR, pictures.posterior))
    figure, axes = _exact([tiles(images, 8) for _, images in chosen], left=45, bottom=45, top=10)
    for ax, (sampler, _) in zip(axes, chosen, strict=True):
        distance = number(sampler_row(numbers["samplers"], sampler)["distance"])
        ax.set_xlabel(
            f"{sampler.label}, {sampler.evaluations} evaluations: {numbers['frechet']['name']} {distance}", fontsize=14
        )
        ax.set_yticks([])
        ax.set_ylabel("64 samples, not chosen", fontsize=14)
    return figure


def tiles(images: Tensor, columns: int) -> np.ndarray:
    """Images (N, 1 or 3, H, W) uint8 in rows of `columns`, enlarged to at least TILE pixels, with gaps: (h, w, 3)."""
    array = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    scale = max(1, -(-TILE // array.shape[1]))
    array = np.pad(array.repeat(scale, 1).repeat(scale, 2), ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    n, h, w, c = array.shape
    return array.reshape(n // columns, columns, h, w, c).swapaxes(1, 2).reshape(-1, columns * w, c)[:-GAP, :-GAP]


def _exact(canvases: list[np.ndarray], *, left: int, bottom: int, top: int) -> tuple[Figure, list[Axes]]:
    """A figure with the canvases side by side, a canvas's pixel a figure's pixel, and so much margin, in pixels."""
    h, w = canvases[0].shape[:2]
    width, height = len(canvases) * (left + w) + 10, bottom + h + top
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = []
    for i, canvas in enumerate(canvases):
        ax = figure.add_axes((((i + 1) * left + i * w) / width, bottom / height, w / width, h / height))
        ax.imshow(canvas, interpolation="nearest", aspect="auto")
        ax.set_xticks([])
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        axes.append(ax)
    return figure, axes

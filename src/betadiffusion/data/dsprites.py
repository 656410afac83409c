"""`dsprites`: one white sprite on black, after dSprites (Matthey et al., 2017). Rendered here, not the original.

A pixel's value is the part of it that the sprite covers, 1/2 - d to first order, where d is the signed distance of its
middle from the outline, in pixels, negative inside. As in the original the square looks alike at 4 orientations and the
ellipse at 2; the heart at none.
"""

import math

import numpy as np

from betadiffusion.data.rendered import RenderedSet

SCALES = np.linspace(0.5, 1.0, 6)
ORIENTATIONS = np.linspace(0, 2 * math.pi, 40, endpoint=False)
POSITIONS = np.linspace(0.25, 0.75, 32)  # of the middle, in frames
RADIUS = 0.1875  # of the circle around a sprite of scale 1, in frames; with half a pixel it stays inside for size >= 8


class DSprites(RenderedSet):
    """737,280 images: shape (square, ellipse, heart), scale (6), orientation (40), x and y position (32 each).

    size: side in pixels; channels: 1, or 3 equal ones.
    """

    name = "dsprites"
    factor_names = ("shape", "scale", "orientation", "x", "y")
    factor_sizes = (3, 6, 40, 32, 32)

    def __init__(self, size: int = 64, channels: int = 1) -> None:
        super().__init__(size, channels)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, (B,), as (B, C, H, W) uint8."""
        channels, size, _ = self.image_shape
        shape, scale, orientation, column, row = self.factors(indices).T
        radius = (RADIUS * SCALES[scale])[:, None, None].astype(np.float32)
        centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
        x = (centres - POSITIONS[column].astype(np.float32)[:, None])[:, None, :] / radius
        y = (centres - POSITIONS[row].astype(np.float32)[:, None])[:, :, None] / radius
        angle = ORIENTATIONS[orientation][:, None, None].astype(np.float32)
        x, y = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        distance = np.empty_like(x)
        for kind, function in enumerate((_square, _ellipse, _heart)):
            distance[shape == kind] = function(x[shape == kind], y[shape == kind])
        cover = (0.5 - distance * radius * size).clip(0, 1)
        pixels = (255 * cover + 0.5).astype(np.uint8)[:, None]
        return np.repeat(pixels, channels, axis=1)


# Signed distances from the outlines, in units of the circle of radius 1 around each.


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(math.sqrt(0.5))


def _ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # f / |grad f| with f = x^2 + (y / b)^2 - 1: the distance to first order
    b = 0.5
    gradient = 2 * np.sqrt(x**2 + (y / b**2) ** 2)
    return (x**2 + (y / b) ** 2 - 1) / np.maximum(gradient, 1e-3)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # exact: I. Quilez, "2D distance functions", sdHeart; its point is at (0, 0), its lobes above
    outer = 0.6306  # radius and height of the middle of the smallest circle around it
    x, y = np.abs(x) * outer, outer - y * outer
    lobe = np.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    along = 0.5 * (x + y).clip(0)
    edges = np.minimum(np.hypot(x, y - 1), np.hypot(x - along, y - along)) * np.sign(x - y)
    return np.where(x + y > 1, lobe, edges) / outer

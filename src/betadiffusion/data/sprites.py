"""`sprites`: game characters of the Universal LPC sheets, after Sprites (Li and Mandt, 2018, arXiv:1803.02991).

A sheet shows one layer of a character, transparent elsewhere, in 13 x 21 frames of 64 x 64 pixels. Its rows are actions
seen from four directions. As in Sprites, the characters cast a spell, walk or slash: other actions have blank frames in
some sheets. Unlike there they are also seen from behind, and have the 6 frames that all three actions have.
"""

import re
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from betadiffusion.data.arrays import fit
from betadiffusion.data.files import Place, places
from betadiffusion.data.protocols import DataError
from betadiffusion.data.rendered import RenderedSet

NAME = "sprites"
LAYERS = ("body", "bottomwear", "topwear", "hair")  # from back to front
FRAME, COLUMNS, ROWS = 64, 13, 21
ACTIONS = {"spellcast": 0, "walk": 8, "slash": 12}  # the first of four rows: seen from behind, left, front, right
FRAMES = 6
BLOCK = 256  # images composed at once, which bounds the memory


class Sprites(RenderedSet):
    """Every combination of the sheets of four layers, action (3), direction (4) and frame (6), on white.

    sheets: for each layer its sheets, (S, 3, 4, 6, 64, 64, 4) uint8, red, green, blue and opacity; size: in pixels.
    """

    name = NAME
    factor_names = (*LAYERS, "action", "direction", "frame")

    def __init__(self, sheets: list[np.ndarray], size: int) -> None:
        super().__init__(size, channels=3)
        self.factor_sizes = (*(len(layer) for layer in sheets), len(ACTIONS), 4, FRAMES)
        self._sheets = sheets

    def images(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, (B,), as (B, 3, H, W) uint8."""
        factors = self.factors(indices)
        images = np.empty((len(factors), *self.image_shape), np.uint8)
        for start in range(0, len(factors), BLOCK):
            pixels = self._compose(factors[start : start + BLOCK])
            images[start : start + BLOCK] = fit(pixels, self.image_shape[1], channels=3)
        return images

    def _compose(self, factors: np.ndarray) -> np.ndarray:
        """Whole frames, (B, 64, 64, 3) uint8, of factors (B, 7)."""
        *layers, action, direction, frame = factors.T
        pixels = np.full((len(factors), FRAME, FRAME, 3), 255, np.float32)
        for sheets, sheet in zip(self._sheets, layers, strict=True):
            above = sheets[sheet, action, direction, frame]
            pixels += (above[..., :3] - pixels) * (above[..., 3:] / np.float32(255))
        return (pixels + 0.5).astype(np.uint8)


def detect(path: Path) -> bool:
    """Whether a folder or .zip, or the only folder in it, has folders body, bottomwear, topwear and hair."""
    return _find(path) is not None


def load(
    path: Path, size: int | None, channels: int | None, cache_dir: Path | None = None, progress: bool = True
) -> Sprites:
    """The characters made from a folder or .zip with folders body, bottomwear, topwear and hair of .png sheets.

    A layer's sheets are in the order of the numbers in their names; other folders, such as shoes, are not used.
    DataError: a folder is missing or empty, a sheet is broken or not 832 x 1344 pixels, or channels is not 3.
    """
    if channels not in (None, 3):
        raise DataError(f"The sprites in {path} have colours, so they need 3 channels, not {channels}.")
    place = _find(path)
    if place is None:
        raise DataError(f"{path} should be a folder or .zip with the folders {', '.join(LAYERS)}.")
    sheets = []
    for layer in LAYERS:
        files = sorted((file for file in (place / layer).iterdir() if file.name.endswith(".png")), key=_number)
        if not files:
            raise DataError(f"The folder {layer} in {path} holds no .png sheets.")
        sheets.append(np.stack([_read(file) for file in files]))
    return Sprites(sheets, size or FRAME)


def _find(path: Path) -> Place | None:
    return next((place for place in places(path) if all((place / layer).is_dir() for layer in LAYERS)), None)


def _number(file: Place) -> tuple[int, str]:
    return int((re.findall(r"\d+", file.name) or ["0"])[0]), file.name


def _read(file: Place) -> np.ndarray:
    """The frames of a sheet that are used, (3, 4, 6, 64, 64, 4)."""
    try:
        sheet = np.asarray(Image.open(BytesIO(file.read_bytes())).convert("RGBA"))
    except Exception as error:  # a broken file makes the decoders raise nearly anything
        raise DataError(f"The sheet {file} cannot be read ({error}).") from error
    if sheet.shape[:2] != (ROWS * FRAME, COLUMNS * FRAME):
        raise DataError(f"The sheet {file} is {sheet.shape[1]} x {sheet.shape[0]} pixels, not 832 x 1344.")
    frames = sheet.reshape(ROWS, FRAME, COLUMNS, FRAME, 4).swapaxes(1, 2)
    return np.stack([frames[row : row + 4, :FRAMES] for row in ACTIONS.values()])

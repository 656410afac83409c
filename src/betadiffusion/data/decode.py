"""From an image file's bytes to a square of bytes, whatever its mode and size."""

from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = (
    *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)
GREY_MODES = frozenset(["1", "L", "LA", "La", "F", "I", "I;16", "I;16B", "I;16L", "I;16N"])


def decode(data: bytes, size: int, channels: int) -> np.ndarray:
    """The image in an encoded file, as (channels, size, size) uint8; its first frame where it has several.

    Turned upright by its EXIF orientation, laid on white where transparent, cut to its central square and resized with
    an antialiasing Lanczos filter. Raises whatever Pillow raises for a file that is broken, mostly OSError.
    """
    if not data:
        raise OSError("empty file")
    try:
        image = Image.open(BytesIO(data))
    except UnidentifiedImageError as error:
        raise OSError("not an image") from error
    image.draft(None, (2 * size, 2 * size))  # a large JPEG is decoded at a fraction of its size
    return square(_flatten(ImageOps.exif_transpose(image)), size, channels)


def square(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """The central square of an 8-bit opaque image, resized, as (channels, size, size) uint8."""
    image = image.convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box, reducing_gap=3))
    return pixels.reshape(size, size, channels).transpose(2, 0, 1)


def is_grey(data: bytes) -> bool:
    """Whether the header of an encoded file says that its image has one channel, of grey. Raises as `decode` does."""
    return Image.open(BytesIO(data)).mode in GREY_MODES


def _flatten(image: Image.Image) -> Image.Image:
    """An 8-bit image without transparency."""
    if image.mode[0] in "IF":
        return _to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey from 16-bit, 32-bit or float values: white is the mode's largest value.

    Modes I and F do not say what white is: it is the first of 255, 65535 and 2^31 - 1 (I), or of 1, 255 and 65535 (F),
    that is at least the image's largest value.
    """
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("has values that are not finite")
    whites = {"I": (255, 65535, 2**31 - 1), "F": (1, 255, 65535)}.get(image.mode, (65535,))
    white = next((white for white in whites if values.max() <= white), values.max())
    return Image.fromarray((values.clip(0) * (255 / white) + 0.5).astype(np.uint8))

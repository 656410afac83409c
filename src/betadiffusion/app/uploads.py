"""An image file that a stranger sent, as pixels, or one sentence."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from betadiffusion.data.decode import decode

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MOST_BYTES = 20_000_000
MOST_PIXELS = 40_000_000  # of a whole image, before it is cut and resized


def read_upload(path: Path, size: int, channels: int) -> np.ndarray:
    """The image in a file as training would see it, (channels, size, size) uint8.

    Its pixels are counted from its header, before any is decoded. Raises ValueError for what is no image, of too many
    pixels, or broken.
    """
    data = path.read_bytes()
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise ValueError(f"this image has more than the {MOST_PIXELS:,} pixels that are read") from None
    except Exception:  # a broken header makes the decoders raise nearly anything
        raise ValueError(f"this file is not an image that can be read ({', '.join(FORMATS)})") from None
    if width * height > MOST_PIXELS:
        raise ValueError(f"this image has {width} x {height} pixels, more than the {MOST_PIXELS:,} that are read")
    try:
        return decode(data, size, channels)
    except Exception as error:
        raise ValueError(f"this image is broken ({error})") from error

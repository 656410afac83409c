"""Image files in and out: read as in training, written whole or not at all."""

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from betadiffusion.atomic import atomic
from betadiffusion.data import load
from betadiffusion.data.decode import EXTENSIONS, decode

FRAME_RATE = 8  # of animations, per second


def read_images(sources: Iterable[str], shape: tuple[int, int, int], most: int) -> np.ndarray:
    """Image files, and at most so many images of each folder, zip or named set, as (B, C, H, W) uint8 of `shape`.

    Raises ValueError (DataError) for what cannot be read.
    """
    channels, size, _ = shape
    parts = []
    for source in sources:
        path = Path(source).expanduser()
        if path.is_file() and path.suffix.lower() in EXTENSIONS:
            try:
                parts.append(decode(path.read_bytes(), size, channels)[None])
            except Exception as error:  # a broken file makes the decoders raise nearly anything
                raise ValueError(f"{source} cannot be read as an image ({error})") from error
        else:
            images = load(source, size, channels)
            parts.append(images.images(np.arange(min(most, len(images)))))
    return np.concatenate(parts)


def images_of(run: Path, sources: Sequence[str], shape: tuple[int, int, int], most: int) -> np.ndarray:
    """What `read_images` reads of the sources, or without any the first held-out images of a run."""
    if sources:
        return read_images(sources, shape, most)
    from betadiffusion.training.runs import load_config, load_split

    config = load_config(run)
    held_out = load_split(config.data, shape[-1], config.seed)[1]
    return held_out.images(np.arange(min(most, len(held_out))))


def as_pictures(pixels: np.ndarray) -> list[Image.Image]:
    """(B, C, H, W) uint8 as pictures, grey for C = 1 and colour for C = 3."""
    return [Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)) for image in pixels]


def save(path: Path, image: Image.Image) -> None:
    """Writes a PNG; ValueError where it cannot."""
    with _whole(path) as partial:
        image.save(partial, format="PNG")


def save_sheet(path: Path, images: Sequence[Image.Image]) -> None:
    """Writes `training.pictures.sheet(images)` as a PNG; ValueError where it cannot."""
    from betadiffusion.training.pictures import sheet

    save(path, sheet(images))


def save_all(folder: Path, images: Iterable[Image.Image]) -> None:
    """Writes folder/00000.png and on; the folder, new or empty, appears once all are in it; ValueError if it cannot."""
    with _whole(folder) as partial:
        partial.mkdir()
        for i, image in enumerate(images):
            image.save(partial / f"{i:05}.png")


def save_gif(path: Path, frames: Sequence[Image.Image]) -> None:
    """Writes frames of one size as a GIF that runs for ever; ValueError where it cannot."""
    with _whole(path) as partial:
        frames[0].save(partial, "GIF", save_all=True, append_images=frames[1:], duration=1000 // FRAME_RATE, loop=0)


def ffmpeg() -> str:
    """The program ffmpeg, of the system or of the package imageio-ffmpeg; ValueError where there is neither."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise ValueError("an .mp4 needs the program ffmpeg, which is not installed: give --out a .gif") from None


def save_mp4(path: Path, frames: Sequence[Image.Image]) -> None:
    """Writes frames of one size as an H.264 video; ValueError where it cannot."""
    width, height = frames[0].size
    read = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FRAME_RATE), "-i", "-"]
    even = "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white"  # as H.264 with half the colour resolution asks
    with _whole(path) as partial:
        command = [ffmpeg(), "-loglevel", "error", *read, "-vf", even, "-pix_fmt", "yuv420p", "-f", "mp4", str(partial)]
        pixels = b"".join(frame.convert("RGB").tobytes() for frame in frames)
        done = subprocess.run(command, input=pixels, capture_output=True)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
            raise ValueError(f"{path} cannot be written (ffmpeg: {reason[-1]})")


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """`atomic`, whose errors are ValueErrors."""
    try:
        with atomic(path) as partial:
            yield partial
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror or error})") from error

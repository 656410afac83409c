"""Image files in a folder or a zip, decoded once into a cache."""

import hashlib
import json
import os
import shutil
import threading
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from betadiffusion.data.arrays import ArrayImages
from betadiffusion.data.cache import cache_folder, locked
from betadiffusion.data.decode import EXTENSIONS, decode, is_grey
from betadiffusion.data.protocols import DataError

MAX_SKIPPED = 0.01  # of the image files
VERSION = 1  # of the decoding; a new one makes the old caches unused
Place = Path | zipfile.Path  # a file or folder on the disk or in a zip


@dataclass(frozen=True)
class Source:
    """Image files by name. `stamps` changes when they do; `read` gives a file's bytes and may be called by threads."""

    name: str
    path: Path
    names: list[str]
    stamps: list[tuple[int, int]]
    read: Callable[[str], bytes]


def load_files(
    path: Path, size: int, channels: int | None, cache_dir: Path | None = None, progress: bool = True
) -> ArrayImages:
    """The images in a folder (nested or flat) or a .zip, in the order of their names, (N, channels, size, size).

    channels: 1 or 3; by default 1 when all of 256 files, spread evenly over the set, are single-channel grey, else 3.
    The decoded images are kept in `cache_dir` (default: betadiffusion in $XDG_CACHE_HOME or ~/.cache), so that the next
    call with the same files, size and channels opens them at once. DataError: no images, more than 1 % of the image
    files broken, too little disk.
    """
    return load_source(open_source(path), size, channels, cache_dir, progress)


def open_source(place: Place) -> Source:
    """The image files in a folder (nested or flat), in a .zip or in a folder of one. DataError where there are none."""
    if isinstance(place, zipfile.Path):
        return _zip(Path(str(place.root.filename)), place.at)
    return _zip(place) if place.is_file() else _folder(place)


def load_source(source: Source, size: int, channels: int | None, cache_dir: Path | None, progress: bool) -> ArrayImages:
    """The images of a source, decoded once into the cache, see `load_files`."""
    folder = cache_folder(cache_dir)
    identity = json.dumps([VERSION, str(source.path.resolve()), source.names, source.stamps, size, channels])
    cache = folder / hashlib.sha256(identity.encode()).hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(cache.with_suffix(".lock")):
            return _open(source.name, cache) or _build(source, size, channels, cache, progress)
    except OSError as error:
        raise DataError(f"The cache of decoded images in {folder} cannot be written ({error.strerror}).") from error


def places(path: Path) -> list[Place]:
    """Where a set's files may lie: a folder, or a .zip seen as one, then the only folder in it, if it holds no more.

    Empty where `path` is neither or cannot be read. Looks at two entries at most.
    """
    try:
        root = _zip_root(path, _stamp(path)) if path.suffix.lower() == ".zip" and path.is_file() else path
        entries = list(islice((entry for entry in root.iterdir() if _visible(entry.name)), 2))
        return [root, *entries] if len(entries) == 1 and entries[0].is_dir() else [root]
    except (OSError, ValueError, zipfile.BadZipFile):
        return []


def locate(path: Path, *names: str) -> Place | None:
    """The first of the files and folders `names`, such as "Anno/list.txt", that exists in one of `places(path)`."""
    try:
        return next((place / name for place in places(path) for name in names if (place / name).exists()), None)
    except OSError:
        return None


def read_text(place: Place) -> str:
    """The text of a file on the disk or in a zip; DataError where it cannot be read."""
    try:
        return place.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{place} cannot be read, perhaps it is damaged ({error}).") from error


@lru_cache(maxsize=1)  # a zip is looked into by every reader
def _zip_root(path: Path, stamp: tuple[int, int]) -> zipfile.Path:
    return zipfile.Path(path)


def _visible(name: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _no_images(path: Path, others: list[str]) -> DataError:
    if not others:
        return DataError(f"{path} is empty: it should hold image files.")
    some = ", ".join(sorted(others)[:3]) + (" and others" if len(others) > 3 else "")
    return DataError(f"{path} holds no image (.png, .jpg, ...) among its {len(others)} files: {some}.")


def _folder(root: Path) -> Source:
    files, seen = [], set()

    def refuse(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if _visible(name))
        real = os.path.realpath(folder)
        if real in seen:  # a link back up, or to a folder already read
            folders.clear()
            continue
        seen.add(real)
        prefix = os.path.relpath(folder, root) + "/" if folder != str(root) else ""
        files += [prefix + name for name in names if _visible(name)]
    images = sorted(filter(is_image, files))
    if not images:
        raise _no_images(root, files)
    stamps = [_stamp(root / name) for name in images]
    return Source(root.resolve().name, root, images, stamps, lambda name: (root / name).read_bytes())


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:  # a link to nowhere; decoding will name it
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _zip(path: Path, prefix: str = "") -> Source:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is not a zip file, or it is cut short ({error}).") from error
    files = [info for info in archive.infolist() if not info.is_dir() and info.filename.startswith(prefix)]
    members = {info.filename: info for info in files if _visible(info.filename)}
    images = sorted(filter(is_image, members))
    if not images:
        raise _no_images(path, list(members))
    stamps = [_stamp(path)] + [(members[name].file_size, members[name].CRC) for name in images]
    lock = threading.Lock()

    def read(name: str) -> bytes:
        with lock:  # a ZipFile has one place in its file; decoding, the slow part, is outside
            return archive.read(name)

    return Source(path.stem, path, images, stamps, read)


def _open(name: str, cache: Path) -> ArrayImages | None:
    """The set in the cache, or None where it has none that is whole."""
    try:
        about = json.loads(cache.with_suffix(".json").read_text())
        array = np.load(cache.with_suffix(".npy"), mmap_mode="r")
        if len(array) == len(about["names"]):
            return ArrayImages(name, np.asarray(array), about["skipped"], about["names"])
    except (OSError, ValueError, KeyError):
        pass
    return None


def _build(source: Source, size: int, channels: int | None, cache: Path, progress: bool) -> ArrayImages:
    """Decodes every image into the cache. The JSON file is renamed last: a cache with it is whole."""
    channels = channels or _choose_channels(source)
    bytes_needed = len(source.names) * channels * size * size
    bytes_free = shutil.disk_usage(cache.parent).free
    if bytes_needed > bytes_free:
        raise DataError(
            f"Decoding {source.path} needs {bytes_needed / 1e9:.1f} GB in {cache.parent}, which has "
            f"{bytes_free / 1e9:.1f} GB free: choose a smaller size, or another disk by setting XDG_CACHE_HOME."
        )
    partial = cache.with_suffix(".partial")  # the lock makes us its only writer
    try:
        with open(partial, "wb") as file:
            about = _decode_all(source, (channels, size, size), file, progress)
        os.replace(partial, cache.with_suffix(".npy"))
        partial.write_text(json.dumps({"source": str(source.path.resolve()), **about}))
        os.replace(partial, cache.with_suffix(".json"))
    finally:
        partial.unlink(missing_ok=True)
    images = _open(source.name, cache)
    if images is None:
        raise DataError(f"The cache {cache}.npy was just written but cannot be read.")
    return images


def _choose_channels(source: Source) -> int:
    sample = np.linspace(0, len(source.names) - 1, min(256, len(source.names))).astype(int)

    def grey(name: str) -> bool:
        try:
            return is_grey(source.read(name))
        except Exception:  # a broken file says nothing about the others; decoding will name it
            return True

    return 1 if all(grey(source.names[i]) for i in sample) else 3


def _decode_all(source: Source, shape: tuple[int, int, int], file: IO[bytes], progress: bool) -> dict[str, list[str]]:
    """Writes the images as a .npy array; returns the names of the images and of the skipped files with the reason."""
    names: list[str] = []
    skipped: list[str] = []

    def attempt(name: str) -> np.ndarray | str:
        try:
            return decode(source.read(name), shape[1], shape[0])
        except Exception as error:  # a broken file makes the decoders raise nearly anything
            return f"{name} ({str(error) or type(error).__name__})"

    def write_header(count: int) -> int:
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        return file.tell()

    begin = write_header(len(source.names))
    with (
        ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
        tqdm(total=len(source.names), desc=f"decoding {source.name}", unit="img", disable=not progress) as bar,
    ):
        for start in range(0, len(source.names), 1024):
            chunk = source.names[start : start + 1024]
            for name, result in zip(chunk, pool.map(attempt, chunk), strict=True):
                if isinstance(result, str):
                    skipped.append(result)
                else:
                    file.write(result.tobytes())
                    names.append(name)
                bar.update()
            if len(skipped) > MAX_SKIPPED * len(source.names):
                raise DataError(
                    f"{len(skipped)} of the first {start + len(chunk)} image files in {source.path} do not decode, "
                    f"more than {MAX_SKIPPED:.0%} of all {len(source.names)}: {'; '.join(skipped[:3])}."
                )
    file.seek(0)
    if write_header(len(names)) != begin:
        raise AssertionError("numpy pads the header of an array so that its length can change")
    return {"names": names, "skipped": skipped}

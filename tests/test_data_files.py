"""Folders and zips of image files: every mode, every fault, and a cache that is whole or absent."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from betadiffusion.data import DataError, ImageSet, files, load
from betadiffusion.data.decode import decode
from betadiffusion.data.sources import anywhere


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def plain(colour, size=(10, 10), mode="RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def fill(folder, count, mode="RGB"):
    """`count` images, the i-th of brightness i modulo 256, in two sub-folders."""
    for i in range(count):
        path = folder / ("ab"[i % 2]) / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        plain(i % 256 if mode == "L" else (i % 256,) * 3, mode=mode).save(path)
    return folder


def read(path, size=8, channels=None, cache=None):
    cache = cache or path.parent / "cache"
    data = load(str(path), size, channels, cache_dir=cache, progress=False)
    return data, data.images(np.arange(len(data)))


def colour_of(data: bytes, channels: int = 3) -> list[int]:
    pixels = decode(data, 8, channels)
    assert pixels.shape == (channels, 8, 8)
    assert pixels.dtype == np.uint8
    return pixels[:, 4, 4].tolist()


# Decoding


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (plain(1, mode="1"), [255, 255, 255]),
        (plain(100, mode="L"), [100, 100, 100]),
        (plain((100, 0), mode="LA"), [255, 255, 255]),
        (plain((0, 128), mode="LA"), [127, 127, 127]),
        (plain((10, 20, 30)), [10, 20, 30]),
        (plain((255, 0, 0, 255), mode="RGBA"), [255, 0, 0]),
        (plain((255, 0, 0, 0), mode="RGBA"), [255, 255, 255]),
        (plain((255, 0, 0, 51), mode="RGBA"), [255, 204, 204]),
        (plain((10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE), [10, 20, 30]),
        (Image.fromarray(np.full((10, 10), 32896, np.uint16)), [128, 128, 128]),
        (Image.fromarray(np.full((10, 10), 65535, np.uint16)), [255, 255, 255]),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_png_modes(image, expected):
    assert colour_of(encoded(image)) == expected


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((9, 9), 77, np.int32), 77),
        (np.full((9, 9), 257 * 77, np.int32), 77),
        (np.full((9, 9), 2**31 - 1, np.int32), 255),
        (np.full((9, 9), -5, np.int32), 0),
        (np.full((9, 9), 0.2, np.float32), 51),
        (np.full((9, 9), 51, np.float32), 51),
        (np.full((9, 9), 257 * 77, np.uint16), 77),
    ],
)
def test_deep_tiffs(array, expected):
    assert colour_of(encoded(Image.fromarray(array), "TIFF"), channels=1) == [expected]


def test_other_forms():
    assert colour_of(encoded(plain((0, 255, 255, 0), mode="CMYK"), "TIFF")) == [255, 0, 0]
    assert np.abs(np.array(colour_of(encoded(plain((0, 255, 255, 0), mode="CMYK"), "JPEG"))) - [255, 0, 0]).max() < 4
    see_through = plain(0, mode="P")
    see_through.putpalette([200, 0, 0, 0, 0, 200])
    assert colour_of(encoded(see_through)) == [200, 0, 0]
    assert colour_of(encoded(see_through, transparency=0)) == [255, 255, 255]
    assert colour_of(encoded(see_through, "GIF", transparency=0)) == [255, 255, 255]
    assert colour_of(encoded(plain((9, 9, 9)), transparency=(9, 9, 9))) == [255, 255, 255]
    assert colour_of(encoded(plain((255, 0, 0)), "BMP"), channels=1) == [76]


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        decode(encoded(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"), 8, 1)


def test_central_square_and_exif_orientation():
    wide = plain("black", (30, 10))
    wide.paste((255, 255, 255), (10, 0, 20, 10))
    assert decode(encoded(wide), 10, 3).min() == 255
    left_white = plain("black", (16, 16))
    left_white.paste((255, 255, 255), (0, 0, 8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: left becomes top
    turned = decode(encoded(left_white, exif=exif), 16, 1)[0]
    assert turned[:7].min() == 255
    assert turned[9:].max() == 0


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_shrinking_averages_and_does_not_alias(form):
    stripes = np.tile(np.array([0, 255], np.uint8), (1024, 512))
    small = decode(encoded(Image.fromarray(stripes), form), 16, 1)
    assert np.abs(small.astype(int) - 128).max() <= 3


def test_an_image_of_the_right_size_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels)), 16, 3), pixels.transpose(2, 0, 1))


# Folders and zips


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    folder = fill(tmp_path / "faces", 20)
    (folder / "notes.csv").write_text("1,2")
    for hidden in (".git/x.png", "__MACOSX/a/._y.png", "a/._000.png"):
        (folder / hidden).parent.mkdir(parents=True, exist_ok=True)
        (folder / hidden).write_bytes(b"junk")
    data, images = read(folder)
    assert isinstance(data, ImageSet)
    assert (data.name, data.image_shape, data.skipped) == ("faces", (3, 8, 8), [])
    assert images[:, 0, 0, 0].tolist() == [*range(0, 20, 2), *range(1, 20, 2)]
    assert data.names[:2] == ["a/000.png", "a/002.png"]
    assert data.names[-1] == "b/019.png"


def test_a_zip_gives_what_its_folder_gives(tmp_path):
    folder = fill(tmp_path / "faces", 20)
    (folder / "notes.txt").write_text("hello")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "faces")
    zipped, images = read(tmp_path / "packed.zip")
    assert zipped.name == "packed"
    assert zipped.names[0] == "faces/a/000.png"
    np.testing.assert_array_equal(images, read(folder)[1])
    assert os.path.exists(archive)


def test_channels_follow_the_files(tmp_path):
    grey = fill(tmp_path / "grey", 6, mode="L")
    assert read(grey)[0].image_shape == (1, 8, 8)
    assert read(grey, channels=3)[0].image_shape == (3, 8, 8)
    plain((1, 2, 3)).save(grey / "c.png")
    assert read(grey)[0].image_shape == (3, 8, 8)
    assert read(grey, channels=1)[0].image_shape == (1, 8, 8)


def test_linked_folders_are_read_once(tmp_path):
    folder, elsewhere = fill(tmp_path / "faces", 4), fill(tmp_path / "elsewhere", 4)
    (folder / "link").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    assert len(read(folder)[0]) == 8


def broken_files() -> dict[str, bytes]:
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
    return {"cut.jpg": whole[: len(whole) // 2], "empty.png": b"", "text.jpeg": b"hello"}


def test_broken_files_are_skipped_and_named(tmp_path):
    folder = fill(tmp_path / "faces", 300 - 3)
    for name, data in broken_files().items():
        (folder / name).write_bytes(data)
    data, images = read(folder)
    assert len(data) == len(images) == len(data.names) == 297
    assert sorted(images[:, 0, 0, 0].astype(int)) == sorted(i % 256 for i in range(297))
    assert [name.split(" ")[0] for name in data.skipped] == ["cut.jpg", "empty.png", "text.jpeg"]
    assert "truncated" in data.skipped[0]
    assert "empty file" in data.skipped[1]
    assert "not an image" in data.skipped[2]
    assert read(folder)[0].skipped == data.skipped  # from the cache


def test_more_than_one_percent_is_an_error(tmp_path):
    folder = fill(tmp_path / "faces", 200)
    for name, data in broken_files().items():
        (folder / name).write_bytes(data)
    with pytest.raises(DataError, match=r"more than 1%.*cut\.jpg.*empty\.png.*text\.jpeg") as error:
        read(folder)
    assert "\n" not in str(error.value)
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


def test_a_path_is_spelled_for_every_folder_and_all_else_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces").mkdir()
    for source in ("faces", "./faces", "faces/../faces", tmp_path / "faces"):
        assert anywhere(str(source)) == str(tmp_path / "faces")
    assert anywhere("coil20:faces") == f"coil20:{tmp_path / 'faces'}"
    (tmp_path / "shapes").mkdir()
    for source in ("shapes", "nowhere", "coil20:nowhere"):
        assert anywhere(source) == source


def test_empty_places_and_wrong_files(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path / "empty")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.csv").write_text("1")
    with pytest.raises(DataError, match=r"no image .* among its 1 files: a\.csv"):
        read(tmp_path / "text")
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"no image .* readme\.txt"):
        read(tmp_path / "text.zip")
    with zipfile.ZipFile(tmp_path / "nothing.zip", "w"):
        pass
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path / "nothing.zip")
    (tmp_path / "false.zip").write_bytes(b"hello")
    with pytest.raises(DataError, match="not a zip file"):
        read(tmp_path / "false.zip")


# The cache


def test_the_second_call_decodes_nothing(tmp_path, monkeypatch):
    folder = fill(tmp_path / "faces", 10)
    _, first = read(folder)
    with monkeypatch.context() as patch:
        patch.setattr(files, "decode", lambda *_: pytest.fail("decoded again"))
        np.testing.assert_array_equal(read(folder)[1], first)
    plain((200, 0, 0)).save(folder / "a" / "000.png")
    assert read(folder)[1][0, 0, 0, 0] == 200  # a changed file is seen
    (folder / "b" / "009.png").unlink()
    assert len(read(folder)[0]) == 9
    assert read(folder, size=9)[0].image_shape == (3, 9, 9)


def test_the_cache_is_where_xdg_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load(str(fill(tmp_path / "faces", 2)), 8, progress=False)
    assert {path.suffix for path in (tmp_path / "xdg" / "betadiffusion").iterdir()} == {".npy", ".json", ".lock"}


@pytest.mark.parametrize("damage", [".npy", ".json"])
def test_a_damaged_cache_is_built_again(tmp_path, damage):
    folder = fill(tmp_path / "faces", 10)
    _, first = read(folder)
    path = next((tmp_path / "cache").glob(f"*{damage}"))
    path.write_bytes(path.read_bytes()[:-100])
    np.testing.assert_array_equal(read(folder)[1], first)


def test_too_little_disk_and_no_permission(tmp_path, monkeypatch):
    folder = fill(tmp_path / "faces", 10)
    (tmp_path / "a_file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        read(folder, cache=tmp_path / "a_file")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"needs 0.0 GB .* which has 0.0 GB free: choose a smaller size"):
        read(folder)


SLOW_LOAD = """
import sys, time
from pathlib import Path
from betadiffusion.data import files, load
fast = files.decode
def slow(*arguments):
    time.sleep(0.01)
    return fast(*arguments)
files.decode = slow
print(load(sys.argv[1], 64, cache_dir=Path(sys.argv[2]), progress=False).images([5]).sum())
"""


def slow_load(folder, cache):
    return subprocess.Popen([sys.executable, "-c", SLOW_LOAD, folder, cache], stdout=subprocess.PIPE)


def test_a_kill_leaves_nothing_half_usable(tmp_path):
    folder, cache = fill(tmp_path / "faces", 200), tmp_path / "cache"
    process = slow_load(folder, cache)
    deadline = time.monotonic() + 30
    while not any(path.stat().st_size > 20_000 for path in cache.glob("*.partial")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(cache.glob("*.npy"))
    _, images = read(folder, size=64)
    assert sorted(images[:, 0, 0, 0].tolist()) == list(range(200))
    assert {path.suffix for path in cache.iterdir()} == {".npy", ".json", ".lock"}


def test_two_builders_at_once(tmp_path):
    folder = fill(tmp_path / "faces", 60)
    processes = [slow_load(folder, tmp_path / "cache") for _ in range(2)]
    sums = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sums == [10 * 3 * 64 * 64] * 2  # the sixth name is a/010.png
    assert sorted(read(folder, size=64)[1][:, 0, 0, 0].tolist()) == list(range(60))

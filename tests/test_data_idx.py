"""idx files of the MNIST family, and the names that `load` understands."""

import gzip
import struct
import subprocess
import sys

import numpy as np
import pytest

from betadiffusion.data import DataError, load, sources


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def family(tmp_path):
    """A folder in MNIST's layout: 5 training images, gzipped, and 3 test images, not; with labels."""
    generator = np.random.default_rng(0)
    train, test = (generator.integers(0, 256, (n, 28, 28), np.uint8) for n in (5, 3))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(train)))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(5, dtype=np.uint8))))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(test))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(3, dtype=np.uint8) + 7))
    return tmp_path, train, test


def test_train_comes_first_and_28_is_padded_to_32(family):
    folder, train, test = family
    data = load(str(folder))
    assert data.image_shape == (1, 32, 32)
    assert len(data) == 8
    images = data.images(np.arange(8))[:, 0]
    np.testing.assert_array_equal(images[:, 2:-2, 2:-2], np.concatenate([train, test]))
    border = images.copy()
    border[:, 2:-2, 2:-2] = 0
    assert not border.any()
    np.testing.assert_array_equal(data.labels, [0, 1, 2, 3, 4, 7, 8, 9])
    assert data.labels.dtype == np.int64
    assert data.partition.tolist() == ["train"] * 5 + ["test"] * 3


def test_other_sizes_and_channels(family):
    folder, train, _ = family
    file = folder / "train-images-idx3-ubyte.gz"
    native = load(str(file), size=28)
    np.testing.assert_array_equal(native.images(np.arange(5))[:, 0], train)
    np.testing.assert_array_equal(native.labels, np.arange(5))
    colour = load(str(file), size=28, channels=3)
    np.testing.assert_array_equal(colour.images(np.arange(5)), np.repeat(train[:, None], 3, axis=1))
    half = load(str(file), size=14).images(np.arange(5))[:, 0]
    assert half.shape == (5, 14, 14)
    means = train.reshape(5, 14, 2, 14, 2).mean((2, 4))
    assert np.corrcoef(half.ravel(), means.ravel())[0, 1] > 0.85


def test_without_labels(family):
    folder, _, _ = family
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert load(str(folder)).labels is None


def test_emnist_is_turned_back(tmp_path):
    generator = np.random.default_rng(0)
    images = {part: generator.integers(0, 256, (n, 28, 28), np.uint8) for part, n in (("train", 3), ("test", 2))}
    for part, upright in images.items():
        stored = np.ascontiguousarray(upright.transpose(0, 2, 1))
        labels = np.arange(1, len(upright) + 1, dtype=np.uint8)
        path = tmp_path / "emnist" / f"emnist-letters-{part}-images-idx3-ubyte.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(idx(stored)))
        path.with_name(path.name.replace("images-idx3", "labels-idx1")).write_bytes(gzip.compress(idx(labels)))
    data = load(str(tmp_path / "emnist"), size=28)
    np.testing.assert_array_equal(data.images(np.arange(5))[:, 0], np.concatenate([images["train"], images["test"]]))
    np.testing.assert_array_equal(data.labels, [1, 2, 3, 1, 2])
    assert data.partition.tolist() == ["train"] * 3 + ["test"] * 2
    padded = load(str(path)).images(np.arange(2))[:, 0]
    np.testing.assert_array_equal(padded[:, 2:-2, 2:-2], images["test"])
    (path.parent / "emnist-mnist-test-images-idx3-ubyte").write_bytes(idx(images["test"]))
    with pytest.raises(DataError, match=r"several EMNIST sets \(emnist-letters, emnist-mnist\)"):
        load(str(tmp_path / "emnist"))


def test_files_of_no_part_have_no_partition(family):
    folder, train, _ = family
    (folder / "more-images-idx3-ubyte").write_bytes(idx(train))
    assert load(str(folder)).partition is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "cut short"),
        (lambda data: data[:10], "cut short in its header"),
        (lambda data: data + b"!", "damaged"),
        (lambda data: b"", "begins with nothing"),
        (lambda data: b"\0\0\x0d\x03" + data[4:], "not an idx file of 3 dimensions"),
        (lambda data: gzip.compress(data)[:-20], "cut short"),
        (lambda data: idx(np.zeros((0, 28, 28), np.uint8)), "holds no images"),
    ],
)
def test_damaged_files_give_one_sentence(family, damage, message):
    folder, _, test = family
    (folder / "t10k-images-idx3-ubyte").write_bytes(damage(idx(test)))
    with pytest.raises(DataError, match=message) as error:
        load(str(folder))
    assert "t10k-images-idx3-ubyte" in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_that_do_not_fit(family):
    folder, _, _ = family
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(4, np.uint8)))
    with pytest.raises(DataError, match="4 labels for the 3 images"):
        load(str(folder))


def test_fashion_mnist_by_name(family, monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "FASHION_MNIST", family[0])
    data = load("fashion-mnist")
    assert (data.name, len(data)) == ("fashion-mnist", 8)
    monkeypatch.setattr(sources, "FASHION_MNIST", tmp_path / "nowhere")
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        load("fashion-mnist")


@pytest.mark.parametrize("size", [7, 0, -64, 4.5, 32.0, True, "32", 2048])
def test_wrong_sizes(size):
    with pytest.raises(DataError, match="whole number of pixels from 8"):
        load("shapes", size)


def test_wrong_channels():
    with pytest.raises(DataError, match="1 or 3, not 2"):
        load("dsprites", channels=2)


def test_unknown_names_and_missing_paths(tmp_path):
    with pytest.raises(DataError, match=r"did you mean fashion-mnist\?.*shapes, dsprites, fashion-mnist"):
        load("fashon-mnist")
    with pytest.raises(DataError, match=r"called 'zzz': the names are"):
        load("zzz")
    with pytest.raises(DataError, match="There is no file or folder"):
        load(str(tmp_path / "missing"))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"is not an idx file.*give an idx file, or a folder or .zip"):
        load(str(tmp_path / "notes.txt"))


def test_import_is_light():
    code = "import sys, betadiffusion.data; sys.exit(any(m in sys.modules for m in ('torch', 'scipy', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

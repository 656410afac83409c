"""LSUN's lmdb folders: WebP and JPEG files by key."""

import hashlib
import shutil
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from betadiffusion.data import DataError, load, lsun

N = 12


def encoded(brightness: int, form: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (40, 30), (brightness,) * 3).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """bedroom_val_lmdb: keys in no order, the i-th image 20 i bright."""
    lmdb = pytest.importorskip("lmdb")
    path = tmp_path / "bedroom_val_lmdb"
    with lmdb.open(str(path), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for i in range(N):
            key = hashlib.sha1(str(i).encode()).hexdigest()
            transaction.put(key.encode(), encoded(20 * i, "WEBP" if i % 2 else "JPEG"))
    return path


def read(path, size=None, channels=None):
    return load(str(path), size, channels, cache_dir=path.parent / "cache", progress=False)


def test_images_in_the_order_of_their_keys(folder):
    data = read(folder)
    assert (data.name, data.image_shape, len(data)) == ("bedroom_val_lmdb", (3, 64, 64), N)
    by_key = {hashlib.sha1(str(i).encode()).hexdigest(): 20 * i for i in range(N)}
    assert data.names == sorted(by_key)
    expected = np.array([by_key[key] for key in sorted(by_key)])
    assert np.abs(data.images(np.arange(N)).astype(int) - expected[:, None, None, None]).max() <= 2
    assert data.partition.tolist() == ["valid"] * N
    assert read(folder, 16, 1).image_shape == (1, 16, 16)


def test_the_name_tells_the_partition(folder):
    assert set(read(folder.rename(folder.with_name("tower_train_lmdb"))).partition) == {"train"}
    assert set(read(folder.with_name("tower_train_lmdb").rename(folder.with_name("test_lmdb"))).partition) == {"test"}
    assert read(folder.with_name("test_lmdb").rename(folder.with_name("tower"))).partition is None


def test_a_changed_file_is_decoded_again(folder):
    import lmdb

    read(folder)
    with lmdb.open(str(folder), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"0" * 40, encoded(255, "WEBP"))
    data = read(folder)
    assert len(data) == N + 1
    assert data.images(np.arange(1)).min() >= 253


@pytest.mark.parametrize("keep", [0, 5000, 9000])
def test_cut_short(folder, keep):
    path = folder / "data.mdb"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"data\.mdb (is cut short|is not a whole lmdb file|holds no images)") as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_values_that_are_no_images(tmp_path):
    lmdb = pytest.importorskip("lmdb")
    with (
        lmdb.open(str(tmp_path / "texts"), map_size=2**24) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"key", b"text")
    with pytest.raises(DataError, match="do not decode"):
        read(tmp_path / "texts")


def test_a_zip_must_be_unpacked(folder):
    shutil.make_archive(str(folder), "zip", folder.parent, folder.name)
    with pytest.raises(DataError, match="unpack"):
        read(folder.with_suffix(".zip"))


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    (tmp_path / "church_train_lmdb").mkdir()
    (tmp_path / "church_train_lmdb" / "data.mdb").write_bytes(b"")
    with pytest.raises(DataError, match=r"pip install 'betadiffusion\[data\]'"):
        read(tmp_path / "church_train_lmdb")


def test_exported_folders_are_folders_of_images(tmp_path):
    path = tmp_path / "bedroom_val" / "a" / "b"
    path.mkdir(parents=True)
    (path / "key.webp").write_bytes(encoded(100, "WEBP"))
    assert not lsun.detect(tmp_path / "bedroom_val")
    assert len(read(tmp_path / "bedroom_val")) == 1

"""Readers of published factor sets, on small files in exactly their formats."""

import gzip
import re
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.io import savemat

from betadiffusion.data import DataError, FactorSet, cache, load, mpi3d
from betadiffusion.data.npz import NpzArray


def random_bytes(*shape, high=256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, shape, np.uint8)


def grid(*sizes) -> np.ndarray:
    return np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), -1)


def opened(source, tmp_path, size=None, channels=None):
    """The set, after what holds for every factor set."""
    data = load(str(source), size, channels, cache_dir=tmp_path / "cache", progress=False)
    everything = np.arange(len(data))
    assert isinstance(data, FactorSet)
    factors = data.factors(everything)
    assert (factors.min(0) == 0).all()
    assert (factors.max(0) == np.array(data.factor_sizes) - 1).all()
    np.testing.assert_array_equal(data.index(factors[::-1]), everything[::-1])
    return data


def all_images(data) -> np.ndarray:
    return data.images(np.arange(len(data)))


def refused(source, tmp_path, message):
    with pytest.raises(DataError, match=message) as error:
        load(str(source), cache_dir=tmp_path / "cache", progress=False)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").glob("*.partial"))


# 3D Shapes

SHAPES_NAMES = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")


def write_shapes(path, sizes=(2, 1, 2, 3, 2, 3), labels=None, images=None):
    h5py = pytest.importorskip("h5py")
    factors = grid(*sizes)
    values = factors * [0.1, 0.1, 0.1, 0.25 / 3, 1, 30 / 7] + [0, 0, 0, 0.75, 0, -30]
    images = random_bytes(len(factors), 64, 64, 3) if images is None else images
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, chunks=(17, 4, 4, 1), compression="gzip")
        file.create_dataset("labels", data=values if labels is None else labels)
    return images


def test_shapes3d(tmp_path):
    path = tmp_path / "3dshapes.h5"
    images = write_shapes(path)
    data = opened(path, tmp_path)
    assert (data.name, data.factor_names, data.factor_sizes) == ("shapes3d", SHAPES_NAMES, (2, 1, 2, 3, 2, 3))
    assert data.image_shape == (3, 64, 64)
    some = np.array([71, 0, 30, 30])
    np.testing.assert_array_equal(data.images(some), images[some].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.factors(np.array([1])), [[0, 0, 0, 0, 0, 1]])
    small = opened(tmp_path, tmp_path, size=16, channels=1)  # the folder with the file
    assert all_images(small).shape == (72, 1, 16, 16)


def test_shapes3d_is_unpacked_once(tmp_path, monkeypatch):
    path = tmp_path / "3dshapes.h5"
    images = write_shapes(path)
    opened(path, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write", lambda *_: pytest.fail("unpacked again"))
        np.testing.assert_array_equal(all_images(opened(path, tmp_path)), images.transpose(0, 3, 1, 2))
    file = next((tmp_path / "cache").glob("*.npy"))
    file.write_bytes(file.read_bytes()[:-1])
    np.testing.assert_array_equal(all_images(opened(path, tmp_path)), images.transpose(0, 3, 1, 2))
    file.unlink()
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    refused(path, tmp_path, r"needs 0.0 GB in .* which has 0.0 GB free")


def test_wrong_shapes3d(tmp_path):
    path = tmp_path / "3dshapes.h5"
    write_shapes(path)
    path.write_bytes(path.read_bytes()[:-5000])
    refused(path, tmp_path, "is not 3dshapes.h5, or it is cut short")
    path.write_bytes(b"hello")
    refused(path, tmp_path, "is not 3dshapes.h5")
    write_shapes(path, labels=grid(2, 1, 2, 3, 2, 3)[::-1])
    refused(path, tmp_path, "not all combinations of their values, in order")
    write_shapes(path, labels=grid(2, 1, 2, 3, 2, 3)[:-1])
    refused(path, tmp_path, "not those of 3D Shapes")
    write_shapes(path, labels=grid(72, 1))
    refused(path, tmp_path, "not those of 3D Shapes")


# dSprites


def write_dsprites(path, sizes=(1, 3, 2, 4, 2, 3), images=None, classes=None):
    classes = grid(*sizes) if classes is None else classes
    images = random_bytes(len(classes), 64, 64, high=2) if images is None else images
    np.savez_compressed(
        path,
        metadata=np.array({"title": "dSprites"}, dtype=object),  # pickled, as in the original
        imgs=images,
        latents_classes=classes,
        latents_values=classes.astype(float),
    )
    return images


def test_dsprites(tmp_path):
    path = tmp_path / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    images = write_dsprites(path)
    data = opened(path, tmp_path)
    assert data.factor_names == ("shape", "scale", "orientation", "x", "y")
    assert (data.name, data.factor_sizes, data.image_shape) == ("dsprites-npz", (3, 2, 4, 2, 3), (1, 64, 64))
    np.testing.assert_array_equal(all_images(data)[:, 0], 255 * images)
    assert opened(path, tmp_path, size=32, channels=3).images(np.array([5])).shape == (1, 3, 32, 32)
    kept = next((tmp_path / "cache").glob("*.npy"))
    assert kept.stat().st_size < 144 * 64 * 64 / 8 + 200  # one bit a pixel
    odd = random_bytes(6, 9, 9, high=2)
    write_dsprites(path, (1, 3, 2, 1, 1, 1), odd)
    np.testing.assert_array_equal(all_images(opened(path, tmp_path, size=9))[:, 0], 255 * odd)


def test_wrong_dsprites(tmp_path):
    path = tmp_path / "dsprites.npz"
    images = write_dsprites(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3000])
    refused(path, tmp_path, "damaged or cut short")
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    refused(path, tmp_path, "damaged or cut short")
    write_dsprites(path, images=images + np.uint8(1))
    refused(path, tmp_path, "holds a pixel of 2")
    write_dsprites(path, images=images[:-1])
    refused(path, tmp_path, "not those of dSprites")
    write_dsprites(path, images=images.astype(np.int64))
    refused(path, tmp_path, "int64, not uint8")
    write_dsprites(path, classes=np.roll(grid(1, 3, 2, 4, 2, 3), 1, axis=0))
    refused(path, tmp_path, "not all combinations")
    np.savez(path, images=images)
    refused(path, tmp_path, "holds no array imgs")


# MPI3D

MPI3D_SIZES = (2, 2, 2, 3, 3, 2, 2)


@pytest.fixture
def small_mpi3d(monkeypatch):
    monkeypatch.setattr(mpi3d, "KINDS", {288: 2})
    monkeypatch.setattr(mpi3d, "OTHERS", mpi3d.OTHERS | {"horizontal_axis": 2, "vertical_axis": 2})
    return random_bytes(288, 64, 64, 3)


def test_mpi3d_factors_are_those_published():
    sizes = {count: (kinds, kinds, *mpi3d.OTHERS.values()) for count, kinds in mpi3d.KINDS.items()}
    assert sizes == {1_036_800: (6, 6, 2, 3, 3, 40, 40), 460_800: (4, 4, 2, 3, 3, 40, 40)}
    assert all(np.prod(size) == count for count, size in sizes.items())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_mpi3d(tmp_path, small_mpi3d, save):
    path = tmp_path / "mpi3d_realistic.npz"
    save(path, images=small_mpi3d)
    data = opened(path, tmp_path)
    assert (data.name, data.factor_sizes, data.image_shape) == ("mpi3d_realistic", MPI3D_SIZES, (3, 64, 64))
    assert data.factor_names[:4] == ("object_color", "object_shape", "object_size", "camera_height")
    np.testing.assert_array_equal(all_images(data), small_mpi3d.transpose(0, 3, 1, 2))
    assert opened(path, tmp_path, size=20, channels=1).images(np.array([7])).shape == (1, 1, 20, 20)
    assert (tmp_path / "cache").exists() == (save is np.savez_compressed)  # what is not compressed is used in place


def test_wrong_mpi3d(tmp_path, small_mpi3d):
    path = tmp_path / "mpi3d_toy.npz"
    np.savez(path, images=small_mpi3d[:-1])
    refused(path, tmp_path, r"holds images \(287, 64, 64, 3\), not MPI3D's \(288, H, W, 3\)")
    np.savez(path, pictures=small_mpi3d)
    refused(path, tmp_path, "holds no array images")
    np.savez(path, images=small_mpi3d)
    path.write_bytes(path.read_bytes()[:100_000])
    refused(path, tmp_path, "damaged or cut short")


def test_an_array_in_an_npz_is_read_where_it_lies(tmp_path):
    path, array = tmp_path / "x.npz", random_bytes(3000, 5)
    np.savez(path, other=np.arange(3), a=array)
    stored = NpzArray(path, "a")
    np.testing.assert_array_equal(stored.mapped(), array)
    np.testing.assert_array_equal(np.concatenate(list(stored.blocks())), array)
    np.savez_compressed(path, a=array)
    assert NpzArray(path, "a").mapped() is None


# Cars3D


def write_cars(folder, count=3, **replaced):
    folder.mkdir(parents=True, exist_ok=True)
    cars = random_bytes(count, 32, 32, 3, 24, 4)
    for i, car in enumerate(cars):
        savemat(folder / f"car_{i + 1:03}_mesh.mat", {"im": car} | replaced, do_compression=True)
    return cars


def test_cars3d(tmp_path):
    cars = write_cars(tmp_path / "data" / "cars")
    data = opened(tmp_path, tmp_path, size=32)
    assert data.factor_names == ("elevation", "azimuth", "object")
    assert (data.factor_sizes, data.image_shape) == ((4, 24, 3), (3, 32, 32))
    factors = data.factors(np.arange(len(data)))
    expected = [cars[car, :, :, :, azimuth, elevation] for elevation, azimuth, car in factors]
    np.testing.assert_array_equal(all_images(data), np.stack(expected).transpose(0, 3, 1, 2))
    assert opened(tmp_path / "data", tmp_path).image_shape == (3, 64, 64)
    assert opened(tmp_path / "data" / "cars", tmp_path, size=8, channels=1).images([3]).shape == (1, 1, 8, 8)


def test_wrong_cars3d(tmp_path):
    folder = tmp_path / "cars"
    write_cars(folder, im=random_bytes(32, 32, 3, 4, 24))
    refused(folder, tmp_path, r"uint8 \(32, 32, 3, 4, 24\), not uint8 \(H, W, 3, 24, 4\)")
    write_cars(folder)
    file = folder / "car_002_mesh.mat"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(folder, tmp_path, r"car_002_mesh.mat is not a \.mat file of a car, or it is cut short")
    savemat(file, {"picture": np.zeros(3)})
    refused(folder, tmp_path, "car_002_mesh")
    refused(f"cars3d:{tmp_path}/cars/..", tmp_path, "car_002_mesh")
    (tmp_path / "none").mkdir()
    refused(f"cars3d:{tmp_path}/none", tmp_path, r"holds no files car_\*\.mat")


# small NORB


def norb_matrix(array: np.ndarray) -> bytes:
    magic = {np.dtype(np.uint8): 0x1E3D4C55, np.dtype(np.int32): 0x1E3D4C54}[array.dtype]
    dimensions = [*array.shape, 1, 1, 1][: max(3, array.ndim)]
    return struct.pack(f"<{2 + len(dimensions)}i", magic, array.ndim, *dimensions) + array.tobytes()


NORB_PARTS = {"5x46789x9x18x6x2x96x96-training": (4, 6, 7, 8, 9), "5x01235x9x18x6x2x96x96-testing": (0, 1, 2, 3, 5)}


def write_norb(folder, suffix="") -> dict[str, np.ndarray]:
    """Small NORB with only every 81st combination of each part: 300 images of 96 x 96 from two cameras."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for part, instances in NORB_PARTS.items():
        factors = np.random.default_rng(1).permutation(grid(5, 5, 9, 18, 6))[::81].astype(np.int32)
        factors[:, 1] = np.array(instances)[factors[:, 1]]
        images = np.random.default_rng(len(written)).integers(0, 256, (len(factors), 2, 96, 96), np.uint8)
        info = factors[:, 1:] * np.array([1, 1, 2, 1], np.int32)
        for kind, array in (("dat", images), ("cat", factors[:, 0].copy()), ("info", info)):
            data = norb_matrix(array)
            data = gzip.compress(data, 1) if suffix else data
            (folder / f"smallnorb-{part}-{kind}.mat{suffix}").write_bytes(data)
        written[part.rsplit("-", 1)[1]] = images[:, 0], factors
    return written


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_smallnorb(tmp_path, suffix):
    written = write_norb(tmp_path, suffix)
    data = opened(tmp_path, tmp_path, size=96)
    assert data.factor_names == ("category", "instance", "elevation", "azimuth", "lighting")
    assert (data.factor_sizes, data.image_shape, len(data)) == ((5, 10, 9, 18, 6), (1, 96, 96), 600)
    images, factors = (np.concatenate(pair) for pair in zip(*written.values(), strict=True))
    np.testing.assert_array_equal(all_images(data)[:, 0], images)
    np.testing.assert_array_equal(data.factors(np.arange(600)), factors)
    np.testing.assert_array_equal(data.labels, factors[:, 0])
    assert data.partition.tolist() == ["train"] * 300 + ["test"] * 300
    assert load(str(tmp_path)).image_shape == (1, 64, 64)
    assert load(str(tmp_path), 16, 3).images(np.array([3, 4])).shape == (2, 3, 16, 16)


def test_wrong_smallnorb(tmp_path):
    write_norb(tmp_path)
    file = next(tmp_path.glob("*training-dat.mat"))
    whole = file.read_bytes()
    for wrong, message in [
        (whole[:-1], "cut short or damaged"),
        (whole[:12], "cut short or damaged"),
        (b"", "not a matrix"),
        (b"\x53" + whole[1:], "not a matrix of bytes or int32"),
        (norb_matrix(random_bytes(300, 96, 96)), r"hold matrices of .*, not \(N, 2, H, W\)"),
        (norb_matrix(random_bytes(299, 2, 96, 96)), "hold matrices of"),
    ]:
        file.write_bytes(wrong)
        refused(tmp_path, tmp_path, message)
    file.write_bytes(whole)
    info = next(tmp_path.glob("*training-info.mat"))
    info.write_bytes(norb_matrix(np.full((300, 4), 40, np.int32)))
    refused(tmp_path, tmp_path, "outside")
    info.unlink()
    refused(tmp_path, tmp_path, re.escape("not both of its -cat.mat and -info.mat"))
    (tmp_path / "none").mkdir()
    refused(f"smallnorb:{tmp_path}/none", tmp_path, "holds no files smallnorb")


def test_a_cut_gzip_of_smallnorb(tmp_path):
    write_norb(tmp_path, ".gz")
    file = next(tmp_path.glob("*testing-cat.mat.gz"))
    file.write_bytes(file.read_bytes()[:-30])
    refused(tmp_path, tmp_path, "perhaps it is cut short")

"""UTKFace: attributes from file names or metadata.csv, and from the pictures."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from betadiffusion.data import AttributeSet, DataError, Subset, files, load, utkface

AGES = np.array([1, 12, 13, 50, 51, 99, 116, 30])
FEMALE = np.array([0, 1, 1, 0, 1, 0, 1, 0], bool)
N = len(AGES)


def pictures() -> list[np.ndarray]:
    """Bright where bit 0 of i is set, warm where bit 1 is, of high contrast where bit 2 is; all else equal."""
    found = []
    for i in range(N):
        luminance = np.full((16, 16), 150.0 if i & 1 else 100.0)
        luminance += np.where(np.arange(16) % 2, 1, -1) * (40 if i & 4 else 10)
        warm = 20 if i & 2 else -20
        # red + warm and blue - warm with green such that the luminance stays
        shift = np.array([warm, -warm * (0.299 - 0.114) / 0.587, -warm])
        found.append((luminance[..., None] + shift).round().astype(np.uint8))
    return found


def write(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for name, picture in zip(names, pictures(), strict=True):
        Image.fromarray(picture).save(folder / name, "PNG")  # whatever the suffix says: lossless
    return folder


def published_names() -> list[str]:
    facts = zip(AGES, FEMALE, range(N), strict=True)
    return [f"{age}_{int(female)}_{i % 5}_2017010915055733{i}.jpg.chip.jpg" for age, female, i in facts]


def metadata_lines(names: list[str]) -> list[str]:
    facts = zip(names, AGES, FEMALE, range(N), strict=True)
    return ["file_name,age,gender,race", *(f"{name},{age},{int(female)},{i % 5}" for name, age, female, i in facts)]


def with_metadata(root: Path, lines=None) -> Path:
    names = [f"{i:05}.jpg" for i in range(N)]
    write(root, names)
    (root / "metadata.csv").write_text("\n".join(lines or metadata_lines(names)) + "\n")
    return root


def read(path, size=16, channels=None, source="{}"):
    return load(source.format(path), size, channels, cache_dir=path.parent / "cache", progress=False)


def expected(order: np.ndarray) -> np.ndarray:
    bits = [order & bit > 0 for bit in (1, 2, 4)]
    return np.stack([AGES[order] < 13, AGES[order] > 50, FEMALE[order], *bits], axis=1)


@pytest.mark.parametrize("kind", ["names", "metadata"])
def test_attributes(tmp_path, kind):
    root = write(tmp_path / "UTKFace", published_names()) if kind == "names" else with_metadata(tmp_path / "faces64")
    zipped = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path, root.name))
    for path in (root, zipped):
        data = read(path)
        assert isinstance(data, AttributeSet)
        assert (data.name, data.image_shape, len(data), data.skipped) == ("utkface", (3, 16, 16), N, [])
        assert data.attribute_names == ("child", "over_50", "female", "bright", "warm_hue", "high_contrast")
        short = [name.rsplit("/", 1)[-1] for name in data.names]
        names = published_names() if kind == "names" else [f"{i:05}.jpg" for i in range(N)]
        order = np.array([names.index(name) for name in short])
        for image, i in zip(data.images(np.arange(N)), order, strict=True):
            np.testing.assert_array_equal(image, pictures()[i].transpose(2, 0, 1))
        np.testing.assert_array_equal(data.attributes(np.arange(N)), expected(order))
        np.testing.assert_array_equal(data.attributes(np.array([5, 2])), expected(order)[[5, 2]])


def test_grey_pictures_have_no_hue(tmp_path):
    data = read(with_metadata(tmp_path / "faces64"), channels=1)
    assert data.image_shape == (1, 16, 16)
    assert data.attribute_names == ("child", "over_50", "female", "bright", "high_contrast")
    np.testing.assert_array_equal(data.attributes(np.arange(N)), expected(np.arange(N))[:, [0, 1, 2, 3, 5]])
    assert read(tmp_path / "faces64", None).image_shape == (3, 64, 64)


def test_statistics_in_chunks_are_those_of_the_whole_set(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (600, 3, 8, 8), np.uint8)
    data = utkface.UTKFace(files.ArrayImages("", array), [], np.zeros(600), np.zeros(600, bool))
    luminance = (array * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    warmth = (array[:, 0].astype(float) - array[:, 2]).mean((1, 2))
    statistics = np.stack([luminance.mean((1, 2)), warmth, luminance.std((1, 2))], axis=1)
    np.testing.assert_array_equal(data.attributes(np.arange(600))[:, 3:], statistics > np.median(statistics, 0))


def test_names_that_do_not_parse_are_left_out(tmp_path, monkeypatch):
    root = write(tmp_path / "UTKFace", published_names())
    odd = "39_1_20170116174525125.jpg.chip.jpg"  # one of the three in the published set: no race
    shutil.copy(root / published_names()[0], root / odd)
    with pytest.raises(DataError, match=r"1 images of unknown age and gender, more than 1% of its 9: 39_1_2017"):
        read(root)
    monkeypatch.setattr(utkface, "MAX_SKIPPED", 0.2)
    data = read(root)
    assert len(data) == N
    assert odd not in data.names
    assert data.skipped == [f"{odd} (its name does not tell age, gender and race)"]


def test_a_broken_picture_takes_its_attributes_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_SKIPPED", 0.2)
    root = with_metadata(tmp_path / "faces64")
    (root / "00001.jpg").write_bytes(b"")
    data = read(root)
    assert len(data) == N - 1
    np.testing.assert_array_equal(data.attributes(np.arange(N - 1))[:, :3], expected(np.delete(np.arange(N), 1))[:, :3])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[:-1], r"1 images of unknown age and gender.*00007\.jpg \(not in metadata\.csv\)"),
        (lambda lines: [*lines[:-1], lines[-1][:-4]], "has '00007.jpg,3.*None"),
        (lambda lines: [line.replace("00001.jpg,12", "00001.jpg,old") for line in lines], "has '00001.jpg,old,1,1'"),
        (lambda lines: [line.replace("00001.jpg,12,1", "00001.jpg,12,2") for line in lines], "gender of 0 or 1"),
        (lambda lines: [line.replace(",1,1", ",1,7") for line in lines], "race from 0 to 4"),
        (lambda lines: ["file_name,age,gender", *lines[1:]], "should have file_name,age,gender,race"),
        (lambda lines: lines[:1], "8 images of unknown age and gender"),
    ],
)
def test_damaged_metadata(tmp_path, damage, message):
    lines = metadata_lines([f"{i:05}.jpg" for i in range(N)])
    root = with_metadata(tmp_path / "faces64", damage(lines))
    with pytest.raises(DataError, match=message) as error:
        read(root, source="utkface:{}")
    assert "\n" not in str(error.value)


def test_other_pictures_are_not_taken(tmp_path):
    root = write(tmp_path / "photos", [f"2017_{i}_1_20170101.jpg" for i in range(N)])
    assert not utkface.detect(root)
    (root / "metadata.csv").write_text("file_name,caption\n")
    assert not utkface.detect(root)
    (root / "metadata.csv").write_bytes(b"\xff\xfe\x00")
    assert not utkface.detect(root)
    with pytest.raises(DataError, match="cannot be read"):
        read(root, source="utkface:{}")


def test_groups_of_age(tmp_path):
    faces = Subset(read(with_metadata(tmp_path / "faces")), np.arange(N)[::-1])
    groups, names = faces.groupings["age_group"]
    ages = ["child", "child", "teenager", "middle-aged", "over_50", "over_50", "over_50", "young"]
    assert [names[group] for group in groups[::-1]] == ages

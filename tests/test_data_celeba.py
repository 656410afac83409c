"""CelebA and CelebA-HQ: pictures, attributes and partition stay together in every published layout."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from betadiffusion.data import AttributeSet, DataError, celeba, celeba_hq, files, load

N = 12
NAMES = [f"Attribute_{i}" for i in range(40)]
VALUES = np.random.default_rng(0).integers(0, 2, (N, 40)).astype(bool)
PARTS = np.array(["train", "valid", "test"])[np.arange(N) % 3]


def file_name(i: int) -> str:
    return f"{i + 1:06}.jpg"


def write_pictures(folder: Path, names: list[str]) -> None:
    """178x218 faces: the i-th is 20 i bright around its central square of rows 20 to 197, and black above and below."""
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        picture = np.zeros((218, 178), np.uint8)
        picture[16:202] = 20 * i
        Image.fromarray(picture).convert("RGB").save(folder / name, quality=95)


def attribute_lines(kind: str, names: list[str]) -> list[str]:
    separator = "," if kind == "csv" else " "
    rows = [
        separator.join([name, *(f"{1 if value else -1}" for value in row)])
        for name, row in zip(names, VALUES, strict=True)
    ]
    return [",".join(["image_id", *NAMES]), *rows] if kind == "csv" else [str(N), " ".join(NAMES), *rows]


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def official(root: Path, anno="Anno/", evaluation="Eval/", images="Img/img_align_celeba", kind="txt") -> Path:
    names = [file_name(i) for i in range(N)]
    write_pictures(root / images, names)
    write(root / f"{anno}list_attr_celeba.{kind}", attribute_lines(kind, names))
    rows = [f"{name}{',' if kind == 'csv' else ' '}{i % 3}" for i, name in enumerate(names)]
    write(root / f"{evaluation}list_eval_partition.{kind}", ["image_id,partition", *rows] if kind == "csv" else rows)
    return root


def pack(root: Path, below: str = ".") -> Path:
    return Path(shutil.make_archive(str(root), "zip", root.parent if below == "." else root, root.name))


def read(path, size=None, channels=None, source="{}"):
    return load(source.format(path), size, channels, cache_dir=path.parent / "cache", progress=False)


def check(data, size=64, channels=3, kept=range(N)) -> None:
    kept = np.array(kept)
    assert isinstance(data, AttributeSet)
    assert data.name == "celeba"
    assert data.image_shape == (channels, size, size)
    images = data.images(np.arange(len(kept))).astype(int)
    error = np.abs(images - 20 * kept[:, None, None, None])
    assert error[:, :, 2:-2].max() <= 2  # nothing from above and below the central square
    assert data.attribute_names == tuple(NAMES)
    np.testing.assert_array_equal(data.attributes(np.arange(len(kept))), VALUES[kept])
    np.testing.assert_array_equal(data.partition, PARTS[kept])


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"anno": "", "evaluation": "", "images": "img_align_celeba"},
        {"anno": "", "evaluation": "", "images": "img_align_celeba/img_align_celeba", "kind": "csv"},
    ],
    ids=["authors", "torchvision", "kaggle"],
)
def test_celeba_in_every_layout(tmp_path, layout):
    root = official(tmp_path / "faces", **layout)
    (root / "identity_CelebA.txt").write_text("000001.jpg 2880\n")
    check(read(root))
    check(read(pack(root)), size=64)
    check(read(root, 32, 1), size=32, channels=1)


def test_the_images_may_be_in_their_zip(tmp_path):
    root = official(tmp_path / "faces")
    with zipfile.ZipFile(root / "Img" / "img_align_celeba.zip", "w") as archive:
        for path in sorted((root / "Img" / "img_align_celeba").iterdir()):
            archive.write(path, f"img_align_celeba/{path.name}")
    shutil.rmtree(root / "Img" / "img_align_celeba")
    check(read(root))


def test_a_broken_picture_takes_its_attributes_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_SKIPPED", 0.1)
    root = official(tmp_path / "faces")
    (root / "Img" / "img_align_celeba" / file_name(4)).write_bytes(b"no picture")
    data = read(root)
    check(data, kept=[i for i in range(N) if i != 4])
    assert [name.split()[0] for name in data.skipped] == [file_name(4)]


def test_lists_that_are_not_there(tmp_path):
    root = official(tmp_path / "faces")
    shutil.rmtree(root / "Eval")
    assert read(root).partition is None
    root = official(tmp_path / "others")
    shutil.rmtree(root / "Anno")
    data = read(root)
    assert not isinstance(data, AttributeSet)
    np.testing.assert_array_equal(data.partition, PARTS)
    shutil.rmtree(root / "Img")
    with pytest.raises(DataError, match="neither a folder img_align_celeba nor img_align"):
        read(root)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[:-1], "promises 12 files, but 11 follow"),
        (lambda lines: ["11", *lines[1:-1]], "no line for 1 of the 12 images, such as 000012.jpg"),
        (lambda lines: [*lines[:-1], lines[-1][:-20]], r"values for 000012\.jpg, not 40"),
        (lambda lines: [*lines[:-1], lines[-1][:-1] + "7"], "neither 1 nor -1"),
        (lambda lines: lines[1:], "promises Attribute_0"),
        (lambda lines: [lines[0], lines[1].replace("Attribute_0 ", "", 1), *lines[2:]], "40 values .* not 39"),
        (lambda lines: ["0"], "is cut short"),
        (lambda lines: [], "is cut short"),
        (lambda lines: ["\ud800"], "cannot be read"),
    ],
)
def test_damaged_attributes(tmp_path, damage, message):
    root = official(tmp_path / "faces")
    path = root / "Anno" / "list_attr_celeba.txt"
    path.write_text("\n".join(damage(path.read_text().splitlines())), errors="surrogatepass")
    with pytest.raises(DataError, match=message) as error:
        read(root)
    assert "list_attr_celeba.txt" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-14], "no line for 1 of the 12 images, such as 000012.jpg"),
        (lambda text: text[:-3], "has '000012.jpg'"),
        (lambda text: text.replace("1.jpg 0", "1.jpg 3"), "has '000001.jpg 3'"),
        (lambda text: text.replace(".jpg", ".png"), "no line for 12 of the 12"),
    ],
)
def test_damaged_partition(tmp_path, damage, message):
    root = official(tmp_path / "faces")
    path = root / "Eval" / "list_eval_partition.txt"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=message):
        read(root)


def test_celeba_hq(tmp_path):
    root = tmp_path / "CelebAMask-HQ"
    names = [f"{i}.jpg" for i in range(N)]  # sorted by name: 0, 1, 10, 11, 2, ...
    write_pictures(root / "CelebA-HQ-img", names)
    lines = attribute_lines("txt", names)
    write(root / "CelebAMask-HQ-attribute-anno.txt", [*lines[:2], *(line.replace(" ", "  ", 1) for line in lines[2:])])
    (root / "CelebAMask-HQ-mask-anno" / "0").mkdir(parents=True)
    Image.new("L", (9, 9)).save(root / "CelebAMask-HQ-mask-anno" / "0" / "00000_hair.png")
    for path in (root, pack(root)):
        data = read(path, 16)
        assert (data.name, len(data)) == ("celeba-hq", N)
        order = np.array([int(Path(name).stem) for name in data.names])
        assert order.tolist() != list(range(N))
        brightness = data.images(np.arange(N)).mean((1, 2, 3))
        assert np.abs(brightness - 20 * order).max() <= 2
        np.testing.assert_array_equal(data.attributes(np.arange(N)), VALUES[order])
    shutil.rmtree(root / "CelebA-HQ-img")
    with pytest.raises(DataError, match="no folder CelebA-HQ-img"):
        read(root)
    (root / "CelebAMask-HQ-attribute-anno.txt").unlink()
    just_images = read(root, source="celeba-hq:{}")
    assert (just_images.name, len(just_images)) == ("celeba-hq", 1)
    assert not isinstance(just_images, AttributeSet)


def test_other_pictures_are_not_taken(tmp_path):
    write_pictures(tmp_path / "img_align_celeba", [file_name(i) for i in range(N)])
    (tmp_path / "list.txt").write_text("")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"no zip")
    for path in (tmp_path, broken, tmp_path / "missing", tmp_path / "list.txt"):
        assert not celeba.detect(path)
        assert not celeba_hq.detect(path)

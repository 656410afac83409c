"""FFHQ: both kinds of images, and the partition from its metadata or from its rule."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from betadiffusion.data import DataError, ffhq, load

NUMBERS = [3, 999, 1000, 59_999, 60_000, 69_999]


def write(folder: Path, shift: int = 0) -> Path:
    """Images in folders of 1,000; the i-th is 30 i + shift bright."""
    for i, number in enumerate(NUMBERS):
        path = folder / f"{number // 1000 * 1000:05}" / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (30 * i + shift,) * 3).save(path)
    return folder


def metadata(categories: list[str]) -> str:
    return json.dumps(
        {
            str(number): {"category": category, "image": {"file_path": f"images1024x1024/{number:05}.png"}}
            for number, category in zip(NUMBERS, categories, strict=True)
        }
    )


def read(path, size=None, channels=None):
    return load(str(path), size, channels, cache_dir=path.parent / "cache", progress=False)


RULE = ["train"] * 4 + ["valid"] * 2


def test_the_published_rule(tmp_path):
    root = tmp_path / "ffhq"
    write(root / "thumbnails128x128")
    zipped = Path(shutil.make_archive(str(tmp_path / "all"), "zip", root))
    for path in (root, root / "thumbnails128x128", zipped):
        data = read(path)
        assert (data.name, data.image_shape) == ("ffhq", (3, 64, 64))
        assert data.images(np.arange(6))[:, 0, 0, 0].tolist() == [30 * i for i in range(6)]
        assert data.partition.tolist() == RULE
    assert read(root, 8, 1).image_shape == (1, 8, 8)


def test_thumbnails_serve_small_sizes(tmp_path):
    root = tmp_path / "ffhq"
    write(root / "thumbnails128x128")
    write(root / "images1024x1024", shift=1)
    assert read(root, 128).images(np.arange(1))[0, 0, 0, 0] == 0
    assert read(root, 129).images(np.arange(1))[0, 0, 0, 0] == 1


def test_metadata_beside_the_folder(tmp_path):
    root = tmp_path / "ffhq"
    write(root / "images1024x1024")
    categories = ["validation", "training"] * 3
    (root / "ffhq-dataset-v2.json").write_text(metadata(categories))
    for path in (root, root / "images1024x1024"):
        assert read(path).partition.tolist() == ["valid", "train"] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (metadata(["training"] * 6)[:-30], "not JSON, perhaps it is cut short"),
        (metadata(["training"] * 5 + ["testing"]), "lacks or misstates 'testing'"),
        (json.dumps({"3": {"category": "training"}}), "lacks or misstates '999'"),
        ("[]", "lacks or misstates"),
    ],
)
def test_damaged_metadata(tmp_path, text, message):
    root = tmp_path / "ffhq"
    write(root / "images1024x1024")
    (root / "ffhq-dataset-v2.json").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read(root)
    assert "\n" not in str(error.value)


def test_a_stranger_among_the_images(tmp_path):
    root = tmp_path / "ffhq"
    write(root / "images1024x1024")
    Image.new("RGB", (9, 9)).save(root / "images1024x1024" / "teaser.png")
    with pytest.raises(DataError, match=r"teaser\.png, which is not called by its number"):
        read(root)


def test_other_pictures_are_not_taken(tmp_path):
    write(tmp_path / "faces")
    assert not ffhq.detect(tmp_path)
    assert not ffhq.detect(tmp_path / "faces")
    assert not ffhq.detect(tmp_path / "thumbnails128x128.zip")
    with pytest.raises(DataError, match="holds no folder images1024x1024"):
        load(f"ffhq:{tmp_path}", cache_dir=tmp_path / "cache", progress=False)

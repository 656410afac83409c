"""ImageNet-like trees: labels by class folder, partition by train/, val/ and test/."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from betadiffusion.data import DataError, files, imagenet, load

WNIDS = ["n01443537", "n01629819", "n02124075"]


def write(root: Path, names: list[str]) -> Path:
    """Pictures that are 10 i bright, in the order of `names`."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (10 * i,) * 3).save(root / name, "JPEG", quality=95)
    return root


def tree(classes=WNIDS, parts=("train", "val"), each=2) -> list[str]:
    return [f"{part}/{kind}/{kind}_{i}.JPEG" for part in parts for kind in classes for i in range(each)]


def read(path, size=8, channels=None, source="{}"):
    return load(source.format(path), size, channels, cache_dir=path.parent / "cache", progress=False)


def test_train_and_val(tmp_path):
    names = tree()
    root = write(tmp_path / "tiny", names)
    (root / "classes.csv").write_text("wnid,name\n")
    (root / "LOC_synset_mapping.txt").write_text("n01443537 goldfish\n")
    zipped = Path(shutil.make_archive(str(root), "zip", tmp_path, "tiny"))  # with a folder around it all
    for path in (root, zipped):
        data = read(path)
        assert (data.name, data.image_shape, len(data)) == ("tiny", (3, 8, 8), 12)
        assert np.abs(data.images(np.arange(12))[:, 0, 0, 0].astype(int) - 10 * np.arange(12)).max() <= 2
        assert data.labels.tolist() == [0, 0, 1, 1, 2, 2] * 2
        assert data.labels.dtype == np.int64
        assert data.partition.tolist() == ["train"] * 6 + ["valid"] * 6
    assert read(root, 16, 1).image_shape == (1, 16, 16)
    assert read(root, None).image_shape == (3, 64, 64)


def test_classes_alone(tmp_path):
    root = write(tmp_path / "photos", ["n01629819/b/deep.jpg", "n01443537/a.jpg", "n01443537/c.png"])
    data = read(root)
    assert data.labels.tolist() == [0, 0, 1]
    assert data.partition is None


def test_labels_stay_with_images_when_a_file_is_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_SKIPPED", 0.2)
    root = write(tmp_path / "tiny", tree())
    (root / "train/n01443537/n01443537_1.JPEG").write_bytes(b"")
    data = read(root)
    assert data.labels.tolist() == [0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]
    assert data.partition.tolist() == ["train"] * 5 + ["valid"] * 6


def test_other_classes_and_a_test_part(tmp_path):
    root = write(tmp_path / "pets", [*tree(["cat", "dog"], ("train", "val", "test")), "extra/x.jpg", "cover.png"])
    data = read(root)
    assert len(data) == 12
    np.testing.assert_array_equal(np.unique(data.partition, return_counts=True)[1], [4, 4, 4])
    write(root, ["test/unlabelled.jpg"])
    assert len(read(root)) == 12


def test_the_explicit_name_takes_any_class_folders(tmp_path):
    root = write(tmp_path / "pets", ["dog/1.jpg", "cat/1.jpg", "train/1.jpg"])  # a class may be called train
    assert not imagenet.detect(root)
    assert read(root, source="imagenet:{}").labels.tolist() == [0, 1, 2]
    assert getattr(read(root), "labels", None) is None


@pytest.mark.parametrize(
    "names",
    [
        ["2019/rome/1.jpg", "2020/paris/1.jpg"],
        ["train/1.jpg", "val/1.jpg"],
        ["train/rome/1.jpg", "val/paris/1.jpg"],
        ["n01443537/1.jpg", "n1/1.jpg"],
        ["train/images/1.jpg", "val/images/1.jpg", "train/labels/1.txt", "val/labels/1.txt"],
        ["1.jpg"],
    ],
)
def test_photos_in_folders_are_not_taken(tmp_path, names):
    write(tmp_path / "photos", names)
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path, "photos")
    assert not imagenet.detect(tmp_path / "photos")
    assert not imagenet.detect(tmp_path / "photos.zip")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            [*tree(), "val/ILSVRC2012_val_00000001.JPEG"],
            r"at least two classes, but .*ILSVRC2012_val_00000001\.JPEG lies in none",
        ),
        ([*tree(parts=["train"]), "val/images/val_0.JPEG"], "holds val/images, but no train/images"),
        (["n01443537/a.jpg", "n01443537/b.jpg"], "at least two classes"),
        (tree(["n01443537"]), "at least two classes"),
        (["a.jpg"], "lies in none"),
    ],
)
def test_wrong_trees(tmp_path, names, message):
    root = write(tmp_path / "tiny", names)
    with pytest.raises(DataError, match=message) as error:
        read(root, source="imagenet:{}")
    assert "\n" not in str(error.value)

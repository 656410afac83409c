"""Images with captions: every layout, in folders and zips, and what is wrong with some."""

import shutil

import numpy as np
import pytest
from PIL import Image

from betadiffusion.data import CaptionSet, DataError, FactorSet, Subset, load

CAPTIONS = {
    "b.jpg": ["A dog .", "Two dogs, one brown, play ."],
    "a.jpg": ['A sign says "stop" .', "A red sign .", "A sign in the sun ."],
    "c.jpg": ["A boat ."],
}


def quoted(text):
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"') else text


def table(header, captions=CAPTIONS):
    rows = [f"{name},{quoted(text)}" for name, texts in captions.items() for text in texts]
    return "\n".join([header, *rows]) + "\n"


def tokens(captions=CAPTIONS):
    return "".join(f"{name}#{i}\t{text}\n" for name, texts in captions.items() for i, text in enumerate(texts))


def write(root, file, text, images="images", names=CAPTIONS):
    (root / images).mkdir(parents=True)
    for i, name in enumerate(sorted(names)):
        Image.fromarray(np.full((16, 16, 3), 40 * i % 256, np.uint8)).save(root / images / name, "PNG")
    (root / file).write_text(text)
    return root


@pytest.fixture
def read(tmp_path):
    return lambda path, reader="": load(f"{reader}{path}", 16, cache_dir=tmp_path / "cache", progress=False)


@pytest.mark.parametrize(
    ("file", "text", "images"),
    [
        ("captions.txt", table("image,caption"), "Images"),
        ("captions.csv", table("file_name,caption"), "."),
        ("captions.csv", table("\ufeffimage, caption"), "some/where"),
        ("Flickr8k.token.txt", tokens(), "Flicker8k_Dataset"),
    ],
)
def test_every_layout_in_a_folder_and_in_a_zip(tmp_path, read, file, text, images):
    folder = write(tmp_path / "set" / "photos", file, text, images)
    packed = shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "set")
    for path in (folder, tmp_path / "set", tmp_path / packed):
        found = read(path)
        assert isinstance(found, CaptionSet)
        assert len(found) == 3
        assert found.captions(np.arange(3)) == [CAPTIONS[name] for name in ("a.jpg", "b.jpg", "c.jpg")]
        assert found.caption_counts.tolist() == [3, 2, 1]
        assert found.images(np.array([0, 1, 2]))[:, 0, 0, 0].tolist() == [0, 40, 80]


def test_the_reader_can_be_named(tmp_path, read):
    folder = write(tmp_path / "set", "captions.txt", table("image,caption"))
    assert len(read(folder, "flickr8k:")) == 3
    (folder / "captions.txt").unlink()
    with pytest.raises(DataError, match="has no file of captions"):
        read(folder, "flickr8k:")
    assert not isinstance(read(folder), CaptionSet)


def test_a_subset_keeps_the_captions_of_its_images(tmp_path, read):
    found = Subset(read(write(tmp_path / "set", "captions.txt", table("image,caption"))), np.array([2, 0]))
    assert isinstance(found, CaptionSet)
    assert not isinstance(found, FactorSet)
    assert found.captions(np.array([1, 0])) == [CAPTIONS["a.jpg"], CAPTIONS["c.jpg"]]
    assert found.caption_counts.tolist() == [1, 3]


def test_captions_of_other_images_are_passed_over_and_few_images_without_are_named(tmp_path, read):
    names = {f"{i:03}.jpg": ["A picture ."] for i in range(200)}
    text = table("image,caption", names | {"elsewhere.jpg": ["Not here ."]}).replace("007.jpg,A picture .\n", "")
    found = read(write(tmp_path / "set", "captions.txt", text, names=names))
    assert len(found) == 199
    assert found.skipped == ["images/007.jpg (no caption in captions.txt)"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("captions.txt", table("picture,words"), "should begin with a line 'image,caption'"),
        ("captions.txt", "", "should begin with a line 'image,caption'"),
        ("captions.txt", table("image,caption") + "d.jpg\n", "has 'd.jpg', None"),
        ("Flickr8k.token.txt", "a.jpg A dog\n", "name an image and its caption in each line"),
        ("captions.txt", table("image,caption", {"a.jpg": ["A ."]}), "no caption for 2 of the 3 images"),
    ],
)
def test_damaged_captions_are_one_sentence(tmp_path, read, file, text, message):
    with pytest.raises(DataError, match=message) as error:
        read(write(tmp_path / "set", file, text))
    assert str(error.value).count("\n") == 0

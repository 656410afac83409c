"""`betadiffusion data`: what a data set holds."""

from pathlib import Path
from typing import Literal

from betadiffusion.cli.loading import check_png


def data(
    source: str, *, size: int | None = None, channels: Literal[1, 3] | None = None, out: Path | None = None
) -> None:
    """Say what a data set holds, as training would see it, and draw 64 of its images.

    Args:
        source: "shapes", "dsprites", "fashion-mnist", or the path of a folder, a zip or a file. Published sets are
            known by their layout, or named before the path, as in "coil20:PATH": shapes3d (3dshapes.h5), dsprites-npz,
            cars3d, mpi3d, smallnorb, coil20, sprites (LPC sheets), celeba, celeba-hq, ffhq, lsun, utkface, cifar10,
            imagenet (folders of classes), flickr8k (or your own images beside a captions.txt or captions.csv with a
            first line "image,caption"), and the MNIST family as idx files.
        size: side of the square images, in pixels; by default 64, or 32 for idx files.
        channels: 1 for grey, 3 for colour; by default what the source has.
        out: the picture, a .png; data-NAME.png by default.
    """
    if out:
        check_png(out)
    import numpy as np

    from betadiffusion.cli.pictures import as_pictures, save_sheet
    from betadiffusion.data import AttributeSet, CaptionSet, FactorSet, load

    images = load(source, size, channels)
    out = out or Path(f"data-{images.name}.png")
    shown = np.sort(np.random.default_rng(0).choice(len(images), min(64, len(images)), replace=False))
    save_sheet(out, as_pictures(images.images(shown)))
    rows = {
        "name": images.name,
        "images": f"{len(images):,}",
        "shape": " x ".join(map(str, images.image_shape)) + " (channels, height, width)",
    }
    if isinstance(images, FactorSet):
        rows["factors"] = ", ".join(
            f"{name} ({count})" for name, count in zip(images.factor_names, images.factor_sizes, strict=True)
        )
    labels = getattr(images, "labels", None)
    if labels is not None:
        classes, counts = np.unique(labels, return_counts=True)
        rows["labels"] = f"{len(classes)} classes, the smallest of {counts.min():,} and the largest of {counts.max():,}"
    if isinstance(images, AttributeSet):
        rates = images.attributes(np.arange(len(images))).mean(axis=0)
        pairs = zip(images.attribute_names, rates, strict=True)
        rows["attributes"] = ", ".join(f"{name} ({rate:.0%})" for name, rate in pairs)
    if isinstance(images, CaptionSet):
        rows["captions"] = f"{images.caption_counts.sum():,}, from {images.caption_counts.min()} an image on"
    partition = getattr(images, "partition", None)
    if partition is not None:
        parts, counts = np.unique(partition, return_counts=True)
        rows["partition"] = ", ".join(f"{part} ({count:,})" for part, count in zip(parts, counts, strict=True))
    rows["skipped"] = "\n".join([f"{len(images.skipped)} files", *images.skipped])
    rows["picture"] = f"{out} ({len(shown)} images at random)"
    for name, text in rows.items():
        print(f"{name:12}" + text.replace("\n", "\n" + " " * 12))

"""Directions from what is known of a set of images: its attributes, factors and labels."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from betadiffusion.data import AttributeSet, Subset
from betadiffusion.evaluation.encoders import Encoder
from betadiffusion.pipelines.directions import Codes, Direction, along, contrast, principal, slope
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline

Pair = tuple[np.ndarray, np.ndarray]  # of the training images, of the held-out ones


def find_directions(
    pipeline: BetaDiffusionPipeline,
    train: Subset,
    held_out: Subset,
    level: float,
    pca: int = 0,
    attributes: Sequence[str] = (),
    factors: Sequence[str] = (),
    labels: bool = False,
    disco: np.ndarray | None = None,
) -> list[Direction]:
    """Directions at a level, computed from all of `train` and scored on all of `held_out`.

    pca: how many principal components. attributes, factors: names, or "all"; a factor gives the slope of the codes on
    its values, as NAME:LOW:HIGH the contrast of two of them. labels: one contrast for each class, by its name or
    number. disco: directions (K,d) that are known already. They are computed from codes in units of the prior, and
    scaled as its latents are, for `edit` to add. Raises ValueError for what the images have not, and as
    `pipelines.directions` does.
    """
    contrasts = {**_attributes(train, held_out, attributes), **(_labels(train, held_out) if labels else {})}
    slopes = {}
    for word in _chosen(factors, getattr(train, "factor_names", ()), "factor", with_values=True):
        name, *values = word.split(":")
        k = train.factor_names.index(name)
        pair = tuple(part.factors(np.arange(len(part)))[:, k] for part in (train, held_out))
        if values:
            contrasts[word] = _between(word, pair, train.factor_sizes[k])
        else:
            slopes[word] = pair
    encoder = Encoder("run", pipeline.vae, pipeline.vae.image_shape, device=pipeline.device)
    (mean, sigma), (test, _) = (encoder.codes(part, level, progress=True) for part in (train, held_out))
    codes = Codes(level, pipeline.vae.latent_shape, mean, test, 0.0 if sigma is None else sigma)
    scale = encoder.prior_scale(level).cpu().expand(codes.shape)
    found = principal(codes, pca) if pca else []
    if disco is not None:
        found += along(codes, "disco", disco / scale.flatten().numpy())
    for name, pair in contrasts.items():
        found += contrast(codes, name, *pair)
    found += [slope(codes, name, *pair) for name, pair in slopes.items()]
    return [replace(direction, vector=scale * direction.vector) for direction in found]


def _attributes(train: Subset, held_out: Subset, names: Sequence[str]) -> dict[str, Pair]:
    known = train.attribute_names if isinstance(train, AttributeSet) else ()
    names = _chosen(names, known, "attribute")
    if not names:
        return {}
    has, test_has = (part.attributes(np.arange(len(part))) for part in (train, held_out))
    return {name: (has[:, k], test_has[:, k]) for name in names for k in [known.index(name)]}


def _labels(train: Subset, held_out: Subset) -> dict[str, Pair]:
    if train.labels is None:
        raise ValueError(f"the images of {train.name} have no labels to find directions of")
    names = getattr(train, "label_names", None)
    classes = {f"label-{names[c] if names else c}": c for c in np.unique(train.labels)}
    return {name: (train.labels == c, held_out.labels == c) for name, c in classes.items()}


def _between(word: str, values: Pair, size: int) -> Pair:
    """1 where a factor has the second value of NAME:LOW:HIGH, 0 where it has the first, -1 elsewhere."""
    ends = word.split(":")[1:]
    if len(ends) != 2 or not all(end.isdigit() and int(end) < size for end in ends) or ends[0] == ends[1]:
        raise ValueError(f"{word!r} must be NAME:LOW:HIGH with two values from 0 to {size - 1}")
    low, high = map(int, ends)
    return tuple(np.select([part == low, part == high], [0, 1], -1) for part in values)


def _chosen(words: Sequence[str], known: Sequence[str], what: str, with_values: bool = False) -> Sequence[str]:
    """The words, or all that are known; ValueError for a name that is not known."""
    if not words:
        return ()
    if not known:
        raise ValueError(f"the images of this run have no {what}s to find directions of")
    if tuple(words) == ("all",):
        return known
    for word in words:
        if (word.partition(":")[0] if with_values else word) not in known:
            raise ValueError(f"there is no {what} {word!r}; the images have {', '.join(known)}")
    return tuple(dict.fromkeys(words))

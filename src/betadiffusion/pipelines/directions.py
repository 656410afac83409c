"""Directions to edit along, found in the codes of many images at one level, and kept by name.

A direction's vector has the norm of one standard deviation, along it, of codes drawn from q(z|x;t) over all images: a
strength of 2 moves a code by two of them, whatever the level. Where the posterior has closed, that is the noise's own
scale, and not the little that is left of the means. Where the prior has a scale of each channel, codes are measured in
its units, and the vector is scaled as the latent is.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from betadiffusion.atomic import atomic

Kind = Literal["pca", "disco", "logistic", "means", "slope"]

REGULARISATION = 100.0  # of the logistic regression, on standardised codes: latents may have thousands of dimensions


@dataclass(frozen=True, eq=False)
class Direction:
    """A direction at one level.

    vector: shaped like the latent (C,h,w), its norm, in units of the prior, one standard deviation of drawn codes.
    score: on images that it was not computed from: the share of the means' variance along it (kinds "pca", "disco"), or
    the AUROC of drawn codes, of images that have what is named against images that have not: along it, and for kind
    "logistic" by the regression.
    count: images that it was computed from.
    """

    name: str
    kind: Kind
    level: float
    vector: Tensor
    score: float
    count: int

    @property
    def told(self) -> str:
        """The score in words."""
        shares = self.kind in ("pca", "disco")
        return f"{self.score:.1%} of the variance" if shares else f"AUROC {self.score:.3f}"


@dataclass(frozen=True, eq=False)
class Codes:
    """Posteriors at one level: means (N,d) to compute from and (M,d) to score on, of latents of `shape` (C,h,w).

    sigma: their noise scale, a number or (N,d). The logistic regression and all AUROC are of one draw each, seeded.
    Raises ValueError where all means are alike, as at level 1 of a model whose boundary holds.
    """

    level: float
    shape: tuple[int, ...]
    train: np.ndarray
    test: np.ndarray
    sigma: float | np.ndarray

    def __post_init__(self) -> None:
        if not self.train.std(axis=0).any():
            raise ValueError(f"at level {self.level:g} the codes say nothing of the images: choose a lower level")

    @cached_property
    def variance(self) -> np.ndarray:
        """Mean variance of the posteriors, (d,)."""
        return np.broadcast_to(np.square(self.sigma), self.train.shape).mean(axis=0, dtype=np.float64)

    def drawn(self, means: np.ndarray) -> np.ndarray:
        """A draw for each of the means (N,d), with the posteriors' mean variance."""
        return means + np.sqrt(self.variance) * np.random.default_rng(0).standard_normal(means.shape)

    def direction(self, name: str, kind: Kind, along: np.ndarray, score: float, count: int) -> Direction:
        """The direction along (d,), of any norm."""
        unit = along / np.linalg.norm(along)
        # the variance of codes along u is that of the means and that of the noise
        deviation = math.sqrt((self.train @ unit).var() + self.variance @ unit**2)
        vector = torch.from_numpy(unit * deviation).float().reshape(self.shape)
        return Direction(name, kind, self.level, vector, float(score), count)

    def auroc(self, along: np.ndarray, has: np.ndarray) -> float:
        """Of drawn codes of the test images along a vector (d,), has (M,) 1 against 0; -1 is left out."""
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(has[has >= 0], (self.drawn(self.test) @ along)[has >= 0]))


def principal(codes: Codes, count: int) -> list[Direction]:
    """The first `count` principal components, "pca-1" and on; ValueError for more than there are dimensions."""
    from sklearn.decomposition import PCA

    most = min(codes.train.shape)
    if count > most:
        raise ValueError(f"there are at most {most} principal components of these codes, not {count}")
    components = PCA(count, random_state=0).fit(codes.train).components_
    return along(codes, "pca", components)


def along(codes: Codes, kind: Literal["pca", "disco"], vectors: np.ndarray) -> list[Direction]:
    """Directions "KIND-1" and on, along the rows of vectors (K,d), of any norm."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    shares = (codes.test @ units.T).var(axis=0) / codes.test.var(axis=0).sum()
    return [
        codes.direction(f"{kind}-{i + 1}", kind, unit, share, len(codes.train))
        for i, (unit, share) in enumerate(zip(units, shares, strict=True))
    ]


def contrast(codes: Codes, name: str, has: np.ndarray, test_has: np.ndarray) -> list[Direction]:
    """From images without something to images with it: has (N,), test_has (M,) 1, 0, or -1 to leave out.

    "NAME" is the normal of a logistic regression on standardised codes, walked along in their units, since a code may
    move far where codes spread far; "NAME-means" is the difference of the two means. The first changes little else, the
    second also what goes along with it. Raises ValueError where either kind of image is missing.
    """
    from sklearn.linear_model import LogisticRegression

    has, test_has = np.asarray(has, np.int64), np.asarray(test_has, np.int64)
    for labels in (has, test_has):
        if not {0, 1} <= set(labels.tolist()):
            raise ValueError(f"{name!r} needs images that have it and images that have not, both to fit and to score")
    drawn, y = codes.drawn(codes.train)[has >= 0], has[has >= 0]
    scale = drawn.std(axis=0)
    model = LogisticRegression(C=1 / REGULARISATION, class_weight="balanced", max_iter=1000)
    normal = model.fit(drawn / scale, y).coef_[0]
    means = codes.train[has == 1].mean(axis=0) - codes.train[has == 0].mean(axis=0)
    return [
        codes.direction(name, "logistic", normal * scale, codes.auroc(normal / scale, test_has), len(y)),
        codes.direction(f"{name}-means", "means", means, codes.auroc(means, test_has), len(y)),
    ]


def slope(codes: Codes, name: str, values: np.ndarray, test_values: np.ndarray) -> Direction:
    """How codes move on average as a factor rises: their least-squares slope on its values (N,), test_values (M,).

    Its AUROC is of the upper half of the values against the lower. Raises ValueError for a factor that is constant.
    """
    centred = values - values.mean()
    if not centred.any():
        raise ValueError(f"the factor {name!r} has the same value in all images")
    along = centred @ codes.train / (centred @ centred)
    upper = test_values > (values.min() + values.max()) / 2
    return codes.direction(name, "slope", along, codes.auroc(along, upper.astype(np.int64)), len(values))


def find(directions: Sequence[Direction], name: str, level: float) -> Direction:
    """The direction of a name at a level; ValueError, saying what there is, where there is none."""
    of_name = [direction for direction in directions if direction.name == name]
    for direction in of_name:
        if math.isclose(direction.level, level, abs_tol=1e-6):
            return direction
    if of_name:
        there = ", ".join(f"{direction.level:g}" for direction in of_name)
        raise ValueError(f"the direction {name!r} is known at level {there}, not at {level:g}: compute it there")
    names = ", ".join(dict.fromkeys(direction.name for direction in directions)) or "none yet"
    raise ValueError(f"there is no direction {name!r}; the names are: {names}")


def save(folder: Path, directions: Sequence[Direction], model: str) -> Path:
    """Adds directions of one level to folder/level-LEVEL.safetensors, in place of those of the same names.

    The file is written whole; its metadata hold, as JSON, what is known of each. `model` says which encoder made them:
    those that another made are dropped.
    """
    (level,) = {direction.level for direction in directions}
    path = folder / f"level-{level:g}.safetensors"
    kept = {direction.name: direction for direction in _read(path, model)} if path.exists() else {}
    kept |= {direction.name: direction for direction in directions}
    facts = [{k: v for k, v in asdict(direction).items() if k != "vector"} for direction in kept.values()]
    vectors = {name: direction.vector.contiguous() for name, direction in kept.items()}
    with atomic(path) as partial:
        save_file(vectors, partial, {"model": model, "directions": json.dumps(facts)})
    return path


def load(folder: Path, model: str) -> list[Direction]:
    """All directions in a folder that the encoder `model` made, by level; ValueError for a file that is damaged."""
    found = [direction for path in folder.glob("level-*.safetensors") for direction in _read(path, model)]
    return sorted(found, key=lambda direction: direction.level)


def _read(path: Path, model: str) -> list[Direction]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata["model"] != model:
                return []
            facts = json.loads(metadata["directions"])
            return [Direction(vector=file.get_tensor(each["name"]), **each) for each in facts]
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not hold directions ({error}): delete it and compute them again") from error

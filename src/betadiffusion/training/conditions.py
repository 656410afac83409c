"""The condition of every image of a set, as a run's configuration asks for it, and what of it a step gets to see."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from betadiffusion.data import AttributeSet, CaptionSet, DataError, FactorSet, Subset
from betadiffusion.models.text import BATCH, TextEncoder
from betadiffusion.nn.condition import ConditionSpec
from betadiffusion.training.config import ConditionConfig
from betadiffusion.training.stored import fingerprint, stored


@dataclass(frozen=True)
class Conditions:
    """The conditions of N images.

    values: labels (N,) or attributes (N,A), int64, or the codes (M,1+tokens,width) of all captions, of which image i
    has `counts[i]` from `first[i]` on. A share `dropout` of the draws says nothing at all.
    """

    spec: ConditionSpec
    dropout: float
    values: np.ndarray
    first: np.ndarray | None = None
    counts: np.ndarray | None = None

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """What `at` needs at random for a batch: uniform numbers (batch, 2 or more)."""
        return torch.rand(batch, 2 + len(self.spec.names) * (self.spec.kind == "attributes"), generator=generator)

    def at(self, indices: np.ndarray, draws: Tensor) -> Tensor:
        """The conditions of images (B,), by draws (B, ...): as `nn.condition` has them, some saying nothing.

        Of several captions one is drawn. Of A attributes 0 to A-1 are left unsaid, each number as often as the others,
        so that any few of them can be asked for later.
        """
        if self.spec.kind == "text":
            which = (draws[:, 1].double().numpy() * self.counts[indices]).astype(np.int64)
            condition = torch.from_numpy(self.values[self.first[indices] + which].astype(np.float32))
        else:
            condition = torch.from_numpy(self.values[indices])
        if self.spec.kind == "attributes":
            order = draws[:, 2:].argsort(dim=1).argsort(dim=1)
            unsaid = (draws[:, 1] * condition.shape[1]).floor()
            condition = condition.masked_fill(order < unsaid[:, None], -1)
        dropped = draws[:, 0] < self.dropout
        return torch.where(dropped.reshape(-1, *[1] * (condition.ndim - 1)), self.spec.null(len(condition)), condition)

    def in_full(self, indices: np.ndarray) -> Tensor:
        """The conditions of images (B,), with nothing left unsaid; of several captions the first."""
        if self.spec.kind == "text":
            return torch.from_numpy(self.values[self.first[indices]].astype(np.float32))
        return torch.from_numpy(self.values[indices])


def sketch(config: ConditionConfig) -> ConditionSpec | None:
    """A condition of the configured kind, of any size: enough to build networks with before the data are seen."""
    if config.kind == "none":
        return None
    if config.kind == "text":
        return ConditionSpec("text", config.by, (), config.text_encoder, 1, 0 if config.by == "adaln" else 1)
    return ConditionSpec(config.kind, config.by, ("any",))


def make_conditions(
    config: ConditionConfig, parts: Sequence[Subset], folder: Path, device: torch.device, quiet: bool = False
) -> list[Conditions]:
    """The conditions of parts of one image set; the codes of captions are computed once, and kept in `folder`.

    DataError where the set does not have what the configuration asks for.
    """
    if config.kind == "text":
        return _texts(config, parts, folder, device, quiet)
    if config.kind == "attributes":
        names, values = _attributes(config, parts)
    else:
        names, values = _labels(config, parts)
    spec = ConditionSpec(config.kind, config.by, names)
    return [Conditions(spec, config.dropout, part) for part in values]


NO_LABELS = "choose another condition.kind; where each class has a folder, the data are imagenet:PATH"


def _labels(config: ConditionConfig, parts: Sequence[Subset]) -> tuple[Sequence[str], list[np.ndarray]]:
    """Names of the classes, and the class of each image of each part."""
    images, wanted = parts[0], config.classes
    groupings = {} if images.labels is None else {None: images.label_names}
    groupings |= {name: names for name, (_, names) in images.groupings.items()}
    if isinstance(images, FactorSet):
        sizes = zip(images.factor_names, images.factor_sizes, strict=True)
        groupings |= {name: [str(i) for i in range(size)] for name, size in sizes}
    if wanted is None and None not in groupings and len(groupings) == 1:
        wanted = next(iter(groupings))
    if wanted not in groupings:
        known = [name for name in groupings if name is not None]
        hint = f"set condition.classes to one of {', '.join(known)}" if known else NO_LABELS
        raise DataError(f"{images.name} has no {'labels' if wanted is None else f'classes called {wanted!r}'}: {hint}.")
    values = [_classes(part, wanted) for part in parts]
    if min(int(part.min()) for part in values) < 0:
        raise DataError(f"{images.name} has negative labels.")
    count = 1 + max(int(part.max()) for part in values)
    return groupings[wanted] or [str(i) for i in range(count)], values


def _classes(images: Subset, name: str | None) -> np.ndarray:
    if name is None:
        return images.labels.astype(np.int64)
    if name in images.groupings:
        return images.groupings[name][0].astype(np.int64)
    return images.factors(np.arange(len(images)))[:, images.factor_names.index(name)]


def _attributes(config: ConditionConfig, parts: Sequence[Subset]) -> tuple[Sequence[str], list[np.ndarray]]:
    """Names of the chosen attributes, and those of each image of each part."""
    images = parts[0]
    if not isinstance(images, AttributeSet):
        raise DataError(f"{images.name} has no attributes: choose another condition.kind.")
    names = config.attributes or images.attribute_names
    if unknown := [name for name in names if name not in images.attribute_names]:
        raise DataError(f"{images.name} has no attribute {unknown[0]!r}: it has {', '.join(images.attribute_names)}.")
    columns = [images.attribute_names.index(name) for name in names]
    return names, [part.attributes(np.arange(len(part)))[:, columns].astype(np.int64) for part in parts]


def _texts(
    config: ConditionConfig, parts: Sequence[Subset], folder: Path, device: torch.device, quiet: bool
) -> list[Conditions]:
    if not isinstance(parts[0], CaptionSet):
        raise DataError(f"{parts[0].name} has no captions: choose another condition.kind.")
    encoder = TextEncoder(config.text_encoder, 0 if config.by == "adaln" else config.text_tokens).to(device)
    spec = ConditionSpec("text", config.by, (), config.text_encoder, encoder.width, encoder.tokens)
    counts = [part.caption_counts for part in parts]
    texts = [text for part in parts for own in part.captions(np.arange(len(part))) for text in own]
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
    key = {"encoder": fingerprint(encoder), "tokens": encoder.tokens, "texts": digest}

    def fill(codes: np.ndarray) -> None:
        for start in tqdm(range(0, len(texts), BATCH), desc="captions", unit=" batches", disable=quiet):
            codes[start : start + BATCH] = encoder(texts[start : start + BATCH]).numpy()

    codes = stored(folder / "codes.npy", key, (len(texts), 1 + encoder.tokens, encoder.width), np.float16, fill)
    starts = np.split(np.cumsum(np.concatenate([[0], *counts]))[:-1], np.cumsum([len(part) for part in parts])[:-1])
    return [Conditions(spec, config.dropout, codes, first, own) for first, own in zip(starts, counts, strict=True)]

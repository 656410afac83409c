"""From codes and what is known of their images to scores, by the names of `names.SCORES`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from betadiffusion import metrics
from betadiffusion.evaluation.names import SCORES, Need
from betadiffusion.evaluation.pool import Pool
from betadiffusion.metrics.mig import gap, information_shares

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Coded:
    """The pool as codes (N, d): a factor set whose pictures are codes, which group scores can draw from again."""

    pool: Pool
    codes: np.ndarray

    @property
    def fit(self) -> np.ndarray:
        """Codes of the images to fit on."""
        return self.codes[: self.pool.count]

    @property
    def test(self) -> np.ndarray:
        """Codes of the images to test on."""
        return self.codes[self.pool.count :]

    @property
    def factor_sizes(self) -> tuple[int, ...]:
        """How many values each factor has."""
        return self.pool.images.factor_sizes

    def __len__(self) -> int:
        return len(self.codes)

    def factors(self, indices: np.ndarray) -> np.ndarray:
        """Factors (B, K) of the images at `indices`."""
        return self.pool.factors[indices]

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Codes (B, d) of the images at `indices`."""
        return self.codes[indices]

    def divided(self, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is known of the images to fit on and of those to test on."""
        return known[: self.pool.count], known[self.pool.count :]


def possible(pool: Pool) -> set[str]:
    """The scores that what is known of a pool allows; factors count where they vary among both parts of it."""
    varying = 0 if pool.factors is None else _varying(pool.factors, pool.count)
    labelled = varying if pool.labels is None else _varying(pool.labels[:, None], pool.count)
    has: dict[Need, int] = {"factors": varying, "attributes": pool.attributes is not None, "targets": labelled}
    return {name for name, score in SCORES.items() if has[score.needs] >= score.varying}


def _varying(known: np.ndarray, count: int) -> int:
    """How many columns of what is known (N, K) take several values before `count` and from it on."""
    parts = known[:count], known[count:]
    return int(np.logical_and(*((part != part[:1]).any(axis=0) for part in parts)).sum())


def compute(name: str, coded: Coded) -> Numbers:
    """One score: numbers by name, lists where there is one for every factor or attribute."""
    return FUNCTIONS[name](coded)


def _mig(coded: Coded) -> Numbers:
    shares = information_shares(coded.fit, coded.divided(coded.pool.factors)[0])
    known = np.nan_to_num(shares)
    return {
        "mig": gap(shares),
        "information": known.max(axis=0).tolist(),  # by factor
        "information_by_latent": known.round(4).tolist(),
    }


def _split(name: str) -> Callable[[Coded], Numbers]:
    """A score that is fitted on one part and tested on the other."""

    def score(coded: Coded) -> Numbers:
        fit, test = coded.divided(coded.pool.factors)
        return {name: getattr(metrics, name)(coded.fit, fit, coded.test, test)}

    return score


def _whole(name: str) -> Callable[[Coded], Numbers]:
    """A score of one set of codes."""
    return lambda coded: {name: getattr(metrics, name)(coded.fit, coded.divided(coded.pool.factors)[0])}


def _group(name: str) -> Callable[[Coded], Numbers]:
    """A score of groups of images that share a factor, drawn again and again from the coded pool."""

    def score(coded: Coded) -> Numbers:
        return {name: float(getattr(metrics, f"{name}_score")(coded, lambda codes: codes, seed=coded.pool.seed))}

    return score


def _dci(name: str, importance: str) -> Callable[[Coded], Numbers]:
    def score(coded: Coded) -> Numbers:
        fit, test = coded.divided(coded.pool.factors)
        result = metrics.dci(coded.fit, fit, coded.test, test, importance=importance)
        parts = ("disentanglement", "completeness", "informativeness")
        return {f"{name}_{part}": float(getattr(result, part)) for part in parts}

    return score


def _tad(coded: Coded) -> Numbers:
    attributes = coded.divided(coded.pool.attributes)[0]
    exact = metrics.tad(coded.fit, attributes)
    others = {f"tad_{v}": float(metrics.tad(coded.fit, attributes, variant=v).score) for v in ("nashae", "disdiff")}
    best = np.asarray(exact.auroc)  # by latent and attribute
    numbers = {"tad": float(exact.score), "tad_captured": int(exact.captured), **others}
    return numbers | {"auroc": best.max(axis=0).tolist(), "auroc_latent": best.argmax(axis=0).tolist()}


def _probe(name: str) -> Callable[[Coded], Numbers]:
    """Accuracy on the labels, or the mean over factors where there are no labels."""

    def score(coded: Coded) -> Numbers:
        pool = coded.pool
        targets = pool.factors if pool.labels is None else pool.labels[:, None]
        fit, test = coded.divided(targets)
        probe = getattr(metrics, name)
        accuracies = [
            float(probe(coded.fit, a, coded.test, b))
            for a, b in zip(fit.T, test.T, strict=True)
            if len(np.unique(a)) > 1
        ]
        return {name: float(np.mean(accuracies)), f"{name}_by_target": accuracies}

    return score


FUNCTIONS: dict[str, Callable[[Coded], Numbers]] = {
    "mig": _mig,
    "modularity": _whole("modularity"),
    "irs": _whole("irs"),
    "sap": _split("sap"),
    "explicitness": _split("explicitness"),
    "dci": _dci("dci", "forest"),
    "dci_gbt": _dci("dci_gbt", "gbt"),
    "factor_vae": _group("factor_vae"),
    "beta_vae": _group("beta_vae"),
    "tad": _tad,
    "knn_probe": _probe("knn_probe"),
    "linear_probe": _probe("linear_probe"),
}

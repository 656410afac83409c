"""The disentanglement metrics beside their reference implementations, on the same codes.

    python benchmarks/reference_metrics.py --disentanglement-lib CLONE --nashae CLONE --disdiff CLONE \\
        --infodiffusion CLONE [--write]

Imports the functions of google-research/disentanglement_lib, ericyeats/nashae-beamsynthesis, ThomasMrY/DisDiff and
isjakewong/InfoDiffusion from clones, with stand-ins for what they import and do not need here (gin, absl, CUDA).
Prints their scores, ours and the difference; --write renews tests/reference_metrics.json. About 2 minutes on one core.

explicitness and the BetaVAE score: the reference says LogisticRegression(), which meant liblinear, one value against
the rest, when it was published, and means multinomial now; the former is restored, the latter printed beside it. SAP's
LinearSVC() meant the dual solver then; both are printed.
"""

import argparse
import functools
import importlib
import importlib.util
import json
import os
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from betadiffusion import metrics

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from metric_cases import REFERENCE, CodedSet, build

DSPRITES = (3, 6, 40, 32, 32)
SMALL = (3, 6, 4)
ATTRIBUTES = (2,) * 20 + (3,) * 10 + (10,) * 10  # an attribute is a factor's value 0; the published code has 40


def recipe(name: str, sizes: tuple[int, ...], mix: np.ndarray, noise: Any, seed: int, rows: int) -> dict[str, Any]:
    scale = np.broadcast_to(noise, mix.shape[1]).tolist()
    mix = mix.round(4).tolist()
    sizes = {"sizes": list(sizes), "train": rows, "test": rows // 2}
    return {"name": name, "seed": seed, **sizes, "linked": [], "mix": mix, "noise": scale, "copies": 1}


def recipes() -> list[dict[str, Any]]:
    """Codes good, rotated, noisy, random, duplicated and dead, of factors as dSprites has them and of few values."""
    generator = np.random.default_rng(0)
    cases = []
    for sizes, rows in ((DSPRITES, 5000), (SMALL, 600)):
        k = len(sizes)
        rotation, _ = np.linalg.qr(generator.standard_normal((k, k)))
        mixture, spare = generator.standard_normal((k, 2 * k)), np.zeros((k, 2))
        good, name = np.eye(k), "dSprites" if sizes == DSPRITES else "small"
        cases += [
            recipe(f"{name}, good", sizes, np.hstack([good, spare]), 0.02, 1, rows),
            recipe(f"{name}, rotated", sizes, rotation, 0.1, 2, rows),
            recipe(f"{name}, noisy", sizes, good, 0.7, 3, rows),
            recipe(f"{name}, mixed", sizes, mixture, 0.3, 4, rows),
            recipe(f"{name}, random", sizes, np.zeros((k, 2 * k)), 1.0, 5, rows),
            recipe(f"{name}, dead codes", sizes, np.hstack([good, spare]), [0.2] * k + [0.0] * 2, 6, rows),
            recipe(f"{name}, duplicated", sizes, good, 0.1, 7, rows) | {"copies": 2},
        ]
    detectors = np.zeros((len(ATTRIBUTES), 12))
    detectors[np.arange(12) * 3, np.arange(12)] = 1  # every third attribute has a latent, partly shared below
    cases += [
        recipe("attributes, good", ATTRIBUTES, detectors, 0.5, 8, 1000),
        recipe("attributes, linked", ATTRIBUTES, detectors, 0.3, 9, 1000) | {"linked": [[0, 3, 0.8], [6, 9, 0.2]]},
        recipe("attributes, shared", ATTRIBUTES, detectors + 0.4 * np.roll(detectors, 1, axis=1), 0.2, 10, 1000),
        recipe("attributes, narrow", ATTRIBUTES, 0.03 * detectors, 0.01, 11, 1000),
    ]
    return cases


class Rows:
    """Rows handed out in order as disentanglement_lib's ground truth data, or factors drawn from them with codes."""

    def __init__(self, codes: np.ndarray, factors: np.ndarray) -> None:
        self.codes, self.table, self.start = codes, factors, 0
        self.num_factors = factors.shape[1]
        self.where = {tuple(row): i for i, row in enumerate(factors)}

    def sample(self, count: int, _: Any) -> tuple[np.ndarray, np.ndarray]:
        rows = slice(self.start, self.start + count)
        self.start += count
        return self.table[rows], self.codes[rows]

    def sample_factors(self, count: int, state: Any) -> np.ndarray:
        return self.table[state.randint(len(self.table), size=count)]

    def sample_observations_from_factors(self, factors: np.ndarray, _: Any) -> np.ndarray:
        return self.codes[[self.where[tuple(row)] for row in factors]]

    def sample_observations(self, count: int, state: Any) -> np.ndarray:
        return self.codes[state.randint(len(self.table), size=count)]


def stand_in(name: str, **contents: Any) -> None:
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(contents)


def logistic_regression(**_: Any) -> OneVsRestClassifier:
    return OneVsRestClassifier(LogisticRegression(solver="liblinear"))


class DisentanglementLib:
    """Its metrics on arrays (N, d) and (N, K)."""

    def __init__(self, clone: Path) -> None:
        def configurable(*_: Any, **__: Any) -> Callable:
            return lambda function: function

        stand_in("gin", configurable=configurable, REQUIRED=None)
        stand_in("gin.tf")
        stand_in("absl", logging=types.SimpleNamespace(info=lambda *_: None))
        stand_in("six")
        stand_in("six.moves", range=range)
        sys.path.insert(0, str(clone))
        names = ("utils", "mig", "sap_score", "dci", "irs", "modularity_explicitness", "factor_vae", "beta_vae")
        for name in names:
            setattr(self, name, importlib.import_module(f"disentanglement_lib.evaluation.metrics.{name}"))
        self.utils.make_discretizer = lambda values: self.utils._histogram_discretize(values, 20)
        self.factor_vae._prune_dims = functools.partial(self.factor_vae._prune_dims, threshold=0.05)
        self._modern = types.SimpleNamespace(LogisticRegression=LogisticRegression)
        self._old = types.SimpleNamespace(LogisticRegression=logistic_regression)

    def scores(self, codes: Any, factors: Any, test_codes: Any, test_factors: Any) -> dict[str, float]:
        four = codes.T, factors.T, test_codes.T, test_factors.T
        every = np.vstack([codes, test_codes]), np.vstack([factors, test_factors])
        train, test, identity = len(codes), len(test_codes), lambda x: x

        def explicitness(linear_model: Any) -> float:
            self.modularity_explicitness.linear_model = linear_model
            compute = self.modularity_explicitness.compute_modularity_explicitness
            return compute(Rows(*every), identity, None, None, train, test)["explicitness_score_test"]

        def sap(svm: Callable) -> float:
            self.sap_score.svm = types.SimpleNamespace(LinearSVC=svm)
            return self.sap_score._compute_sap(*four, False)["SAP_score"]

        information = self.utils.discrete_mutual_info(self.utils.make_discretizer(four[0]), four[1])
        scores = {
            "mig": self.mig._compute_mig(*four[:2])["discrete_mig"],
            "modularity": self.modularity_explicitness.modularity(information),
            "irs": self.irs.compute_irs(Rows(*every), identity, None, None, 0.99, train, train)["IRS"],
            "sap": sap(LinearSVC),
            "sap, dual": sap(functools.partial(LinearSVC, dual=True, random_state=0)),
        }
        if codes.std(axis=0).all():  # a constant code becomes NaN there
            scores["explicitness"] = explicitness(self._old)
            scores["explicitness, multinomial"] = explicitness(self._modern)
        return scores

    def slow_scores(self, codes: Any, factors: Any, test_codes: Any, test_factors: Any) -> dict[str, float]:
        dci = self.dci._compute_dci(codes.T, factors.T, test_codes.T, test_factors.T)
        rows = Rows(*one_row_each(codes, factors))
        state, identity = np.random.RandomState(0), lambda x: x
        self.beta_vae.linear_model = self._old
        return {
            "dci": [dci["disentanglement"], dci["completeness"], dci["informativeness_test"]],
            "factor_vae": self.factor_vae.compute_factor_vae(rows, identity, state, None, 64, 10000, 5000, 10000)[
                "eval_accuracy"
            ],
            "beta_vae": self.beta_vae.compute_beta_vae_sklearn(rows, identity, state, None, 64, 10000, 5000)[
                "eval_accuracy"
            ],
        }


def one_row_each(codes: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One row for every combination of factors."""
    factors, rows = np.unique(factors, axis=0, return_index=True)
    return codes[rows], factors


def ours(codes: Any, factors: Any, test_codes: Any, test_factors: Any) -> dict[str, float]:
    four = codes, factors, test_codes, test_factors
    scores = {name: getattr(metrics, name)(codes, factors) for name in ("mig", "modularity", "irs")}
    scores |= {name: getattr(metrics, name)(*four) for name in ("explicitness", "sap")}
    return scores | {
        "explicitness, multinomial": scores["explicitness"],
        "sap, dual": scores["sap"],
    }


def our_slow_scores(codes: Any, factors: Any, test_codes: Any, test_factors: Any) -> dict[str, Any]:
    result = metrics.dci(codes, factors, test_codes, test_factors)
    rows = CodedSet(*one_row_each(codes, factors))
    return {
        "dci": [result.disentanglement, result.completeness, result.informativeness],
        "factor_vae": metrics.factor_vae_score(rows, lambda x: x),
        "beta_vae": metrics.beta_vae_score(rows, lambda x: x),
    }


def load(path: Path) -> Any:
    """A module by its file."""
    spec = importlib.util.spec_from_file_location(path.parent.name.replace("+", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tad_references(nashae: Path, disdiff: Path, infodiffusion: Path) -> dict[str, Callable]:
    """Score and number captured by variant: each AUROC with InfoDiffusion's filter, which the notebooks share."""
    torch.Tensor.cuda = lambda tensor, *_: tensor
    stand_in("utils", generate_exp_string=None)
    stand_in("architectures", FactorVAE_Discriminator=None)
    info = load(infodiffusion / "eval_disentanglement.py")
    info.print = lambda *_: None

    def evaluate(search: Callable | None) -> Callable:
        def score(codes: np.ndarray, attributes: np.ndarray) -> list[float]:
            metric = info.TADMetric(attributes.shape[1], list(range(attributes.shape[1])))
            if search is not None:
                metric.aurocs_search = lambda a, y: (
                    torch.stack([search(a, y, i, a.max(0)[0], a.min(0)[0]) for i in range(y.shape[1])]),
                    y.float().mean(0),
                )
            total, _, captured = metric.evaluate(codes, attributes)
            return [total, captured]

        return score

    published = {"nashae": load(nashae / "ae_utils_exp.py"), "disdiff": load(disdiff / "ae_utils_exp.py")}
    published["disdiff"].tqdm = lambda values: values
    return {"exact": evaluate(None)} | {name: evaluate(module.aurocs) for name, module in published.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--disentanglement-lib", type=Path, required=True)
    for name in ("--nashae", "--disdiff", "--infodiffusion"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="renew tests/reference_metrics.json")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    library = DisentanglementLib(arguments.disentanglement_lib)
    attributes = tad_references(arguments.nashae, arguments.disdiff, arguments.infodiffusion)
    cases, worst = recipes(), {}
    print(f"{'codes':24} {'metric':28} {'reference':>12} {'ours':>12} {'difference':>12}")
    for case in cases:
        four = build(case)
        if tuple(case["sizes"]) == ATTRIBUTES:
            targets = (four[1] == 0).astype(int)
            theirs = {f"tad, {name}": score(four[0], targets) for name, score in attributes.items()}
            results = {name: metrics.tad(four[0], targets, name.removeprefix("tad, ")) for name in theirs}
            mine = {name: [result.score, result.captured] for name, result in results.items()}
        else:
            theirs, mine = library.scores(*four), ours(*four)
            if tuple(case["sizes"]) == SMALL:
                theirs |= library.slow_scores(*four)
                mine |= our_slow_scores(*four)
        case["reference"] = {name: np.asarray(value, float).tolist() for name, value in theirs.items()}
        for name, value in theirs.items():
            for one, other in zip(np.atleast_1d(value), np.atleast_1d(mine[name]), strict=True):
                worst[name] = max(worst.get(name, 0), abs(one - other))
                print(f"{case['name']:24} {name:28} {one:12.7f} {other:12.7f} {other - one:12.1e}")
    print("\ngreatest difference:", {name: float(f"{value:.2g}") for name, value in worst.items()})
    if arguments.write:
        temporary = REFERENCE.with_suffix(".tmp")
        temporary.write_text(json.dumps(cases))
        os.replace(temporary, REFERENCE)


if __name__ == "__main__":
    main()

"""The names of everything that can be asked for, and what each needs; no heavy imports, the command line reads it."""

from dataclasses import dataclass
from typing import Literal

Need = Literal["factors", "attributes", "targets"]


@dataclass(frozen=True)
class Score:
    """A number of codes: its title, what must be known of the images, and where it is taken when nothing is said.

    where: "every" level, or only at the "chosen" ones (the fixed level and the best one) because it takes long.
    varying: factors that must take several values.
    """

    title: str
    needs: Need
    where: Literal["every", "chosen"]
    varying: int = 1


SCORES: dict[str, Score] = {
    "mig": Score("MIG", "factors", "every"),
    "modularity": Score("modularity", "factors", "every"),
    "factor_vae": Score("FactorVAE score", "factors", "every"),
    "irs": Score("IRS", "factors", "every"),
    "sap": Score("SAP", "factors", "chosen"),
    "dci": Score("DCI, fast importance", "factors", "chosen"),
    "dci_gbt": Score("DCI, boosted trees", "factors", "chosen"),
    "explicitness": Score("explicitness", "factors", "chosen"),
    "beta_vae": Score("BetaVAE score", "factors", "chosen", varying=2),
    "tad": Score("TAD", "attributes", "every"),
    "knn_probe": Score("k-NN probe", "targets", "chosen"),
    "linear_probe": Score("linear probe", "targets", "chosen"),
}
SLOW = {"dci_gbt"}  # minutes: only when named
PICTURES = {"ssim": "SSIM", "lpips": "LPIPS"}  # of reconstructions, at every level
GENERATION = ("frechet", "kernel", "precision_recall", "density_coverage")  # of samples
TITLES = {
    "rate": "rate, nats",
    "mse": "mean squared error per pixel",
    "psnr": "PSNR, dB",
    "active_units": "active units",
    "aggregated_kl": "KL of the aggregated posterior, nats",
    "tad": "TAD, exact",
    "tad_captured": "TAD, attributes captured",
    "tad_nashae": "TAD, 101 thresholds (NashAE)",
    "tad_disdiff": "TAD, 11 thresholds (DisDiff)",
    **{f"{name}_{part}": f"{SCORES[name].title}: {part}" for name in ("dci", "dci_gbt")
       for part in ("disentanglement", "completeness", "informativeness")},
}  # fmt: skip
ScoreName = Literal[
    "mig", "modularity", "factor_vae", "irs", "sap", "dci", "dci_gbt", "explicitness", "beta_vae", "tad", "knn_probe",
    "linear_probe",
]  # fmt: skip
MetricName = Literal[
    "mig", "modularity", "factor_vae", "irs", "sap", "dci", "dci_gbt", "explicitness", "beta_vae", "tad", "knn_probe",
    "linear_probe", "ssim", "lpips", "frechet", "kernel", "precision_recall", "density_coverage",
]  # fmt: skip
CONTROLS = ("features", "random weights", "features, random weights", "pixels")  # rows beside the model's
CHOOSERS = ("mig", "tad", "knn_probe", "linear_probe")  # the best level is chosen on the first of these


def title(name: str) -> str:
    """The name of a number for people."""
    if name in TITLES:
        return TITLES[name]
    return SCORES[name].title if name in SCORES else PICTURES.get(name, name.replace("_", " "))

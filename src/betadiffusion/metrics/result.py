"""Numbers that say what they are, and those of a set of generated images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from betadiffusion.metrics.features import FeatureExtractor, frechet_name, kernel_name
from betadiffusion.metrics.frechet import FeatureStatistics, frechet_from_statistics
from betadiffusion.metrics.kernel import kernel_distance_and_error
from betadiffusion.metrics.prdc import density_coverage, precision_recall
from betadiffusion.metrics.reference import Reference, identity, image_features

GENERATION = ("frechet", "kernel", "precision_recall", "density_coverage")


@dataclass(frozen=True)
class Distance:
    """One number between two sets of images, with all that it depends on.

    metric: such as "FD-EffNet"; features, weights_sha256, resize: as their extractor says them; count and
    reference_count: images on each side; reference: the split of the real ones; seed: of what is drawn.
    """

    metric: str
    value: float
    features: str
    weights_sha256: str
    count: int
    reference: str
    reference_count: int
    resize: str
    seed: int
    standard_error: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields, fit for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.2g}"
        return (
            f"{self.metric} {self.value:.4g}{error} ({self.features}, weights {self.weights_sha256 or 'unknown'}, "
            f"N={self.count:,} against {self.reference_count:,} of {self.reference}, {self.resize}, seed {self.seed})"
        )


def generation_metrics(
    extractor: FeatureExtractor,
    fake_images: Any,
    reference: Reference,
    metrics: Sequence[str] = GENERATION,
    seed: int = 0,
    progress: bool = True,
) -> list[Distance]:
    """How far generated images, uint8 (N,C,H,W), numpy or torch, are from the real ones of a reference.

    metrics: of "frechet", "kernel" (subsets of 1,000, or of half the smaller set, so that it has a standard error),
    "precision_recall" (k = 3) and "density_coverage" (k = 5); seed: of the subsets. One pass over the images.
    Raises ValueError for a metric not known, or features that are not the reference's.
    """
    if unknown := [name for name in metrics if name not in GENERATION]:
        raise ValueError(f"There is no metric {unknown[0]!r}: choose of {', '.join(GENERATION)}.")
    if identity(extractor) != reference.extractor:
        raise ValueError(f"The reference holds other features, {reference.extractor}, than {identity(extractor)}.")
    fake, real = image_features(extractor, fake_images, progress), reference.features
    values: dict[str, tuple[float, float | None]] = {}
    if "frechet" in metrics:
        distance = frechet_from_statistics(reference.statistics, FeatureStatistics.from_features(fake))
        values[frechet_name(extractor)] = distance, None
    if "kernel" in metrics:
        half = min(len(real), len(fake)) // 2
        values[kernel_name(extractor)] = kernel_distance_and_error(real, fake, subset_size=min(1000, half), seed=seed)
    if "precision_recall" in metrics:
        found = precision_recall(real, fake)
        values |= {"precision (k=3)": (found.precision, None), "recall (k=3)": (found.recall, None)}
    if "density_coverage" in metrics:
        shares = density_coverage(real, fake)
        values |= {"density (k=5)": (shares.density, None), "coverage (k=5)": (shares.coverage, None)}
    return [
        Distance(
            metric=metric,
            value=value,
            **identity(extractor),
            count=len(fake),
            reference=reference.split,
            reference_count=len(real),
            seed=seed,
            standard_error=error,
        )
        for metric, (value, error) in values.items()
    ]

"""The FactorVAE score: which code varies least when one factor is held."""

import numpy as np

from betadiffusion.metrics.arrays import varying
from betadiffusion.metrics.fixed_factor import CodedFactors, Encode, Factors


def factor_vae_score(
    dataset: Factors,
    encode: Encode,
    seed: int = 0,
    *,
    samples: int = 64,
    train_votes: int = 10_000,
    test_votes: int = 5_000,
    variance_samples: int = 10_000,
    prune: float = 0.05,
) -> float:
    """FactorVAE score in [0, 1] (Kim and Mnih 2018, sec. 4, as disentanglement_lib computes it).

    A vote: `samples` images that share a random image's value of a random factor; the code with the least
    variance, divided by its variance over the whole set. Each code stands for the factor it is most often voted for;
    the score is the accuracy of that over further votes.
    dataset: len, factors(indices (B,)) -> (B, K) integer, images(indices) -> any array; complete grid or not.
    encode: images -> codes (B, d), posterior means; numpy or torch. For images coded beforehand let dataset.images
    return the codes and encode be the identity.
    Codes with a standard deviation below `prune` are left out, and 0 returned if none is left; factors that never
    vary are left out. Rescaling a code matters only there.
    Pitfalls: chance is about 1/K; only the best code of each factor is judged, so duplicates and rotations among
    spare codes go unpunished; a value that few rows hold makes a vote of chance.
    Raises ValueError for NaN, factors that are not integers, or no factor that varies.
    """
    generator = np.random.default_rng(seed)
    coded = CodedFactors(dataset, encode, variance_samples + (train_votes + test_votes) * samples)
    sample = coded.codes(generator.integers(len(coded.table), size=variance_samples))
    variances = sample.var(axis=0, ddof=1)
    active = varying(sample) & (np.sqrt(variances) >= prune)
    if not active.any():
        return 0.0

    def votes(count: int) -> np.ndarray:
        """How often each active code (rows) was chosen while each factor (columns) was held."""
        table = np.zeros((active.sum(), coded.table.shape[1]), np.int64)
        for factor, _, rows in coded.draw(count, samples, pairs=False, generator=generator):
            relative = (coded.codes(rows).var(axis=1, ddof=1) / np.where(active, variances, 1))[:, active]
            np.add.at(table, (relative.argmin(axis=1), factor), 1)
        return table

    decided = votes(train_votes).argmax(axis=1)
    test = votes(test_votes)
    return float(test[np.arange(len(test)), decided].sum() / test_votes)

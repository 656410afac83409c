"""Gaussian densities and divergences. Everything is summed over the dimensions of a sample: one value per sample."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator]  # one for a batch, or one for each of its samples


def sum_over_sample(x: Tensor) -> Tensor:
    """Sum of (B, ...) over all but the first dimension: (B,)."""
    return x.flatten(1).sum(1)


def expand_as(scale: Tensor, x: Tensor) -> Tensor:
    """A value per sample (B,), or one for all (), shaped to multiply a batch x (B, ...)."""
    return scale.reshape(scale.shape + (1,) * (x.ndim - scale.ndim)) if scale.ndim else scale


def standard_normal_kl(mean: Tensor, sigma: Tensor, free: Tensor | None = None) -> Tensor:
    """KL( N(mean, sigma^2 I) || N(0, I) ) in nats: mean (B, ...), sigma (B,) or () or like mean; returns (B,).

    With `free` (B,) each dimension counts at least that much (free bits; Kingma et al. 2016).
    """
    variance = expand_as(sigma, mean).square()
    # 1/2 ( mu^2 + sigma^2 - 1 - log sigma^2 )
    kl = 0.5 * (mean.square() + (variance - 1 - variance.log()).expand_as(mean))
    return sum_over_sample(kl if free is None else torch.maximum(kl, expand_as(free, kl)))


def gaussian_kl(mean_q: Tensor, variance_q: Tensor, mean_p: Tensor, variance_p: Tensor) -> Tensor:
    """KL( N(mean_q, variance_q) || N(mean_p, variance_p) ), diagonal, in nats: all (B, ...) or broadcast; (B,)."""
    ratio = variance_q / variance_p
    # 1/2 sum( (mu_q - mu_p)^2 / v_p + v_q / v_p - 1 - log(v_q / v_p) )
    return 0.5 * sum_over_sample((mean_q - mean_p).square() / variance_p + ratio - 1 - ratio.log())


def log_density(x: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    """log N(x; mean, sigma^2 I) in nats: x and mean (B, ...), sigma (B,) or () or like x; returns (B,)."""
    sigma = expand_as(sigma, x)
    normalised = (x - mean) / sigma
    return -0.5 * sum_over_sample(normalised.square() + (math.log(2 * math.pi) + 2 * sigma.log()).expand_as(x))


def randn(shape: torch.Size | tuple[int, ...], like: Tensor, generator: Generators | None) -> Tensor:
    """Standard normal noise on `like`'s device and dtype, drawn on the generator's own device (so seeds carry over).

    With a list of generators sample i is drawn from the i-th, whatever the batch. Raises ValueError unless there is one
    for each of the shape[0] samples.
    """
    if isinstance(generator, Sequence):
        if len(generator) != shape[0]:
            raise ValueError(f"a list of generators needs one for each of {shape[0]} samples, not {len(generator)}")
        return torch.stack([randn(shape[1:], like, each) for each in generator])
    device = generator.device if generator is not None else like.device
    return torch.randn(shape, generator=generator, device=device).to(like)


def split(generator: Generators | None, count: int) -> Sequence[torch.Generator]:
    """One generator for each of `count` samples, seeded by the next numbers of `generator`; a list stays as it is.

    Sample i of a stream is then the same however the stream is cut into batches.
    """
    if isinstance(generator, Sequence):
        return generator
    device = generator.device if generator is not None else "cpu"
    seeds = [torch.randint(2**63 - 1, (), generator=generator, device=device).item() for _ in range(count)]
    return [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]

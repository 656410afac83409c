"""What every level keeps: rate, distortion, scales, and how the code stands to known factors."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from betadiffusion.gaussian import randn
from betadiffusion.metrics import active_units, aggregated_kl, rate
from betadiffusion.metrics.images import decibels
from betadiffusion.metrics.mig import gap, information_shares
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.report.generate import batch_size

LEVELS = 21
ACTIVE_VARIANCE = 0.01  # of a unit's mean over images (Burda et al. 2016, sec. 4.2)
MIG_IMAGES = 10_000
MIG_BINS = 20


def level_curves(
    pipeline: BetaDiffusionPipeline,
    images: np.ndarray,
    factors: np.ndarray | None,
    count: int,
    seed: int,
    progress: bool,
) -> list[dict[str, Any]]:
    """Numbers of the levels 0, 0.05, ..., 1 on images (N,C,H,W) uint8, the first `count` but for factors (N,K).

    f and sigma are in units of the prior. rate: mean KL, nats. mse: per pixel in [-1, 1], of a draw of q(z|x;t)
    decoded. psnr: dB. signal_power: mean of f^2 over images and dimensions. sigma: root mean square of that of the
    posterior. log_snr: log(signal_power / sigma^2). active_units: dimensions of f that vary. mean_std: standard
    deviation of f. aggregate_kl: KL( N(E z, Var z) || N(0,1) ) of the aggregated posterior's
    channels, nats, mean and greatest. With factors also mig, and information: by factor the greatest mutual
    information of any code, as a share of the factor's entropy.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = torch.from_numpy(images).split(batch_size(pipeline))
    table = []
    for level in tqdm(np.linspace(0, 1, LEVELS).round(2).tolist(), desc="report: levels", disable=not progress):
        mean, sigma = (torch.cat(of) for of in zip(*(pipeline.posterior(x, level) for x in parts), strict=True))
        tau = pipeline.vae.prior_scale(torch.tensor(level))
        numbers = {"level": level, **_scales(pipeline, mean[:count] / tau, sigma[:count] / tau, level)}
        numbers["mse"] = _distortion(pipeline, images[:count], mean[:count], sigma[:count], level, generator)
        numbers["psnr"] = decibels(numbers["mse"])
        if factors is not None:
            numbers |= _factors(mean, factors)
        table.append(numbers)
    return table


@torch.no_grad()
def _scales(pipeline: BetaDiffusionPipeline, mean: Tensor, sigma: Tensor, level: float) -> dict[str, float]:
    t = torch.tensor(level, device=mean.device)
    power, noise = mean.square().mean(), sigma.square().mean()
    places = (value.movedim(1, -1).flatten(0, -2) for value in (mean, sigma))  # of a channel are its samples
    aggregate = aggregated_kl(*places)
    return {
        "rate": rate(mean.flatten(1), sigma.flatten(1)),
        "sigma": float(noise.sqrt()),
        "pixel_sigma": float(pipeline.vae.pixel_sigma(t)),
        "signal_power": float(power),
        "log_snr": float((power / noise).log()),
        "active_units": active_units(mean.flatten(1), ACTIVE_VARIANCE),
        "mean_std": float(mean.std()),
        "aggregate_kl": float(aggregate.mean()),
        "aggregate_kl_max": float(aggregate.max()),
    }


@torch.no_grad()
def _distortion(
    pipeline: BetaDiffusionPipeline,
    images: np.ndarray,
    mean: Tensor,
    sigma: Tensor,
    level: float,
    generator: torch.Generator,
) -> float:
    t = torch.tensor(level, device=mean.device)
    size, total = batch_size(pipeline), 0.0
    for x, f, s in zip(torch.from_numpy(images).split(size), mean.split(size), sigma.split(size), strict=True):
        x_hat = pipeline.vae.decode(f + s * randn(f.shape, f, generator), t)
        total += float((x_hat - (x.to(f) / 127.5 - 1)).square().double().sum())
    return total / images.size


def _factors(mean: Tensor, factors: np.ndarray) -> dict[str, Any]:
    codes = mean.flatten(1).cpu().numpy().round(5)  # f(x,1) = 0 up to rounding, which is no code
    shares = information_shares(codes, factors, MIG_BINS)
    return {"mig": gap(shares), "information": np.nan_to_num(shares.max(axis=0)).tolist()}

"""A path whose f = cos(pi t / 2) x of Gaussian x is known in closed form, and denoisers calibrated on it."""

import math
from functools import cache

import torch

from betadiffusion.models.denoiser import NonlinearDenoiser

SCALES = torch.tensor([0.3, 1.0, 2.0, 1.5])
MEANS = torch.tensor([0.5, 0.0, -1.0, 2.0])
KNOTS = 33


def a(t):
    return (math.pi / 2 * t).cos()


def slope(t):
    return -math.pi / 2 * (math.pi / 2 * t).sin()


def sigma(t):
    return 0.05 + 0.95 * t


def data(count=1_000, seed=0):
    """x (count,4,1,1) whose channels are independent Gaussians of exactly the mean and scale above."""
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    return (MEANS + SCALES * x)[:, :, None, None]


@cache
def untrained(prediction):
    """A denoiser calibrated on f = cos(pi t / 2) x, whose network is zero: its predictions are the Gaussian part."""
    model = NonlinearDenoiser((4, 1, 1), width=16, depth=1, knots=KNOTS, sigma_knots=1025, prediction=prediction)
    knots = torch.linspace(0, 1, KNOTS, dtype=torch.float64)
    f, v = (data()[:, None] * curve(knots)[None, :, None, None, None] for curve in (a, slope))
    model.preconditioning.calibrate(sigma(torch.linspace(0, 1, 1025)).log(), f, v)
    return model


def along(x):
    return lambda t: (a(t)[:, None, None, None] * x, slope(t)[:, None, None, None] * x)

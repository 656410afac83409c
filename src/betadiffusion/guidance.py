"""Classifier-free guidance (Ho and Salimans 2022), on both outputs of a denoiser, with an interval of levels.

    guided = uncond + weight (cond - uncond)          for eps and for delta, where low <= t <= high

For eps this is the score of p(z) (p(z|c) / p(z))^weight, up to -sigma; delta, linear in E[x | z], follows suit. Outside
the interval the condition acts alone (Kynkäänniemi et al. 2024). Samplers see one function of (z, t, s) as ever.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from betadiffusion.samplers import Predict, Prediction

ROUNDING = 1e-6  # of a level
Interval = tuple[float, float]
ConditionalPredict = Callable[[Tensor, Tensor, Tensor, Tensor], Prediction]


def guided(
    predict: ConditionalPredict, condition: Tensor, null: Tensor, weight: float, interval: Interval = (0.0, 1.0)
) -> Predict:
    """The guided prediction of a network predict(z, t, s, condition) of z (B, ...), both halves in one pass of 2B.

    condition and null are (B, ...), null that which says nothing. Weight 1 is the condition alone, 0 within the
    interval null alone; with weight 1, and outside the interval, the pass is one of B. Raises ValueError for an
    interval that is not 0 <= low <= high <= 1.
    """
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(f"a guidance interval is two levels, 0 <= low <= high <= 1, not {low} and {high}")

    def predict_guided(z: Tensor, t: Tensor, s: Tensor) -> Prediction:
        if weight == 1 or not low - ROUNDING <= float(t) <= high + ROUNDING:
            return predict(z, t, s, condition)
        eps, delta = predict(torch.cat([z, z]), t, s, torch.cat([condition, null]))
        # guided = uncond + weight (cond - uncond)                                       (Ho and Salimans 2022, Eq. 6)
        (eps, eps_uncond), (delta, delta_uncond) = eps.chunk(2), delta.chunk(2)
        return eps_uncond + weight * (eps - eps_uncond), delta_uncond + weight * (delta - delta_uncond)

    return predict_guided

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


def guided(predict_cond: Predict, predict_uncond: Predict, weight: float, interval: Interval = (0.0, 1.0)) -> Predict:
    """The guided prediction of two: weight 1 is `predict_cond`, 0 within the interval `predict_uncond`.

    Raises ValueError for an interval that is not 0 <= low <= high <= 1.
    """

    def both(z: Tensor, t: Tensor, s: Tensor) -> tuple[Prediction, Prediction]:
        return predict_cond(z, t, s), predict_uncond(z, t, s)

    return _guided(predict_cond, both, weight, interval)


def guided_in_one_pass(
    predict: ConditionalPredict, condition: Tensor, null: Tensor, weight: float, interval: Interval = (0.0, 1.0)
) -> Predict:
    """`guided` for a network predict(z, t, s, condition) of z (B, ...): both halves in one pass of 2B.

    condition and null are (B, ...), null that which says nothing. With weight 1, and outside the interval, the pass is
    one of B.
    """

    def both(z: Tensor, t: Tensor, s: Tensor) -> tuple[Prediction, Prediction]:
        eps, delta = predict(torch.cat([z, z]), t, s, torch.cat([condition, null]))
        (eps_cond, eps_uncond), (delta_cond, delta_uncond) = eps.chunk(2), delta.chunk(2)
        return (eps_cond, delta_cond), (eps_uncond, delta_uncond)

    return _guided(lambda z, t, s: predict(z, t, s, condition), both, weight, interval)


def _guided(
    predict_cond: Predict,
    both: Callable[[Tensor, Tensor, Tensor], tuple[Prediction, Prediction]],
    weight: float,
    interval: Interval,
) -> Predict:
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(f"a guidance interval is two levels, 0 <= low <= high <= 1, not {low} and {high}")
    if weight == 1:
        return predict_cond

    def predict(z: Tensor, t: Tensor, s: Tensor) -> Prediction:
        if not low - ROUNDING <= float(t) <= high + ROUNDING:
            return predict_cond(z, t, s)
        (eps, delta), (eps_uncond, delta_uncond) = both(z, t, s)
        # guided = uncond + weight (cond - uncond)                                       (Ho and Salimans 2022, Eq. 6)
        return eps_uncond + weight * (eps - eps_uncond), delta_uncond + weight * (delta - delta_uncond)

    return predict

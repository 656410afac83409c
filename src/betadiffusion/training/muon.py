"""Muon, an optimiser whose steps are matrices of momentum with all singular values made one, for convolutions.

torch.optim.Muon takes parameters of two dimensions alone.
"""

from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ITERATIONS = 5
QUINTIC = 3.4445, -4.7750, 2.0315  # a s + b s^3 + c s^5 brings s of (0, 1] near one (Jordan et al. 2024)
ADAM_RMS = 0.2  # root mean square of AdamW's usual step, in units of its rate (Liu et al. 2025, Eq. 4)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) with Nesterov momentum, decoupled decay and steps of AdamW's size (Liu et al. 2025).

    params: groups of weights of any two or more dimensions, a matrix (first, all others), each group with its "lr" and
    "weight_decay".
    """

    def __init__(self, params: list[dict[str, Any]]) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all weights that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if not self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
                momentum = self.state[weight]["momentum"]
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                matrix = weight.grad.lerp(momentum, MOMENTUM).flatten(1)
                size = group["lr"] * ADAM_RMS * max(matrix.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(orthogonalised(matrix).view(weight.shape), alpha=size)


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U V^T of a matrix U S V^T, float32: its singular values become 0.7 to 1.2, but for those below a thousandth
    of the root of their squares' sum, which only grow. A matrix of zeros stays.

    Newton and Schulz's iteration X <- (a + b A + c A^2) X with A = X X^T, worked out on A, the smaller Gram matrix:
    all of the X are polynomials of A times the first.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalised(matrix.T).T
    matrix = matrix / matrix.norm().clamp(min=torch.finfo(matrix.dtype).tiny)
    gram = matrix @ matrix.T
    product = factor = _factor(gram)
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram)
        product = factor @ product
    return product @ matrix


def _factor(gram: Tensor) -> Tensor:
    """a + b A + c A^2 of a Gram matrix A."""
    a, b, c = QUINTIC
    factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal().add_(a)
    return factor


def filters(model: nn.Module) -> set[nn.Parameter]:
    """Weights of a model's convolutions, what Muon is for here, but for those with fewer than eight rows or columns,
    such as the last layer's, of pixels."""
    weights = {layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)}
    return {weight for weight in weights if min(weight.flatten(1).shape) >= 8}

"""Layers that stay in float32 while the network around them computes in bf16."""

import torch
from torch import Tensor, nn


def in_float32(layer: nn.Module, *inputs: Tensor) -> Tensor:
    """layer(*inputs) in float32, whatever autocast is in force."""
    kind = inputs[0].device.type
    with torch.autocast("cpu" if kind == "meta" else kind, enabled=False):  # no autocast exists for shapes alone
        return layer(*(x.float() for x in inputs))

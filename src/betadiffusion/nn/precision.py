"""Layers that stay in float32 while the network around them computes in bf16."""

import torch
from torch import Tensor, nn


def in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """layer(x) in float32, whatever autocast is in force."""
    kind = "cpu" if x.device.type == "meta" else x.device.type  # no autocast exists for shapes alone
    with torch.autocast(kind, enabled=False):
        return layer(x.float())

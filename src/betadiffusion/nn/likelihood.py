"""What a decoder's output says of an image: the likelihoods of the field, over images in [-1, 1]."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from betadiffusion.gaussian import log_density, sum_over_sample

LikelihoodName = Literal["bernoulli", "gaussian", "learned"]


class Likelihood(nn.Module):
    """-log p(x|z) from the decoder's output, and the image that is shown for it.

    "bernoulli": of pixels scaled to [0, 1], the output being logits; "gaussian": of pixels scaled to [0, 1], with a
    standard deviation of one; "learned": of pixels in [-1, 1], with one learned standard deviation, as in Eq. 4 at one
    level. Raises ValueError for another name.
    """

    def __init__(self, name: LikelihoodName) -> None:
        super().__init__()
        if name not in get_args(LikelihoodName):
            raise ValueError(f"unknown likelihood '{name}'; choose {', '.join(get_args(LikelihoodName))}")
        self.name = name
        if name == "learned":
            # a curve of one knot: the trainer gives curves a rate of their own and no decay
            self.scale_curve = nn.ParameterDict({"log_value": nn.Parameter(torch.tensor(math.log(0.3)))})

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """-log p(x|z) in nats, summed: images x (B,C,H,W) in [-1, 1], the decoder's output likewise; (B,)."""
        if self.name == "bernoulli":
            return sum_over_sample(binary_cross_entropy_with_logits(output, x / 2 + 0.5, reduction="none"))
        if self.name == "gaussian":
            return -log_density(x / 2, output / 2, torch.ones((), device=x.device))
        return -log_density(x, output, self.scale_curve["log_value"].exp())

    def image(self, output: Tensor) -> Tensor:
        """The mean image (B,C,H,W), not clipped, in [-1, 1] for "bernoulli"."""
        return output.sigmoid() * 2 - 1 if self.name == "bernoulli" else output

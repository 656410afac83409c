"""A patch discriminator: one verdict on every patch of an image (PatchGAN, Isola et al. 2017, sec. 3.2)."""

from itertools import pairwise

from torch import Tensor, nn

from betadiffusion.nn.precision import in_float32
from betadiffusion.nn.resnet import norm_groups

HALVINGS = 3  # with two more convolutions a verdict sees 70 pixels a side, as in the paper


class PatchDiscriminator(nn.Module):
    """Images (B,in_channels,H,W) in [-1, 1] to logits (B,1,H/8,W/8), float32, > 0 for real images.

    `channels` are those of its first layer. GroupNorm stands where the paper has BatchNorm, so that a verdict on an
    image does not depend on the others.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        widths = [channels * 2**i for i in range(HALVINGS + 1)]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for before, width in pairwise(widths):
            if width < widths[-1]:
                layers.append(nn.Conv2d(before, width, 4, stride=2, padding=1))
            else:
                layers += [nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(before, width, 4)]  # keeps the size
            layers += [nn.GroupNorm(norm_groups([width]), width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.ZeroPad2d((1, 2, 1, 2)))
        self.head = nn.Conv2d(widths[-1], 1, 4)

    def forward(self, x: Tensor) -> Tensor:
        return in_float32(self.head, self.layers(x))

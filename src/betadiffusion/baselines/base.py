"""What a baseline is to the trainer and to the commands."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from betadiffusion.gaussian import Generators, randn, split
from betadiffusion.nn.backbone import latent_side
from betadiffusion.training.adversary import Opponent


class Baseline(ModelMixin, ConfigMixin):
    """A model whose `forward` is its loss: images x (B,C,H,W) in [-1, 1] and its draws (B, ...) to (B,).

    Losses are per pixel value (divided by C H W), so that gradients have one scale whatever the image's size. Its
    verbs are those that it honestly can, and the commands ask which are there: `encode_mean(x, t)`, `posterior(x, t)`,
    `decode(z, t)`, `reconstruct(x, generator)`, `sample(count, generator)`. t is the level, of which it has but one
    unless `has_levels`. One with a preset `by_class` is given `labels` (B,) of images by name, in its loss and verbs.
    """

    has_levels: ClassVar[bool] = False

    sample_options: ClassVar[tuple[str, ...]] = ()  # further arguments of `sample`, by their option of the command
    evaluations: int = 1  # passes of a network that an image of `sample` costs

    def __init__(self) -> None:
        super().__init__()
        self.stage = "baseline"  # that is being trained
        self.train_count = 0  # images that it is trained on

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        size = self.config.backbone["sample_size"]
        return self.config.backbone["in_channels"], size, size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the codes, where there are any."""
        arguments = self.config.backbone
        side = latent_side(arguments["sample_size"], arguments["block"], arguments["channels"])
        return arguments["latent_channels"], side, side

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Everything random in the loss of `batch` images: tensors (batch, ...), on the CPU."""
        return ()

    def prepare(self, stage: str, x: Tensor) -> None:
        """Before a stage: freezes what it does not train; x are a few hundred training images, for statistics."""
        self.stage = stage

    def begin(self, images: int) -> None:
        """Begins the training step after so many images."""

    def make_opponent(self) -> Opponent | None:
        """A network that is trained against this one, which `forward` then gets as `opponent`; None for none."""
        return None

    def finish(self, x: Tensor) -> None:
        """After training: what is taken from a few hundred training images x."""

    def noise(self, count: int, shape: Sequence[int], generator: Generators | None) -> Tensor:
        """Standard normal (count, *shape), on the model's device, a sample of each generator."""
        return randn((count, *shape), torch.empty(0, device=self.device), split(generator, count))

    @torch.no_grad()
    def numbers(self, x: Tensor, generator: torch.Generator, **given: Any) -> dict[str, Any]:
        """What validation notes of held-out images x, a number for each name: the loss, where it is no other.

        `given` by name as to `forward`: the opponent and the labels, where there are any.
        """
        draws = (draw.to(x.device) for draw in self.draw(len(x), generator))
        return {"prior_loss" if self.stage == "prior" else "loss": float(self(x, *draws, **given).mean())}

    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """Rows of images (B,C,H,W) that validation draws of a few held-out images x, beside the verbs', by label."""
        return {}

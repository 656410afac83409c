"""What is trained against a model, and that of an autoencoder: VQGAN's discriminator and term (Esser et al. 2021).

The adaptive weight of a step is that of the step before: its gradients are then complete, over all accumulated parts
and all processes, and the result does not depend on how a batch is divided.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import relu

from betadiffusion.nn.discriminator import PatchDiscriminator

MOST = 1e4  # of the adaptive weight, as in VQGAN


class Opponent(nn.Module):
    """A network that is trained against a model, in the same steps, by AdamW without decay.

    Its rate follows the model's schedule and has the model's peak, unless `learning_rate` is another. In a step that it
    is `active` in, `losses` follows the model's loss of every part of the batch, and `adapt` ends the step.
    """

    adam_betas = (0.5, 0.9)  # those of VQGAN's discriminator, and of FactorVAE's
    learning_rate: float | None = None
    active = True

    def begin(self, images: int) -> None:
        """Begins the step after so many images."""

    def losses(self, model: nn.Module) -> Tensor:
        """Loss of each image (B,) of the part that the model has just seen; `model` is self, wrapped as it may be."""
        raise NotImplementedError

    def adapt(self, reduce: Callable[[Tensor, str], Tensor]) -> None:
        """Ends a step; reduce(tensor, "sum") is over processes."""


class Adversary(Opponent):
    """A patch discriminator, its hinge loss, and the term that it adds to the autoencoder's, from `start` images on.

    In a step every part of the batch goes through `term`, then `losses`; `adapt` ends the step. The term's weight is
    `weight` times the adaptive weight, a buffer, 0 in the first step, in which the discriminator learns alone.
    """

    def __init__(self, in_channels: int, channels: int, weight: float, start: int) -> None:
        super().__init__()
        self.discriminator = PatchDiscriminator(in_channels, channels)
        self.register_buffer("adaptive", torch.zeros(()))
        self.weight, self.start, self.active = weight, start, False
        self.images: tuple[Tensor, Tensor] | None = None  # real and reconstructed, of the part at hand
        self.gradients: list[Tensor] = []

    def begin(self, images: int) -> None:
        """Begins the step after so many images: decides whether the discriminator takes part in it."""
        self.active, self.gradients = images >= self.start, []

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (B,C,H,W) in [-1, 1]."""
        return self.discriminator(x)

    def term(self, x: Tensor, x_hat: Tensor, reconstruction: Tensor, last_layer: Tensor) -> Tensor:
        """What to add to the loss of each image (B,).

        reconstruction (B,) is what the adaptive weight compares with: the reconstruction terms of the loss, whose
        gradient, as that of this term, is taken at `last_layer`, the weight of the decoder's last layer.
        """
        frozen = {name: value.detach() for name, value in self.state_dict(keep_vars=True).items()}
        verdict = -functional_call(self, frozen, (x_hat,)).flatten(1).mean(1)
        gradients = [torch.autograd.grad(v.sum(), last_layer, retain_graph=True)[0] for v in (reconstruction, verdict)]
        self.gradients.append(torch.stack(gradients).detach())
        self.images = x, x_hat.detach()
        return self.weight * self.adaptive * verdict

    def losses(self, model: nn.Module) -> Tensor:
        """Hinge loss of the discriminator on each image (B,) of the part that `term` has just seen."""
        real, made = model(torch.cat(self.images)).flatten(1).chunk(2)
        return (relu(1 - real).mean(1) + relu(1 + made).mean(1)) / 2

    @torch.no_grad()
    def adapt(self, reduce: Callable[[Tensor, str], Tensor]) -> None:
        """Ends a step: the adaptive weight is |grad reconstruction| / |grad verdict| (VQGAN, Eq. 7), over processes."""
        of_reconstruction, of_verdict = reduce(sum(self.gradients), "sum").flatten(1).norm(dim=1)
        self.adaptive.copy_((of_reconstruction / of_verdict.clamp(min=1e-12)).clamp(max=MOST))
        self.images = None


def opponent_optimizer(opponent: Opponent, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW without decay, at the opponent's own rate or else the model's, as in VQGAN."""
    peak = opponent.learning_rate or learning_rate
    group = {"params": list(opponent.parameters()), "peak": peak, "lr": peak, "weight_decay": 0.0}
    return torch.optim.AdamW([group], betas=opponent.adam_betas, fused=True)

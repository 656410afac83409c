"""DisDiff: a trained diffusion whose score is taken apart, a gradient field for each concept (Yang et al. 2023)."""

from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, normalize

from betadiffusion.baselines.ddpm import DDPM
from betadiffusion.baselines.frozen import OnFrozen
from betadiffusion.baselines.linear_diffusion import (
    SAMPLE_STEPS,
    TIMES,
    clean,
    denoise,
    make_unet,
    noise_draws,
    noised,
    to_noise,
)
from betadiffusion.gaussian import Generators, randn, split
from betadiffusion.nn.backbone import make_backbone

KEPT = 512  # codes of training images


class DisDiff(OnFrozen):
    """An encoder E of images to `concepts` vectors z_c, and a U-Net G of what each adds to the frozen prediction.

    G reads what the way down of the frozen U-Net makes of an image, once for all concepts, and has a way up of its own.
    With all concepts the diffusion is to make the image; with one of them, drawn, what it makes is to differ from what
    it makes with none in that concept alone, by E: the disentangling loss. `base`: the folder of a run of ddpm; G
    predicts what that one does, noise or v, of which the gradient field of log p(z_c | x_t) is a multiple.
    concept_width: dimensions of z_c. The code of a concept is its first principal component over training images, as
    the paper evaluates it. steps: of DDIM, there and back, that `reconstruct` takes. ValueError for another base.
    """

    sample_options = ("steps", "eta")

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        base: str | dict[str, Any] = "",
        concepts: int = 6,
        concept_width: int = 32,
        disentangling: float = 0.05,
        steps: int = 50,
    ) -> None:
        super().__init__()
        self.freeze(base)
        if not isinstance(self.frozen, DDPM):
            raise ValueError(f"baseline.base must be the run of a ddpm, not of a {type(self.frozen).__name__}")
        self.evaluations = SAMPLE_STEPS * (1 + concepts)
        self.encoder, _ = make_backbone(**backbone | {"latent_channels": concepts * concept_width}, embedding_dim=1)
        settings = self.frozen.config
        arguments = settings.unet_channels, settings.unet_layers, settings.unet_attention
        unet = make_unet(backbone, *arguments)
        self.unet = unet.net
        for part in ("conv_in", "time_embedding", "down_blocks"):  # the frozen one's serve
            delattr(self.unet, part)
        # each concept is told in its own way, by which the U-Net knows which it is
        self.told = nn.Conv1d(concepts * concept_width, concepts * unet.condition_width, 1, groups=concepts)
        self.register_buffer("kept", torch.zeros(KEPT, concepts, concept_width))
        self.register_buffer("centre", torch.zeros(concepts, concept_width))
        # any direction, until there are codes to find the first component of
        self.register_buffer("axis", normalize(torch.randn(concepts, concept_width), dim=1))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(concepts, 1, 1)."""
        return self.config.concepts, 1, 1

    @property
    def has_prior(self) -> bool:
        """Whether there are codes to draw concepts from, as there are after training."""
        return bool(self.kept.any())

    @torch.no_grad()
    def finish(self, x: Tensor) -> None:
        """The codes of training images x, and their principal components."""
        z = self.concepts(x)
        self.kept.copy_(z[torch.arange(KEPT) % len(z)])
        self.centre.copy_(z.mean(0))
        self.axis.copy_(torch.linalg.svd((z - self.centre).transpose(0, 1), full_matrices=False).Vh[:, 0])

    def concepts(self, x: Tensor) -> Tensor:
        """z_c (B, concepts, concept_width) of images x (B,C,H,W)."""
        return self._concepts(self.encoder(x, x.new_zeros(len(x), 1)))

    def _concepts(self, encoded: Tensor) -> Tensor:
        return encoded.float().mean((2, 3)).unflatten(1, (self.config.concepts, -1))

    def encode_mean(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The code (B, concepts, 1, 1) of images x (B,C,H,W)."""
        return ((self.concepts(x) - self.centre) * self.axis).sum(2)[:, :, None, None]

    def fields(self, noisy: Tensor, level: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The frozen prediction (B,C,H,W) for noisy at levels (B,), and what each concept adds: (B,concepts,C,H,W)."""
        count, net = z.shape[1], self.frozen.unet.net
        with torch.no_grad():
            read, embedding = down(net, noisy, level)
            without = up(net, read, embedding).float()
        told = self.told(z.flatten(1)[:, :, None]).view(len(z) * count, -1)
        each = [part.repeat_interleave(count, 0) for part in read]
        fields = up(self.unet, each, embedding.repeat_interleave(count, 0) + told)
        return without, fields.float().unflatten(0, (-1, count))

    def predicted(self, noisy: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """What the diffusion predicts with all concepts z (B, concepts, concept_width), its `condition`."""
        without, fields = self.fields(noisy, level, condition)
        return without + fields.sum(1)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Times and noise, and the concept of the disentangling loss."""
        concept = torch.randint(self.config.concepts, (batch,), generator=generator)
        return *noise_draws(batch, self.image_shape, generator), concept

    def forward(self, x: Tensor, time: Tensor, eps: Tensor, concept: Tensor) -> Tensor:
        z, prediction = self.concepts(x), self.frozen.config.prediction
        noisy, target = noised(x, time, eps, prediction)
        without, fields = self.fields(noisy, time / TIMES, z)
        error = (without + fields.sum(1) - target).square().flatten(1).mean(1)
        one = without + fields[torch.arange(len(x)), concept]
        images = (clean(each, noisy, time, prediction) for each in (without, one))
        return error + self.config.disentangling * self.entangled(*images, z.detach(), concept)

    def entangled(self, without: Tensor, one: Tensor, z: Tensor, concept: Tensor) -> Tensor:
        """The disentangling loss (B,), times the squared difference of the images (B,C,H,W) with none and with one.

        z: the concepts of the images themselves. E's weights are held fixed.
        """
        frozen = {name: value.detach() for name, value in self.encoder.named_parameters()}
        images = torch.cat([without, one])
        before, after = self._concepts(
            functional_call(self.encoder, frozen, (images, images.new_zeros(len(images), 1)))
        ).chunk(2)
        # which concept moves, and which comes nearer to the image's own          (Yang et al. 2023, disentangling loss)
        moved, nearer = (before - after).norm(dim=2), (before - z).norm(dim=2) - (after - z).norm(dim=2)
        losses = sum(cross_entropy(logits, concept, reduction="none") for logits in (moved, nearer))
        return (without - one).detach().square().flatten(1).mean(1) * losses

    def reconstruct(self, x: Tensor, generator: Generators | None = None) -> Tensor:
        """Images from their concepts and the noise that DDIM makes of them; nothing is drawn."""
        z, steps, prediction = self.concepts(x), self.config.steps, self.frozen.config.prediction
        noise = to_noise(self.predicted, x, steps, z, prediction)
        return denoise(self.predicted, noise, steps, condition=z, prediction=prediction)

    def sample(
        self, count: int, generator: Generators | None = None, steps: int = SAMPLE_STEPS, eta: float = 0.0
    ) -> Tensor:
        """Images (count,C,H,W): each concept that of some training image, everything else drawn; by steps of DDIM.

        Raises ValueError before training has finished.
        """
        if not self.has_prior:
            raise ValueError("this model has no codes to draw concepts from: its training has not finished")
        each = split(generator, count)
        which = torch.stack([torch.randint(KEPT, self.centre.shape[:1], generator=one) for one in each])
        z = self.kept[which.to(self.device), torch.arange(len(self.centre), device=self.device)]
        noise = randn((count, *self.image_shape), z, each)
        return denoise(self.predicted, noise, steps, eta, each, z, clip=True, prediction=self.frozen.config.prediction)

    @torch.no_grad()
    def numbers(self, x: Tensor, generator: torch.Generator) -> dict[str, Any]:
        time, eps, concept = (draw.to(x.device) for draw in self.draw(len(x), generator))
        noisy, target = noised(x, time, eps, self.frozen.config.prediction)
        without, fields = self.fields(noisy, time / TIMES, self.concepts(x))
        losses = {"loss": float(self(x, time, eps, concept).mean())}
        for name, guess in (("error", without + fields.sum(1)), ("error_without", without)):
            losses[name] = float((guess - target).square().mean())
        return losses


def down(net: UNet2DModel, z: Tensor, t: Tensor) -> tuple[list[Tensor], Tensor]:
    """What a U-Net's way down makes of z (B,C,H,W) at levels t (B,), last what its middle reads, and the embedding."""
    embedding = net.time_embedding(net.time_proj(1000 * t))
    h = net.conv_in(z)
    read = [h]
    for block in net.down_blocks:
        h, more = block(h, embedding)
        read += more
    return read, embedding


def up(net: UNet2DModel, read: list[Tensor], embedding: Tensor) -> Tensor:
    """A U-Net's prediction (B,C,H,W) from what the way `down` gave."""
    h = net.mid_block(read[-1], embedding)
    for block in net.up_blocks:
        count = len(block.resnets)
        h, read = block(h, tuple(read[-count:]), embedding), read[:-count]
    return net.conv_out(net.conv_act(net.conv_norm_out(h)))

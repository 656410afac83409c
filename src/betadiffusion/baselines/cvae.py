"""The VAE conditioned on the class of an image (Sohn et al. 2015)."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from betadiffusion.baselines.autoencoder import ImageAutoEncoder
from betadiffusion.baselines.vae import moments, standard_scores
from betadiffusion.gaussian import Generators, randn, split, standard_normal_kl
from betadiffusion.nn.condition import ConditionSpec
from betadiffusion.nn.likelihood import LikelihoodName
from betadiffusion.pipelines.conditions import condition_tensor


class CVAE(ImageAutoEncoder):
    """-log p(x|z,y) + KL(q(z|x,y) || N(0, I)), the class y embedded for every block of both networks, and beside z.

    classes: their names. Without its class an image has no code, so `encode_mean(x, t)` is not among the verbs.
    """

    sample_options = ("class_",)

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        classes: Sequence[str],
        likelihood: LikelihoodName = "bernoulli",
        label_width: int = 32,
    ) -> None:
        super().__init__(backbone, likelihood, encoded=2, embedding_dim=label_width, told=label_width)
        self.label_embedding = nn.Embedding(len(classes), label_width)

    def posterior(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sigma of q(z|x,y) for images x (B,C,H,W) of classes labels (B,), both shaped like the latent."""
        return moments(self.encoded(x, self.label_embedding(labels)))

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        """The mean image (B,C,H,W) of latents z of classes labels (B,), float32, not clipped."""
        return self.nll.image(self.decoded_as(z, labels))

    def decoded_as(self, z: Tensor, labels: Tensor) -> Tensor:
        """What the decoder gives for latents z of classes labels (B,), float32."""
        embedding = self.label_embedding(labels)
        beside = embedding[:, :, None, None].expand(-1, -1, *z.shape[2:])
        return self.decoded(torch.cat([z, beside], dim=1), embedding)

    def reconstruct(self, x: Tensor, generator: Generators | None = None, *, labels: Tensor) -> Tensor:
        """Images decoded, as of their classes, from the mean, or with `generator` from a draw of q(z|x,y)."""
        mean, sigma = self.posterior(x, labels)
        return self.decode(mean if generator is None else mean + sigma * randn(mean.shape, mean, generator), labels)

    def sample(
        self, count: int, generator: Generators | None = None, class_: str | int | Tensor | None = None
    ) -> Tensor:
        """Images (count,C,H,W) of a class, a name or a number, or of classes (count,); by default any, equally likely.

        ValueError for a class that there is not.
        """
        generators = split(generator, count)
        if class_ is None:
            numbers = [torch.randint(len(self.config.classes), (), generator=g, device=g.device) for g in generators]
            class_ = torch.tensor(numbers)
        spec = ConditionSpec("labels", names=self.config.classes)
        labels = condition_tensor(spec, class_, count, encode=lambda texts: torch.empty(0)).to(self.device)
        return self.decode(self.noise(count, self.latent_shape, generators), labels)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randn(batch, *self.latent_shape, generator=generator),)

    def forward(self, x: Tensor, eps: Tensor, *, labels: Tensor) -> Tensor:
        mean, sigma = self.posterior(x, labels)
        output = self.decoded_as(mean + sigma * eps, labels)
        # Sohn et al. 2015, Eq. 4
        return (self.nll(x, output) + standard_normal_kl(mean, sigma)) / x[0].numel()

    @torch.no_grad()
    def numbers(self, x: Tensor, generator: torch.Generator, **given: Any) -> dict[str, Any]:
        mean, sigma = self.posterior(x, given["labels"])
        z = mean + sigma * randn(mean.shape, mean, generator)
        output = self.decoded_as(z, given["labels"])
        return standard_scores(self.nll, x, output, standard_normal_kl(mean, sigma))

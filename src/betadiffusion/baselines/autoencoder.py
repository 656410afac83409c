"""The autoencoder, and the one whose code is regularised by its squared norm."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from betadiffusion.baselines.base import Baseline
from betadiffusion.gaussian import Generators, sum_over_sample
from betadiffusion.nn.backbone import make_backbone
from betadiffusion.nn.likelihood import Likelihood, LikelihoodName


class ImageAutoEncoder(Baseline):
    """Encoder and decoder on the shared backbone, and a likelihood; what comes between is each baseline's own.

    backbone: arguments of `nn.backbone.make_backbone`, without `embedding_dim`. encoded: channels that the encoder
    gives for one of the latent. embedding_dim: of what both networks are conditioned on; they get zeros by default.
    told: channels that the decoder gets beside the latent's.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        likelihood: LikelihoodName,
        encoded: int = 1,
        embedding_dim: int = 1,
        told: int = 0,
    ) -> None:
        super().__init__()
        latent = backbone["latent_channels"]
        arguments = {"latent_channels": latent + told, "encoded_channels": encoded * latent}
        self.encoder, self.decoder = make_backbone(**backbone | arguments, embedding_dim=embedding_dim)
        self.nll = Likelihood(likelihood)  # not `likelihood`, a key of the configuration
        self.embedding_dim = embedding_dim

    def encoded(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """What the encoder gives for images x (B,C,H,W), float32, under an embedding (B, embedding_dim)."""
        return self.encoder(x, x.new_zeros(len(x), self.embedding_dim) if embedding is None else embedding).float()

    def decoded(self, z: Tensor, embedding: Tensor | None = None) -> Tensor:
        """What the decoder gives for latents z, float32: what the likelihood is made from; embedding as above."""
        return self.decoder(z, z.new_zeros(len(z), self.embedding_dim) if embedding is None else embedding).float()

    def decode(self, z: Tensor, t: Tensor | None = None) -> Tensor:
        """The mean image (B,C,H,W) of latents z, float32, not clipped."""
        return self.nll.image(self.decoded(z))


class AutoEncoder(ImageAutoEncoder):
    """-log p(x|z) + l2/2 |z|^2 with z = f(x): without `l2` the plain autoencoder (Hinton and Salakhutdinov 2006).

    With it the latent-regularised one (Ghosh et al. 2020, Eq. 6 without the penalty on the decoder).
    """

    @register_to_config
    def __init__(self, backbone: dict[str, Any], likelihood: LikelihoodName = "gaussian", l2: float = 0.0) -> None:
        super().__init__(backbone, likelihood)

    def encode_mean(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The code of images x (B,C,H,W)."""
        return self.encoded(x)

    def reconstruct(self, x: Tensor, generator: Generators | None = None) -> Tensor:
        """Images decoded from their codes; nothing is drawn."""
        return self.decode(self.encoded(x))

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoded(x)
        penalty = self.config.l2 / 2 * sum_over_sample(z.square())
        return (self.nll(x, self.decoded(z)) + penalty) / x[0].numel()

    @torch.no_grad()
    def numbers(self, x: Tensor, generator: torch.Generator, **given: Any) -> dict[str, Any]:
        z = self.encoded(x)
        error = (self.decode(z) - x).square().mean()
        return {"mse": float(error), "code_norm": float(sum_over_sample(z.square()).mean())}

"""FactorVAE: total correlation by a discriminator of codes, trained beside the VAE (Kim and Mnih 2018)."""

from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from betadiffusion.baselines.divergences import permute_dimensions
from betadiffusion.baselines.vae import GaussianVAE
from betadiffusion.gaussian import standard_normal_kl
from betadiffusion.nn.likelihood import LikelihoodName
from betadiffusion.nn.precision import in_float32
from betadiffusion.training.adversary import Opponent


class CodeDiscriminator(Opponent):
    """Codes (B, D) to logits (B,), > 0 where they look like joint samples of q(z), < 0 for permuted ones.

    An MLP of `depth` layers with leaky ReLU 0.2 and a head. (The paper has two logits; only their difference counts.)
    """

    learning_rate = 1e-4  # Kim and Mnih 2018, App. A, as are the decays of `Opponent`

    def __init__(self, dimensions: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [dimensions, *[width] * depth]
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(i, o), nn.LeakyReLU(0.2)) for i, o in pairwise(sizes)))
        self.head = nn.Linear(width, 1)
        self.codes: tuple[Tensor, Tensor] | None = None  # joint and permuted, of the part at hand

    def forward(self, z: Tensor) -> Tensor:
        return in_float32(self.head, self.layers(z))[:, 0]

    def log_ratio(self, z: Tensor) -> Tensor:
        """log q(z) - log prod_d q(z_d) of codes (B, D), as far as it has learned, its weights held fixed: (B,)."""
        frozen = {name: value.detach() for name, value in self.named_parameters()}
        return functional_call(self, frozen, (z,))

    def show(self, z: Tensor, u: Tensor) -> None:
        """Codes of a step, (B, D), and the uniform numbers (B, D) that permute them.

        Half are shown as they are, the other half with their dimensions permuted, so that the two are independent, as
        the two batches of the paper are, without encoding a second one.
        """
        half = len(z) // 2
        self.codes = z[:half].detach(), permute_dimensions(z[half:].detach(), u[half:])

    def losses(self, model: nn.Module) -> Tensor:
        """Cross-entropy (B,) of the codes just shown."""
        joint, made = model(torch.cat(self.codes)).tensor_split([len(self.codes[0])])
        return torch.cat([softplus(-joint), softplus(made)])


class FactorVAE(GaussianVAE):
    """-log p(x|z) + KL(q(z|x) || p(z)) + gamma TC(z), TC the mean logit of the discriminator."""

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        likelihood: LikelihoodName = "bernoulli",
        gamma: float = 10.0,
        discriminator_width: int = 1000,
        discriminator_depth: int = 6,
    ) -> None:
        super().__init__(backbone, likelihood)

    def make_opponent(self) -> CodeDiscriminator:
        channels, height, width = self.latent_shape
        arguments = self.config.discriminator_width, self.config.discriminator_depth
        return CodeDiscriminator(channels * height * width, *arguments)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """eps, and the numbers that permute dimensions."""
        shape = (batch, *self.latent_shape)
        return torch.randn(shape, generator=generator), torch.rand(shape, generator=generator).flatten(1)

    def regulariser(self, mean: Tensor, sigma: Tensor, z: Tensor, *draws: Tensor, **given: Any) -> Tensor:
        opponent, codes = given["opponent"], z.flatten(1)
        opponent.show(codes, *draws)
        # Kim and Mnih 2018, Eqs. 2 and 3
        return standard_normal_kl(mean, sigma) + self.config.gamma * opponent.log_ratio(codes)

    def own_numbers(
        self, mean: Tensor, sigma: Tensor, z: Tensor, generator: torch.Generator, **given: Any
    ) -> dict[str, Any]:
        return {"tc": float(given["opponent"].log_ratio(z.flatten(1)).mean())}

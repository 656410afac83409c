"""beta-TCVAE: the KL in three parts, of which the total correlation weighs most (Chen et al. 2018)."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from betadiffusion.baselines.divergences import Estimator, decomposition
from betadiffusion.baselines.vae import GaussianVAE
from betadiffusion.nn.likelihood import LikelihoodName


class BetaTCVAE(GaussianVAE):
    """-log p(x|z) + alpha MI(x; z) + beta TC(z) + gamma sum_d KL(q(z_d) || p(z_d)), q(z) estimated from the batch."""

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        likelihood: LikelihoodName = "bernoulli",
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 1.0,
        estimator: Estimator = "mws",
    ) -> None:
        super().__init__(backbone, likelihood)

    def regulariser(self, mean: Tensor, sigma: Tensor, z: Tensor, *draws: Tensor, **given: Any) -> Tensor:
        config = self.config
        information, correlation, marginal = decomposition(z, mean, sigma, self.train_count, config.estimator)
        # Chen et al. 2018, Eq. 4
        return config.alpha * information + config.beta * correlation + config.gamma * marginal

    def own_numbers(
        self, mean: Tensor, sigma: Tensor, z: Tensor, generator: torch.Generator, **given: Any
    ) -> dict[str, Any]:
        """The three parts, q(z) being over these images alone: the information is at most the log of their number."""
        parts = zip(("mi", "tc", "marginal_kl"), decomposition(z, mean, sigma, len(z), "mss"), strict=True)
        return {name: float(value.detach().mean()) for name, value in parts}

"""DIP-VAE I and II: the covariance of the aggregated posterior is drawn to that of the prior (Kumar et al. 2018)."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from betadiffusion.baselines.divergences import covariance, distance_from_white
from betadiffusion.baselines.vae import GaussianVAE
from betadiffusion.gaussian import standard_normal_kl
from betadiffusion.nn.likelihood import LikelihoodName


class DIPVAE(GaussianVAE):
    """-log p(x|z) + KL(q(z|x) || p(z)) + lambda_od sum_{i != j} C_ij^2 + lambda_d sum_i (C_ii - 1)^2.

    C over the batch: with `kind` "i" Cov[mu(x)], with "ii" Cov[z] = Cov[mu(x)] + E[sigma(x)^2]. ValueError for another.
    """

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        likelihood: LikelihoodName = "bernoulli",
        lambda_od: float = 10.0,
        lambda_d: float = 100.0,
        kind: str = "i",
    ) -> None:
        super().__init__(backbone, likelihood)
        if kind not in ("i", "ii"):
            raise ValueError(f"unknown kind '{kind}' of DIP-VAE; choose i or ii")

    def covariance(self, mean: Tensor, sigma: Tensor) -> Tensor:
        """C (D, D) of a batch of posteriors."""
        found = covariance(mean)
        # Kumar et al. 2018, Eq. 5, the law of total covariance
        return found if self.config.kind == "i" else found + sigma.flatten(1).square().mean(0).diag()

    def regulariser(self, mean: Tensor, sigma: Tensor, z: Tensor, *draws: Tensor, **given: Any) -> Tensor:
        config = self.config
        # Eqs. 6 and 7
        penalty = distance_from_white(self.covariance(mean, sigma), config.lambda_od, config.lambda_d)
        return standard_normal_kl(mean, sigma) + penalty

    def own_numbers(
        self, mean: Tensor, sigma: Tensor, z: Tensor, generator: torch.Generator, **given: Any
    ) -> dict[str, Any]:
        """|C - I|^2 of both kinds of entry, without their weights."""
        found = self.covariance(mean, sigma)
        return {
            "off_diagonal": float(distance_from_white(found, 1, 0)),
            "diagonal": float(distance_from_white(found, 0, 1)),
        }

"""InfoVAE, and with alpha = 1 the MMD-VAE (Zhao et al. 2017)."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from betadiffusion.baselines.divergences import Kernel, mmd
from betadiffusion.baselines.vae import GaussianVAE
from betadiffusion.gaussian import randn, standard_normal_kl
from betadiffusion.nn.likelihood import LikelihoodName


class InfoVAE(GaussianVAE):
    """-log p(x|z) + (1 - alpha) KL(q(z|x) || p(z)) + (alpha + mmd_lambda - 1) MMD(q(z), p(z)), the MMD over the batch.

    ValueError where alpha > 1 or the MMD's weight is negative.
    """

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        likelihood: LikelihoodName = "bernoulli",
        alpha: float = 1.0,
        mmd_lambda: float = 1000.0,
        kernel: Kernel = "rbf",
    ) -> None:
        super().__init__(backbone, likelihood)
        if alpha > 1 or alpha + mmd_lambda < 1:
            raise ValueError(f"InfoVAE needs alpha <= 1 and alpha + mmd_lambda >= 1, not {alpha:g} and {mmd_lambda:g}")

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """eps, and as many draws of the prior."""
        return tuple(torch.randn(2, batch, *self.latent_shape, generator=generator))

    def regulariser(self, mean: Tensor, sigma: Tensor, z: Tensor, *draws: Tensor, **given: Any) -> Tensor:
        config, (prior,) = self.config, draws
        # Zhao et al. 2017, Eq. 6; their code has the biased MMD
        divergence = (config.alpha + config.mmd_lambda - 1) * mmd(z, prior, config.kernel)
        return (1 - config.alpha) * standard_normal_kl(mean, sigma) + divergence

    def own_numbers(
        self, mean: Tensor, sigma: Tensor, z: Tensor, generator: torch.Generator, **given: Any
    ) -> dict[str, Any]:
        """The unbiased MMD, which is 0 on average where q(z) is the prior; the biased one below two images."""
        prior = randn(z.shape, z, generator)
        return {"mmd": float(mmd(z, prior, self.config.kernel, unbiased=len(z) > 1))}

"""The Multi-Rate VAE: one network for a range of beta, its blocks gated by log beta (Bae et al. 2023)."""

import math
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from betadiffusion.baselines.autoencoder import ImageAutoEncoder
from betadiffusion.baselines.vae import moments, standard_scores
from betadiffusion.gaussian import Generators, randn, standard_normal_kl
from betadiffusion.nn.likelihood import LikelihoodName
from betadiffusion.schedules import LogBeta

NUMBERED = (0.0, 0.25, 0.5, 0.75, 1.0)  # levels of the numbers
LEAST = 1e-6  # under the root, whose slope is infinite at 0


class Gate(nn.Module):
    """Pre-activations (B,C,H,W) times a gate of each channel, a function of what is affine in log beta (B,1).

    In the encoder sigmoid(a), in the decoder sqrt(relu(1 - exp(a))): what makes a linear VAE optimal at every beta
    (Bae et al. 2023, Eq. 7). The decoder's biases start where none is shut at any beta; a shut gate learns no more.
    """

    def __init__(self, channels: int, decoder: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.weight = nn.Parameter(torch.rand(channels) * 2 - 1)
        self.bias = nn.Parameter(torch.full((channels,), -math.sqrt(3)) if decoder else torch.rand(channels) * 2 - 1)

    def forward(self, h: Tensor, log_beta: Tensor) -> Tensor:
        a = log_beta * self.weight + self.bias
        gate = (1 - a.exp()).clamp(min=LEAST).sqrt() if self.decoder else a.sigmoid()
        return h * gate[:, :, None, None]


class MultiRateVAE(ImageAutoEncoder):
    """-log p(x|z) + beta KL(q(z|x; beta) || p(z)), beta drawn for every image, log-uniform in [beta_min, beta_max].

    Level t in [0, 1] is log beta over that range, as in `schedule`; without one, that of beta = 1, the VAE, or the
    nearest. ValueError for a range that is none, or another backbone than of block "conv".
    """

    has_levels = True

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        likelihood: LikelihoodName = "bernoulli",
        beta_min: float = 0.01,
        beta_max: float = 10.0,
    ) -> None:
        super().__init__(backbone, likelihood, encoded=2)
        if backbone["block"] != "conv":
            raise ValueError(f"its gates are for blocks 'conv', not {backbone['block']!r}: choose another vae.preset")
        self.schedule = LogBeta(beta_min, beta_max)
        for block in self.encoder.blocks:
            block.modulation = Gate(block.norm.num_channels, decoder=False)
        for block in (self.decoder.stem, *self.decoder.blocks):
            block.modulation = Gate(block.norm.num_channels, decoder=True)

    def levels(self, t: Tensor | None, count: int) -> Tensor:
        """Levels (count,), float32, of t (count,), () or None, that of beta = 1."""
        if t is None:
            t = self.schedule.level(torch.ones(())).clamp(0, 1)
        return t.to(device=self.device, dtype=torch.float32).expand(count)

    def posterior(self, x: Tensor, t: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and sigma of q(z|x; beta) for images x (B,C,H,W) at levels t (B,) or (), both shaped like the latent."""
        return moments(self.encoded(x, self._standardised(t, len(x))))

    def encode_mean(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """mu(x; beta), deterministic: arguments as in `posterior`."""
        return self.posterior(x, t)[0]

    def decode(self, z: Tensor, t: Tensor | None = None) -> Tensor:
        """The mean image (B,C,H,W) of latents z at levels t (B,) or (), float32, not clipped."""
        return self.nll.image(self.decoded(z, self._standardised(t, len(z))))

    def reconstruct(self, x: Tensor, generator: Generators | None = None, t: Tensor | None = None) -> Tensor:
        """Images decoded from the mean at levels t, or with `generator` from a draw of q(z|x; beta)."""
        mean, sigma = self.posterior(x, t)
        return self.decode(mean if generator is None else mean + sigma * randn(mean.shape, mean, generator), t)

    def sample(self, count: int, generator: Generators | None = None, t: Tensor | None = None) -> Tensor:
        """Images (count,C,H,W) decoded at levels t from draws of the prior."""
        return self.decode(self.noise(count, self.latent_shape, generator), t)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """eps and levels, uniform, which is log-uniform in beta."""
        return torch.randn(batch, *self.latent_shape, generator=generator), torch.rand(batch, generator=generator)

    def forward(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        mean, sigma = self.posterior(x, t)
        output = self.decoded(mean + sigma * eps, self._standardised(t, len(x)))
        # Bae et al. 2023, sec. 3: the expectation over beta
        return (self.nll(x, output) + self.schedule(t).kl * standard_normal_kl(mean, sigma)) / x[0].numel()

    @torch.no_grad()
    def numbers(self, x: Tensor, generator: torch.Generator, **given: Any) -> dict[str, Any]:
        """Error, rate and ELBO at five values of beta, even in the logarithm, by one draw of eps."""
        eps, found = randn((len(x), *self.latent_shape), x, generator), {}
        for level in NUMBERED:
            t = torch.tensor(level)
            mean, sigma = self.posterior(x, t)
            output = self.decoded(mean + sigma * eps, self._standardised(t, len(x)))
            scores = standard_scores(self.nll, x, output, standard_normal_kl(mean, sigma))
            found |= {f"{name}@beta={float(self.schedule(t).kl):.3g}": value for name, value in scores.items()}
        return found

    def _standardised(self, t: Tensor | None, count: int) -> Tensor:
        """log beta (count, 1), of mean 0 and variance 1 over the range."""
        return math.sqrt(3) * (2 * self.levels(t, count)[:, None] - 1)

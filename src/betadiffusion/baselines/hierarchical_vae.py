"""A ladder VAE: groups of latents, from a vector down to maps, each conditioned on those above (Sonderby et al. 2016).

The posterior is relative to the prior, as in NVAE (Vahdat and Kautz 2020).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import softplus

from betadiffusion.baselines.autoencoder import ImageAutoEncoder
from betadiffusion.baselines.vae import LEAST_SIGMA, standard_scores
from betadiffusion.gaussian import Generators, gaussian_kl, log_density, randn, split
from betadiffusion.nn.likelihood import LikelihoodName
from betadiffusion.nn.precision import in_float32

ONE = math.log(math.e - 1)  # softplus of it is 1


class Gaussian(NamedTuple):
    """A diagonal Gaussian: mean and sigma, (B,C,h,w) each."""

    mean: Tensor
    sigma: Tensor


class Group(nn.Module):
    """One group of latents, maps of `latents` channels over features of `channels`."""

    def __init__(self, channels: int, latents: int) -> None:
        super().__init__()
        self.prior = nn.Conv2d(channels, 2 * latents, 3, padding=1)
        self.posterior = nn.Conv2d(2 * channels, 2 * latents, 3, padding=1)
        self.merge = nn.Conv2d(latents, channels, 1)

    def priors(self, h: Tensor) -> Gaussian:
        """p(z|z above), from the features h (B,channels,h,w) that the groups above make."""
        mean, scale = in_float32(self.prior, h).chunk(2, dim=1)
        return Gaussian(mean, LEAST_SIGMA + softplus(scale + ONE))

    def posteriors(self, h: Tensor, features: Tensor, prior: Gaussian) -> Gaussian:
        """q(z|x, z above), from the encoder's features of the same shape as h as well."""
        return relative(prior, in_float32(self.posterior, torch.cat([h, features], dim=1)))


def relative(prior: Gaussian, output: Tensor) -> Gaussian:
    """N(mu + sigma dmu, (sigma dsigma)^2) from a prior and dmu and dsigma, which starts near 1 (NVAE, sec. 3.2)."""
    shift, scale = output.chunk(2, dim=1)
    return Gaussian(prior.mean + prior.sigma * shift, prior.sigma * (LEAST_SIGMA + softplus(scale + ONE)))


class Pass(NamedTuple):
    """One way down: the decoder's output; of each group the prior, the posterior (None without images) and the draw."""

    output: Tensor
    priors: list[Gaussian]
    posteriors: list[Gaussian | None]
    draws: list[Tensor]


class HierarchicalVAE(ImageAutoEncoder):
    """-log p(x|z) + share * sum_k KL(q(z_k|x, z_<k) || p(z_k|z_<k)), the share rising to 1 over `kl_warmup_images`.

    z_1 is a vector of `latent_channels`, z_2 and on are maps of `group_channels`, coarsest first, over the finest grids
    that the decoder doubles: z_1 decides the coarsest so well that a group there stays empty. A code is all groups in
    one vector (B,D,1,1). ValueError for fewer than 3 groups, or more than there are grids, or another backbone than of
    block "conv".
    """

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        likelihood: LikelihoodName = "bernoulli",
        groups: int = 3,
        group_channels: int = 4,
        kl_warmup_images: int = 60_000,
    ) -> None:
        super().__init__(backbone, likelihood, encoded=2)
        channels = backbone["channels"]
        if backbone["block"] != "conv":
            raise ValueError(f"a ladder stands on blocks 'conv', not {backbone['block']!r}: choose another vae.preset")
        most = len(channels) + 1
        if not 3 <= groups <= most:
            raise ValueError(f"a ladder on {len(channels)} grids has from 3 to {most} groups, not {groups}")
        self.skipped = most - groups  # grids without a group
        self.ladder = nn.ModuleList(Group(c, group_channels) for c in list(reversed(channels))[self.skipped :])
        # a function of the images seen, as in AnnealedVAE; 1 where nothing is trained
        self.register_buffer("kl_share", torch.ones(()), persistent=False)

    @property
    def latent_shapes(self) -> list[tuple[int, int, int]]:
        """(C, h, w) of each group."""
        backbone = self.config.backbone
        first = backbone["sample_size"] // 2 ** len(self.ladder)
        maps = [(self.config.group_channels, first * 2**k, first * 2**k) for k in range(len(self.ladder))]
        return [(backbone["latent_channels"], 1, 1), *maps]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(D, 1, 1) of all groups in one vector."""
        return sum(map(math.prod, self.latent_shapes)), 1, 1

    def begin(self, images: int) -> None:
        """Sets the KL's share for the step after so many images."""
        warmup = self.config.kl_warmup_images
        self.kl_share.fill_(min(1.0, images / warmup) if warmup else 1.0)

    def up(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What decides q(z_1|x), and the encoder's features on the decoder's grids, coarsest first."""
        embedding, features = x.new_zeros(len(x), self.embedding_dim), []
        for block in self.encoder.blocks:
            x = block(x, embedding)
            features.insert(0, x)
        return in_float32(self.encoder.head, x), features[self.skipped :]

    def down(self, x: Tensor | None, noise: Sequence[Tensor | None], given: Sequence[Tensor] = ()) -> Pass:
        """The way down: of images x (B,C,H,W) by draws of the posteriors, without them by draws of the priors.

        noise: standard normal for each group, None for its mean. given: values of the groups instead of draws.
        """
        first = (given or noise)[0] if x is None else x
        top, features = (None, [None] * len(self.ladder)) if x is None else self.up(x)
        count, shapes = len(first), self.latent_shapes
        zeros = first.new_zeros(count, *shapes[0], dtype=torch.float32)
        prior = Gaussian(zeros, zeros + 1)
        found = Pass(zeros, [], [], [])

        def draw(prior: Gaussian, posterior: Gaussian | None) -> Tensor:
            k, (mean, sigma) = len(found.draws), posterior or prior
            z = given[k] if given else mean if noise[k] is None else mean + sigma * noise[k]
            for known, new in zip(found[1:], (prior, posterior, z), strict=True):
                known.append(new)
            return z

        embedding = first.new_zeros(count, self.embedding_dim)
        h = self.decoder.stem(draw(prior, None if top is None else relative(prior, top)), embedding)
        for i, block in enumerate(self.decoder.blocks):
            if (k := i - self.skipped) >= 0:
                group = self.ladder[k]
                prior = group.priors(h)
                posterior = None if top is None else group.posteriors(h, features[k], prior)
                h = h + group.merge(draw(prior, posterior))
            h = block(h, embedding)
        return found._replace(output=self.decoder.head(h).float())

    def encode_mean(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The means of all groups, (B,D,1,1), each given the means above it; deterministic."""
        draws = self.down(x, [None] * (1 + len(self.ladder))).draws
        return torch.cat([z.flatten(1) for z in draws], dim=1)[:, :, None, None]

    def decode(self, z: Tensor, t: Tensor | None = None) -> Tensor:
        """The mean image (B,C,H,W) of codes z (B,D,1,1), float32, not clipped."""
        parts = z.flatten(1).split([math.prod(shape) for shape in self.latent_shapes], dim=1)
        given = [part.unflatten(1, shape) for part, shape in zip(parts, self.latent_shapes, strict=True)]
        return self.nll.image(self.down(None, (), given).output)

    def reconstruct(self, x: Tensor, generator: Generators | None = None) -> Tensor:
        """Images decoded from the means, or with `generator` from draws of the posteriors."""
        shapes = self.latent_shapes
        noise = [None if generator is None else randn((len(x), *shape), x, generator) for shape in shapes]
        return self.nll.image(self.down(x, noise).output)

    def sample(self, count: int, generator: Generators | None = None) -> Tensor:
        """Images (count,C,H,W) decoded from draws of the priors."""
        generators = split(generator, count)
        noise = [self.noise(count, shape, generators) for shape in self.latent_shapes]
        return self.nll.image(self.down(None, noise).output)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """eps of each group."""
        return tuple(torch.randn(batch, *shape, generator=generator) for shape in self.latent_shapes)

    def rates(self, found: Pass) -> Tensor:
        """KL(q(z_k|x, z_<k) || p(z_k|z_<k)) of each group k at the draws above it: (B,K)."""
        pairs = zip(found.posteriors, found.priors, strict=True)
        return torch.stack([gaussian_kl(q.mean, q.sigma**2, p.mean, p.sigma**2) for q, p in pairs], dim=1)

    def log_weight(self, x: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """log p(x, z) - log q(z|x) (B,) at draws by `noise`, as of `draw`: the ELBO is its mean, log p(x) the
        logarithm of the mean of its exponential (Burda et al. 2016)."""
        found = self.down(x, noise)
        log_ratios = [
            log_density(z, p.mean, p.sigma) - log_density(z, q.mean, q.sigma)
            for z, p, q in zip(found.draws, found.priors, found.posteriors, strict=True)
        ]
        return sum(log_ratios) - self.nll(x, found.output)

    def forward(self, x: Tensor, *eps: Tensor) -> Tensor:
        found = self.down(x, eps)
        return (self.nll(x, found.output) + self.kl_share * self.rates(found).sum(1)) / x[0].numel()

    @torch.no_grad()
    def numbers(self, x: Tensor, generator: torch.Generator, **given: Any) -> dict[str, Any]:
        """Error, rate and ELBO, and the rate of each group, the vector's first."""
        found = self.down(x, [randn((len(x), *shape), x, generator) for shape in self.latent_shapes])
        rates = self.rates(found)
        each = {f"rate{k + 1}": float(rate) for k, rate in enumerate(rates.mean(0))}
        return standard_scores(self.nll, x, found.output, rates.sum(1)) | each

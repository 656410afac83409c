"""InfoGAN-CR: a GAN whose codes are read off its images, and told apart in pairs of images (Lin et al. 2020)."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, softplus
from torch.special import ndtr

from betadiffusion.baselines.base import Baseline
from betadiffusion.gaussian import Generators, sum_over_sample
from betadiffusion.nn.backbone import make_backbone

SHOWN = 6


class InfoGANCR(Baseline):
    """G(c, n) makes an image of a code c and of noise n, D tells it from real ones, and Q reads c off it.

    Everything drawn is uniform in [-1, 1]. To the GAN's loss comes info |c - Q(G(c, n))|^2 / 2, the mutual information
    of InfoGAN (Chen et al. 2016) with a Q of variance 1, and from `contrast_images` images on `contrast` times the
    cross-entropy by which H tells which dimension of the code two images have in common. The others differ by `gap` at
    least, for `gap_images` images. noise: channels of n, which nothing reads. D and Q share all but the last layer. D
    is held smooth by r1/2 |dD/dx|^2 at real images (Mescheder et al. 2018), where the paper has spectral norms.
    """

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        info: float = 0.05,
        contrast: float = 2.0,
        contrast_images: int = 0,
        gap: float = 0.0,
        gap_images: int = 0,
        noise: int = 5,
        r1: float = 1.0,
    ) -> None:
        super().__init__()
        codes = backbone["latent_channels"]
        sizes = {"latent_channels": codes + noise, "encoded_channels": codes + 1}  # read off: the code, and the verdict
        self.encoder, self.decoder = make_backbone(**backbone | sizes, embedding_dim=1)
        two = {"in_channels": 2 * backbone["in_channels"]}
        self.comparer, _ = make_backbone(**backbone | two, embedding_dim=1)
        for name in ("contrasting", "gap_now"):  # buffers, which the averaged model that validates takes over
            self.register_buffer(name, torch.zeros(()), persistent=False)
        self.begin(0)

    def begin(self, images: int) -> None:
        self.contrasting.fill_(images >= self.config.contrast_images)
        self.gap_now.fill_(self.config.gap if images < self.config.gap_images else 0.0)

    def made(self, drawn: Tensor) -> Tensor:
        """Images (B,C,H,W) of codes and noise, (B, codes + noise, h, w)."""
        return self.decoder(drawn, drawn.new_zeros(len(drawn), 1)).float().tanh()

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes, shaped like the latent, and verdicts (B,), > 0 for real, of images x (B,C,H,W)."""
        return told(self.encoder(x, x.new_zeros(len(x), 1)))

    def encode_mean(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Q(x), what is read off images x (B,C,H,W)."""
        return self.read(x)[0]

    def shared(self, x: Tensor, y: Tensor) -> Tensor:
        """Logits (B, dimensions of the code) of which one images x and y (B,C,H,W) have in common."""
        return self.comparer(torch.cat([x, y], dim=1), x.new_zeros(len(x), 1)).float().flatten(1)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What an image is made of, what two are made of that have a dimension in common, (B, 2, ...), and which."""
        codes, height, width = self.latent_shape
        shape = codes + self.config.noise, height, width
        drawn = 2 * torch.rand(batch, 3, *shape, generator=generator) - 1
        first, second = apart(drawn[:, 1], drawn[:, 2], float(self.gap_now))
        same = torch.randint(codes * height * width, (batch,), generator=generator)
        there = nn.functional.one_hot(same, codes * height * width).bool().view(batch, codes, height, width)
        first[:, codes:], second[:, codes:] = drawn[:, 1, codes:], drawn[:, 2, codes:]
        first[:, :codes][there] = second[:, :codes][there] = drawn[:, 1, :codes][there]
        return drawn[:, 0], torch.stack([first, second], dim=1), same

    def forward(self, x: Tensor, drawn: Tensor, pair: Tensor, same: Tensor) -> Tensor:
        made, weights = self.made(drawn), {name: value.detach() for name, value in self.encoder.named_parameters()}
        _, fooled = told(functional_call(self.encoder, weights, (made, made.new_zeros(len(made), 1))))
        (read, _), (_, fake) = self.read(made), self.read(made.detach())
        adversarial = softplus(-fooled) + softplus(fake) + self.on_real(x)  # of G, not saturating, and of D
        images = self.made(pair.flatten(0, 1)).unflatten(0, (-1, 2))
        images = images if self.contrasting else images.detach()  # H learns from the beginning
        contrast = cross_entropy(self.shared(images[:, 0], images[:, 1]), same, reduction="none")
        # min over G, Q and H, max over D: L_adv - info I(c; G(c, n)) - contrast L_c         (Lin et al. 2020)
        return adversarial + self.config.info * self.unread(drawn, read) + self.config.contrast * contrast

    def on_real(self, x: Tensor) -> Tensor:
        """What D loses on real images x (B,C,H,W), and its penalty R1: (B,)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(self.config.r1 > 0)
            _, real = self.read(x)
            if not self.config.r1:
                return softplus(-real)
            (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
        return softplus(-real) + self.config.r1 / 2 * sum_over_sample(slope.square())

    def unread(self, drawn: Tensor, read: Tensor) -> Tensor:
        """|c - Q|^2 / 2 (B,): -log of Q's density at the code, but for a constant."""
        return sum_over_sample((drawn[:, : read.shape[1]] - read).square()) / 2

    def sample(self, count: int, generator: Generators | None = None) -> Tensor:
        """Images (count,C,H,W) of codes and noise that are drawn."""
        codes, height, width = self.latent_shape
        return self.made(2 * ndtr(self.noise(count, (codes + self.config.noise, height, width), generator)) - 1)

    @torch.no_grad()
    def numbers(self, x: Tensor, generator: torch.Generator) -> dict[str, Any]:
        drawn, pair, same = (draw.to(x.device) for draw in self.draw(len(x), generator))
        made, images = self.made(drawn), self.made(pair.flatten(0, 1)).unflatten(0, (-1, 2))
        read, fake = self.read(made)
        told_apart = self.shared(images[:, 0], images[:, 1]).argmax(1) == same
        return {
            "code_error": float((drawn[:, : read.shape[1]] - read).square().mean()),
            "found_real": float((self.read(x)[1] > 0).float().mean()),
            "found_made": float((fake < 0).float().mean()),
            "contrast_accuracy": float(told_apart.float().mean()),
        }

    @torch.no_grad()
    def pictures(self, x: Tensor) -> dict[str, Tensor]:
        """One image with each of its first codes from -1 to 1."""
        drawn, *_ = self.draw(1, torch.Generator().manual_seed(0))
        still, rows = drawn.to(x.device).expand(len(x), -1, -1, -1), {}
        for i in range(min(SHOWN, self.latent_shape[0])):
            moved = still.clone()
            moved[:, i] = torch.linspace(-1, 1, len(x), device=x.device)[:, None, None]
            rows[f"code {i} from -1 to 1"] = self.made(moved)
        return rows


def told(encoded: Tensor) -> tuple[Tensor, Tensor]:
    """Code and verdict (B,) from what D and Q's network gives, the verdict's channel the last, its mean over a grid."""
    encoded = encoded.float()
    return encoded[:, :-1], encoded[:, -1].flatten(1).mean(1)


def apart(a: Tensor, b: Tensor, gap: float) -> tuple[Tensor, Tensor]:
    """Pairs that are uniform in [-1, 1] where they differ by `gap` at least, from pairs that are uniform in [-1, 1]."""
    half = gap / 2
    sign = torch.where(a > b, half, -half)
    return a * (1 - half) + sign, b * (1 - half) - sign

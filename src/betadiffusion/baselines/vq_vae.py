"""The VQ-VAE, and an autoregressive transformer over its grid of codes."""

import math
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import VectorQuantizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from betadiffusion.baselines.autoencoder import ImageAutoEncoder
from betadiffusion.baselines.prior import WithPrior
from betadiffusion.gaussian import Generators, split, sum_over_sample
from betadiffusion.nn.likelihood import LikelihoodName

HEAD_DIM = 32
FASTER = 10.0  # the codebook is kept divided by it, and so moves faster than the encoder, which it else falls behind


class VQVAE(WithPrior, ImageAutoEncoder):
    """-log p(x|e) + |sg(z) - e|^2 + commitment |z - sg(e)|^2 (van den Oord et al. 2017, Eq. 3), then a GPT of codes.

    The first term is per pixel value, the others per latent value. The codebook begins as codes of training images.
    width and depth: of the transformer, with heads of 32.
    """

    @register_to_config
    def __init__(
        self,
        backbone: dict[str, Any],
        likelihood: LikelihoodName = "learned",
        codes: int = 512,
        commitment: float = 0.25,
        width: int = 128,
        depth: int = 4,
    ) -> None:
        super().__init__(backbone, likelihood)
        channels, side, _ = self.latent_shape
        self.quantizer = VectorQuantizer(codes, channels, commitment, legacy=False, sane_index_shape=True)
        gpt = GPT2Config(
            vocab_size=codes + 1, n_positions=side**2, n_embd=width, n_layer=depth, n_head=max(1, width // HEAD_DIM),
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=False,
            bos_token_id=codes, eos_token_id=codes,
        )  # fmt: skip
        self.prior = GPT2LMHeadModel(gpt)

    @property
    def evaluations(self) -> int:
        """Passes of a network for a sample: one of the transformer for each code, one of the decoder."""
        return math.prod(self.latent_shape[1:]) + 1

    @torch.no_grad()
    def prepare(self, stage: str, x: Tensor) -> None:
        super().prepare(stage, x)
        if stage == "baseline":
            z = self.encoded(x).permute(0, 2, 3, 1).flatten(0, 2)
            book = self.quantizer.embedding.weight
            order = torch.randperm(len(z), generator=torch.Generator().manual_seed(0)).to(z.device)
            book.copy_(z[order[torch.arange(len(book), device=z.device) % len(z)]] / FASTER)

    def quantised(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The codebook's vectors nearest to codes z (B,C,h,w), with the gradient of z, and which: (B,h,w), int64."""
        e, _, (_, _, indices) = self.quantizer(z / FASTER)  # its own loss is one for the whole batch
        return FASTER * e, indices

    def encode_mean(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The codebook's vectors (B,C,h,w) that are nearest to the codes of images x (B,C,H,W)."""
        return self.quantised(self.encoded(x))[0]

    def indices(self, x: Tensor) -> Tensor:
        """Which vectors these are: (B, h w), int64, in raster order."""
        return self.quantised(self.encoded(x))[1].flatten(1)

    def vectors(self, indices: Tensor) -> Tensor:
        """The codebook's vectors (B,C,h,w) of indices (B, h w) or (B,h,w)."""
        channels, side, _ = self.latent_shape
        return FASTER * self.quantizer.get_codebook_entry(indices.flatten(), (len(indices), side, side, channels))

    def reconstruct(self, x: Tensor, generator: Generators | None = None) -> Tensor:
        """Images decoded from their quantised codes; nothing is drawn."""
        return self.decode(self.encode_mean(x))

    def forward(self, x: Tensor) -> Tensor:
        if self.stage == "prior":
            with torch.no_grad():
                indices = self.indices(x)
            return self.code_nll(indices)
        z = self.encoded(x)
        e, indices = self.quantised(z)
        nearest = self.vectors(indices)
        apart = (z.detach() - nearest).square() + self.config.commitment * (z - nearest.detach()).square()
        return self.nll(x, self.decoded(e)) / x[0].numel() + sum_over_sample(apart) / z[0].numel()

    def code_logits(self, indices: Tensor) -> Tensor:
        """The prior's logits (B,N,codes) of each of N codes given those before it: indices (B,N)."""
        begun = torch.cat([torch.full_like(indices[:, :1], self.config.codes), indices[:, :-1]], dim=1)
        return self.prior(input_ids=begun).logits[:, :, :-1].float()

    def code_nll(self, indices: Tensor) -> Tensor:
        """-log p of codes (B,N) under the prior, in nats per code: (B,)."""
        return cross_entropy(self.code_logits(indices).transpose(1, 2), indices, reduction="none").mean(1)

    def sample(self, count: int, generator: Generators | None = None) -> Tensor:
        """Images (count,C,H,W) decoded from codes drawn one after the other; ValueError before stage "prior"."""
        self.check_prior()
        count_of_codes = math.prod(self.latent_shape[1:])
        drawn = [torch.rand(count_of_codes, generator=g, device=g.device) for g in split(generator, count)]
        uniform = torch.stack(drawn).double().to(self.device)
        code = torch.full((count, 1), self.config.codes, device=self.device)
        codes, past = [], None
        for i in range(count_of_codes):
            out = self.prior(input_ids=code, past_key_values=past, use_cache=True)
            past = out.past_key_values
            cumulative = out.logits[:, -1, :-1].double().softmax(1).cumsum(1)
            code = torch.searchsorted(cumulative, uniform[:, i : i + 1].contiguous()).clamp(max=self.config.codes - 1)
            codes.append(code)
        return self.decode(self.vectors(torch.cat(codes, dim=1)))

    @torch.no_grad()
    def numbers(self, x: Tensor, generator: torch.Generator) -> dict[str, Any]:
        indices = self.indices(x)
        if self.stage == "prior":
            return {"nats_per_code": float(self.code_nll(indices).mean())}
        share = indices.flatten().bincount(minlength=self.config.codes) / indices.numel()
        return {
            "mse": float((self.reconstruct(x) - x).square().mean()),
            "perplexity": math.exp(float(torch.special.entr(share).sum())),
            "codes_used": float((share > 0).sum()),
        }

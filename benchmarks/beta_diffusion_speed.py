"""What modulation costs, and what caching a frozen encoder's features gains: steps of training, in one process.

    python benchmarks/beta_diffusion_speed.py [--steps 10] [--out FILE.json]

First, beta-Diffusion beside a plain ViT autoencoder: the same encoder, linear mean and sigma, the same decoder without
the level, once with as many blocks in all, the modulator's added to the decoder, and once without those. Then the
preset dinov2-s with its encoder frozen (that architecture, random weights, 224x224), with cached features and without.
They take turns, in bf16 where the hardware has it; prints medians of seconds per image and ratios. 3 minutes on 2 CPU
cores.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

from betadiffusion.data import Subset, load
from betadiffusion.models.beta_diffusion import BetaDiffusionAutoencoder
from betadiffusion.models.presets import beta_diffusion_preset
from betadiffusion.nn.dit import positions, to_grid, to_tokens
from betadiffusion.nn.vit import ViTEncoder
from betadiffusion.objectives import multi_beta_objective
from betadiffusion.training.feature_cache import FeatureCache
from betadiffusion.training.files import write_json
from betadiffusion.training.runs import has_bf16
from betadiffusion.training.vae_stage import VAEStage

DINOV2_SMALL = {
    "model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518,
    "patch_size": 14,
}  # fmt: skip


class PlainAutoencoder(nn.Module):
    """The encoder of a beta-Diffusion autoencoder, linear mean and sigma, transformer blocks that know no level."""

    def __init__(self, model: BetaDiffusionAutoencoder, depth: int) -> None:
        super().__init__()
        config, self.patch_size = model.config, model.encoder.patch_size
        self.encoder = ViTEncoder(config.encoder, config.image_mean, config.image_std, trained=True)
        width = config.decoder_width or self.encoder.width
        self.moments = nn.Linear(self.encoder.width, 2 * config.latent_channels)
        self.stem = nn.Linear(config.latent_channels, width)
        block = nn.TransformerEncoderLayer(
            width, width // config.head_dim, 4 * width, dropout=0.0, activation="gelu", batch_first=True,
            norm_first=True,
        )  # fmt: skip
        self.blocks = nn.TransformerEncoder(block, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, config.in_channels * self.patch_size**2)

    def forward(self, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_sigma = (to_grid(part) for part in self.moments(self.encoder(x)).chunk(2, dim=2))
        sigma = log_sigma.clamp(-7, 1).exp()
        h = self.stem(to_tokens(mean + sigma * eps))
        return pixel_shuffle(to_grid(self.head(self.blocks(h + positions(h)))), self.patch_size), mean, sigma


def bf16() -> torch.autocast:
    """The arithmetic of a run with precision "auto"."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(cpu=True))


def take_turns(ways: dict[str, Callable[[], None]], steps: int) -> dict[str, float]:
    """Median seconds of a step of each way, the ways one after the other, after one step each to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(steps + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if step:
                seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def modulation(preset: str, steps: int, batch: int = 32) -> dict[str, float]:
    """Seconds per image of beta-Diffusion and of the plain autoencoders."""
    model = BetaDiffusionAutoencoder(**beta_diffusion_preset(preset)).train()
    depth, more = model.config.decoder_depth, model.config.modulator_depth
    plain, smaller = PlainAutoencoder(model, depth + more).train(), PlainAutoencoder(model, depth).train()
    print(preset, *(f"{sum(p.numel() for p in m.parameters()) / 1e6:.2f}M" for m in (model, plain, smaller)))
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, *model.image_shape, generator=generator) * 2 - 1
    t, eps = torch.rand(batch, generator=generator), torch.randn(batch, *model.latent_shape, generator=generator)

    def step(network: nn.Module) -> None:
        with bf16():
            x_hat, mean, sigma = model(x, t, eps)[:3] if network is model else network(x, eps)
        multi_beta_objective(x, x_hat, mean, sigma, model.pixel_sigma(t), model.schedule(t)).loss.mean().backward()
        network.zero_grad()

    networks = {"beta-Diffusion": model, "plain, as many blocks": plain, "plain, without the modulator's": smaller}
    seconds = take_turns({name: lambda network=network: step(network) for name, network in networks.items()}, steps)
    return {name: value / batch for name, value in seconds.items()}


def caching(steps: int, batch: int = 16) -> dict[str, float]:
    """Seconds per image of stage "vae" on a frozen encoder, with features encoded at every step and read back."""
    torch.manual_seed(0)
    model = BetaDiffusionAutoencoder(**beta_diffusion_preset("dinov2-s") | {"encoder": DINOV2_SMALL}).train()
    images = Subset(load("shapes", size=224), np.arange(4 * batch)).keep()
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache.build(model, images, Path(folder), quiet=True)
        stages = {
            "encoded at every step": VAEStage(model, images, images, torch.device("cpu")),
            "cached": VAEStage(model, images, images, torch.device("cpu"), features=cache),
        }
        generator = torch.Generator().manual_seed(0)

        def step(stage: VAEStage) -> None:
            with bf16():
                losses = stage.losses(model, np.arange(batch), stage.draw(batch, generator))
            losses.mean().backward()
            model.zero_grad()

        seconds = take_turns({name: lambda stage=stage: step(stage) for name, stage in stages.items()}, steps)
    return {name: value / batch for name, value in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = {}
    for name, measure in (
        ("tiny32", lambda: modulation("tiny32", options.steps)),
        ("scratch32", lambda: modulation("scratch32", options.steps)),
        ("dinov2-s, frozen", lambda: caching(max(3, options.steps // 2))),
    ):
        results[name] = measure()
        (one, first), *others = results[name].items()
        print(f"{name}: {one} {1e3 * first:.2f} ms per image")
        for other, seconds in others:
            print(f"  {other} {1e3 * seconds:.2f} ms: {first / seconds:.2f} times")
    if options.out:
        write_json(options.out, results)


if __name__ == "__main__":
    main()

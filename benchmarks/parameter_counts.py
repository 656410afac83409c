"""Print the table of docs/presets.md: parameters of every preset beside the paper's. Allocates no weights.

python benchmarks/parameter_counts.py
"""

from collections.abc import Iterator

import torch
from torch import nn

from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.presets import DENOISER_PRESETS, VAE_PRESETS, denoiser_preset, vae_preset
from betadiffusion.models.vae import MultiBetaVAE

PAPER = {("VAE", "ldm256"): 148e6, ("denoiser", "ldm256"): 378e6}  # C.1.3 and Table 6; the paper prints no others


def count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def models() -> Iterator[tuple[str, str, nn.Module]]:
    """(kind, preset, model on the meta device) for every preset."""
    with torch.device("meta"):
        for name in VAE_PRESETS:
            yield "VAE", name, MultiBetaVAE(**vae_preset(name))
        for name in DENOISER_PRESETS:
            yield "denoiser", name, NonlinearDenoiser(**denoiser_preset(name))


def main() -> None:
    print("| | preset | parameters | paper | ratio | of which |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    for kind, name, model in models():
        ours, paper = count(model), PAPER.get((kind, name))
        versus = f"{paper / 1e6:.0f}M | {ours / paper:.3f}" if paper else "not printed | "
        parts = ", ".join(f"{part} {count(child):,}" for part, child in model.named_children() if count(child))
        print(f"| {kind} | `{name}` | {ours:,} | {versus} | {parts} |")


if __name__ == "__main__":
    main()

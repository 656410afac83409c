"""Does torch.compile pay? A training step of the demo's two networks, compiled and not, in one run.

    python benchmarks/compile.py [--rounds 5] [--steps 20]

The VAE's step is Eq. 4 at the default batch, bf16 and channels_last as the trainer has them; the denoiser's is its
forward and backward pass on 256 latents. Prints seconds to compile, and the ratio of the step's medians, rounds of both
in turn. Needs a C++ compiler on a CPU. About 4 minutes.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.presets import denoiser_preset, vae_preset
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.objectives import multi_beta_objective
from betadiffusion.training.config import RunConfig

Step = Callable[[nn.Module], Tensor]


def vae_step(device: torch.device) -> tuple[nn.Module, Step]:
    """The VAE and its loss on one batch."""
    batch = RunConfig().vae_training.batch_size
    vae = MultiBetaVAE(**vae_preset("demo")).to(device, memory_format=torch.channels_last)
    x, t, eps = (d.to(device) for d in (torch.rand(batch, 3, 32, 32) * 2 - 1, torch.rand(batch),
                                        torch.randn(batch, *vae.latent_shape)))  # fmt: skip

    def step(model: nn.Module) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            out = model(x, t, eps)
        weights = vae.schedule(t)
        return multi_beta_objective(x, out.x_hat, out.mean, out.sigma, out.pixel_sigma, weights).loss.mean()

    return vae, step


def denoiser_step(device: torch.device) -> tuple[nn.Module, Step]:
    """The denoiser and a loss of its outputs on one batch."""
    batch = RunConfig().diffusion_training.batch_size
    denoiser = NonlinearDenoiser(**denoiser_preset("demo")).to(device)
    z, t = torch.randn(batch, *denoiser.config.latent_shape, device=device), torch.rand(batch, device=device)

    def step(model: nn.Module) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            outputs = model(z, t)
        return sum(output.square().mean() for output in outputs)

    return denoiser, step


def seconds(step: Step, model: nn.Module, steps: int) -> float:
    """Of one training step without the optimiser's."""
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        step(model).backward()
        model.zero_grad()
    if next(model.parameters()).is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device}, {torch.get_num_threads()} threads")
    for name, make in (("vae", vae_step), ("denoiser", denoiser_step)):
        model, step = make(device)
        compiled = torch.compile(model)
        to_compile = seconds(step, compiled, 1)
        rounds = [[seconds(step, m, options.steps) for m in (model, compiled)] for _ in range(options.rounds)]
        plain, fast = (statistics.median(times) for times in zip(*rounds, strict=True))
        print(f"{name}: {to_compile:.0f} s to compile; a step {1e3 * plain:.1f} ms, compiled {1e3 * fast:.1f} ms, "
              f"{plain / fast:.2f} times as fast")  # fmt: skip


if __name__ == "__main__":
    main()

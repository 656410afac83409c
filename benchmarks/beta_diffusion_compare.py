"""The seed's comparison, measured: beta-VAEs of one beta each, latent diffusion, beta-Diffusion.

    python benchmarks/beta_diffusion_compare.py --data utkface64.zip [--size 32] [--preset tiny32] [--images 64000]

All three have the same encoder, modulator and decoder and see the same number of images; latent diffusion is a linear
process, f(x,t) = cos(pi t / 2) z, on the autoencoder of the least beta, with a transformer denoiser trained on as many
images again. For each beta: rate and squared error of held-out images (a draw of the posterior), prior alignment (KL of
the aggregated posterior's Gaussian to N(0, I), nats, summed over dimensions), FD-EffNet of 1,000 held-out images
reconstructed and of as many images made from noise, and passes of a network through an image's worth of pixels or
tokens. Runs that are finished are not trained again. Prints a table, writes it as OUT/compare.json, and draws
OUT/compare.png. An hour on a busy CPU core.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from betadiffusion.data import Subset
from betadiffusion.gaussian import randn
from betadiffusion.metrics import aggregated_kl, rate
from betadiffusion.metrics.features import EfficientNetLite0
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.nn.curves import LevelCurve
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.report.distances import Judge
from betadiffusion.training.accelerator import make_accelerator
from betadiffusion.training.config import OptimisationConfig
from betadiffusion.training.diffusion_stage import DiffusionStage
from betadiffusion.training.files import write_json
from betadiffusion.training.images import load_images
from betadiffusion.training.latent_cache import LatentCache
from betadiffusion.training.models import Autoencoder, load_vae
from betadiffusion.training.pictures import save_grid
from betadiffusion.training.runs import load_config, load_split
from betadiffusion.training.trainer import Trainer

BETAS = (1.0, 10.0, 100.0)
COUNT, BATCH, SHOWN = 1_000, 100, 8
STEPS = 10  # of Heun


class LinearPath(nn.Module):
    """A fixed autoencoder's codes z on a linear path: f(x,t) = cos(pi t / 2) z / scale, sigma to the rest.

    sigma(0) is the root mean square of the posterior's, sigma(1) = 1 and f(x,1) = 0. As an autoencoder it decodes at
    the level of `level` only. latents: means of training images, for the scale.
    """

    def __init__(self, base: Autoencoder, level: float, latents: Tensor) -> None:
        super().__init__()
        self.base, self.level, self.scale = base, level, float(latents.std())
        self.config, self.latent_shape, self.image_shape = base.config, base.latent_shape, base.image_shape
        knots = torch.linspace(0, 1, base.config.knots)
        start = float(base.sigma(torch.tensor(level))) / self.scale
        signal, noise = (math.pi / 2 * knots).cos(), (math.pi / 2 * knots).sin()
        self.sigma_curve = LevelCurve(len(knots), 1.0)
        self.sigma_curve.log_value.data = (start**2 * signal.square() + noise.square()).sqrt().log()

    @property
    def device(self) -> torch.device:
        return self.base.device

    def features(self, x: Tensor) -> Tensor:
        """z / scale of images x (B,C,H,W): all that the encoder does, whatever the level."""
        return self.base.encode_mean(x, torch.tensor(self.level)) / self.scale

    def posterior_of(self, h: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """f(x,t) and sigma(t) from h = features(x); t (B,) or ()."""
        t = t.to(h).expand(len(h))[:, None, None, None]
        return (math.pi / 2 * t).cos() * h, self.sigma(t)

    def encode_mean(self, x: Tensor, t: Tensor) -> Tensor:
        return self.posterior_of(self.features(x), t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_curve(t)

    def decode(self, z: Tensor, t: Tensor) -> Tensor:
        return self.base.decode(z * self.scale, torch.tensor(self.level))


def train_autoencoder(options: argparse.Namespace, betas: list[float], out: Path) -> None:
    """One run of beta-Diffusion, on the whole range or on the betas given, unless it is finished."""
    from betadiffusion.cli.main import main as betadiffusion

    images = options.images
    arguments = ["--model", "beta_diffusion", "--stages", "[vae]", "--beta_diffusion.preset", options.preset]
    arguments += ["--data.source", options.data, "--data.size", str(options.size), "--data.limit", "null"]
    arguments += ["--seed", str(options.seed), "--levels.kl_warmup_images", str(images // 4), "--out", str(out)]
    rates = ["batch_size=128", "learning_rate=2e-3", "muon_rate=0", "warmup_images=4000", "ema_images=10000"]
    rates += [f"images={images}", f"validate_images={images // 2}", f"checkpoint_images={images // 4}"]
    arguments += [f"--vae_training.{rate}" for rate in rates]
    if betas:
        arguments += ["--levels.distribution", "grid", "--levels.betas", str(betas)]
    if code := betadiffusion(["train", *arguments]):
        raise SystemExit(code)


@torch.no_grad()
def row(vae: Autoencoder, beta: float, x: Tensor, judge: Judge, seed: int) -> dict[str, Any]:
    """Everything about one beta of an autoencoder, on held-out images x (N,C,H,W) in [-1, 1]; "rows" are pictures."""
    level, generator = vae.schedule.level(torch.tensor(beta)), torch.Generator().manual_seed(seed)
    means, sigmas, errors, pictures = [], [], [], []
    for part in x.split(BATCH):
        mean, sigma = vae.posterior(part, level)
        x_hat = vae.decode(mean + sigma * randn(mean.shape, mean, generator), level)
        means.append(mean.flatten(1))
        sigmas.append(sigma.flatten(1))
        errors.append((x_hat - part).square().flatten(1).mean(1))
        pictures.append(x_hat / 2 + 0.5)
    mean, sigma = torch.cat(means), torch.cat(sigmas)
    pipeline = BetaDiffusionPipeline(vae=vae)
    samples = [pipeline.sample_prior(BATCH, float(level), generator, "pt").images for _ in range(COUNT // BATCH)]
    return {
        "rate": rate(mean, sigma), "error": float(torch.cat(errors).mean()),
        "alignment": float(aggregated_kl(mean, sigma).sum()), "reconstructed": judge(as_bytes(pictures)),
        "distance": judge(as_bytes(samples)), "passes": 1, "rows": (pictures[0], samples[0]),
    }  # fmt: skip


def latent_diffusion(
    vae: Autoencoder, run: Path, train: Subset, held_out: Subset, judge: Judge, options: argparse.Namespace
) -> dict[str, Any]:
    """A denoiser on the linear path over the codes of the least beta, and what it makes of noise."""
    config = load_config(run)
    accelerator = make_accelerator(config)
    x = load_images(train, np.arange(512), vae.device)
    with torch.no_grad():
        path = LinearPath(vae, 0.0, vae.encode_mean(x, torch.tensor(0.0)))
    cache = LatentCache.build(path, train, config.cache.levels, run / "linear" / "cache")
    torch.manual_seed(options.seed)
    denoiser = NonlinearDenoiser(
        vae.latent_shape, "dit", width=128, depth=4, head_dim=64, sigma_knots=len(path.sigma_curve.log_value)
    )
    stage = DiffusionStage(denoiser, path, train, held_out, cache, accelerator.device)
    training = OptimisationConfig(
        images=options.images, batch_size=256, learning_rate=1e-3, ema_images=10_000, warmup_images=4_000,
        validate_images=options.images, checkpoint_images=options.images // 4,
    )  # fmt: skip
    identity = {"denoiser": "linear path", "images": options.images}
    trainer = Trainer(stage, training, run / "linear", accelerator=accelerator, seed=options.seed, identity=identity)
    trainer.resume()
    pipeline = BetaDiffusionPipeline(vae=vae, denoiser=trainer.fit())
    generator, samples = torch.Generator().manual_seed(options.seed), []
    for _ in range(COUNT // BATCH):
        z = randn((BATCH, *vae.latent_shape), torch.empty(0), generator)
        z = pipeline.walk(z, 1.0, steps=STEPS, method="heun")
        with torch.no_grad():
            samples.append(path.decode(z, torch.tensor(0.0)) / 2 + 0.5)
    # the path ends at f = 0, sigma = 1 by construction
    return {
        "alignment": 0.0, "distance": judge(as_bytes(samples)), "passes": 2 * STEPS + 1, "samples": samples[0],
    }  # fmt: skip


def as_bytes(images: list[Tensor]) -> Tensor:
    """Images in [0, 1] as uint8."""
    return (torch.cat(images).clamp(0, 1) * 255).round().to(torch.uint8)


def table(rows: list[dict[str, Any]], floor: float) -> str:
    """The rows as Markdown."""
    head = (
        "| system | beta | rate, nats | squared error | prior alignment, nats | FD-EffNet, reconstructed | from noise "
    )
    lines = [f"{head}| passes from noise |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for item in rows:
        values = [f"{item[key]:.4g}" for key in ("rate", "error", "alignment", "reconstructed", "distance", "passes")]
        lines.append(f"| {item['system']} | {item['beta']:g} | {' | '.join(values)} |")
    return "\n".join([*lines, "", f"Real held-out images: FD-EffNet {floor:.1f}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--preset", default="tiny32")
    parser.add_argument("--images", type=int, default=64_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    options = parser.parse_args()
    ours = options.out / "range"
    train_autoencoder(options, [], ours)
    train, held_out = load_split(load_config(ours).data, options.size, options.seed)
    x = load_images(held_out, np.arange(COUNT), torch.device("cpu"))
    judge = Judge.from_split(EfficientNetLite0(), train, held_out, COUNT)
    rows = []
    for beta in BETAS:
        run = options.out / f"beta-{beta:g}"
        train_autoencoder(options, [beta], run)
        rows.append({"system": "beta-VAE, fixed", "beta": beta} | row(load_vae(run).eval(), beta, x, judge, 1))
    fixed = options.out / f"beta-{BETAS[0]:g}"
    linear = latent_diffusion(load_vae(fixed).eval(), fixed, train, held_out, judge, options)
    walked = linear.pop("samples")
    rows.append({**rows[0], "system": "latent diffusion", **linear, "rows": (rows[0]["rows"][0], walked)})
    vae = load_vae(ours).eval()
    rows += [{"system": "beta-Diffusion", "beta": beta} | row(vae, beta, x, judge, 1) for beta in BETAS]
    pictures = {"original": x[:SHOWN]}
    for item in rows:
        for kind, images in zip(("", ", from noise"), item.pop("rows"), strict=True):
            pictures[f"{item['system']} {item['beta']:g}{kind}"] = images[:SHOWN] * 2 - 1
    save_grid(options.out / "compare.png", pictures)
    write_json(options.out / "compare.json", {"images": options.images, "floor": judge.floor, "rows": rows})
    print(table(rows, judge.floor))


if __name__ == "__main__":
    main()

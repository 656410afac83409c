"""Held-out ELBO of our VAE and beta-VAE beside pythae's, same architecture, same images, same epochs, in one run.

    pip install pythae==0.1.2
    python benchmarks/pythae_elbo.py --data DIR_WITH_MNIST_IDX_FILES [--limit 22000] [--epochs 5] [--seeds 0 1 2]

Both train the same convolutional networks (32-64-128, 32 latent dimensions, images resized to 32x32) with a Bernoulli
likelihood, in float32: ours with our trainer's defaults for a budget, as in `compare`, pythae's with its own trainer's
defaults and, since these are cautious, with each of the learning rates given. The ELBO (and for the beta-VAE the
beta-weighted one that it is trained on) of 2,000 held-out images is computed by the same lines for both, with ten draws
for each image. Prints a table of means and standard errors over seeds. About 10 minutes a seed on a CPU core.
"""

import argparse
import dataclasses
import logging
import math
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE as PythaeVAE
from pythae.models import BetaVAE, BetaVAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn
from torch.distributions import Bernoulli

from betadiffusion.baselines.runs import run
from betadiffusion.baselines.vae import VAE
from betadiffusion.evaluation.compare import with_images
from betadiffusion.gaussian import standard_normal_kl
from betadiffusion.nn.backbone import make_backbone
from betadiffusion.training.config import DataConfig, RunConfig
from betadiffusion.training.files import write_json
from betadiffusion.training.runs import load_split

LATENTS, CHANNELS, SIZE = 32, (32, 64, 128), 32
BETAS = (1.0, 4.0)
DRAWS = 10


class Encoder(BaseEncoder):
    """Our convolutional encoder as pythae has it: images (B,1,S,S) in [0, 1] to mean and log-variance (B,d)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_variance = self.network(2 * x - 1, x.new_zeros(len(x), 1)).flatten(1).chunk(2, dim=1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    """Our convolutional decoder as pythae has it: codes (B,d) to images (B,1,S,S) in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.network(z[:, :, None, None], z.new_zeros(len(z), 1)).sigmoid())


def train_pythae(train: Tensor, beta: float, rate: float, options: argparse.Namespace, seed: int) -> PythaeVAE:
    """pythae's VAE or beta-VAE on images (N,1,S,S) in [0, 1], by its own trainer."""
    torch.manual_seed(seed)
    encoder, decoder = make_backbone(
        sample_size=SIZE, in_channels=1, latent_channels=LATENTS, block="conv", channels=CHANNELS,
        layers_per_block=None, attention_resolutions=(), embedding_dim=1, activation="silu", dropout=0.0,
        encoded_channels=2 * LATENTS,
    )  # fmt: skip
    shared = {"input_dim": (1, SIZE, SIZE), "latent_dim": LATENTS, "reconstruction_loss": "bce"}
    networks = {"encoder": Encoder(encoder), "decoder": Decoder(decoder)}
    if beta == 1:
        model = PythaeVAE(VAEConfig(**shared), **networks)
    else:
        model = BetaVAE(BetaVAEConfig(beta=beta, **shared), **networks)
    with tempfile.TemporaryDirectory() as scratch:
        config = BaseTrainerConfig(
            output_dir=scratch, num_epochs=options.epochs, learning_rate=rate, seed=seed, no_cuda=True,
            per_device_train_batch_size=options.batch_size,
        )  # fmt: skip
        images = BaseDataset(train, torch.zeros(len(train)))
        trainer = BaseTrainer(model, train_dataset=images, training_config=config)
        trainer.train()
    return model.eval()


def train_ours(options: argparse.Namespace, beta: float, images: int, seed: int) -> VAE:
    """Our VAE or beta-VAE, by our trainer."""
    config = RunConfig(model="vae" if beta == 1 else "beta_vae", stages=["baseline"], seed=seed, precision="fp32")
    config.data = data_of(options)
    config.baseline.beta = beta
    config.vae_training = dataclasses.replace(
        with_images(config.vae_training, images), batch_size=options.batch_size, validate_images=images
    )
    with tempfile.TemporaryDirectory() as scratch:
        config.out = f"{scratch}/run"
        return VAE.from_pretrained(run(config) / "baseline" / "model").eval()


def data_of(options: argparse.Namespace) -> DataConfig:
    """The images of both."""
    return DataConfig(options.data, SIZE, limit=options.limit)


@torch.no_grad()
def elbo(model: VAE | PythaeVAE, x: Tensor, beta: float) -> float:
    """Mean of log p(x|z) - beta KL over images x (N,1,S,S) in [0, 1], nats, with the same draws for every model."""
    generator, total = torch.Generator().manual_seed(0), 0.0
    for part in x.split(250):
        if isinstance(model, VAE):
            mean, sigma = (value.flatten(1) for value in model.posterior(2 * part - 1))
        else:
            encoded = model.encoder(part)
            mean, sigma = encoded.embedding, (encoded.log_covariance / 2).exp()
        rate = standard_normal_kl(mean, sigma)
        for _ in range(DRAWS):
            z = mean + sigma * torch.randn(mean.shape, generator=generator)
            if isinstance(model, VAE):
                p = model.decode(z[:, :, None, None]) / 2 + 0.5
            else:
                p = model.decoder(z).reconstruction
            p = p.clamp(1e-6, 1 - 1e-6)
            # the cross-entropy that both are trained on, for grey pixels too
            ones, zeros = (Bernoulli(p).log_prob(torch.full_like(p, value)) for value in (1.0, 0.0))
            log_p = (part * ones + (1 - part) * zeros).flatten(1).sum(1)
            total += float((log_p - beta * rate).sum()) / DRAWS
    return total / len(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=22_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32, help="of both")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 1e-3], help="learning rates of pythae's")
    parser.add_argument("--out", type=Path, default=Path("pythae-elbo.json"))
    options = parser.parse_args()
    logging.disable(logging.INFO)
    rows: dict[str, list[float]] = {}
    for seed in options.seeds:
        split = load_split(data_of(options), SIZE, seed)  # the seed that `train_ours` divides by
        x, test = (torch.from_numpy(part.images(np.arange(len(part)))) / 255 for part in split)
        for beta in BETAS:
            name = "VAE" if beta == 1 else f"beta-VAE, beta {beta:g}"
            models = {"betadiffusion": train_ours(options, beta, options.epochs * len(x), seed)}
            for rate in options.rates:
                models[f"pythae, rate {rate:g}"] = train_pythae(x, beta, rate, options, seed)
            for place, model in models.items():
                rows.setdefault(f"{name} | {place}", []).append(elbo(model, test, beta))
                print(f"seed {seed}, {name}, {place}: {rows[f'{name} | {place}'][-1]:.2f}", flush=True)
    print(f"\n| model | trained by | ELBO of {len(test)} held-out images, nats |\n| --- | --- | ---: |")
    for name, values in sorted(rows.items()):
        error = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""
        print(f"| {name} | {statistics.mean(values):.2f}{error} |")
    settings = {key: str(value) for key, value in vars(options).items() if key != "data"}
    write_json(options.out, {"settings": settings, "train": len(x), "elbo": rows})


if __name__ == "__main__":
    main()

"""A small trained run for the explorer, the explorer as a program of its own, and the pictures in its answers."""

import base64
import dataclasses
import io
import json
import os
import re
import socket
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import torch
import yaml
from PIL import Image

from betadiffusion.cli.main import main
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.nn.condition import ConditionSpec
from betadiffusion.objectives import multi_beta_objective
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.training.config import DataConfig, RunConfig, VAEConfig
from betadiffusion.training.runs import load_split

SIZE = 16
SHAPE = {"latent_channels": 4, "channels": [16, 32], "embedding_dim": 16, "knots": 9}
CURVE = [{"level": 0.0, "rate": 30.0, "mse": 0.01}, {"level": 0.5, "rate": 9.0, "mse": 0.05},
         {"level": 1.0, "rate": 0.0, "mse": 0.2}]  # fmt: skip


def make_run(folder, steps=250, seed=0):
    """A VAE that has learned 16x16 sprites for a few seconds, and a denoiser of random weights, with classes."""
    torch.manual_seed(seed)
    config = RunConfig(
        data=DataConfig(source="dsprites", size=SIZE, limit=400, held_out=80, channels=1),
        vae=VAEConfig(preset="demo", **SHAPE),
        cpu=True,
    )
    vae = MultiBetaVAE(sample_size=SIZE, in_channels=1, schedule="log_beta", **SHAPE)
    train, _ = load_split(config.data, SIZE, config.seed)
    x = torch.from_numpy(train.images(np.arange(len(train)))) / 127.5 - 1
    optimiser = torch.optim.Adam(vae.parameters(), 5e-3)
    for _ in range(steps):
        batch, t = x[torch.randint(len(x), (32,))], torch.rand(32)
        out = vae(batch, t, torch.randn(32, *vae.latent_shape))
        terms = multi_beta_objective(batch, *out, vae.schedule(t))
        optimiser.zero_grad()
        terms.loss.mean().backward()
        optimiser.step()
    spec = dataclasses.asdict(ConditionSpec("labels", names=("square", "ellipse", "heart")))
    denoiser = NonlinearDenoiser(latent_shape=(4, 1, 1), width=16, depth=1, knots=5, sigma_knots=9, condition=spec)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        denoiser.preconditioning.log_sigma.copy_(vae.sigma_curve.log_values())
    BetaDiffusionPipeline(vae.eval(), denoiser.eval()).save_pretrained(folder / "pipeline")
    (folder / "config.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))))
    (folder / "report.json").write_text(json.dumps({"levels": CURVE}))
    few = ["--count", "80", "--num-images", "1", "--show", "alone"]
    assert main(["directions", str(folder), "--pca", "2", "--level", "0.2", *few]) == 0
    return folder


@contextmanager
def serving(*runs):
    """The explorer's address; it is a program of its own, as for a person."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "betadiffusion", "app", *map(str, runs), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        line = server.stdout.readline()
        assert line.startswith("the explorer: http://127.0.0.1:"), line
        yield f"http://127.0.0.1:{port}/"
        assert server.poll() is None
    finally:
        server.terminate()
        server.wait(30)


def pictures(html):
    """Every picture in a piece of HTML, as arrays."""
    return [pixels(uri) for uri in re.findall(r'<img [^>]*src="([^"]+)"', html)]


def pixels(uri):
    """A data URI's picture as an array."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


def alike(a, b):
    """Whether pictures (H,W) or (H,W,3) are the same to one grey level of 255: sums are rounded otherwise elsewhere."""
    a, b = (np.asarray(picture).astype(int) for picture in (a, b))
    return a.shape == b.shape and np.abs(a - b).max() <= 1

"""What the tabs show, as HTML: `alone` is the VAE's part, made at once, `walked` the diffusion's, made step by step.

All of it is asked of `BetaDiffusionPipeline`, seeded as in the commands.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from betadiffusion import samplers
from betadiffusion.app import html
from betadiffusion.app.runs import Run
from betadiffusion.app.stream import Result, walk_in_steps
from betadiffusion.gaussian import standard_normal_kl
from betadiffusion.metrics.images import decibels, distortion
from betadiffusion.pipelines.directions import find
from betadiffusion.pipelines.interpolation import numbers
from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline
from betadiffusion.training.pictures import sheet

Wanted = Callable[[], bool]


@dataclass(frozen=True)
class Walk:
    """How the diffusion walks back: steps of the default method, and the seed of all noise."""

    steps: int
    seed: int

    def noise(self) -> torch.Generator:
        """The noise of the seed, from its beginning."""
        return torch.Generator().manual_seed(self.seed)


@torch.no_grad()
def keep(run: Run, x: Tensor, level: float, walk: Walk) -> tuple[str, tuple[float, float]]:
    """What the VAE keeps of one draw of q(z|x;t), as a figure, and the image's rate and error."""
    t = torch.tensor(level)
    mean, sigma = run.pipeline.vae.posterior((x / 127.5 - 1).to(run.pipeline.device), t)
    tau = run.pipeline.vae.prior_scale(t)
    rate = float(standard_normal_kl(mean / tau, sigma / tau))
    kept = run.pipeline.reconstruct(x, level, walk.noise(), output_type="pt").images
    error = distortion(x / 127.5 - 1, kept * 2 - 1).per_pixel
    return html.picture(_pictures(kept)[0], f"VAE at level {level:g}: {rate:.1f} nats, {_error(error)}"), (rate, error)


def original(x: Tensor) -> str:
    """The image itself, as a figure."""
    return html.picture(_pictures(x / 255)[0], "original")


def walk_back(run: Run, x: Tensor, level: float, walk: Walk, wanted: Wanted) -> Iterator[str]:
    """The code of `keep`, walked back to level 0: figures."""

    def work(callback: samplers.Callback) -> Tensor:
        options = {"generator": walk.noise(), "output_type": "pt", "steps": walk.steps, "callback": callback}
        return run.pipeline.denoise(x, level, **options).images

    for done, images in _stream(run.pipeline, work, wanted):
        if done is None:
            error = distortion(x / 127.5 - 1, images * 2 - 1).per_pixel
            yield html.picture(_pictures(images)[0], f"walked back: {_error(error)}", "walked-back.png")
        else:
            yield html.picture(_pictures(images)[0], f"walking back: step {done} of {walk.steps}")


def curves(runs: Sequence[Run], level: float, image: tuple[float, float] | None = None) -> str:
    """The rate-distortion curves of the runs that have a report."""
    known = [(run.path.name, run.curve) for run in runs if run.curve is not None]
    if known:
        return html.rate_distortion(known, level, image)
    return html.note(f"betadiffusion report {shlex.quote(str(runs[0].path))} measures the run's curve, to see it here.")


def edit(
    run: Run, x: Tensor, strengths: dict[str, float], level: float, walk: Walk, wanted: Wanted | None = None
) -> Iterator[str]:
    """The image moved along named directions at once: by the VAE alone, or where it is `wanted` walked back."""
    along = sum(s * find(run.directions[level], name, level).vector for name, s in strengths.items())
    options = {"generator": walk.noise(), "output_type": "pt"}
    if wanted is None:
        made = run.pipeline.edit(x, along, 1.0, level, denoise=False, **options).images
        yield html.picture(_pictures(made)[0], f"VAE alone, moved at level {level:g}")
        return

    def work(callback: samplers.Callback) -> Tensor:
        return run.pipeline.edit(x, along, 1.0, level, steps=walk.steps, callback=callback, **options).images

    moved = ", ".join(f"{name} {s:+g}" for name, s in strengths.items() if s) or "not moved"
    for done, images in _stream(run.pipeline, work, wanted):
        caption = f"walked back: {moved}" if done is None else f"walking back: step {done} of {walk.steps}"
        yield html.picture(_pictures(images)[0], caption, "edited.png" if done is None else "")


def interpolate(
    run: Run,
    ends: tuple[Tensor, Tensor],
    frames: int,
    level: float,
    dims: str,
    walk: Walk,
    wanted: Wanted | None = None,
) -> Iterator[str]:
    """A strip from one image to another: by the VAE alone, or where it is `wanted` walked back."""
    weights = torch.linspace(0, 1, frames).tolist()
    arguments = (*ends, weights, level, numbers(dims.replace(",", " ").split()))
    options: dict[str, Any] = {"generator": walk.noise(), "output_type": "pt"}
    if wanted is None:
        made = run.pipeline.interpolate(*arguments, denoise=False, **options).images
        yield _strip(made, "VAE alone")
        return

    def work(callback: samplers.Callback) -> Tensor:
        return run.pipeline.interpolate(*arguments, steps=walk.steps, callback=callback, **options).images

    for done, images in _stream(run.pipeline, work, wanted):
        caption = "walked back" if done is None else f"walking back: step {done} of {walk.steps}"
        yield _strip(images, caption, "interpolation.png" if done is None else "")


@dataclass(frozen=True)
class Asked:
    """What "Generate" is asked for; `condition` as `BetaDiffusionPipeline` takes it."""

    count: int
    evaluations: int
    method: samplers.Method
    eta: float
    seed: int
    condition: int | str | dict[str, int] | None = None
    guidance: float = 1.0

    @property
    def steps(self) -> int:
        """As many as the evaluations suffice for; ValueError for none."""
        fits = [n for n in range(1, self.evaluations + 1) if samplers.evaluations(self.method, n) <= self.evaluations]
        if not fits:
            raise ValueError(f"{self.method} needs more than {self.evaluations} evaluations")
        return fits[-1]

    def command(self, run: Run) -> str:
        """The command line that makes the same picture."""
        words = {
            "--num-images": self.count, "--steps": self.steps, "--method": self.method, "--eta": self.eta,
            "--seed": self.seed,
        }  # fmt: skip
        line = ["betadiffusion", "sample", str(run.path)]
        line += [word for option, value in words.items() for word in (option, str(value))]
        if isinstance(self.condition, dict):
            line += ["--attribute", *(f"{name}={value}" for name, value in self.condition.items())]
        elif self.condition is not None:
            kind = run.pipeline.denoiser.condition_spec.kind
            line.append(f"{'--class' if kind == 'labels' else '--text'}={self.condition}")
        if self.condition is not None:
            line += ["--guidance", str(self.guidance)]
        return shlex.join([*line, "--out", "samples.png"])


def generate(run: Run, asked: Asked, wanted: Wanted) -> Iterator[str]:
    """New images on a sheet that clears up, at last with a link to save it."""

    def work(callback: samplers.Callback) -> Tensor:
        return run.pipeline(
            asked.count, asked.steps, asked.method, asked.eta, torch.Generator().manual_seed(asked.seed), "pt",
            asked.condition, asked.guidance, callback=callback,
        ).images  # fmt: skip

    for done, images in _stream(run.pipeline, work, wanted):
        caption = f"{asked.count} images" if done is None else f"step {done} of {asked.steps}"
        yield html.picture(sheet(_pictures(images)), caption, "samples.png" if done is None else "")


def _stream(
    pipeline: BetaDiffusionPipeline, work: Callable[[samplers.Callback], Tensor], wanted: Wanted
) -> Iterator[tuple[int | None, Tensor]]:
    """Images (B,C,H,W) in [0, 1] of a walk on its way, with the steps done, and at its end, with None."""
    for news in walk_in_steps(work, wanted):
        if isinstance(news, Result):
            yield None, news.value
        else:
            with torch.no_grad():
                yield news.done, (pipeline.vae.decode(news.z, news.level).cpu() / 2 + 0.5).clamp(0, 1)


def _pictures(images: Tensor) -> list[Image.Image]:
    """(B,C,H,W) in [0, 1] as pictures, rounded as the pipeline rounds."""
    arrays = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).squeeze(3).numpy()
    return [Image.fromarray(array) for array in arrays]


def _strip(images: Tensor, caption: str, download: str = "") -> str:
    count, _, height, width = images.shape
    strip = images.permute(1, 2, 0, 3).reshape(1, -1, height, count * width)
    return html.row([html.picture(_pictures(strip)[0], caption, download)], "strip")


def _error(error: float) -> str:
    """A squared error per value in words, and in dB below the greatest."""
    return f"error {error:.4f} ({decibels(error):.1f} dB)" if error else "no error"

"""The report as one HTML page that needs no other file."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from betadiffusion.report.curves import ACTIVE_VARIANCE
from betadiffusion.report.distances import FAR
from betadiffusion.report.generate import Sampler
from betadiffusion.report.summary import main_numbers, number

Numbers = dict[str, Any]

STYLE = """
:root { color-scheme: light; --ink: #1d2733; --quiet: #5f6b76; --line: #dfe4e8; --accent: #1b6ca8; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 62rem; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
.quiet, figcaption { color: var(--quiet); font-size: .9rem; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
.wide img { min-width: 38rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--quiet); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
.pairs td { text-align: left; white-space: normal; vertical-align: top; }
.pairs td:first-child { color: var(--quiet); min-width: 11rem; }
"""


def page(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    """The whole HTML of a report, with its pictures, PNG by name, inside it."""
    title = f"betadiffusion: {numbers['context']['data']}"
    sections = [
        _glance(numbers),
        _dial(numbers, pngs),
        _samples(numbers, pngs),
        _levels(numbers, pngs),
        _factors(numbers, pngs),
        _terminal(numbers),
        _training(numbers, pngs),
        _context(numbers),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _glance(numbers: Numbers) -> str:
    context, frechet = numbers["context"], numbers["frechet"]
    c, h, w = context["image_shape"]
    text = (
        f"One multi-beta VAE and one denoiser between its levels, trained on {context['train']:,} images of "
        f"{context['data']} ({w}×{h}, {'grey' if c == 1 else 'colour'}), measured on {numbers['images']:,} images that "
        f"neither has seen. Level 0 keeps the picture, level 1 nothing."
    )
    note = (
        f"{frechet['name']} is the squared Fréchet distance in the features of {frechet['features']}; lower is better. "
        f"Every set is of {frechet['images']:,} images and is compared with {frechet['reference_images']:,} training "
        f"images; so few images bias the distance upwards, alike for all sets. Other held-out images of the data "
        f"score {number(frechet['floor'])}: no model is asked to be below that. These numbers compare "
        f"with each other only, not with FID."
    )
    return _paragraph(text) + _pairs(main_numbers(numbers)) + _paragraph(note, "quiet")


def _dial(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    frechet = numbers["frechet"]
    walk = Sampler(frechet["walk"]["method"], frechet["walk"]["steps"])
    text = (
        "The same held-out images at each level. Upper row: a draw from the posterior, decoded at that level. Lower "
        f"row: the same draw, walked back to level 0 by the diffusion ({walk.label}, {walk.steps} steps, "
        f"{walk.evaluations} evaluations) and decoded there. At a glance, above, is the first level where the "
        f"VAE alone is at least {FAR:g} times as far from real images as at level 0."
    )
    rows = [
        (f"{row['level']:g}", number(row["vae"]), number(row["vae"] / frechet["levels"][0]["vae"]),
         number(row["walked"]), number(row["vae"] / row["walked"]))
        for row in frechet["levels"]
    ]  # fmt: skip
    head = ("level", f"{frechet['name']}, VAE alone", "× level 0", "walked back", "divided by")
    picture = _picture(pngs, "dial", "Held-out images by level: the VAE alone, and walked back to level 0")
    chart = _picture(pngs, "distance_over_level", "Distance of reconstructions to real images")
    return _heading("The dial") + _paragraph(text) + picture + _table(head, rows) + chart


def _samples(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    name, count = numbers["frechet"]["name"], numbers["images"]
    text = (
        f"New images, {count:,} for every row, all from the same noise at level 1. Heun costs two evaluations a step; "
        "eta=1 and Algorithm 2 add fresh noise at every step. Algorithm 2 is the paper's, its sign corrected; it loses "
        "variance at every step, so more steps do not help it. The seconds are for all images, decoding included."
    )
    head = ("method", "steps", "evaluations", "seconds", name, "above real images")
    rows = [_sampler_cells(row) for row in numbers["samplers"]]
    spacing_text = "The pipeline's own method with the same evaluations at differently spaced levels:"
    spacing_rows = [(row["spacing"].replace("_", " "), *_sampler_cells(row)) for row in numbers["spacings"]]
    return (
        _heading("Samples from noise")
        + _picture(pngs, "samples", "64 samples each, not chosen, from the same noise")
        + _paragraph(text)
        + _table(head, rows)
        + _picture(pngs, "samplers", "Distance of samples to real images over network evaluations")
        + _paragraph(spacing_text)
        + _table(("spacing", *head), spacing_rows)
    )


def _sampler_cells(row: Numbers) -> tuple[str, ...]:
    counts = str(row["steps"]), str(row["evaluations"])
    measured = (number(row[key]) for key in ("seconds", "distance", "above_floor"))
    return Sampler(row["method"], row["steps"]).label, *counts, *measured


def _levels(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    text = (
        "Rate is the mean KL to the prior, in nats an image; distortion the mean squared error a pixel, in [-1, 1], "
        "of a draw from the posterior, decoded. The signal is the mean of f² over images and dimensions. An active "
        f"unit is a dimension of f whose variance over images exceeds {ACTIVE_VARIANCE}."
    )
    columns = ("rate", "mse", "psnr", "sigma", "pixel_sigma", "signal_power", "log_snr", "active_units")
    head = ("level", "rate, nats", "MSE", "PSNR, dB", "σ(t)", "s(t)", "mean f²", "log SNR", "active units")
    rows = [(f"{row['level']:g}", *(number(row[name]) for name in columns)) for row in numbers["levels"]]
    return (
        _heading("What each level keeps")
        + _paragraph(text)
        + _picture(pngs, "rate_distortion", "Distortion against rate")
        + _picture(pngs, "over_levels", "Rate and PSNR over the level")
        + _picture(pngs, "scales", "Noise scales and signal-to-noise ratio over the level")
        + _table(head, rows)
    )


def _factors(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    factors = numbers["factors"]
    if not factors:
        return ""
    text = (
        f"The mutual information gap (MIG) of posterior means, {factors['bins']} bins, {factors['images']:,} held-out "
        f"images. Best: {number(factors['best']['mig'])} at level {factors['best']['level']:g}, chosen on MIG itself, "
        f"so beside it the level fixed beforehand: {number(factors['fixed']['mig'])} at {factors['fixed']['level']:g}. "
        "Thin lines: by factor, the greatest mutual information that one code has with it, as a share of its entropy."
    )
    head = ("level", "MIG", *(name.replace("_", " ") for name in factors["names"]))
    rows = [
        (f"{row['level']:g}", *(f"{v:.3f}" for v in (row["mig"], *row["information"]))) for row in numbers["levels"]
    ]
    chart = _picture(pngs, "mig", "MIG and information on factors over the level")
    return _heading("Codes and known factors") + _paragraph(text) + chart + _table(head, rows)


def _terminal(numbers: Numbers) -> str:
    t = numbers["terminal"]
    text = (
        "Sampling starts from N(0, 1), so at level 1 the code must be just that. The fit is a Gaussian's to the "
        "aggregated posterior of each channel."
    )
    rows = [
        ("rate at level 1", f"{number(t['rate'])} nats"),
        ("standard deviation of f(x,1)", number(t["mean_std"])),
        ("σ(1)", number(t["sigma"])),
        ("KL of the fit to N(0, 1), mean of channels", f"{number(t['aggregate_kl'])} nats"),
        ("KL of the fit to N(0, 1), worst channel", f"{number(t['aggregate_kl_max'])} nats"),
    ]
    return _heading("The mismatch at level 1") + _paragraph(text) + _pairs(rows)


def _training(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    stages = numbers["stages"]
    if not stages:
        return ""
    names = ("images", "seconds", "images_per_second", "parameters", "device", "processes", "precision")
    rows = [
        (stage, *(number(v) if isinstance(v := summary.get(name), float) else _plain(v) for name in names))
        for stage, summary in stages.items()
    ]
    charts = "".join(_picture(pngs, f"training_{stage}", f"Training of stage {stage}") for stage in stages)
    return _heading("Training") + _table(("stage", *(n.replace("_", " ") for n in names)), rows) + charts


def _context(numbers: Numbers) -> str:
    c, frechet = numbers["context"], numbers["frechet"]
    skipped = f"{c['skipped']}" + (": " + ", ".join(c["skipped_first"]) if c["skipped"] else "")
    rows = [
        ("data", f"{c['data']} ({c['source']})"),
        ("images", f"{c['train']:,} for training, {c['held_out']:,} held out"),
        ("files skipped", skipped + (", ..." if c["skipped"] > len(c["skipped_first"]) else "")),
        ("image, code", f"{_shape(c['image_shape'])}, {_shape(c['latent_shape'])}"),
        ("models", f"VAE {c['vae']}, denoiser {c['denoiser']}"),
        ("parameters", ", ".join(f"{name} {count:,}" for name, count in c["parameters"].items())),
        ("features", f"{frechet['features']}, SHA-256 of the weights {frechet['weights_sha256'] or 'unknown'}"),
        ("seed", str(c["seed"])),
        ("hardware", f"{c['cpu']}, {c['cores']} cores" + (f"; {c['gpu']}" if c["gpu"] else "; no GPU")),
        ("versions", f"betadiffusion {c['betadiffusion']}, torch {c['torch']}"),
    ]
    return _heading("Data, hardware, versions") + _pairs(rows)


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def _plain(value: Any) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>\n"


def _paragraph(text: str, style: str = "") -> str:
    return f'<p class="{style}">{escape(text)}</p>\n' if style else f"<p>{escape(text)}</p>\n"


def _picture(pngs: dict[str, bytes], name: str, caption: str) -> str:
    """The picture of that name in a figure; nothing where there is none."""
    if name not in pngs:
        return ""
    data = base64.b64encode(pngs[name]).decode()
    text = escape(caption)
    image = f'<div class="wide"><img alt="{text}" src="data:image/png;base64,{data}"></div>'
    return f"<figure>{image}<figcaption>{text}.</figcaption></figure>\n"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{_body(rows)}</tbody></table></div>\n'


def _pairs(rows: Iterable[Iterable[str]]) -> str:
    return f'<div class="scroll"><table class="pairs"><tbody>{_body(rows)}</tbody></table></div>\n'


def _body(rows: Iterable[Iterable[str]]) -> str:
    return "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)

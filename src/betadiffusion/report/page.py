"""The report as one HTML page that needs no other file."""

from collections.abc import Sequence
from typing import Any

from betadiffusion.report.curves import ACTIVE_VARIANCE
from betadiffusion.report.distances import FAR
from betadiffusion.report.generate import Sampler, walk_default
from betadiffusion.report.html import document, heading, pairs, paragraph, picture, plain, table
from betadiffusion.report.summary import main_numbers, number

Numbers = dict[str, Any]
MODELS = {"multi_beta_vae": "multi-beta VAE", "beta_diffusion": "beta-Diffusion autoencoder"}


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
    return document(title, sections)


def _glance(numbers: Numbers) -> str:
    context, frechet = numbers["context"], numbers["frechet"]
    c, h, w = context["image_shape"]
    text = (
        f"One {MODELS[context['model']]} and one denoiser between its levels, trained on {context['train']:,} "
        f"images of {context['data']} ({w}×{h}, {'grey' if c == 1 else 'colour'}), measured on {numbers['images']:,} "
        f"images that neither has seen. Level 0 keeps the picture, level 1 nothing."
    )
    note = (
        f"{frechet['name']} is the squared Fréchet distance in the features of {frechet['features']}; lower is better. "
        f"Every set is of {frechet['images']:,} images and is compared with {frechet['reference_images']:,} training "
        f"images; so few images bias the distance upwards, alike for all sets. Other held-out images of the data "
        f"score {number(frechet['floor'])}: no model is asked to be below that. These numbers compare "
        f"with each other only, not with FID."
    )
    return paragraph(text) + pairs(main_numbers(numbers)) + paragraph(note, "quiet")


def _dial(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    frechet = numbers["frechet"]
    walk = Sampler(frechet["walk"]["method"], frechet["walk"]["steps"])
    text = (
        "The same held-out images at each level. Upper row: a draw from the posterior, decoded at that level. Lower "
        f"row: a draw of the path, walked back to level 0 by the diffusion ({walk.label}, {walk.steps} steps, "
        f"{walk.evaluations} evaluations) and decoded there; the two draws are the same where the VAE has one noise "
        "scale for all images. PSNR, in dB, is to the images themselves. At a glance, above, is the first level where "
        f"the VAE alone is at least {FAR:g} times as far from real images as at level 0."
    )
    rows = [
        (f"{row['level']:g}", number(row["vae"]), number(row["vae"] / frechet["levels"][0]["vae"]),
         number(row["walked"]), number(row["vae"] / row["walked"]), number(row["vae_psnr"]), number(row["walked_psnr"]))
        for row in frechet["levels"]
    ]  # fmt: skip
    head = ("level", f"{frechet['name']}, VAE alone", "× level 0", "walked back", "divided by", "PSNR, alone", "walked")
    dial = picture(pngs, "dial", "Held-out images by level: the VAE alone, and walked back to level 0")
    chart = picture(pngs, "distance_over_level", "Distance of reconstructions to real images")
    return heading("The dial") + paragraph(text) + dial + table(head, rows) + chart


def _samples(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    name, count = numbers["frechet"]["name"], numbers["images"]
    text = (
        f"New images, {count:,} for every row, all from the same noise at level 1. Heun costs two evaluations a step; "
        f"eta=1 and Algorithm 2 add fresh noise at every step. Levels are even on the clock {walk_default('clock')!r}, "
        "the pipeline's own, and those of Algorithm 2 in t. Algorithm 2 is the paper's, its sign corrected; it loses "
        "variance at every step, so more steps do not help it. The seconds are for all images, decoding included."
    )
    head = ("method", "steps", "evaluations", "seconds", name, "above real images")
    rows = [_sampler_cells(row) for row in numbers["samplers"]]
    spacing_text = "The pipeline's own method with the same evaluations at differently spaced levels:"
    spacing_rows = [(row["spacing"].replace("_", " "), *_sampler_cells(row)) for row in numbers["spacings"]]
    return (
        heading("Samples from noise")
        + picture(pngs, "samples", "64 samples each, not chosen, from the same noise")
        + paragraph(text)
        + table(head, rows)
        + picture(pngs, "samplers", "Distance of samples to real images over network evaluations")
        + paragraph(spacing_text)
        + table(("spacing", *head), spacing_rows)
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
        heading("What each level keeps")
        + paragraph(text)
        + picture(pngs, "rate_distortion", "Distortion against rate")
        + picture(pngs, "over_levels", "Rate and PSNR over the level")
        + picture(pngs, "scales", "Noise scales and signal-to-noise ratio over the level")
        + table(head, rows)
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
    chart = picture(pngs, "mig", "MIG and information on factors over the level")
    return heading("Codes and known factors") + paragraph(text) + chart + table(head, rows)


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
    return heading("The mismatch at level 1") + paragraph(text) + pairs(rows)


def _training(numbers: Numbers, pngs: dict[str, bytes]) -> str:
    stages = numbers["stages"]
    if not stages:
        return ""
    names = ("images", "seconds", "images_per_second", "parameters", "device", "processes", "precision")
    rows = [
        (stage, *(number(v) if isinstance(v := summary.get(name), float) else plain(v) for name in names))
        for stage, summary in stages.items()
    ]
    charts = "".join(picture(pngs, f"training_{stage}", f"Training of stage {stage}") for stage in stages)
    return heading("Training") + table(("stage", *(n.replace("_", " ") for n in names)), rows) + charts


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
    return heading("Data, hardware, versions") + pairs(rows)


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))

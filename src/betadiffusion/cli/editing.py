"""`betadiffusion directions`, `edit` and `interpolate` (Algorithms 4 and 5): labelled pictures of a run's images."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from betadiffusion.cli.baselines import baseline_of
from betadiffusion.cli.checks import check_count, nearest_existing
from betadiffusion.cli.loading import check_png, load_pipeline
from betadiffusion.cli.walking import Walking, check_end, check_seed

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from betadiffusion.pipelines.directions import Direction
    from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline

Show = Literal["walked", "alone", "both"]
Code = Literal["draw", "mean"]

ALONE, WALKED = "VAE alone", "walked back"
WAYS = {"walked": (WALKED,), "alone": (ALONE,), "both": (ALONE, WALKED)}
GRID_STRENGTHS = (-3.0, -1.5, 0.0, 1.5, 3.0)


def directions(
    run: Path,
    *,
    level: float | None = None,
    pca: int = 8,
    attributes: tuple[str, ...] = (),
    factors: tuple[str, ...] = (),
    labels: bool = False,
    disco: Path | None = None,
    count: int = 4_000,
    show: Literal["walked", "alone"] | None = None,
    num_images: int = 6,
    out: Path | None = None,
) -> None:
    """Find directions to edit along in the codes of a trained run, and draw each.

    They are computed from training images and scored on held-out ones. Each is kept by its name in RUN/directions,
    beside those of other levels, in place of an earlier one of its name and level; `betadiffusion edit` takes the
    names. A strength of 1 is one standard deviation, along the direction, of codes drawn at the level.

    Attributes, factors with two values, and labels (one class against the rest) give two directions: NAME, the normal
    of a logistic regression, and NAME-means, the difference of the two means, which takes along what goes with it.

    Args:
        run: folder of a run.
        level: level of the codes, from 0 (keep everything) to 1 (keep nothing); by default 0.6, or that of --disco.
        pca: how many principal components, "pca-1" and on.
        attributes: names of attributes that the run's images have, or all.
        factors: names of factors, for the slope of the codes on their values, or NAME:LOW:HIGH, for two of the values;
            or all.
        labels: directions for each class, "label-NAME", or "label-0" and on where classes have no names.
        disco: folder of a run of model disco whose baseline.base was this run: its directions, "disco-1" and on.
        count: training images to compute from, and held-out ones to score on, at most.
        show: pictures walked back to level 0 by the diffusion, or by the VAE alone; by default the first, of a baseline
            the second.
        num_images: held-out images in each picture.
        out: folder for the pictures; RUN/directions/level-LEVEL by default.
    """
    if pca < 0 or not (pca or attributes or factors or labels or disco):
        raise ValueError(f"--pca must be positive, or 0 beside other directions, not {pca}")
    if count < 2 or num_images < 1:
        raise ValueError(f"--count must be at least 2 and --num-images positive, not {count} and {num_images}")
    show, asked = show or _usual(run), () if level is None else (level,)
    _check_levels(asked)
    pipeline = load_pipeline(run, needs_denoiser=show == "walked")
    vectors, disco_level = _disco(disco, pipeline) if disco else (None, None)
    (level,) = _levels(pipeline, asked, disco_level)
    out = out or run / "directions" / f"level-{level:g}"
    if not (above := nearest_existing(out)).is_dir():
        raise ValueError(f"--out must be a folder, but {above} is a file")
    import numpy as np
    import torch
    from tqdm import tqdm

    from betadiffusion.cli.pictures import save as save_picture
    from betadiffusion.data import Subset
    from betadiffusion.evaluation.directions import find_directions
    from betadiffusion.pipelines.directions import save
    from betadiffusion.training.pictures import grid
    from betadiffusion.training.runs import load_config, load_split
    from betadiffusion.training.stored import fingerprint

    config = load_config(run)
    parts = load_split(config.data, pipeline.vae.image_shape[-1], config.seed)
    train, held_out = (Subset(part, np.arange(min(count, len(part)))) for part in parts)
    found = find_directions(pipeline, train, held_out, level, pca, attributes, factors, labels, vectors)
    pipeline.directions = found
    x = torch.from_numpy(held_out.images(np.arange(min(num_images, len(held_out)))))
    pictures = {}
    for direction in tqdm(found, desc="pictures", disable=None):
        rows = _edit_rows(pipeline, x, [direction.name], GRID_STRENGTHS, level, show, seed=0, walk={})
        pictures[direction.name] = grid(rows, _edit_columns(GRID_STRENGTHS))
    path = save(run / "directions", found, fingerprint(pipeline.vae))
    for name, picture in pictures.items():
        save_picture(out / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.png", picture)
    print(_table(found))
    print(f"{len(found)} directions at level {level:g}: {path}\npictures: {out}")


def edit(
    given: frozenset[str],
    run: Path,
    images: tuple[str, ...],
    *,
    direction: tuple[str, ...] = (),
    strengths: tuple[float, ...] = GRID_STRENGTHS,
    level: float | None = None,
    show: Show | None = None,
    num_images: int = 8,
    code: Code = "draw",
    walking: Walking,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Show images moved along directions that `betadiffusion directions` has found (Algorithm 4).

    Args:
        run: folder of a run.
        images: image files, folders or zips, of any size: cut square and resized as in training; held-out images of
            the run by default.
        direction: one or more names.
        strengths: how far to move, in standard deviations of the codes.
        level: level to move at; may be left out where the directions are known at one level only.
        show: images walked back to level 0 by the diffusion, by the VAE alone (from the mean), or both, one below the
            other; by default the first, of a baseline the second.
        num_images: images from each folder or zip, its first by name, or from the held-out ones.
        code: what the walk starts from: a draw of q(z|x;t), or its mean, which keeps more of the image and is blurred.
        seed: of all noise, of which every strength gets the same.
        out: the picture, a .png; RUN/edits.png by default.
    """
    show = show or _usual(run)
    _check_walking(show, code, seed, walking)
    if not direction:
        raise ValueError("--direction is missing: give one or more names of betadiffusion directions")
    check_count(given, images, num_images)
    out = out or run / "edits.png"
    check_png(out)
    pipeline = load_pipeline(run, needs_denoiser=show != "alone")
    walk = {"code": code, **walking.options(pipeline)}
    import torch

    from betadiffusion.cli.pictures import images_of, save
    from betadiffusion.pipelines.directions import find, load
    from betadiffusion.training.pictures import grid
    from betadiffusion.training.stored import fingerprint

    known = pipeline.directions = load(run / "directions", fingerprint(pipeline.vae))
    if not known:
        raise ValueError(f"{run} has no directions yet, or of another training: run betadiffusion directions {run}")
    if level is not None:
        (level,) = _levels(pipeline, (level,))
    else:
        levels = sorted({each.level for each in known if each.name in direction})
        if len(levels) > 1:
            raise ValueError(f"--level is missing: there are directions of this name at {', '.join(map(str, levels))}")
        level = levels[0] if levels else known[0].level
    check_end(walking.end, level)
    for name in direction:
        find(known, name, level)
    x = torch.from_numpy(images_of(run, images, pipeline.vae.image_shape, num_images))
    rows = _edit_rows(pipeline, x, direction, strengths, level, show, seed, walk)
    save(out, grid(rows, _edit_columns(strengths)))
    print(f"{len(x)} images along {', '.join(direction)} at level {level:g}: {out}")


def interpolate(
    run: Path,
    images: tuple[str, ...],
    *,
    frames: int = 9,
    level: tuple[float, ...] = (),
    dims: tuple[str, ...] = (),
    interpolation: Literal["slerp", "linear"] = "slerp",
    show: Show | None = None,
    code: Code = "draw",
    walking: Walking,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Show the way from one image to another through the codes of a level (Algorithm 5).

    Args:
        run: folder of a run.
        images: two images, each a file, or a folder or zip whose first by name is taken; held-out images of the run by
            default.
        frames: images on the way, both ends counted.
        level: one level, or several, a row each; 0.6 by default.
        dims: dimensions of the flattened latent to interpolate, numbers or ranges such as 0-15; the others stay the
            first image's. All by default.
        interpolation: slerp, spherical on the codes, or linear, on their means, with the noise kept at its scale.
        show: images walked back to level 0 by the diffusion, by the VAE alone (from the means), or both, one below the
            other; by default the first, of a baseline the second.
        code: what the walk starts from: a draw of q(z|x;t), or its mean, which keeps more of the image and is blurred.
        seed: of all noise.
        out: a .png for a strip, a .gif or .mp4 for an animation, there and back; RUN/interpolation.png by default.
    """
    show = show or _usual(run)
    _check_walking(show, code, seed, walking)
    if frames < 2:
        raise ValueError(f"--frames must be at least 2, not {frames}")
    _check_levels(level)
    out = out or run / "interpolation.png"
    if out.suffix not in (".png", ".gif", ".mp4"):
        raise ValueError(f"--out must be a .png, .gif or .mp4, not {out}")
    from betadiffusion.cli import pictures

    if out.suffix == ".mp4":
        pictures.ffmpeg()
    pipeline = load_pipeline(run, needs_denoiser=show != "alone")
    walk = {"code": code, **walking.options(pipeline)}
    import torch

    from betadiffusion.pipelines.interpolation import numbers
    from betadiffusion.training.pictures import grid

    level, chosen = _levels(pipeline, level), numbers(dims)
    for each in level:
        check_end(walking.end, each)
    x = torch.from_numpy(pictures.images_of(run, images, pipeline.vae.image_shape, 1 if images else 2))
    if len(x) != 2:
        raise ValueError(f"interpolate needs two images, not {len(x)}")
    weights = torch.linspace(0, 1, frames).tolist()
    rows = {}
    for each in level:
        for way in WAYS[show]:
            options = _options(way, seed, walk) | {"interpolation": interpolation}
            made = pipeline.interpolate(x[:1], x[1:], weights, each, chosen, **options).images * 2 - 1
            rows[f"level {each:g}, {way}" if show == "both" else f"level {each:g}"] = made
    columns = [f"{weight:.3g}" for weight in weights]
    if out.suffix == ".png":
        ends = x / 127.5 - 1
        strip = {label: torch.cat([ends[:1], made, ends[1:]]) for label, made in rows.items()}
        pictures.save(out, grid(strip, ["from", *columns, "to"]))
    else:
        there = [grid({k: v[i : i + 1] for k, v in rows.items()}, [column]) for i, column in enumerate(columns)]
        write = pictures.save_gif if out.suffix == ".gif" else pictures.save_mp4
        write(out, there + there[-2:0:-1])
    print(f"{frames} images from one to the other at level {', '.join(f'{each:g}' for each in level)}: {out}")


def _usual(run: Path) -> Literal["walked", "alone"]:
    """What is shown of a run where nothing is asked for: a baseline has nothing to walk with."""
    return "alone" if baseline_of(run) else "walked"


def _check_levels(levels: Sequence[float]) -> None:
    """ValueError for one out of range."""
    if bad := [level for level in levels if not 0 <= level <= 1]:
        raise ValueError(f"--level must be from 0 to 1, not {bad[0]}")


def _levels(
    pipeline: "BetaDiffusionPipeline", asked: tuple[float, ...], only: float | None = None
) -> tuple[float, ...]:
    """The levels asked for, by default 0.6, or `only`; 0, and none to ask for, of a baseline without levels."""
    if not getattr(pipeline.vae, "has_levels", True):
        if asked:
            raise ValueError("--level has no effect with a baseline without levels: leave it out")
        return (0.0,)
    if asked and only is not None and asked != (only,):
        raise ValueError(f"the directions of --disco are of level {only:g}: leave out --level, or give that one")
    return asked or (0.6 if only is None else only,)


def _disco(folder: Path, pipeline: "BetaDiffusionPipeline") -> "tuple[np.ndarray, float | None]":
    """Directions (K,d) that a DisCo run found in the codes of this pipeline's model, and their level, where it has any.

    ValueError for any other folder.
    """
    from betadiffusion.baselines.runs import load_baseline
    from betadiffusion.training.stored import fingerprint

    if baseline_of(folder) != "disco":
        raise ValueError(f"--disco must be the folder of a run of model 'disco', which {folder} is not")
    model = load_baseline(folder)
    if fingerprint(model.frozen) != fingerprint(pipeline.vae):
        raise ValueError(f"the directions of {folder} are of another model: its baseline.base was not this run")
    return model.navigator.detach().numpy(), model.code_level


def _check_walking(show: Show, code: Code, seed: int, walking: Walking) -> None:
    """ValueError for a seed that no generator takes, and for what a walk is asked for where nothing walks."""
    check_seed(seed)
    if show == "alone":
        walking.refuse("with --show alone", code=code != "draw", seed=seed != 0)


def _options(way: str, seed: int, walk: dict[str, Any]) -> dict[str, Any]:
    """How the pipeline makes a row: the VAE alone from the mean; the walk's draws are the same ones every time."""
    import torch

    options = {"denoise": False, "code": "mean"} if way == ALONE else walk
    return {**options, "generator": torch.Generator().manual_seed(seed), "output_type": "pt"}


def _edit_rows(
    pipeline: "BetaDiffusionPipeline",
    x: "Tensor",
    names: Sequence[str],
    strengths: Sequence[float],
    level: float,
    show: Show,
    seed: int,
    walk: dict[str, Any],
) -> "dict[str, Tensor]":
    """A labelled row for each direction, image and way: the original, then the image at each strength."""
    import torch

    rows = {}
    for name in names:
        edited = {
            way: [pipeline.edit(x, name, s, level, **_options(way, seed, walk)).images * 2 - 1 for s in strengths]
            for way in WAYS[show]
        }
        for i, original in enumerate(x / 127.5 - 1):
            for way, images in edited.items():
                parts = [name if len(names) > 1 else "", f"image {i + 1}", way if show == "both" else ""]
                rows[", ".join(filter(None, parts))] = torch.stack([original, *(made[i] for made in images)])
    return rows


def _edit_columns(strengths: Sequence[float]) -> list[str]:
    return ["original", *(f"{strength:+g} sd" if strength else "0" for strength in strengths)]


def _table(found: "Sequence[Direction]") -> str:
    width = max(len(direction.name) for direction in found)
    lines = [f"{'name':{width}}  {'kind':8}  held out"]
    for each in found:
        lines.append(f"{each.name:{width}}  {each.kind:8}  {each.told}")
    return "\n".join(lines)

"""`sample` and `reconstruct` for the run of a baseline: what it honestly can, everything else refused in a sentence."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from betadiffusion.baselines.presets import PRESETS, is_baseline
from betadiffusion.cli.parsing import defaults
from betadiffusion.training.files import read_settings

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from betadiffusion.baselines.base import Baseline

LEVEL = ("prior", "level", "beta")  # options of `sample` for a model with levels


def baseline_of(run: Path) -> str | None:
    """The name of the baseline that a folder is a run of; None for every other folder."""
    if not (run / "config.yaml").is_file():
        return None
    model = read_settings(run).get("model")
    return model if is_baseline(model) else None


def sampler(
    command: Callable[..., None], run: Path, name: str, options: Mapping[str, Any]
) -> Callable[[int, "torch.Generator"], list["Image.Image"]]:
    """What draws images from a baseline as `options` of `command` ask; ValueError where it cannot, or for others."""
    model = _load(run, name, "sample")
    known = ("run", "num_images", "seed", "out", *model.sample_options, *(LEVEL if model.has_levels else ()))
    _refuse_others(command, options, known, name)
    asked = {option: options[option] for option in model.sample_options if options[option] is not None}
    if (options["level"], options["beta"]) != (None, None):
        asked["t"] = _level(model, options["level"], options["beta"])

    def draw(count: int, generator: "torch.Generator") -> list["Image.Image"]:
        import torch

        from betadiffusion.cli.pictures import as_pictures

        with torch.no_grad():
            x = model.sample(count, generator, **asked)
        return as_pictures(((x.cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy())

    return draw


def reconstruct(command: Callable[..., None], run: Path, name: str, options: Mapping[str, Any], out: Path) -> None:
    """Images beside what a baseline makes of them."""
    model = _load(run, name, "reconstruct")
    known = ("run", "images", "num_images", "out", *(("levels", "betas") if model.has_levels else ()))
    _refuse_others(command, options, known, name)
    given = _labels(run, name, options["num_images"], options["images"])
    import torch

    from betadiffusion.cli.pictures import images_of, save
    from betadiffusion.training.pictures import grid

    pixels = torch.from_numpy(images_of(run, options["images"], model.image_shape, options["num_images"]))
    x = (pixels / 127.5 - 1).to(model.device)
    rows = {"reconstructed": given}
    if model.has_levels:
        rows = {f"level {level:g}": {"t": _level(model, level, None)} for level in options["levels"]}
    if options["betas"]:
        rows = {f"beta {beta:g}": {"t": _level(model, None, beta)} for beta in options["betas"]}
    with torch.no_grad():
        save(out, grid({"original": x} | {row: model.reconstruct(x, **at) for row, at in rows.items()}))
    print(f"{len(x)} images: {out}")


def load_coder(run: Path, name: str) -> "Baseline":
    """The trained baseline of a run with an encoder and a decoder, in eval mode; ValueError for one without."""
    from betadiffusion.baselines.runs import load_baseline

    model = load_baseline(run).eval()
    if not (hasattr(model, "encode_mean") and hasattr(model, "decode")):
        raise ValueError(f"{run} is a run of model {name!r}, which does not both encode and decode")
    return model


def _load(run: Path, name: str, verb: str) -> "Baseline":
    """The trained baseline of a run, on the GPU where there is one; ValueError where it cannot do the verb."""
    import torch

    from betadiffusion.baselines.runs import load_baseline

    model = load_baseline(run).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    if not hasattr(model, verb):
        raise ValueError(f"{run} is a run of model {name!r}, which cannot {verb}")
    return model


def _level(model: "Baseline", level: float | None, beta: float | None) -> "torch.Tensor":
    """A level, or that of a beta, as () tensor; ValueError for one out of range."""
    import torch

    from betadiffusion.evaluation.extract import choose_level

    return torch.tensor(choose_level(model, level, beta))


def _labels(run: Path, name: str, count: int, images: tuple[str, ...]) -> dict[str, "torch.Tensor"]:
    """By name the classes of the first held-out images, where a baseline asks for them; ValueError for other images."""
    if not PRESETS[name].by_class:
        return {}
    if images:
        raise ValueError(f"model {name!r} needs the class of each image, known of held-out ones only: name no files")
    import torch

    from betadiffusion.baselines.runs import labels_of
    from betadiffusion.training.models import image_size
    from betadiffusion.training.runs import load_config, load_split

    config = load_config(run)
    (_, held_out), _ = labels_of(config, *load_split(config.data, image_size(config), config.seed))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"labels": torch.from_numpy(held_out[:count]).to(device)}


def _refuse_others(command: Callable[..., None], options: Mapping[str, Any], known: tuple[str, ...], name: str) -> None:
    """ValueError for an option with a value of its own that is not among those known."""
    for option, default in defaults(command).items():
        if option != "given" and option not in known and options[option] != default:
            flag = f"--{option.rstrip('_').replace('_', '-')}"
            raise ValueError(f"{flag} has no effect with model {name!r}: leave it out")

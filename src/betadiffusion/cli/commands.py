"""The commands, each a typed function whose docstring is its help. Heavy imports happen inside, when one runs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from betadiffusion.baselines.presets import is_baseline
from betadiffusion.cli.baselines import baseline_of, sampler
from betadiffusion.cli.baselines import reconstruct as reconstruct_baseline
from betadiffusion.cli.checks import check, check_count, check_evaluation
from betadiffusion.cli.loading import check_png, hide_loading_bars, load_pipeline, require_pipeline
from betadiffusion.cli.walking import Walking, check_end, check_seed
from betadiffusion.evaluation.names import GENERATION, MetricName, ScoreName
from betadiffusion.training.config import ReportConfig, RunConfig

if TYPE_CHECKING:
    import torch
    from PIL import Image


FULL_MINUTES = 10.0  # of training on the default numbers of images, at 32x32 on 2 CPU cores
LEVELS = (0.0, 0.5, 0.9)  # of `reconstruct`
BATCH = 32  # images in memory at once


def demo(config: RunConfig, given: frozenset[str], *, minutes: float = 0.3 * FULL_MINUTES) -> None:
    """Train both stages in minutes, on any images, and write the report.

    --data is "shapes" (the default), "dsprites", "fashion-mnist", or the path of your own folder or zip of images. A
    folder is used whole, up to data.limit images chosen at random (22,000, which so few minutes see three times);
    --data.limit null takes all. --size is the side of the images, 32 by default; at 64 the preset is "toy", with the
    demo's schedule of beta, unless --vae.preset names another. --out is runs/NAME_OF_THE_DATA by default.

    Args:
        minutes: about how long to train, as a scale: the images of every stage are those of `train` times minutes / 10,
            10 being what those take at 32x32 on 2 CPU cores. Not a clock: the result depends on the configuration and
            the seed alone, and larger images take longer.
    """
    if not 0 < minutes < float("inf"):
        raise ValueError(f"--minutes must be positive, not {minutes}")
    for name in ("vae_training", "diffusion_training", "decoder_training"):
        if f"{name}.images" not in given:
            training = getattr(config, name)
            training.images = max(1, round(training.images * minutes / FULL_MINUTES))
    if config.data.size == 64 and "vae.preset" not in given:
        config.vae.preset = "toy"
        config.vae.schedule = config.vae.schedule or "log_beta"
    if "out" not in given:
        source = Path(config.data.source).expanduser()
        config.out = f"runs/{(source.stem if source.is_file() else source.resolve().name) or 'demo'}"
    train(config)


def train(config: RunConfig) -> None:
    """Train the stages that a configuration names, and write the report.

    The configuration is the demo's where neither --config nor an option says otherwise; options win over the file.
    Interrupted, the same command goes on where it stopped.
    """
    check(config)
    _build_on_meta(config)
    hide_loading_bars()
    from betadiffusion.data.sources import anywhere

    out, config.data.source = Path(config.out), anywhere(config.data.source)  # the run is read from other folders too
    if is_baseline(config.model):
        from betadiffusion.baselines.runs import run as run_baseline

        run_baseline(config)
    elif config.stages == ["report"]:
        from betadiffusion.training.runs import check_same_run

        check_same_run(config)
    else:
        from betadiffusion.training.runs import run

        run(config)
    if "report" in config.stages:
        from accelerate import PartialState

        if PartialState().is_main_process:
            _report(out, config.report)


def sample(
    run: Path,
    *,
    num_images: int = 16,
    prior: bool = False,
    level: float | None = None,
    beta: float | None = None,
    walking: Walking,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Draw new images from a trained run.

    Args:
        run: folder of a run.
        num_images: how many.
        prior: decode draws of N(0, I) at one level, without the diffusion: one pass.
        level: level of the decoder, with --prior; 1 where neither it nor beta is given.
        beta: weight of the KL instead of the level, with --prior, for schedules of (1, beta).
        seed: of the noise; image number i of a seed is the same in any number of images.
        out: a .png for one sheet of them all, or a new folder for one PNG each; RUN/samples.png by default.
    """
    options = locals() | vars(walking)
    check_seed(seed)
    if prior:
        walking.refuse("with --prior")
    if not prior and (level, beta) != (None, None):
        raise ValueError("--level and --beta have no effect without --prior")
    if num_images < 1:
        raise ValueError(f"--num-images must be positive, not {num_images}")
    out = out or run / "samples.png"
    if out.suffix not in ("", ".png"):
        raise ValueError(f"--out must be a .png or a folder, not {out}")
    if not out.suffix and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out {out} must be a new or an empty folder")
    if name := baseline_of(run):
        _save_samples(out, _draw(sampler(sample, run, name, options), num_images, seed))
        print(f"{num_images} images: {out}")
        return
    pipeline = load_pipeline(run, needs_denoiser=not prior)
    if prior:
        from betadiffusion.evaluation.extract import choose_level

        level = choose_level(pipeline.vae, 1.0 if (level, beta) == (None, None) else level, beta)
        images = _draw(lambda count, g: pipeline.sample_prior(count, level, g).images, num_images, seed)
    else:
        walk = walking.options(pipeline)
        images = _draw(lambda count, g: pipeline(count, generator=g, **walk).images, num_images, seed)
    _save_samples(out, images)
    print(f"{num_images} images{'' if prior else f', {walking.cost}'}: {out}")


def reconstruct(
    given: frozenset[str],
    run: Path,
    images: tuple[str, ...],
    *,
    levels: tuple[float, ...] = LEVELS,
    betas: tuple[float, ...] = (),
    denoise: bool = False,
    num_images: int = 8,
    walking: Walking,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Show images as a trained run keeps them at some levels, and walks them back.

    Args:
        run: folder of a run.
        images: image files, folders or zips, of any size: cut square and resized as in training; held-out images of
            the run by default.
        levels: levels, from 0 (keep everything) to 1 (keep nothing).
        betas: weights of the KL instead of levels, for schedules of (1, beta).
        denoise: under each level, also the same images walked down to level `end` by the diffusion; the options of the
            walk have no effect without it.
        num_images: images from each folder or zip, its first by name, or from the held-out ones.
        seed: of all noise, with --denoise.
        out: the picture, a .png; RUN/reconstructions.png by default.
    """
    options = locals() | vars(walking)
    check_seed(seed)
    if not denoise:
        walking.refuse("without --denoise", seed=seed != 0)
    if bad := [level for level in levels if not 0 <= level <= 1]:
        raise ValueError(f"--levels must be from 0 to 1, not {bad[0]}")
    if betas and levels != LEVELS:
        raise ValueError("give --levels or --betas, not both")
    check_count(given, images, num_images)
    out = out or run / "reconstructions.png"
    check_png(out)
    if name := baseline_of(run):
        reconstruct_baseline(reconstruct, run, name, options, out)
        return
    pipeline = load_pipeline(run, needs_denoiser=denoise)
    walk = walking.options(pipeline)
    import torch

    from betadiffusion.cli.pictures import images_of, save
    from betadiffusion.evaluation.extract import choose_level
    from betadiffusion.training.pictures import grid

    x = torch.from_numpy(images_of(run, images, pipeline.vae.image_shape, num_images))
    rows = {"original": x / 127.5 - 1}
    named = {f"level {level:g}": level for level in levels}
    if betas:
        named = {f"beta {beta:g}": choose_level(pipeline.vae, None, beta) for beta in betas}
    for level in named.values():
        check_end(walking.end, level)
    for name, level in named.items():
        rows[name] = pipeline.reconstruct(x, level, output_type="pt").images * 2 - 1
        if denoise:
            generator = torch.Generator().manual_seed(seed)
            walked = pipeline.denoise(x, level, generator=generator, output_type="pt", **walk).images
            rows[f"{name.split()[1]}, walked {f'to {walking.end:g}' if walking.end else 'back'}"] = walked * 2 - 1
    save(out, grid(rows))
    print(f"{len(x)} images, {', '.join(named)}{f', {walking.cost}' if denoise else ''}: {out}")


def report(run: Path) -> None:
    """Measure a trained run and write its report, again.

    Args:
        run: folder of a run.
    """
    _report(run)


def _report(run: Path, options: ReportConfig | None = None) -> None:
    require_pipeline(run)
    from betadiffusion.report.write import headline, write_report

    hide_loading_bars()
    print(headline(write_report(run, options)))  # its last line is the report's path


def evaluate(
    given: frozenset[str],
    runs: tuple[Path, ...],
    *,
    data: str | None = None,
    model: str | None = None,
    preset: Literal["paper-table1", "paper-table2", "paper-table3"] | None = None,
    levels: int = 50,
    fixed_level: float = 0.5,
    metrics: tuple[MetricName, ...] = (),
    chosen_metrics: tuple[ScoreName, ...] = (),
    count: int = 10_000,
    test_count: int = 5_000,
    split: str = "heldout",
    seeds: tuple[int, ...] = (0,),
    features: str = "effnet",
    samples: int = 10_000,
    lpips: str | None = None,
    size: int | None = None,
    channels: Literal[1, 3] | None = None,
    cpu: bool = False,
    out: Path | None = None,
) -> None:
    """Measure what the codes of every level hold: disentanglement, attributes, rate and distortion, samples.

    Several runs (of other training seeds) and several --seeds (other images) give standard errors. Beside the model
    stand its own network with random weights, and pixels. Writes evaluation.html, evaluation.json, evaluation.csv and
    the charts. Interrupted, the same command goes on where it stopped; more metrics are added to what is there.

    Args:
        runs: folders of runs.
        data: the images, as in training, by default the run's own; scores need known factors, attributes or labels.
        model: "package.module:function" instead of runs: an object with encode_mean(x, t), or a function of images
            (B,C,H,W) in [-1, 1], or of images and levels (B,).
        preset: the protocol of a table of the paper; other options win over it.
        levels: how many levels, evenly spaced from 0 to 1.
        fixed_level: the level that is chosen beforehand.
        metrics: scores at every level (mig, modularity, factor_vae, irs, tad where nothing is said), measures of
            reconstructions (ssim, lpips), and distances of samples (frechet, kernel, precision_recall,
            density_coverage).
        chosen_metrics: scores at the fixed and the best level only; by default all that the data allow but dci_gbt,
            which takes minutes, or none with --metrics.
        count: images to fit scores on.
        test_count: images to test scores on; where there are fewer of both, they are divided alike.
        split: "heldout" (all that the run was not trained on), "all", or a part that the data define, as "test".
        seeds: one draw of images each.
        features: of the distances of samples; effnet, inception, inception:FILE, dinov2:FOLDER_OR_ID, or
            package.module:function.
        samples: how many, for the distances of samples.
        lpips: weights for lpips, a .safetensors or a hub id.
        size: side of the images in pixels, with --model.
        channels: 1 for grey, 3 for colour, with --model.
        cpu: stay on the CPU even where there is a GPU.
        out: folder for the result; RUN/evaluation by default.
    """
    options = {key: value for key, value in locals().items() if key not in ("given", "out")}
    from betadiffusion.evaluation.presets import PRESETS

    if preset is not None:
        options |= {key: value for key, value in PRESETS[preset].items() if key not in given}
    if given & {"features", "samples"} and not set(options["metrics"]) & set(GENERATION):
        raise ValueError(f"--features and --samples have no effect without one of --metrics {', '.join(GENERATION)}")
    check_evaluation(options)
    out = out or (runs[0] / "evaluation" if runs else Path("evaluation"))
    from betadiffusion.evaluation.evaluate import Options
    from betadiffusion.evaluation.write import headline, write_evaluation

    hide_loading_bars()
    print(headline(write_evaluation(Options(**options), out)))
    print(f"evaluation: {out / 'evaluation.html'}")


def _draw(
    draw: Callable[[int, "torch.Generator"], list["Image.Image"]], count: int, seed: int
) -> Iterator["Image.Image"]:
    """Images in batches, from one stream of noise: the i-th is the same whatever the batches."""
    import torch
    from tqdm import tqdm

    generator = torch.Generator().manual_seed(seed)
    for start in tqdm(range(0, count, BATCH), unit=" batches", disable=None if count > BATCH else True):
        yield from draw(min(BATCH, count - start), generator)


def _save_samples(out: Path, images: Iterator["Image.Image"]) -> None:
    """One sheet of them all, or a folder with one PNG each."""
    from betadiffusion.cli.pictures import save_all, save_sheet

    if out.suffix:
        save_sheet(out, list(images))
    else:
        save_all(out, images)


def _build_on_meta(config: RunConfig) -> None:
    """Builds both models without memory, so that sizes that do not fit are refused before training, not after."""
    import torch

    from betadiffusion.training.conditions import sketch
    from betadiffusion.training.level_draws import LevelDraw
    from betadiffusion.training.models import build_denoiser, build_vae, image_size

    size = image_size(config)
    if is_baseline(config.model):
        from betadiffusion.baselines.runs import build_baseline

        with torch.device("meta"):
            build_baseline(config, (config.data.channels or 3, size, size))
        return
    with torch.device("meta"):
        vae = build_vae(config, (config.data.channels or 3, size, size), pretrained=False)
        build_denoiser(config, vae, sketch(config.condition))
    LevelDraw(config.levels, vae.schedule)

"""`betadiffusion features` and `betadiffusion probe`: codes as a file, and what classifiers make of them."""

from pathlib import Path

from betadiffusion.cli.checks import check_evaluation, nearest_existing


def features(
    run: Path,
    source: str,
    *,
    level: float | None = None,
    beta: float | None = None,
    raw: bool = False,
    cpu: bool = False,
    out: Path | None = None,
) -> None:
    """Write the codes of images at one level of a trained run to a file.

    The file holds "codes" (N, C, h, w), posterior means, and "sigma" of models that have one; with --raw "codes"
    (N, tokens, D) alone. Labels, factors and attributes stand beside them where they are known, with what they are
    called ("label_names", "factor_names", "attribute_names"), and the names of the images where they are files.

    Args:
        run: folder of a run.
        source: the images, as in training, see betadiffusion data.
        level: level of the codes, from 0 (keep everything) to 1 (keep nothing); 0.5 where neither it nor beta is given.
        beta: weight of the KL instead of the level, for schedules of (1, beta).
        raw: the encoder's features before the bottleneck instead, of models with a ViT.
        cpu: stay on the CPU even where there is a GPU.
        out: a .safetensors or .npz; RUN/features.safetensors by default.
    """
    out = out or run / "features.safetensors"
    if out.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"--out must be a .safetensors or a .npz, not {out}")
    if out.is_dir() or not (above := nearest_existing(out.parent)).is_dir():
        raise ValueError(f"--out cannot be {out}: {f'{out} is a folder' if out.is_dir() else f'{above} is a file'}")
    if raw and (level, beta) != (None, None):
        raise ValueError("--level and --beta have no effect with --raw: the features come before the bottleneck")
    import torch

    from betadiffusion.data import load
    from betadiffusion.evaluation.encoders import load_run
    from betadiffusion.evaluation.extract import choose_level, extract, save

    encoder = load_run(run, torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu"))
    if not encoder.has_levels and (level, beta) != (None, None):
        raise ValueError(f"--level and --beta have no effect with {run}, whose model has no levels")
    chosen = None if raw else choose_level(encoder.model, level, beta)
    channels, size, _ = encoder.image_shape
    images = load(source, size, channels)
    arrays, names = extract(encoder, images, chosen)
    save(out, arrays, names)
    shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())
    at_level = f"level {chosen:.3g}" if encoder.has_levels and not raw else "codes"
    where = "features before the bottleneck" if raw else at_level
    print(f"{len(images):,} images, {where}: {shapes}\n{out}")


def probe(
    runs: tuple[Path, ...],
    *,
    data: str | None = None,
    levels: int = 6,
    fixed_level: float = 0.5,
    count: int = 10_000,
    test_count: int = 5_000,
    split: str = "heldout",
    seeds: tuple[int, ...] = (0,),
    cpu: bool = False,
    out: Path | None = None,
) -> None:
    """Measure what a linear classifier and nearest neighbours read from the codes of a run, level by level.

    The probes of `betadiffusion evaluate`, on labels or, where there are none, on factors (their mean). Beside the
    codes stand the encoder's features before the bottleneck, where there are any, random weights, and pixels.

    Args:
        runs: folders of runs.
        data: the images, as in training, by default the run's own; their labels or factors must be known.
        levels: how many levels, evenly spaced from 0 to 1.
        fixed_level: the level that is chosen beforehand.
        count: images to fit the probes on.
        test_count: images to test them on.
        split: "heldout" (all that the run was not trained on), "all", or a part that the data define, as "test".
        seeds: one draw of images each.
        cpu: stay on the CPU even where there is a GPU.
        out: folder for the result; RUN/probe by default.
    """
    options = {key: value for key, value in locals().items() if key != "out"}
    options |= {"model": None, "size": None, "channels": None, "lpips": None, "samples": 2}
    options["metrics"] = ("knn_probe", "linear_probe")
    if not runs:
        raise ValueError("probe needs the folders of runs")
    check_evaluation(options)
    out = out or runs[0] / "probe"
    from betadiffusion.evaluation.evaluate import Options
    from betadiffusion.evaluation.write import headline, write_evaluation

    print(headline(write_evaluation(Options(**options), out)))
    print(f"probe: {out / 'evaluation.html'}")

"""What a walk is asked for, from the words of a command line."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from betadiffusion.pipelines.pipeline import BetaDiffusionPipeline

OPTIONS = {"labels": "--class", "attributes": "--attribute", "text": "--text"}
EVERY_LEVEL = (0.0, 1.0)


def condition_options(
    class_: str | None,
    attribute: Sequence[str],
    text: str | None,
    guidance: float,
    interval: Sequence[float],
    useless: str = "",
) -> dict[str, Any]:
    """The options of a walk that these ask for, none where none do; ValueError where they do not go together.

    `useless`: words for why nothing walks, where nothing does; whatever is asked for is refused with them.
    """
    given = {"labels": class_, "attributes": _attributes(attribute) or None, "text": text}
    asked = {kind: value for kind, value in given.items() if value is not None}
    if asked and useless:
        raise ValueError(f"--class, --attribute and --text have no effect {useless}")
    if len(asked) > 1:
        raise ValueError("only one of --class, --attribute and --text can be asked for")
    if len(interval) != 2:
        raise ValueError(f"--guidance-interval is two levels, not {len(interval)}")
    if not asked and (guidance != 1 or tuple(interval) != EVERY_LEVEL):
        raise ValueError("--guidance needs --class, --attribute or --text")
    if not -float("inf") < guidance < float("inf"):
        raise ValueError(f"--guidance must be a finite number, not {guidance}")
    more = {"guidance": guidance, "guidance_interval": tuple(interval)}
    return {"condition": asked} | more if asked else {}


def known_condition(pipeline: "BetaDiffusionPipeline", asked: dict[str, Any]) -> dict[str, Any]:
    """`condition_options` as the pipeline takes them; ValueError where the run's conditions are of another kind."""
    if not asked:
        return {}
    (kind, value), trained = next(iter(asked["condition"].items())), pipeline.denoiser.condition_spec
    if trained is None:
        raise ValueError(f"{OPTIONS[kind]} cannot be asked for: this run was trained without conditions")
    if trained.kind != kind:
        raise ValueError(f"{OPTIONS[kind]} cannot be asked for: this run was trained to be asked by "
                         f"{OPTIONS[trained.kind]}")  # fmt: skip
    return asked | {"condition": value}


def _attributes(words: Sequence[str]) -> dict[str, int]:
    """NAME=1 or NAME=0, each, as a dictionary."""
    found: dict[str, int] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value in ("0", "1")):
            raise ValueError(f"--attribute is NAME=1 or NAME=0, not {word!r}")
        if name in found:
            raise ValueError(f"--attribute names {name!r} twice")
        found[name] = int(value)
    return found

"""The page: five tabs over one image. It asks `actions` for everything that it shows."""

import shlex
from collections.abc import Callable, Hashable, Iterator, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from torch import Tensor

from betadiffusion import samplers
from betadiffusion.app import actions, html
from betadiffusion.app.actions import Asked, Walk, Wanted
from betadiffusion.app.parts import Picker, one_sentence, restored, share
from betadiffusion.app.runs import Run
from betadiffusion.app.stream import Newest
from betadiffusion.app.uploads import read_upload
from betadiffusion.pipelines.walk_levels import solver_method

TABS = ("dial", "edit", "interpolate", "generate", "compare")
MOST_STEPS = 200
MOST_FRAMES = 16
MOST_IMAGES = 32  # as many as `betadiffusion sample` makes at once
MOST_SEED = 2**31 - 1
STRENGTH = 4.0
QUEUED = 200  # requests that wait, in all

FAST = {"concurrency_id": "fast", "concurrency_limit": 2, "show_progress": "hidden"}
SLOW = {"concurrency_id": "slow", "concurrency_limit": 2, "show_progress": "hidden"}


class Page:
    """The page over some runs: the first has tabs of its own, "Compare" takes any two of them."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs, self.run = list(runs), runs[0]
        self.names = {str(run.path): run for run in runs}
        self.newest = Newest()
        self.shared: dict[str, Any] = {}
        with gr.Blocks(title=f"betadiffusion: {self.run.path.name}", analytics_enabled=False,
                       delete_cache=(600, 3600)) as self.blocks:  # fmt: skip
            gr.HTML(f"<h1>betadiffusion <small>{escape(str(self.run.path))}</small></h1>")
            self.where = gr.Textbox("", visible="hidden")  # the open tab; none until the address is read
            self.turns = {name: gr.Number(0, visible="hidden", elem_id=f"{name}-turns") for name in TABS}
            with gr.Row():
                with gr.Column(scale=1, min_width=240):
                    self.picker = Picker(self.run.held_out, self._read, "image", "Drop an image", 0)
                    with gr.Accordion("Steps and seed", open=False, elem_id="walk"):
                        self.steps = gr.Slider(1, MOST_STEPS, 20, step=1, label="Steps of the walk", elem_id="steps")
                        self.seed = gr.Number(0, label="Seed of all noise", precision=0, minimum=0, maximum=MOST_SEED,
                                              elem_id="seed")  # fmt: skip
                with gr.Column(scale=3, min_width=320), gr.Tabs(selected="dial") as self.tabs:
                    for name in TABS:
                        with gr.Tab(name.capitalize(), id=name) as tab:
                            getattr(self, f"_{name}")()
                        self._open(tab, name)
            common = {"tab": self.where, "image": self.picker.picked, "steps": self.steps, "seed": self.seed}
            self.shared = common | self.shared
            share(self.shared)
            made = [self.steps.input, self.seed.input, self.picker.chosen]
            self._turn(made, [name for name in TABS if name != "generate"])
            start = self.blocks.load(self._restore, None, [self.tabs, *self.shared.values()],
                                     api_visibility="private", **FAST)  # fmt: skip
            self._turn([start.then], TABS)
        self.blocks.queue(max_size=QUEUED, api_open=False)

    @property
    def css(self) -> str:
        """The page's style."""
        return (Path(__file__).parent / "page.css").read_text() + self.picker.style()

    def _read(self, path: Path) -> np.ndarray:
        """An upload at the size of the largest of the runs, in colour where one of them is."""
        shapes = [run.pipeline.vae.image_shape for run in self.runs]
        return read_upload(path, max(shape[1] for shape in shapes), max(shape[0] for shape in shapes))

    def _open(self, tab: gr.Tab, name: str) -> None:
        """When a person opens a tab it is its turn, not when the address does: the page's start has seen to that."""
        both = [self.where, self.turns[name]]
        turns = 0 if name == "generate" else 1
        js = f"(open, turn) => open && open !== '{name}' ? ['{name}', turn + {turns}] : [open, turn]"
        tab.select(None, both, both, js=js, show_progress="hidden")

    def _turn(self, events: Sequence[Any], tabs: Sequence[str]) -> None:
        """After any of the events it is the open tab's turn, if among `tabs`: its number rises, in the browser."""
        numbers = [self.turns[name] for name in tabs]
        js = f"(open, ...turns) => {list(tabs)}.map((name, i) => turns[i] + (name === open ? 1 : 0))"
        for event in events:
            event(None, [self.where, *numbers], numbers, js=js, show_progress="hidden")

    def _restore(self, request: gr.Request) -> list[Any]:
        query = dict(request.query_params)
        if query.get("tab") not in TABS:
            query["tab"] = "dial"
        return [gr.Tabs(selected=query["tab"]), *restored(self.shared, query)]

    def _show(
        self,
        tab: str,
        inputs: dict[str, Any],
        alone: Callable[..., Any],
        walked: Callable[..., Iterator[Any]],
        outputs: tuple[Any, Any],
        second: Picker | None = None,
    ) -> None:
        """Makes a tab's pictures when it is its turn, and when one of its inputs is moved.

        inputs: further components by their names in the address. alone(x, walk, *values) gives what outputs[0] shows,
        walked(x, walk, wanted, *values) what outputs[1] shows, one after the other. x: the image (C,H,W), or with a
        `second` picker a pair.
        """
        pickers = [self.picker, *([second] if second else [])]
        sources = [part for picker in pickers for part in (picker.own, picker.picked)]

        def read(own: Sequence[Any]) -> tuple[Any, Hashable]:
            images = [picker.image(*own[2 * i : 2 * i + 2]) for i, picker in enumerate(pickers)]
            return (images if second else images[0]), tuple(image.tobytes() for image in images)

        def first(request: gr.Request, steps: int, seed: int, *values: Any) -> Any:
            with one_sentence():
                x, pixels = read(values[: len(sources)])
                values = values[len(sources) :]
                self.newest.ask(request.session_hash, (tab, pixels, steps, seed, values))
                return alone(x, Walk(steps, seed), *values)

        def then(request: gr.Request, steps: int, seed: int, *values: Any) -> Iterator[Any]:
            yield gr.skip()  # what ends without a value clears what is shown
            with one_sentence():
                x, pixels = read(values[: len(sources)])
                values = values[len(sources) :]
                asked = (tab, pixels, steps, seed, values)

                def wanted() -> bool:
                    return self.newest.wants(request.session_hash, asked)

                yield from walked(x, Walk(steps, seed), wanted, *values) if wanted() else ()

        given = [self.steps, self.seed, *sources, *inputs.values()]
        changes = [self.turns[tab].change, *(event for part in inputs.values() for event in _moved(part))]
        shown = gr.on(changes, first, given, outputs[0], trigger_mode="always_last", api_name=tab, **FAST)
        shown.success(then, given, outputs[1], trigger_mode="multiple", api_name=f"{tab}-walked", **SLOW)
        self.shared |= inputs

    def _dial(self) -> None:
        level = gr.Slider(0, 1, 0.6, step=0.01, label="Level: 0 keeps everything, 1 nothing", elem_id="level")
        with gr.Row(elem_classes="trio"):
            kept, walked = gr.HTML(elem_id="kept"), gr.HTML(elem_id="walked")
        chart = gr.HTML(elem_id="chart")

        def alone(image: np.ndarray, walk: Walk, level: float) -> tuple[str, str]:
            x = self.run.fit(image)
            figure, place = actions.keep(self.run, x, level, walk)
            return html.row([actions.original(x), figure]), actions.curves([self.run], level, place)

        def walk_back(image: np.ndarray, walk: Walk, wanted: Wanted, level: float) -> Iterator[str]:
            for figure in actions.walk_back(self.run, self.run.fit(image), level, walk, wanted):
                yield html.row([figure])

        self._show("dial", {"level": level}, alone, walk_back, ([kept, chart], [walked]))

    def _edit(self) -> None:
        directions = self.run.directions
        if not directions:
            gr.HTML(html.note(f"betadiffusion directions {shlex.quote(str(self.run.path))} finds directions to edit "
                              "along; start the explorer again after it."))  # fmt: skip
            return
        levels = list(directions)
        level = gr.Radio(levels, value=levels[0], label="Level of the codes", elem_id="edit-level")
        sliders, groups = {}, []
        for each in levels:
            with gr.Row(visible=each == levels[0], elem_classes="strengths") as group:
                for direction in directions[each]:
                    sliders[each, direction.name] = gr.Slider(
                        -STRENGTH, STRENGTH, 0, step=0.1, label=direction.name, buttons=[], min_width=200,
                        elem_classes="strength", info=direction.told,
                    )  # fmt: skip
            groups.append(group)
        reset = gr.Button("Reset", size="sm", elem_id="reset").click(
            None, None, list(sliders.values()), js=f"() => Array({len(sliders)}).fill(0)", show_progress="hidden"
        )
        self._turn([reset.then], ["edit"])
        level.change(lambda chosen: [gr.Row(visible=each == chosen) for each in levels], level, groups,
                     api_visibility="private", **FAST)  # fmt: skip
        with gr.Row(elem_classes="trio"):
            kept, walked = gr.HTML(elem_id="edit-kept"), gr.HTML(elem_id="edit-walked")

        def strengths(level: float, values: Sequence[float]) -> dict[str, float]:
            return {name: v for (each, name), v in zip(sliders, values, strict=True) if each == level}

        def alone(image: np.ndarray, walk: Walk, level: float, *values: float) -> str:
            x = self.run.fit(image)
            (figure,) = actions.edit(self.run, x, strengths(level, values), level, walk)
            return html.row([actions.original(x), figure])

        def walk_back(image: np.ndarray, walk: Walk, wanted: Wanted, level: float, *values: float) -> Iterator[str]:
            for figure in actions.edit(self.run, self.run.fit(image), strengths(level, values), level, walk, wanted):
                yield html.row([figure])

        named = {f"{name}@{each:g}": slider for (each, name), slider in sliders.items()}
        self._show("edit", {"edit-level": level} | named, alone, walk_back, (kept, walked))

    def _interpolate(self) -> None:
        with gr.Row():
            with gr.Column(scale=1, min_width=200):
                second = Picker(self.run.held_out, self._read, "other", "Drop the second image", 1)
            with gr.Column(scale=1, min_width=200):
                level = gr.Slider(0, 1, 0.6, step=0.01, label="Level", elem_id="strip-level")
                frames = gr.Slider(2, MOST_FRAMES, 7, step=1, label="Images on the way", elem_id="frames")
                size = int(np.prod(self.run.pipeline.vae.latent_shape))
                dims = gr.Textbox("", label="Dimensions", elem_id="dims", max_length=200,
                                  placeholder=f"all; or some of 0-{size - 1}, as 0-3 7")  # fmt: skip
        kept = gr.HTML(elem_id="strip-kept")
        walked = gr.HTML(elem_id="strip-walked")

        def ends(images: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
            return self.run.fit(images[0]), self.run.fit(images[1])

        def alone(images: Sequence[np.ndarray], walk: Walk, level: float, frames: int, dims: str) -> str:
            (strip,) = actions.interpolate(self.run, ends(images), frames, level, dims, walk)
            return strip

        def walk_back(
            images: Sequence[np.ndarray], walk: Walk, wanted: Wanted, level: float, frames: int, dims: str
        ) -> Iterator[str]:
            yield from actions.interpolate(self.run, ends(images), frames, level, dims, walk, wanted)

        inputs = {"strip-level": level, "frames": frames, "dims": dims}
        self._show("interpolate", inputs, alone, walk_back, (kept, walked), second)
        self.shared["other"] = second.picked
        self._turn([second.chosen], ["interpolate"])

    def _generate(self) -> None:
        with gr.Row():
            count = gr.Slider(1, MOST_IMAGES, 16, step=1, label="Images", elem_id="count")
            evaluations = gr.Slider(1, MOST_STEPS, 20, step=1, label="Evaluations", elem_id="evaluations")
            own = solver_method(self.run.pipeline.denoiser)
            method = gr.Dropdown(list(samplers.METHODS), value=own, label="Method", elem_id="method")
            eta = gr.Slider(0, 2, 0, step=0.05, label="Eta", elem_id="eta")
        condition = self._condition()
        button = gr.Button("Generate", variant="primary", elem_id="generate")
        samples = gr.HTML(elem_id="samples")
        command = gr.Textbox(label="The same picture from a terminal", buttons=["copy"], interactive=False,
                             elem_id="command", lines=2)  # fmt: skip

        def make(request: gr.Request, seed: int, *values: Any) -> Iterator[Any]:
            with one_sentence():
                asked = Asked(*values[:4], seed, **self._conditioned(values[4:]))
                key = ("generate", seed, repr(values))
                self.newest.ask(request.session_hash, key)
                line = asked.command(self.run)
                for sheet in actions.generate(self.run, asked, lambda: self.newest.wants(request.session_hash, key)):
                    yield html.row([sheet], "sheet"), line

        inputs = {"count": count, "evaluations": evaluations, "method": method, "eta": eta, **condition}
        given = [self.seed, *inputs.values()]
        gr.on([button.click, self.turns["generate"].change], make, given, [samples, command], trigger_mode="multiple",
              api_name="generate", **SLOW)  # fmt: skip
        self.shared |= inputs

    def _condition(self) -> dict[str, Any]:
        """The components that ask for what the run was trained with, by their names in the address."""
        spec = self.run.pipeline.denoiser.condition_spec
        if spec is None:
            return {}
        asked: dict[str, Any]
        with gr.Row():
            if spec.kind == "labels":
                choices = [("any", ""), *((name, name) for name in spec.names)]
                asked = {"class": gr.Dropdown(choices, value="", label="Class", elem_id="class")}
            elif spec.kind == "attributes":
                names = list(spec.names)
                asked = {
                    "with": gr.Dropdown(names, multiselect=True, label="With", elem_id="with"),
                    "without": gr.Dropdown(names, multiselect=True, label="Without", elem_id="without"),
                }
            else:
                asked = {"text": gr.Textbox("", label="Text", max_length=200, elem_id="text")}
            asked["guidance"] = gr.Slider(0, 10, 1, step=0.1, label="Guidance (1: the condition alone)",
                                          elem_id="guidance")  # fmt: skip
        return asked

    def _conditioned(self, values: Sequence[Any]) -> dict[str, Any]:
        """What the components of `_condition` ask the pipeline for."""
        if not values:
            return {}
        *chosen, guidance = values
        if len(chosen) == 1:
            return {"condition": chosen[0] or None, "guidance": guidance}
        having, lacking = (names or [] for names in chosen)
        if both := set(having) & set(lacking):
            raise ValueError(f"{min(both)} is asked for with and without")
        return {"condition": dict.fromkeys(having, 1) | dict.fromkeys(lacking, 0) or None, "guidance": guidance}

    def _compare(self) -> None:
        if len(self.runs) == 1:
            gr.HTML(html.note("Give two runs or more to compare them: betadiffusion app RUN RUN."))
            return
        names = list(self.names)
        with gr.Row():
            left = gr.Dropdown(names, value=names[0], label="One run", elem_id="run")
            right = gr.Dropdown(names, value=names[1], label="Another", elem_id="other-run")
        level = gr.Slider(0, 1, 0.6, step=0.01, label="Level", elem_id="compare-level")
        kept, walked = [], []
        with gr.Row():
            for side in ("left", "right"):
                with gr.Column(min_width=260):
                    kept.append(gr.HTML(elem_id=f"{side}-kept"))
                    walked.append(gr.HTML(elem_id=f"{side}-walked"))
        chart = gr.HTML(elem_id="compare-chart")

        def alone(image: np.ndarray, walk: Walk, left: str, right: str, level: float) -> tuple[str, str, str]:
            runs = [self.names[left], self.names[right]]
            figures = []
            for run in runs:
                x = run.fit(image)
                figure, _ = actions.keep(run, x, level, walk)
                figures.append(html.note(str(run.path)) + html.row([actions.original(x), figure], "pair"))
            return figures[0], figures[1], actions.curves(runs, level)

        def walk_back(
            image: np.ndarray, walk: Walk, wanted: Wanted, left: str, right: str, level: float
        ) -> Iterator[list[str]]:
            runs = [self.names[left], self.names[right]]
            streams = [actions.walk_back(run, run.fit(image), level, walk, wanted) for run in runs]
            shown = ["", ""]
            for figures in zip_longest(*streams):
                shown = [html.row([new], "pair") if new else old for new, old in zip(figures, shown, strict=True)]
                yield shown

        inputs = {"run": left, "other-run": right, "compare-level": level}
        self._show("compare", inputs, alone, walk_back, ([*kept, chart], walked))


def _moved(part: Any) -> list[Any]:
    """The events after which a person has said something: of a text, once it is whole."""
    return [part.submit, part.blur] if isinstance(part, gr.Textbox) else [part.input]

"""What the tabs are put together from: a picker of images, the state in the address, errors as one sentence."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from betadiffusion.app import html
from betadiffusion.app.uploads import MOST_BYTES

LONGEST = 200  # letters of a text in the address


@contextmanager
def one_sentence() -> Iterator[None]:
    """A ValueError is shown as its sentence; anything else is a defect, which the server's terminal shows."""
    try:
        yield
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from None


def make_upload(label: str, elem_id: str) -> gr.Image:
    """A place for an image file, which gives the path of what the browser sent; nothing is decoded, nothing fetched."""
    upload = gr.Image(
        label=label, sources=["upload", "clipboard"], type="filepath", height=130, buttons=[], elem_id=elem_id
    )
    move = upload.async_move_resource_to_block_cache

    async def unless_address(path: str | Path | None) -> str | None:
        if path and "://" in str(path):  # gradio would fetch it
            raise gr.Error("an image is read from a file, not from an address", print_exception=False)
        return await move(path)

    def as_path(payload: Any) -> Path | None:
        if payload is None:
            return None
        path = Path(payload.path)  # gradio has checked that it lies in its folder
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise gr.Error(f"a file of at most {MOST_BYTES // 10**6} MB is needed", print_exception=False)
        return path

    # Of this one alone: a subclass would make gradio write a .pyi beside this file.
    upload.async_move_resource_to_block_cache = unless_address
    upload.preprocess = as_path
    return upload


class Picker:
    """A place to drop an image, above held-out ones to pick from; `own` holds the pixels of the one that was dropped.

    `read` makes pixels of a file; elem_id names it in the page; `picked` is the image to begin with.
    """

    def __init__(
        self, held_out: np.ndarray, read: Callable[[Path], np.ndarray], elem_id: str, label: str, picked: int
    ) -> None:
        self.held_out = held_out
        self.own = gr.State(None)
        self.upload = make_upload(label, f"{elem_id}-upload")
        self.picked = gr.Radio(
            list(range(len(held_out))), value=picked if picked < len(held_out) else None, elem_id=elem_id,
            label="or pick a held-out one", elem_classes="held-out", visible=len(held_out) > 0,
        )  # fmt: skip

        def dropped(path: Path | None) -> tuple[np.ndarray | None, int | None]:
            with one_sentence():
                return (None, picked) if path is None else (read(path), None)

        quiet = {"show_progress": "hidden", "concurrency_id": "fast"}
        read_in = gr.on([self.upload.upload, self.upload.clear], dropped, self.upload, [self.own, self.picked],
                        api_name=f"{elem_id}-upload", **quiet)  # fmt: skip
        forget = self.picked.input(lambda: (None, None), None, [self.upload, self.own], api_visibility="private",
                                   **quiet)  # fmt: skip
        self._events = (read_in, forget)

    def chosen(self, *arguments: Any, **options: Any) -> None:
        """Listens to another image's being chosen, as the events of a component do."""
        for event in self._events:
            event.success(*arguments, **options)

    def image(self, own: np.ndarray | None, picked: int | None) -> np.ndarray:
        """The pixels (C,H,W) that are meant; ValueError for none."""
        if own is None and picked is None:
            raise ValueError("there is no image yet: drop one")
        return self.held_out[picked] if own is None else own

    def style(self) -> str:
        """CSS that shows the held-out images as the radio buttons' faces."""
        pictures = [Image.fromarray(x[0] if len(x) == 1 else x.transpose(1, 2, 0)) for x in self.held_out]
        return "\n".join(
            f".held-out label:nth-of-type({i + 1}) {{ background-image: url({html.data_uri(picture)}); }}"
            for i, picture in enumerate(pictures)
        )


def share(components: dict[str, Any]) -> None:
    """Keeps components in the page's address, by their names there, without asking the server."""
    for name, component in components.items():
        component.change(
            None, component, None, show_progress="hidden",
            js=f"(value) => {{ const at = new URL(location); at.searchParams.set({name!r}, value ?? ''); "
               "history.replaceState(null, '', at); }",
        )  # fmt: skip


def restored(components: dict[str, Any], query: dict[str, str]) -> list[Any]:
    """The components' values in an address, unchanged where it does not name them or with what cannot be."""
    values = []
    for name, component in components.items():
        try:
            values.append(_parse(component, query[name][:LONGEST]) if name in query else gr.skip())
        except (ValueError, gr.Error):
            gr.Warning(f"{name} in the address is not used: {query[name][:LONGEST]!r} cannot be")
            values.append(gr.skip())
    return values


def _parse(component: Any, text: str) -> Any:
    """A text as what a component takes; ValueError or gr.Error for what it refuses."""
    if isinstance(component, (gr.Slider, gr.Number)):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(text)
        return component.preprocess(int(value) if component.precision == 0 else value)
    if not isinstance(component, (gr.Radio, gr.Dropdown)):
        return text
    if getattr(component, "multiselect", False):
        return component.preprocess([word for word in text.split(",") if word])
    choices = {str(value): value for _, value in component.choices}
    if text and text not in choices:
        raise ValueError(text)
    return choices.get(text)

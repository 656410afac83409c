"""The look that all charts share."""

import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLOURS = ("#1b6ca8", "#d1495b", "#3a8f5c", "#8e5ea2", "#c98a1b", "#5f6b76")


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def make_figure(panels: int) -> tuple[Figure, list[Axes]]:
    """A figure of one panel, or of rows of two."""
    columns = min(panels, 2)
    rows = -(-panels // columns)
    figure = Figure(figsize=(6.4 if columns == 1 else 10, 4 * rows), layout="constrained", dpi=130)
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for ax in axes[panels:]:
        ax.remove()
    return figure, axes[:panels]


def log_y(ax: Axes) -> None:
    """A logarithmic axis with ticks at 1, 2 and 5, written out."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def label_axes(ax: Axes, x: str, y: str, title: str) -> None:
    """Names of the axes and of the panel, and the look that all panels share."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title, fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)

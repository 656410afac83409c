"""Pictures and the rate-distortion chart as HTML that needs no other file; every text is escaped here."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from html import escape

from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image

from betadiffusion.app.runs import Curve

WIDTH, HEIGHT = 380, 220
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 42


def data_uri(image: Image.Image) -> str:
    """A picture as the address of itself, a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def picture(image: Image.Image, caption: str, download: str = "") -> str:
    """A picture above its caption; `download`: the file's name, for a link that saves it."""
    uri, text = data_uri(image), escape(caption)
    link = f'<a download="{escape(download)}" href="{uri}">Download PNG</a>' if download else ""
    return f'<figure><img alt="{text}" src="{uri}"><figcaption>{text}{link}</figcaption></figure>'


def row(pictures: Sequence[str], style: str = "") -> str:
    """Pictures beside each other, or below where there is no room."""
    return f'<div class="pictures {style}">{"".join(pictures)}</div>'


def note(text: str) -> str:
    """A sentence."""
    return f'<p class="note">{escape(text)}</p>'


def rate_distortion(curves: Sequence[tuple[str, Curve]], level: float, image: tuple[float, float] | None = None) -> str:
    """The curves of runs, a point on each at the level, and a ring where one image lies: its rate and error."""
    values = [value for _, curve in curves for value in curve.errors] + ([image[1]] if image else [])
    low, high = max(min(values), 1e-6) / 1.2, max(values) * 1.2
    top = max([*(curve.rates[0] for _, curve in curves), image[0] if image else 0.0]) * 1.03

    def place(rate: float, error: float) -> tuple[float, float]:
        up = math.log(max(error, low) / low) / math.log(high / low)
        return LEFT + rate / top * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [*_axes(top, low, high, place)]
    for i, (name, curve) in enumerate(curves):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, curve.rates, curve.errors))
        x, y = place(*curve.at(level))
        parts.append(f'<polyline class="curve c{i}" points="{line}"/>')
        parts.append(f'<circle class="point c{i}" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
        if len(curves) > 1:
            parts.append(f'<text class="c{i}" x="{WIDTH - RIGHT}" y="{TOP + 12 + 16 * i}" text-anchor="end">'
                         f"{escape(name)}</text>")  # fmt: skip
    if image:
        x, y = place(*image)
        parts.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    legend = "the point: the run's held-out images at this level" + ("; the ring: this image" if image else "")
    return (
        f'<figure class="chart"><svg role="img" aria-label="rate-distortion curve" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{''.join(parts)}</svg><figcaption>{legend}</figcaption></figure>"
    )


def _axes(top: float, low: float, high: float, place: Callable[[float, float], tuple[float, float]]) -> list[str]:
    """Lines and numbers: rate in nats, squared error per value on a logarithmic scale."""
    parts = []
    for rate in MaxNLocator(5).tick_values(0, top):
        if rate <= top:
            x, y = place(rate, low)
            parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{x:.1f}" y="{y + 15:.1f}" text-anchor="middle">{rate:g}</text>')
    for error in LogLocator(subs=(1, 2, 5) if high / low < 30 else (1,)).tick_values(low, high):
        if low <= error <= high:
            x, y = place(0, error)
            parts.append(f'<line class="tick" x1="{x:.1f}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{error:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">rate (nats)</text>')
    side = f"translate(12 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)"
    parts.append(f'<text transform="{side}" text-anchor="middle">squared error</text>')
    return parts

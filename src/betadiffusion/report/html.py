"""The parts of an HTML page that needs no other file; every text is escaped here."""

import base64
from collections.abc import Iterable
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light; --ink: #1d2733; --quiet: #5f6b76; --line: #dfe4e8; --accent: #1b6ca8; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 62rem; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
.quiet, figcaption { color: var(--quiet); font-size: .9rem; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
.wide img { min-width: 38rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--quiet); font-weight: 600; white-space: normal; vertical-align: bottom; max-width: 11rem; }
th:first-child, td:first-child { text-align: left; }
.pairs td { text-align: left; white-space: normal; vertical-align: top; }
.pairs td:first-child { color: var(--quiet); min-width: 11rem; }
"""


def document(title: str, sections: Iterable[str]) -> str:
    """A whole page; sections are HTML, empty ones are left out."""
    body = "\n".join(section for section in sections if section)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def plain(value: Any) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>\n"


def paragraph(text: str, style: str = "") -> str:
    return f'<p class="{style}">{escape(text)}</p>\n' if style else f"<p>{escape(text)}</p>\n"


def picture(pngs: dict[str, bytes], name: str, caption: str) -> str:
    """The picture of that name in a figure; nothing where there is none."""
    if name not in pngs:
        return ""
    data = base64.b64encode(pngs[name]).decode()
    text = escape(caption)
    image = f'<div class="wide"><img alt="{text}" src="data:image/png;base64,{data}"></div>'
    return f"<figure>{image}<figcaption>{text}.</figcaption></figure>\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{_body(rows)}</tbody></table></div>\n'


def pairs(rows: Iterable[Iterable[str]]) -> str:
    return f'<div class="scroll"><table class="pairs"><tbody>{_body(rows)}</tbody></table></div>\n'


def _body(rows: Iterable[Iterable[str]]) -> str:
    return "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)

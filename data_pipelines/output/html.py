"""Pieces of a HTML page that needs nothing else: no script, no network, light and dark, as wide as a phone or wider."""

import base64
import io
from collections.abc import Iterable, Sequence

import markupsafe
from markupsafe import Markup
from PIL import Image

from data_pipelines import escaping

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --card: #f5f7f9; --text: #1c2127; --muted: #555e68; --rule: #d5dbe1;
        --link: #0b5cad; --right: 139 185 237; --wrong: 240 163 128; --bar: #5b93d3; --lack: #d98560;
        --line0: #8a5a00; --line1: #0b62b8; --line2: #2b7a3e; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --card: #1d2125; --text: #e6e9ec; --muted: #a3adb7; --rule: #3a4148;
          --link: #86bbf5; --right: 36 92 158; --wrong: 156 70 34; --bar: #4a83c4; --lack: #b8613a;
          --line0: #e5b45c; --line1: #6cb0f5; --line2: #7cc98e; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--paper); max-width: 62rem;
       margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
a { color: var(--link); } p { margin: .4rem 0; } .muted { color: var(--muted); }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.25rem; border-top: 1px solid var(--rule); padding-top: 1rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; } summary { cursor: pointer; margin: .5rem 0; }
.scroll { overflow-x: auto; max-width: 100%; } .scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--muted); font-weight: 600; } tbody th { color: inherit; font-weight: 400; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bars { display: grid; grid-template-columns: minmax(5rem, 40%) 1fr max-content; gap: .1rem .6rem; font-size: .85rem; }
.bars > i { background: linear-gradient(to right, var(--bar) var(--found), var(--lack) var(--found) var(--listed),
            #0000 var(--listed)); }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(var(--least, 8rem), 100%), 1fr));
            gap: .75rem; }
figure { margin: 0; font-size: .85rem; } img { display: block; width: 100%; height: auto; border-radius: 4px; }
"""
STORED_FORMATS = ("JPEG", "PNG")  # Pillow's names of what records hold; others might start programs


def escape(value: object) -> Markup:
    """A value as HTML, its control characters readable; Markup, which is HTML already, as it is."""
    return value if isinstance(value, Markup) else markupsafe.escape(escaping.escape_text(value))


def document(title: str, body: str, style: str = "") -> str:
    """A whole page; its title is the first heading."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>"
    )


def table(
    columns: Sequence[str], rows: Iterable[Sequence], numbers: Sequence[str] = (), label: str = "Table"
) -> Markup:
    """A table that scrolls by itself where it is too wide. The first cell of a row names it.

    Args:
        columns: their titles.
        rows: their cells.
        numbers: the columns that are set to the right.
        label: what a screen reader calls it.
    """
    kinds = [' class="number"' if column in numbers else "" for column in columns]
    head = "".join(f'<th scope="col"{kind}>{escape(column)}</th>' for column, kind in zip(columns, kinds, strict=True))
    lines = "".join(_row(row, kinds) for row in rows)
    return scrolling(f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>", label)


def _row(cells: Sequence, kinds: Sequence[str]) -> str:
    first, *rest = (f"{kind}>{escape(cell)}" for cell, kind in zip(cells, kinds, strict=True))
    return f'<tr><th scope="row"{first}</th>{"".join(f"<td{cell}</td>" for cell in rest)}</tr>'


def scrolling(content: str, label: str) -> Markup:
    """Content that may be wider than the page, and that the keyboard can scroll."""
    return Markup(f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>')


def bars(rows: Iterable[tuple[str, int, int, int]]) -> Markup:
    """Bars of (name, found, listed, length of the longest)."""
    cells = "".join(
        f"<span>{escape(name)}</span>"
        f'<i style="--found:{100 * found / most:.1f}%;--listed:{100 * listed / most:.1f}%"></i>'
        f"<span>{found if found == listed else f'{found} of {listed}'}</span>"
        for name, found, listed, most in rows
    )
    return Markup(f'<div class="bars">{cells}</div>')


def picture(image: Image.Image, alt: str, caption: str, kind: str = "JPEG") -> Markup:
    """A figure with the image in it, as a JPEG or PNG, and its caption."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))
    source = f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    size = f'width="{image.width}" height="{image.height}"'
    return Markup(
        f'<figure><img alt="{escape(alt)}" {size} src="{source}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def pictures(figures: Iterable[str], least: str = "8rem") -> Markup:
    """Figures beside each other, as many as fit with at least that width."""
    return Markup(f'<div class="pictures" style="--least:{least}">{"".join(figures)}</div>')


def thumbnail(jpeg: bytes, longer_side_px: int) -> Image.Image:
    """A small copy of a picture; one that is smaller grows by a whole factor, its pixels sharp."""
    image = Image.open(io.BytesIO(jpeg), formats=STORED_FORMATS).convert("RGB")
    factor = longer_side_px // max(image.size)
    if factor > 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((longer_side_px, longer_side_px))
    return image

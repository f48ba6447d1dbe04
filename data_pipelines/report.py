"""A manifest as one HTML page: no script, no other file, light and dark, as wide as a phone or wider."""

import base64
import html
import io

from PIL import Image

from data_pipelines import manifest

SAMPLE_PX = 160  # longer side
SHOWN_UNUSABLE = 200
SHOWN_CLASSES = 1000
STYLE = """
:root { color-scheme: light dark; --bar: #4a7fb5; --lack: #c65d3b; --rule: #8884; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem;
       overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; border-top: 1px solid var(--rule); padding-top: 1rem; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td, th { text-align: left; padding: .15rem .5rem .15rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
.bars { display: grid; grid-template-columns: minmax(5rem, 40%) 1fr max-content; gap: .1rem .6rem; font-size: .85rem; }
.bars > i { background: linear-gradient(to right, var(--bar) var(--found), var(--lack) var(--found) var(--listed),
            #0000 var(--listed)); }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); gap: .5rem; }
figure { margin: 0; font-size: .8rem; } img { width: 100%; border-radius: 4px; }
"""


def page(found: dict, samples: dict[str, list[tuple[str, bytes]]]) -> str:
    """The page.

    Args:
      found: a manifest.
      samples: split -> (class, JPEG) of some of its records.
    """
    title = html.escape(f"{found['dataset']}: {found['modality']}s")
    sections = "".join(_split(role, split, samples[role]) for role, split in found["splits"].items())
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
        f"<p>{html.escape(found['where'])}</p>{sections}</html>"
    )


def jpeg_size_px(jpeg: bytes) -> tuple[int, int]:
    """Height and width."""
    width_px, height_px = Image.open(io.BytesIO(jpeg)).size
    return height_px, width_px


def _split(role: str, split: dict, samples: list[tuple[str, bytes]]) -> str:
    figures = {"seconds": "Seconds", "fps": "Frames a second", "frames": "Frames", "height_px": "Height, px",
               "width_px": "Width, px"}  # fmt: skip
    histograms = "".join(
        f"<h3>{title}</h3>{_histogram(split[f'{name}_histogram'])}" for name, title in figures.items() if split[name]
    )
    return (
        f"<h2>{html.escape(role)}</h2><p>{html.escape(manifest.line({role: split}))}; {split['bytes'] / 1e9:.2f} GB</p>"
        f"{_pictures(samples)}{histograms}{_classes(split['classes'])}{_unusable(split['unusable'])}"
    )


def _pictures(samples: list[tuple[str, bytes]]) -> str:
    return f'<div class="samples">{"".join(_picture(*sample) for sample in samples)}</div>'


def _picture(label: str, jpeg: bytes) -> str:
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    image.thumbnail((SAMPLE_PX, SAMPLE_PX))
    small = io.BytesIO()
    image.save(small, "JPEG", quality=80)
    data, name = base64.b64encode(small.getvalue()).decode(), html.escape(label)
    return f'<figure><img alt="{name}" src="data:image/jpeg;base64,{data}">{name}</figure>'


def _histogram(bins: list[list]) -> str:
    """Bars of [from, to, count]."""
    most = max(count for _, _, count in bins)
    return _bars(
        [(f"{low:g} – {high:g}" if low < high else f"{low:g}", count, count, most) for low, high, count in bins]
    )


def _classes(classes: dict[str, list[int]]) -> str:
    most = max((listed for listed, _ in classes.values()), default=1) or 1
    rows = [(name, found, listed, most) for name, (listed, found) in list(classes.items())[:SHOWN_CLASSES]]
    return f"<h3>Found, and lacking, of each class</h3>{_bars(rows)}"


def _bars(rows: list[tuple[str, int, int, int]]) -> str:
    """Bars of (name, found, listed, length of the longest)."""
    cells = "".join(
        f"<span>{html.escape(name)}</span>"
        f'<i style="--found:{100 * found / most:.1f}%;--listed:{100 * listed / most:.1f}%"></i>'
        f"<span>{found if found == listed else f'{found} of {listed}'}</span>"
        for name, found, listed, most in rows
    )
    return f'<div class="bars">{cells}</div>'


def _unusable(rows: list[dict[str, str]]) -> str:
    if not rows:
        return ""
    cells = "".join(
        f"<tr><td>{html.escape(row['path'])}<td>{html.escape(row['reason'])}" for row in rows[:SHOWN_UNUSABLE]
    )
    more = f"<p>and {len(rows) - SHOWN_UNUSABLE} more, in {manifest.FILE}" if len(rows) > SHOWN_UNUSABLE else ""
    return f"<h3>Not usable</h3><table><tr><th>File<th>Reason{cells}</table>{more}"

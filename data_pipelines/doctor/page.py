"""A manifest as one HTML page."""

import io

from markupsafe import Markup
from PIL import Image

from data_pipelines.doctor import manifest
from data_pipelines.output import html
from data_pipelines.output.html import escape

SAMPLE_PX = 160  # longer side
SHOWN_UNUSABLE = 200
SHOWN_CLASSES = 1000
FIGURES = {"seconds": "Seconds", "fps": "Frames a second", "frames": "Frames", "height_px": "Height, px",
           "width_px": "Width, px"}  # fmt: skip


def render_manifest(found: dict, samples: dict[str, list[tuple[str, bytes]]]) -> str:
    """The page.

    Args:
        found: a manifest.
        samples: split -> (class, JPEG) of some of its records.
    """
    sections = "".join(_split(role, split, samples[role]) for role, split in found["splits"].items())
    return html.document(f"{found['dataset']}: {found['modality']}s", f"<p>{escape(found['where'])}</p>{sections}")


def jpeg_size_px(jpeg: bytes) -> tuple[int, int]:
    """Height and width."""
    width_px, height_px = Image.open(io.BytesIO(jpeg), formats=html.STORED_FORMATS).size
    return height_px, width_px


def _split(role: str, split: dict, samples: list[tuple[str, bytes]]) -> Markup:
    histograms = "".join(
        f"<h3>{title}</h3>{_histogram(split[f'{name}_histogram'])}" for name, title in FIGURES.items() if split[name]
    )
    pictures = html.pictures(html.picture(html.thumbnail(jpeg, SAMPLE_PX), name, name) for name, jpeg in samples)
    return Markup(
        f"<h2>{escape(role)}</h2><p>{escape(manifest.summary_line({role: split}))}; {split['bytes'] / 1e9:.2f} GB</p>"
        f"{pictures}{histograms}{_classes(split['classes'])}{_unusable(split['unusable'])}"
    )


def _histogram(bins: list[list]) -> Markup:
    """Bars of [from, to, count]."""
    most = max(count for _, _, count in bins)
    return html.bars(
        (f"{low:g} – {high:g}" if low < high else f"{low:g}", count, count, most) for low, high, count in bins
    )


def _classes(classes: dict[str, list[int]]) -> Markup:
    most = max((listed for listed, _ in classes.values()), default=1) or 1
    rows = [(name, found, listed, most) for name, (listed, found) in list(classes.items())[:SHOWN_CLASSES]]
    return Markup(f"<h3>Found, and lacking, of each class</h3>{html.bars(rows)}")


def _unusable(rows: list[dict[str, str]]) -> Markup:
    if not rows:
        return Markup()
    shown = html.table(["File", "Reason"], ([row["path"], row["reason"]] for row in rows[:SHOWN_UNUSABLE]))
    more = f"<p>and {len(rows) - SHOWN_UNUSABLE} more, in {manifest.FILE}</p>" if len(rows) > SHOWN_UNUSABLE else ""
    return Markup(f"<h3>Not usable</h3>{shown}{more}")

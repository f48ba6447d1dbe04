"""The plots of a study as standalone SVG files: accuracies with error bars, and learning curves."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from cover_jax.report import chart
from cover_jax.study import table
from data_pipelines.output.html import escape

COLORS = (
    "#0b62b8", "#d98560", "#2b7a3e", "#8a5a00", "#7b4fb5", "#b0305c", "#3c8f99", "#555e68", "#c9a227", "#5f8dd3",
    "#e07ba5", "#7fae42",
)  # fmt: skip
STYLE = (
    "text { font: 12px system-ui, sans-serif; fill: #1c2127; } .title { font-weight: 600; } .grid { stroke: #d5dbe1; }"
    " polyline { fill: none; stroke-width: 2; }"
)
LABELS_PX, VALUES_PX, ROW_PX, TITLE_PX = 300, 420, 20, 26  # sizes in the accuracy plot, in SVG user units
TICKS = range(0, 101, 20)

Curves = Mapping[str, list[tuple[int, table.Mean]]]  # setting -> its means by step


def accuracies(of_datasets: Mapping[str, Sequence[table.Row]]) -> str:
    """One panel per dataset: a dot for each setting's mean, its standard error as a bar."""
    parts, top = [], 0
    for name, rows in of_datasets.items():
        parts.append(f'<g transform="translate(0 {top})">{_panel(name, rows)}</g>')
        top += TITLE_PX + ROW_PX * (len(rows) + 1)
    return _document(LABELS_PX + VALUES_PX, top, "".join(parts))


def _panel(name: str, rows: Sequence[table.Row]) -> str:
    bottom = TITLE_PX + ROW_PX * len(rows)
    ticks = "".join(
        f'<line class="grid" x1="{_x(t / 100)}" x2="{_x(t / 100)}" y1="{TITLE_PX}" y2="{bottom}"/>'
        f'<text x="{_x(t / 100)}" y="{bottom + 14}" text-anchor="middle">{t}%</text>'
        for t in TICKS
    )
    title = f'<text class="title" x="4" y="16">{escape(name)}: validation top-1, mean ± standard error</text>'
    return title + ticks + "".join(_dot(row, TITLE_PX + ROW_PX * (i + 0.5)) for i, row in enumerate(rows))


def _dot(row: table.Row, y: float) -> str:
    low, high = (_x(row.top1.value + sign * row.top1.error) for sign in (-1, 1))
    bar = f'<line stroke="{COLORS[0]}" stroke-width="2" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
    return (
        f'<text x="{LABELS_PX - 12}" y="{y + 4}" text-anchor="end">{escape(row.label)}</text>'
        f'{bar}<circle fill="{COLORS[0]}" cx="{_x(row.top1.value)}" cy="{y}" r="4"/>'
    )


def _x(share: float) -> float:
    return round(LABELS_PX + share * (VALUES_PX - 30), 1)


def means_by_step(found: Sequence[dict], dataset: str) -> Curves:
    """Setting -> (step, mean over replicates) per evaluation of a dataset, from the results of runs."""
    values: dict[str, dict[int, list[float]]] = {}  # setting -> step -> one per replicate
    for result in found:
        for step, top1 in result["curves"].get(dataset, ()):
            values.setdefault(result["setting"], {}).setdefault(step, []).append(top1)
    return {setting: [(step, table.mean(of[step])) for step in sorted(of)] for setting, of in values.items()}


def learning_curves(study: ConfigDict, of_datasets: Mapping[str, Curves]) -> str:
    """One panel per dataset: each setting's mean accuracy over its steps, with its standard error as bars."""
    parts, top = [], 0
    for name, curves in of_datasets.items():
        parts.append(f'<svg y="{top}" width="{LABELS_PX + VALUES_PX}" overflow="visible">')
        title = f"{escape(name)}: validation top-1 by step, mean ± standard error over replicates"
        parts.append(f'<text class="title" x="4" y="16">{title}</text>')
        parts.append(f'<g transform="translate(0 {TITLE_PX})">{_curves(study, curves)}</g></svg>')
        top += TITLE_PX + max(chart.HEIGHT, ROW_PX * (len(curves) + 1))
    return _document(LABELS_PX + VALUES_PX, top, "".join(parts))


def _curves(study: ConfigDict, curves: Curves) -> str:
    scale = chart.Scale([[(step, of.value) for step, of in points] for points in curves.values()], percent=True)
    parts = [scale.axes()]
    for i, (setting, points) in enumerate(curves.items()):
        rounds, which = divmod(list(study.settings).index(setting), len(COLORS))  # the same colour in all panels
        color, dashes = COLORS[which], f' stroke-dasharray="6 {2 * rounds}"' if rounds else ""
        y = ROW_PX * (i + 1)
        path = " ".join(f"{scale.x(step):.1f},{scale.y(of.value):.1f}" for step, of in points)
        parts.append(f'<polyline stroke="{color}"{dashes} points="{path}"/>')
        parts += [_error_bar(scale, step, of, color) for step, of in points if of.count > 1]
        of_legend = f"{chart.WIDTH + 10},{y - 4} {chart.WIDTH + 30},{y - 4}"
        parts.append(f'<polyline stroke="{color}"{dashes} points="{of_legend}"/>')
        parts.append(f'<text x="{chart.WIDTH + 36}" y="{y}">{escape(study.settings[setting].label)}</text>')
    return "".join(parts)


def _error_bar(scale: chart.Scale, step: int, of: table.Mean, color: str) -> str:
    x, low, high = scale.x(step), scale.y(of.value - of.error), scale.y(of.value + of.error)
    return f'<line stroke="{color}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'


def _document(width: int, height: int, content: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>{content}</svg>\n'
    )

"""Curves over a run's steps, as SVG that follows the page's colours."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from data_pipelines.output.html import escape

WIDTH, HEIGHT = 400, 220  # of the drawing, in its own units; it is as wide as there is room
LEFT, RIGHT, TOP, BOTTOM = 50, 20, 10, 26  # around the curves
MOST_POINTS = 300  # of a curve; more are averaged
MOST_DOTS = 40  # a curve with more points has no dot at each
MOST_TICKS = 5
STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); gap: 1rem; }
.chart { background: var(--card); border-radius: 8px; padding: .6rem .8rem; display: flex; flex-direction: column;
  justify-content: space-between; }
.chart b { font-size: .9rem; } .chart .keys { display: flex; flex-wrap: wrap; gap: 0 1rem; }
.chart .keys span::before { content: ""; display: inline-block; width: 1.5rem; margin-right: .4rem;
  vertical-align: middle; border-top: 2.5px var(--dash) var(--color); }
.chart svg { display: block; width: 100%; height: auto; } .chart text { font-size: 12px; fill: var(--muted); }
.chart .grid { stroke: var(--rule); } .chart polyline { fill: none; stroke: var(--color); stroke-width: 2; }
.chart circle { fill: var(--color); }
.line0 { --color: var(--line0); --dash: solid; } .line1 { --color: var(--line1); --dash: solid; }
.line2 { --color: var(--line2); --dash: dashed; } .line2 polyline { stroke-dasharray: 5 4; }
"""

Points = Sequence[tuple[int, float]]  # (step, value), in order


def draw(title: str, curves: dict[str, Points], percent: bool = False) -> Markup:
    """A figure of up to three curves with its title and, of several curves, a key; "" if none has a point."""
    curves = {name: _finite(points) for name, points in curves.items()}
    curves = {name: _thinned(points) for name, points in curves.items() if points}
    if not curves:
        return Markup()
    scale = Scale(curves.values(), percent)
    names = "".join(f'<span class="line{i}">{escape(name)}</span>' for i, name in enumerate(curves))
    key = f'<div class="keys">{names}</div>' if len(curves) > 1 else ""
    lines = "".join(_line(i, name, points, scale) for i, (name, points) in enumerate(curves.items()))
    said = "; ".join(f"{name} from {_ends(points, scale)}" for name, points in curves.items())
    return Markup(
        f'<figure class="chart"><figcaption><b>{escape(title)}</b>{key}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(f"{title}: {said}")}">'
        f"{scale.axes()}{lines}</svg></figure>"
    )


class Scale:
    """Places of steps and values in a drawing, and their ticks."""

    def __init__(self, curves, percent: bool):
        steps, values = zip(*(point for points in curves for point in points), strict=True)
        self._percent = percent
        self._steps = _around(min(steps), max(steps))
        low, high = (0, 1) if percent else (min(0, *values), max(values))
        self._ticks = _ticks(*_around(low, high))
        self._values = min(low, self._ticks[0]), max(high, self._ticks[-1])

    def x(self, step: float) -> float:
        """Where a step stands, in px from the left."""
        first, last = self._steps
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Where a value stands, in px from the top."""
        low, high = self._values
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP)

    def text(self, value: float) -> str:
        """A value as the axis shows it."""
        return f"{100 * value:.3g}%" if self._percent else short(value)

    def axes(self) -> str:
        """Both axes with their grid, as SVG."""
        lines = "".join(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self.y(v):.1f}" y2="{self.y(v):.1f}"/>'
            f'<text x="{LEFT - 6}" y="{self.y(v) + 4:.1f}" text-anchor="end">{self.text(v)}</text>'
            for v in self._ticks
        )
        first, last = self._steps
        steps = [step for step in _ticks(first, last) if step == int(step) and first <= step <= last]
        return lines + "".join(
            f'<text x="{self.x(step):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{short(step)}</text>' for step in steps
        )


def short(value: float) -> str:
    """A number for an axis: 0.25, 1200, 50k, 1.5M."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g}M"
    return f"{value / 1e3:.4g}k" if abs(value) >= 1e4 else f"{value:.4g}"


def _line(number: int, name: str, points: Points, scale: Scale) -> str:
    path = " ".join(f"{scale.x(step):.1f},{scale.y(value):.1f}" for step, value in points)
    dots = "".join(
        f'<circle cx="{scale.x(step):.1f}" cy="{scale.y(value):.1f}" r="3">'
        f"<title>{escape(name)}, step {step}: {scale.text(value)}</title></circle>"
        for step, value in (points if len(points) <= MOST_DOTS else points[-1:])
    )
    return f'<g class="line{number}"><polyline points="{path}"/>{dots}</g>'


def _ends(points: Points, scale: Scale) -> str:
    (first, start), (last, end) = points[0], points[-1]
    return f"{scale.text(start)} at step {first} to {scale.text(end)} at step {last}"


def _finite(points: Points) -> Points:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _thinned(points: Points) -> Points:
    """At most MOST_POINTS: the means of so many neighbours, each at the step of their last."""
    size = -(-len(points) // MOST_POINTS)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _around(low: float, high: float) -> tuple[float, float]:
    """The same, or some room around a single value."""
    return (low, high) if high > low else (low, low + (abs(low) or 1))


def _ticks(low: float, high: float) -> list[float]:
    """Round values that cover low..high, the last perhaps beyond it."""
    rough = (high - low) / MOST_TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]

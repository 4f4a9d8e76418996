"""Line charts as inline SVG: no scripts, no requests, colours from the page's CSS variables, so that they follow its theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

from markupsafe import Markup

_WIDTH, _HEIGHT = 420, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 26
_TAG_HEIGHT = 13
_MOST_POINTS = 300  # more than a pixel each only makes the file larger
_SMOOTH_FROM = 40  # noisy curves with at least so many points get a running mean over a tenth of them


@dataclass(frozen=True)
class Series:
    """A curve: its points in the order of x, and the CSS colour variable it is drawn in."""

    points: Sequence[tuple[float, float]]
    colour: str = "--model"
    name: str = ""


@dataclass(frozen=True)
class Chart:
    """What is drawn: curves, horizontal reference lines (name, value, colour) and a marked x."""

    title: str
    series: Sequence[Series]
    references: Sequence[tuple[str, float, str]] = ()
    marked_x: float | None = None
    format_y: Callable[[float], str] = field(default=lambda value: f"{value:g}")
    noisy: bool = False
    name_x: str = "step"


def line_chart(chart: Chart) -> Markup:
    """The chart as one <svg> element; empty where no curve has two points."""
    curves = [_thinned(_finite(series.points)) for series in chart.series]
    curves = [points for points in curves if points]
    if not any(len(points) > 1 for points in curves):
        return Markup("")
    frame = _Frame.around([point for points in curves for point in points], [value for _, value, _ in chart.references])
    drawn = [_grid(frame, chart.format_y), *_references(frame, chart), _mark(frame, chart)]
    for series, points in zip(chart.series, curves, strict=False):
        drawn.append(_curve(frame, points, series, chart))
    label = escape(chart.title, quote=True)
    return Markup(  # noqa: S704 - built from numbers and escaped labels
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(drawn)}</svg>'
    )


@dataclass(frozen=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @classmethod
    def around(cls, points: Sequence[tuple[float, float]], levels: Sequence[float]) -> _Frame:
        xs = [x for x, _ in points]
        ys = [y for _, y in points] + [level for level in levels if math.isfinite(level)]
        low, high = min(ys), max(ys)
        room = (high - low) * 0.08 or abs(high) * 0.05 or 1.0
        return cls(min(xs), max(xs), max(0.0, low - room) if low >= 0 else low - room, high + room)

    def x(self, value: float) -> float:
        span = (self.x_high - self.x_low) or 1.0
        return _LEFT + (value - self.x_low) / span * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (_HEIGHT - _TOP - _BOTTOM)


def _grid(frame: _Frame, format_y: Callable[[float], str]) -> str:
    parts = []
    for value in ticks(frame.y_low, frame.y_high, 4):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{format_y(value)}</text>')
    for value in ticks(frame.x_low, frame.x_high, 5):
        x = frame.x(value)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{value:g}</text>')
    return "".join(parts)


def _references(frame: _Frame, chart: Chart) -> list[str]:
    """Dashed lines with their names at the left, where curves are still far below; names of close lines part."""
    parts = []
    above: float | None = None
    for name, value, colour in sorted(chart.references, key=lambda reference: -reference[1]):
        y = frame.y(value)
        is_close = above is not None and y - above < 2 * _TAG_HEIGHT
        text_y = y + _TAG_HEIGHT if is_close else y - 5
        above = y
        parts.append(
            f'<line class="reference" style="stroke:var({colour})" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/><text class="tag" style="fill:var({colour})" x="{_LEFT + 3}" '
            f'y="{text_y:.1f}">{escape(name)} {escape(chart.format_y(value))}</text>'
        )
    return parts


def _mark(frame: _Frame, chart: Chart) -> str:
    if chart.marked_x is None or not frame.x_low <= chart.marked_x <= frame.x_high:
        return ""
    x = frame.x(chart.marked_x)
    return f'<line class="marked" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'


def _curve(frame: _Frame, points: Sequence[tuple[float, float]], series: Series, chart: Chart) -> str:
    style = f'style="stroke:var({series.colour})"'
    if chart.noisy and len(points) >= _SMOOTH_FROM:
        smooth = _running_mean(points, max(3, len(points) // 10))
        return (
            f'<path class="curve faint" {style} d="{_path(frame, points)}"/>'
            f'<path class="curve" {style} d="{_path(frame, smooth)}"/>'
        )
    parts = [f'<path class="curve" {style} d="{_path(frame, points)}"/>']
    if len(points) <= _SMOOTH_FROM:
        parts += [_dot(frame, point, series, chart) for point in points]
    return "".join(parts)


def _dot(frame: _Frame, point: tuple[float, float], series: Series, chart: Chart) -> str:
    x, y = point
    marked = x == chart.marked_x
    label = f"{series.name} {chart.name_x} {x:g}: {chart.format_y(y)}".strip()
    dot = (
        f'<circle class="dot{" chosen" if marked else ""}" style="fill:var({series.colour})" '
        f'cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="{5 if marked else 3}"><title>{escape(label)}</title></circle>'
    )
    if not marked:
        return dot
    anchor = "end" if frame.x(x) > _WIDTH * 0.9 else "middle"
    shift = 21 if frame.y(y) < _TOP + 2 * _TAG_HEIGHT else -11  # below the dot where there is no room above
    return dot + (
        f'<text class="value" x="{frame.x(x):.1f}" y="{frame.y(y) + shift:.1f}" text-anchor="{anchor}">'
        f"{escape(chart.format_y(y))}</text>"
    )


def _path(frame: _Frame, points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in points)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers inside [low, high], 1, 2 or 5 times a power of ten apart: as near to so many as there are."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low] if math.isfinite(low) else []
    decade = 10.0 ** math.floor(math.log10(span / about))
    choices = [_multiples(low, high, decade * factor) for factor in (10, 5, 2, 1)]
    return min(choices, key=lambda values: abs(len(values) - about))  # of two as near, the one of fewer


def _multiples(low: float, high: float, step: float) -> list[float]:
    numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return [round(number * step, 10) for number in numbers]


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = math.ceil(len(points) / _MOST_POINTS)
    return points if stride <= 1 else [_mean(points[at : at + stride]) for at in range(0, len(points), stride)]


def _running_mean(points: Sequence[tuple[float, float]], width: int) -> list[tuple[float, float]]:
    half = width // 2
    means = []
    for at, (x, _) in enumerate(points):
        means.append((x, _mean(points[max(0, at - half) : at + half + 1])[1]))
    return means


def _mean(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)

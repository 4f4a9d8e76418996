"""Line charts as inline SVG: no scripts, no requests, colours from the page's CSS variables, so that they follow its theme.

The plot of an ablation as one SVG file: a panel a task, a row an arm, a dot a seed, a bar at their mean.

The curves that a checkpoint is chosen by, as files: search, classification and similarity over steps (paper, figure 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from statistics import mean
from typing import Any

from markupsafe import Markup

from pipeline_lib.store.files import replace_file

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


ArmValues = tuple[str, str, str, tuple[float, ...]]  # lever, arm, task, a value a seed

_LABEL, _PANEL, _GAP, _ROW, _ABLATION_TOP, _MARGIN = 150, 210, 18, 18, 44, 12
_COLOURS = ("#2f6fb4", "#b4532f", "#3b8f5a", "#7b4fa3", "#8a7a1f")
_MARGIN_SHARE = 0.08  # of a panel's range, left free on both sides


def draw(rows: Sequence[ArmValues]) -> str:
    """The whole file; panels have scales of their own, which are written below them."""
    tasks = list(dict.fromkeys(task for _, _, task, _ in rows))
    arms = list(dict.fromkeys((lever, arm) for lever, arm, _, _ in rows))
    levers = list(dict.fromkeys(lever for lever, _ in arms))
    width = _LABEL + len(tasks) * (_PANEL + _GAP) + _MARGIN
    height = _ABLATION_TOP + len(arms) * _ROW + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for line, (lever, arm) in enumerate(arms):
        y = _ABLATION_TOP + line * _ROW + _ROW * 0.7
        parts.append(f'<text x="{_LABEL - 8}" y="{y:.1f}" text-anchor="end">{escape(f"{lever}: {arm}")}</text>')
    for column, task in enumerate(tasks):
        of_task = {(lever, arm): values for lever, arm, name, values in rows if name == task}
        left = _LABEL + column * (_PANEL + _GAP)
        parts += [f'<g transform="translate({left} {_ABLATION_TOP})">', *_panel(task, arms, of_task, levers), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def _panel(
    task: str,
    arms: Sequence[tuple[str, str]],
    values: dict[tuple[str, str], tuple[float, ...]],
    levers: Sequence[str],
) -> list[str]:
    every = [value for found in values.values() for value in found]
    low, high = min(every), max(every)
    margin = (high - low or 1.0) * _MARGIN_SHARE
    low, high = low - margin, high + margin
    height = len(arms) * _ROW
    parts = [
        f'<text x="0" y="-12" font-weight="bold">{escape(task)}</text>',
        f'<rect width="{_PANEL}" height="{height}" fill="none" stroke="#ccc"/>',
        f'<text x="0" y="{height + 14}" fill="#555">{low:.3f}</text>',
        f'<text x="{_PANEL}" y="{height + 14}" fill="#555" text-anchor="end">{high:.3f}</text>',
    ]
    for line, arm in enumerate(arms):
        found = values.get(arm, ())
        colour = _COLOURS[levers.index(arm[0]) % len(_COLOURS)]
        y = (line + 0.5) * _ROW
        if line and arms[line - 1][0] != arm[0]:
            parts.append(f'<line x1="0" x2="{_PANEL}" y1="{line * _ROW}" y2="{line * _ROW}" stroke="#ccc"/>')
        for value in found:
            parts.append(
                f'<circle cx="{_PANEL * (value - low) / (high - low):.1f}" cy="{y}" r="3" fill="{colour}" opacity="0.6"/>'
            )
        if found:
            x = _PANEL * (mean(found) - low) / (high - low)
            parts.append(f'<rect x="{x - 1:.1f}" y="{y - 7}" width="2" height="14" fill="{colour}"/>')
    return parts


Row = Mapping[str, Any]

KINDS = {  # colours that stay apart for colour-blind readers (Okabe and Ito)
    "code_search": ("code search", "#0072B2"),
    "text_search": ("text search", "#56B4E9"),
    "classification": ("classification", "#009E73"),
    "similarity": ("similarity", "#D55E00"),
}
FORMATS = ("png", "svg")
NAME = "selection"


def write_selection_curves(folder: Path, selection: Row) -> tuple[Path, ...]:
    """Write selection.png and selection.svg; the same bytes for the same figures.

    Each curve is in units of its kind's best checkpoint, as the weighted score is, so that a rise and a fall of one per cent
    look alike.

    Args:
        folder: of the report.
        selection: the content of selection.json.

    Returns:
        The files; none where fewer than two checkpoints were measured.
    """
    checkpoints = selection.get("checkpoints", ())
    if len(checkpoints) < 2:
        return ()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    paths = tuple(folder / f"{NAME}.{kind}" for kind in FORMATS)
    with rc_context({"svg.hashsalt": NAME, "svg.fonttype": "none"}):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        _draw(figure.add_subplot(), selection)
        for path in paths:
            content = BytesIO()
            no_dates = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
            figure.savefig(content, format=path.suffix[1:], dpi=120, metadata=no_dates)
            replace_file(path, content.getvalue())
    return paths


def _draw(axes: Any, selection: Row) -> None:
    for kind, (title, colour) in KINDS.items():
        points = [(row["step"], row["kinds"][kind]) for row in selection["checkpoints"] if kind in row["kinds"]]
        best = max((value for _, value in points), default=0.0)
        if best <= 0:
            continue
        steps = [step for step, _ in points]
        weight = selection["weights"].get(kind, 0.0)
        label = f"{title}: best {best:.3f}, weight {weight:.2f}"
        axes.plot(steps, [value / best for _, value in points], "o-", color=colour, label=label, markersize=4)
    axes.axvline(selection["step"], color="black", linestyle=":", linewidth=1, label=f"chosen: {selection['chosen']}")
    axes.set_xlabel("training steps")
    axes.set_ylabel(f"value / best value, {selection.get('split', 'validation')}")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)

"""Charts of a run, drawn by matplotlib in one style and one palette that colour-blind readers can tell apart.

Charts of a page are SVG elements whose colours are the page's CSS variables, so that they follow its light or dark theme.
Charts in files are whole SVG documents with a theme of their own, and a PNG where Prefect's UI shows one. Each has a title and
a description for readers who do not see it. Equal figures give equal bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pipeline_lib.store.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = {  # CSS variable to its colour on light and on dark ground; the hues are those of Okabe and Ito
    "page": ("#f7f6f3", "#121418"),
    "surface": ("#ffffff", "#1a1d23"),
    "sunk": ("#f1efea", "#22262d"),
    "ink": ("#1c1e22", "#e9eaed"),
    "soft": ("#565c66", "#a9afba"),
    "faint": ("#6c727c", "#8f96a3"),
    "line": ("#e4e1da", "#2c313a"),
    "model": ("#0067a5", "#6cbcf0"),
    "model-soft": ("#e1eff8", "#17324a"),
    "tfidf": ("#b85a00", "#f0a44b"),
    "bm25": ("#737d8a", "#9aa5b3"),
    "hybrid": ("#8a4f7d", "#d59bc8"),
    "good": ("#00714f", "#5fd3ac"),
    "good-soft": ("#def2ea", "#12352a"),
    "bad": ("#b3261e", "#ff9b8c"),
    "bad-soft": ("#fbe6e4", "#41211f"),
    "even-soft": ("#ecebe7", "#2a2e36"),
    "series-1": ("#0072b2", "#5bb1e8"),
    "series-2": ("#d55e00", "#f28a3c"),
    "series-3": ("#009e73", "#3fcfa3"),
    "series-4": ("#b0588a", "#e29bc3"),
    "series-5": ("#9a7d0a", "#e0c341"),
}
KINDS = {
    "code_search": "code search",
    "text_search": "text search",
    "classification": "classification",
    "similarity": "similarity",
}
_STYLE = {
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "cpt-factory",
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": PALETTE["line"][0],
    "axes.labelcolor": PALETTE["soft"][0],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALETTE["line"][0],
    "xtick.color": PALETTE["faint"][0],
    "ytick.color": PALETTE["faint"][0],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": PALETTE["ink"][0],
    "lines.linewidth": 1.9,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}
_POINTS_AN_INCH = 72  # of an SVG by matplotlib: sizes below are CSS pixels of the page
_WIDTH, _HEIGHT = 420, 210
_MOST_POINTS = 300  # more than a pixel each only makes the file larger
_SMOOTH_FROM = 40  # noisy curves with at least so many points get a running mean over a tenth of them
_TOLD_POINTS = 12  # in a description; of a longer curve the ends and the extremes

Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """A curve, horizontal reference lines (name, value, CSS variable) and a marked x."""

    title: str
    points: Sequence[Point]
    references: Sequence[tuple[str, float, str]] = ()
    marked_x: float | None = None
    format_y: Callable[[float], str] = field(default=lambda value: f"{value:g}")
    noisy: bool = False
    name_x: str = "step"


def theme() -> str:
    """The palette as CSS: the light one, and the dark one where the reader's system asks for it."""
    light, dark = (" ".join(f"--{name}: {colours[n]};" for name, colours in PALETTE.items()) for n in (0, 1))
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def line_chart(chart: Chart) -> Markup:
    """The chart as one <svg> element for a page with the theme; empty where it has fewer than two points."""
    points = _thinned([(x, y) for x, y in chart.points if math.isfinite(x) and math.isfinite(y)])
    if len(points) < 2:
        return Markup("")
    with _style():
        figure = _figure(_WIDTH, _HEIGHT)
        axes = figure.add_subplot()
        _draw_curve(axes, points, chart)
        _draw_references(axes, chart)
        if chart.marked_x is not None:
            axes.axvline(chart.marked_x, color=_light("ink"), linestyle=":", linewidth=1, alpha=0.55)
        _label_ticks(axes, chart.format_y)
        return Markup(_svg(figure, chart.title, _told(points, chart)))  # noqa: S704 - numbers and escaped labels


def ablation_chart(rows: Sequence[tuple[str, str, str, Sequence[float]]]) -> str:
    """An ablation as one SVG file: a panel a task with a scale of its own, a row an arm, a dot a seed, a bar at their mean.

    Args:
        rows: lever, arm, task, and a value a seed; panels, rows and colours come in their order.
    """
    tasks = list(dict.fromkeys(task for _, _, task, _ in rows))
    arms = list(dict.fromkeys((lever, arm) for lever, arm, _, _ in rows))
    levers = list(dict.fromkeys(lever for lever, _ in arms))
    with _style():
        figure = _figure(190 + 190 * len(tasks), 60 + 19 * len(arms))
        panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for axes, task in zip(panels, tasks, strict=True):
            for lever, arm, name, values in rows:
                if name == task:
                    colour, y = _series(levers.index(lever)), arms.index((lever, arm))
                    axes.plot(values, [y] * len(values), "o", color=colour, alpha=0.55, markersize=5, markeredgewidth=0)
                    axes.plot([mean(values)], [y], "|", color=colour, markersize=13, markeredgewidth=2.2)
            axes.set_title(task.replace("_", " "), fontsize=10, fontweight="bold", loc="left")
            axes.set_yticks(range(len(arms)), [f"{lever}: {arm}" for lever, arm in arms])
            axes.margins(0.08, 0.5 / max(len(arms), 1))
            for n in range(1, len(arms)):
                if arms[n][0] != arms[n - 1][0]:
                    axes.axhline(n - 0.5, color=_light("faint"), linewidth=0.6)
        panels[0].invert_yaxis()
        told = (f"{task}: {lever} {arm} {mean(values):.3f}" for lever, arm, task, values in rows)
        return _svg(figure, "Ablation: every arm and seed by task", "; ".join(told), alone=True)


@dataclass(frozen=True)
class TradeOff:
    """A panel of quality against cost: name, cost, value and its interval's ends a point; levels of those without a cost."""

    title: str
    name_x: str
    points: Sequence[tuple[str, float, float, float, float]]
    levels: Sequence[tuple[str, float]] = ()


def trade_off_chart(title: str, panels: Sequence[TradeOff]) -> str:
    """Quality against cost as one SVG file, two panels a row; a logarithmic scale of costs, points of one name joined."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    rows = -(-len(panels) // 2)
    names = list(dict.fromkeys(point[0] for panel in panels for point in panel.points))
    with _style():
        figure = _figure(760, 40 + 270 * rows)
        for number, panel in enumerate(panels):
            axes = figure.add_subplot(rows, 2, number + 1, xscale="log", xlabel=panel.name_x)
            for name, x, value, low, high in panel.points:
                colour, bars = _series(names.index(name)), [[max(0.0, value - low)], [max(0.0, high - value)]]
                axes.errorbar([x], [value], yerr=bars, fmt="o", color=colour, markersize=5, elinewidth=1)
            # a curve has its name at its end; of two that end close together the better one's stands above
            ends = {point[0]: point for point in sorted(panel.points, key=lambda point: point[1])}
            by_value = len(ends) < len(panel.points)
            for at, (name, x, value, _, _) in enumerate(sorted(ends.values(), key=lambda end: -end[2] if by_value else end[1])):
                place: dict[str, Any] = {"textcoords": "offset points", "xytext": (6, -11 if at % 2 else 3)}
                axes.annotate(name, (x, value), color=_series(names.index(name)), fontsize=9, **place)
            for name in names:
                curve = sorted(point[1:3] for point in panel.points if point[0] == name)
                axes.plot(*zip(*curve, strict=True), color=_series(names.index(name)), linewidth=1.2) if curve else None
            for name, value in panel.levels:
                axes.axhline(value, color=_light("faint"), linestyle=(0, (4, 3)), linewidth=1)
                place = {"xycoords": ("axes fraction", "data"), "va": "bottom", "color": _light("faint")}
                axes.annotate(name, (0.01, value), fontsize=9, **place)
            costs = [x for _, x, _, _, _ in panel.points]
            axes.set_xlim(min(costs) / 3, max(costs) * 12)  # room for names
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_title(panel.title, fontsize=10, fontweight="bold", loc="left")
        told = (f"{p.title}: {name} {value:.3f} at {x:.3g} {p.name_x}" for p in panels for name, x, value, _, _ in p.points)
        return _svg(figure, title, "; ".join(told), alone=True)


def write_selection_curves(folder: Path, selection: Mapping[str, Any]) -> tuple[Path, ...]:
    """Write selection.png and selection.svg: search, classification and similarity over steps (paper, figure 4).

    Each curve is in units of its kind's best checkpoint, as the weighted score is, so that a rise and a fall of one per cent
    look alike.

    Args:
        folder: of the report.
        selection: the content of selection.json.

    Returns:
        The files; none where fewer than two checkpoints were measured.
    """
    if len(selection.get("checkpoints", ())) < 2:
        return ()
    png, svg = folder / "selection.png", folder / "selection.svg"
    with _style():
        figure = _figure(640, 360)
        told = _draw_selection(figure.add_subplot(), selection)
        content = BytesIO()
        figure.savefig(content, format="png", dpi=2 * _POINTS_AN_INCH, metadata={"Software": None})
        replace_file(png, content.getvalue())
        replace_file(svg, _svg(figure, "Checkpoint selection", told, alone=True).encode())
    return png, svg


def _draw_selection(axes: Axes, selection: Mapping[str, Any]) -> str:
    told = []
    for number, (kind, title) in enumerate(KINDS.items()):
        points = [(row["step"], row["kinds"][kind]) for row in selection["checkpoints"] if kind in row["kinds"]]
        best = max((value for _, value in points), default=0.0)
        if best <= 0:
            continue
        label = f"{title}: best {best:.3f}, weight {selection['weights'].get(kind, 0.0):.2f}"
        steps, shares = [step for step, _ in points], [value / best for _, value in points]
        axes.plot(steps, shares, "osD^"[number] + "-", color=_series(number), label=label, markersize=4.5)
        told.append(label)
    chosen = f"chosen: {selection['chosen']}"
    axes.axvline(selection["step"], color=_light("ink"), linestyle=":", linewidth=1, label=chosen)
    axes.set_xlabel("training steps")
    axes.set_ylabel(f"value / best value, {selection.get('split', 'validation')}")
    axes.figure.legend(loc="outside upper left", ncols=3, fontsize=9.5, columnspacing=1.4, handlelength=1.6)
    return "; ".join([*told, chosen])


def _draw_curve(axes: Axes, points: Sequence[Point], chart: Chart) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    colour = _light("model")
    if chart.noisy and len(points) >= _SMOOTH_FROM:
        axes.plot(xs, ys, color=colour, linewidth=0.8, alpha=0.28)
        axes.plot(xs, _running_mean(ys, max(3, len(points) // 10)), color=colour)
        return
    axes.plot(xs, ys, "o-" if len(points) <= _SMOOTH_FROM else "-", color=colour, markersize=4)
    for x, y in points:
        if x == chart.marked_x:
            ring: dict[str, Any] = {"markersize": 9, "markeredgecolor": _light("ink"), "markeredgewidth": 1.6}
            axes.plot([x], [y], "o", color=colour, zorder=3, **ring)
            place: dict[str, Any] = {"xytext": (-9, 9), "textcoords": "offset points", "ha": "right", "fontweight": "bold"}
            axes.annotate(chart.format_y(y), (x, y), fontsize=10.5, zorder=4, **place)


def _draw_references(axes: Axes, chart: Chart) -> None:
    """Dashed lines, named at the left, where curves are still far below; of two close ones the lower is named below."""
    low, high = axes.get_ylim()
    levels = [value for _, value, _ in chart.references]
    low, high = min([low, *levels]), max([high, *levels])
    room = (high - low) * 0.09
    axes.set_ylim(low - room if levels else low, high + room)
    above: float | None = None
    for name, value, variable in sorted(chart.references, key=lambda reference: -reference[1]):
        colour = _light(variable)
        axes.axhline(value, color=colour, linestyle=(0, (4, 3)), linewidth=1.3)
        is_close = above is not None and above - value < 2 * room
        place: dict[str, Any] = {"xytext": (2, -3 if is_close else 3), "va": "top" if is_close else "bottom"}
        text = f"{name} {chart.format_y(value)}"
        axes.annotate(
            text,
            (0, value),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=colour,
            fontsize=9.5,
            **place,
        )
        above = value


def _label_ticks(axes: Axes, format_y: Callable[[float], str]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_y(value)))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(False, axis="x")


def _told(points: Sequence[Point], chart: Chart) -> str:
    """The chart in words."""
    shown = points
    if len(points) > _TOLD_POINTS:
        low, high = (choose(points, key=lambda point: point[1]) for choose in (min, max))
        shown = sorted({points[0], low, high, points[-1]})
    told = [f"{chart.name_x} {x:g}: {chart.format_y(y)}" for x, y in shown]
    told += [f"{name}: {chart.format_y(value)}" for name, value, _ in chart.references]
    return "; ".join(told)


def _svg(figure: Figure, title: str, description: str, alone: bool = False) -> str:
    """The figure as SVG whose colours are CSS variables.

    Args:
        alone: as a whole file, with the theme and a ground; else as an element for a page that has both.
    """
    content = BytesIO()
    figure.savefig(
        content, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    drawn = content.getvalue().decode()
    drawn = drawn[drawn.index("<svg") :]
    view = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)
    assert view is not None, drawn[:200]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", drawn[drawn.index(">") + 1 :], flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # several charts on a page would have the same ids
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)  # a text's family is the page's
    for name, (light, _) in PALETTE.items():
        body = body.replace(light, f"var(--{name})")
    body = re.sub(r"\n\s*", "\n", body)
    names = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
    head = f'viewBox="0 0 {view[1]} {view[2]}" role="img" aria-label="{escape(title, quote=True)}"'
    if not alone:
        return f"<svg {head}>{names}{body.strip()}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    ground = f'<rect width="{view[1]}" height="{view[2]}" style="fill: var(--surface)"/>'
    style = f"<style>{theme()}\nsvg {{ font-family: sans-serif }}</style>"
    size = f'width="{view[1]}" height="{view[2]}"'
    return f"<svg {spaces} {size} {head}>{names}{style}{ground}{body.strip()}\n"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width / _POINTS_AN_INCH, height / _POINTS_AN_INCH), layout="constrained")


def _style() -> Any:
    from matplotlib import rc_context

    return rc_context(_STYLE)


def _light(name: str) -> str:
    """The colour that stands for a CSS variable while a chart is drawn; each variable has one of its own."""
    return PALETTE[name][0]


def _series(number: int) -> str:
    return _light(f"series-{number % 5 + 1}")


def _thinned(points: list[Point]) -> list[Point]:
    stride = math.ceil(len(points) / _MOST_POINTS)
    if stride <= 1:
        return points
    groups = [points[at : at + stride] for at in range(0, len(points), stride)]
    return [(mean(x for x, _ in group), mean(y for _, y in group)) for group in groups]


def _running_mean(ys: Sequence[float], width: int) -> list[float]:
    half = width // 2
    return [mean(ys[max(0, at - half) : at + half + 1]) for at in range(len(ys))]

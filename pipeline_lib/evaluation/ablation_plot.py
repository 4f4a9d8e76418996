"""The plot of an ablation as one SVG file: a panel a task, a row an arm, a dot a seed, a bar at their mean."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import mean

ArmValues = tuple[str, str, str, tuple[float, ...]]  # lever, arm, task, a value a seed

_LABEL, _PANEL, _GAP, _ROW, _TOP, _MARGIN = 150, 210, 18, 18, 44, 12
_COLOURS = ("#2f6fb4", "#b4532f", "#3b8f5a", "#7b4fa3", "#8a7a1f")
_MARGIN_SHARE = 0.08  # of a panel's range, left free on both sides


def draw(rows: Sequence[ArmValues]) -> str:
    """The whole file; panels have scales of their own, which are written below them."""
    tasks = list(dict.fromkeys(task for _, _, task, _ in rows))
    arms = list(dict.fromkeys((lever, arm) for lever, arm, _, _ in rows))
    levers = list(dict.fromkeys(lever for lever, _ in arms))
    width = _LABEL + len(tasks) * (_PANEL + _GAP) + _MARGIN
    height = _TOP + len(arms) * _ROW + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for line, (lever, arm) in enumerate(arms):
        y = _TOP + line * _ROW + _ROW * 0.7
        parts.append(f'<text x="{_LABEL - 8}" y="{y:.1f}" text-anchor="end">{escape(f"{lever}: {arm}")}</text>')
    for column, task in enumerate(tasks):
        of_task = {(lever, arm): values for lever, arm, name, values in rows if name == task}
        left = _LABEL + column * (_PANEL + _GAP)
        parts += [f'<g transform="translate({left} {_TOP})">', *_panel(task, arms, of_task, levers), "</g>"]
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

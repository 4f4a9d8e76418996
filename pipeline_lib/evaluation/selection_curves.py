"""The curves that a checkpoint is chosen by, as files: search, classification and similarity over steps (paper, figure 4)."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from pipeline_lib.files import replace_file

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

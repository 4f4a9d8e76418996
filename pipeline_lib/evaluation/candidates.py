"""Tracked evaluation candidates of the demo: whether a run was measured on the very texts that its published figures are of.

demo_candidates.txt lists, for each task of the validation and the test split, every row's id and a digest of its texts, as
`benchmarks.pin_demo` wrote them. Another Python, another version of a package or another filter changes some of them: the
figures of such a run are then set beside those of no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pipeline_lib.config.run import RunConfig
from pipeline_lib.evaluation.suites.held_out_tasks import Task, TaskSet

LIST = Path(__file__).with_name("demo_candidates.txt")
ID_DIGITS, DIGEST_DIGITS = 12, 8  # of ids that are hashes themselves, and of the texts' hash
SHOWN = 3  # ids and packages that a sentence names
_HEAD = "# What the demo is measured on: a split's task, then id and digest of each row; see benchmarks/pin_demo.py.\n"
_TEXTS = ("queries", "candidates", "texts", "labels", "left", "right", "grades")  # of a row, as the kinds of task call them

TaskSets = Mapping[str, TaskSet]  # by split
Rows = dict[str, dict[str, str]]  # "SPLIT TASK" -> id -> digest


def is_tracked(config: RunConfig) -> bool:
    """True for the demo on its own source, which the list is of."""
    return config.preset == "demo" and not config.source.folder and not config.source.dump


def rows_of(task_sets: TaskSets) -> Rows:
    """Id and digest of every row of every task."""
    return {f"{split} {task.name}": _digests(task) for split, found in task_sets.items() for task in found.tasks}


def written(task_sets: TaskSets) -> str:
    """The list as text."""
    blocks = (
        f"[{name}]\n" + "".join(f"{id_} {digest}\n" for id_, digest in rows.items())
        for name, rows in rows_of(task_sets).items()
    )
    return _HEAD + "".join(blocks)


def compare(task_sets: TaskSets, corpus: Sequence[str] = ()) -> dict[str, Any]:
    """A run's candidates beside the tracked ones.

    Args:
        task_sets: by split, of those that the run was measured on.
        corpus: how the corpus differs, in words (`python_installation.differences`).

    Returns:
        comparable; a sentence; differ: "SPLIT TASK" to the number of rows that are missing, new or have other texts, and the
        ids of the first; corpus.
    """
    tracked = {name: rows for name, rows in _tracked().items() if name.partition(" ")[0] in task_sets}
    found = rows_of(task_sets)
    differ = {}
    for name in sorted({*tracked, *found}):
        ours, theirs = found.get(name, {}), tracked.get(name, {})
        ids = sorted(id_ for id_ in {*ours, *theirs} if ours.get(id_) != theirs.get(id_))
        if ids:
            differ[name] = {"rows": len(ids), "first": ids[:SHOWN]}
    return {"comparable": not differ, "sentence": _sentence(differ, corpus), "differ": differ, "corpus": list(corpus)}


def _sentence(differ: dict[str, dict[str, Any]], corpus: Sequence[str]) -> str:
    why = f" The corpus is not the tracked one: {_some(corpus, len(corpus))}." if corpus else ""
    if not differ:
        trained = " Training saw other texts." if corpus else ""
        return f"Comparable with the tracked candidates: yes.{why}{trained}"
    which = "; ".join(f"{row['rows']:,} of {name} ({_some(row['first'], row['rows'])})" for name, row in differ.items())
    total = sum(row["rows"] for row in differ.values())
    return f"Comparable with the tracked candidates: no, {total:,} differ: {which}.{why}"


def _some(names: Sequence[str], total: int) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown} and {total - SHOWN:,} more" if total > SHOWN else shown


@cache
def _tracked() -> Rows:
    rows: Rows = {}
    for line in LIST.read_text(encoding="utf-8").splitlines()[1:]:
        if line.startswith("["):
            task = rows[line.strip("[]")] = {}
        else:
            id_, digest = line.split(" ")
            task[id_] = digest
    return rows


def _digests(task: Task) -> dict[str, str]:
    columns = [getattr(task, name) for name in _TEXTS if hasattr(task, name)]
    return {
        _short(id_): hashlib.sha256("\0".join(map(str, row)).encode("utf-8", "replace")).hexdigest()[:DIGEST_DIGITS]
        for id_, *row in zip(task.ids, *columns, strict=True)
    }


def _short(id_: str) -> str:
    """A pair's id cut short; the grade of a similarity row stays behind it."""
    pair, mark, grade = id_.partition(":")
    return pair[:ID_DIGITS] + mark + grade

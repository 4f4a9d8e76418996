"""Stage "ablate": the figures of every arm and seed as one table and one plot.

The part "ablation" holds ablation.json (every row), ablation.md (means over seeds, differences to the lever's base) and
ablation.svg. A difference is called `shown` where all seeds agree in its sign and it is over twice its standard error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean, stdev

from pipeline_lib.config.base import StageConfig
from pipeline_lib.evaluation.charts import ablation_chart
from pipeline_lib.evaluation.metrics import PRIMARY_METRIC, read_evaluations
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store

STAGE = Stage(name="ablate", version=2)
STANDARD_ERRORS = 2


@dataclass(frozen=True)
class Measured:
    """One run of one arm, and the artifacts that measured it."""

    lever: str
    arm: str
    is_base: bool
    seed: int
    evaluations: tuple[Artifact, ...]


@dataclass(frozen=True)
class Row:
    """One arm on one task: a value a seed, and how it stands to the lever's base."""

    lever: str
    arm: str
    task: str
    metric: str
    values: tuple[float, ...]
    mean: float
    deviation: float
    difference: float | None = None  # None for the base itself
    standard_error: float | None = None
    shown: bool | None = None


class AblationRun(StageConfig):
    """What names the artifact beside the evaluations: which of them belongs to which arm and seed."""

    runs: tuple[tuple[str, str, bool, int, int], ...]


def write_ablation(store: Store, measured: Sequence[Measured]) -> Artifact:
    """The table and the plot of these runs, which are given arm by arm, the base of each lever first."""
    runs = tuple((m.lever, m.arm, m.is_base, m.seed, len(m.evaluations)) for m in measured)
    flat = [artifact for m in measured for artifact in m.evaluations]

    def make(key: str) -> Outcome:
        rows = tabulate(measured)
        scratch = store.scratch(STAGE.name)
        (scratch / "ablation.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        (scratch / "ablation.md").write_text(render(rows))
        (scratch / "ablation.svg").write_text(ablation_chart([(r.lever, r.arm, r.task, r.values) for r in rows]))
        facts = {"rows": len(rows), "shown": sum(bool(row.shown) for row in rows)}
        return Outcome(parts=(store.commit_part(draft_part(STAGE, key, "ablation", facts=facts), scratch),), facts=facts)

    return store.build(STAGE, AblationRun(runs=runs), {f"{n:04d}": artifact for n, artifact in enumerate(flat)}, make)


def tabulate(measured: Sequence[Measured]) -> list[Row]:
    """A row for each arm and task, in the order given."""
    values: dict[tuple[str, str], dict[tuple[str, str], dict[int, float]]] = {}
    bases: dict[str, str] = {}
    for m in measured:
        if m.is_base:
            bases[m.lever] = m.arm
        for row in read_evaluations(m.evaluations):
            if row["metric"] == PRIMARY_METRIC[row["kind"]]:
                of_task = values.setdefault((m.lever, m.arm), {}).setdefault((row["task"], row["metric"]), {})
                of_task.setdefault(m.seed, row["value"])  # of a task that both rankings hold, the first
    return [
        _row(lever, arm, task, by_seed, values[lever, bases[lever]].get(task, {}) if arm != bases[lever] else None)
        for (lever, arm), tasks in values.items()
        for task, by_seed in tasks.items()
    ]


def _row(lever: str, arm: str, task: tuple[str, str], by_seed: Mapping[int, float], base: Mapping[int, float] | None) -> Row:
    seeds = sorted(by_seed)
    values = tuple(by_seed[seed] for seed in seeds)
    row = Row(lever, arm, *task, values, mean(values), stdev(values) if len(values) > 1 else 0.0)
    if base is None or base.keys() != by_seed.keys():
        return row
    gaps = [by_seed[seed] - base[seed] for seed in seeds]
    error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else None
    agree = all(gap > 0 for gap in gaps) or all(gap < 0 for gap in gaps)
    shown = agree and error is not None and abs(mean(gaps)) > STANDARD_ERRORS * error
    return replace(row, difference=mean(gaps), standard_error=error, shown=shown)


def render(rows: Sequence[Row]) -> str:
    """A markdown table: arms down, tasks across; differences to the base in brackets, bold where they are shown."""
    tasks = list(dict.fromkeys((row.task, row.metric) for row in rows))
    cells = {(row.lever, row.arm, row.task): _cell(row) for row in rows}
    head = ["lever", "arm", *(f"{task}, {metric}" for task, metric in tasks)]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for lever, arm in dict.fromkeys((row.lever, row.arm) for row in rows):
        lines.append(" | ".join([lever, arm, *(cells.get((lever, arm, task), "-") for task, _ in tasks)]))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def _cell(row: Row) -> str:
    value = f"{row.mean:.3f} ± {row.deviation:.3f}"
    if row.difference is None:
        return value
    change = f"{row.difference:+.3f}"
    return f"{value} ({f'**{change}**' if row.shown else change})"

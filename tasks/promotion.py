"""Promotion tasks: a candidate beside the champion of its name, and the registry's next event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from pipeline_lib.config.run import RunConfig
from pipeline_lib.evaluation.gate import Check, compare
from pipeline_lib.evaluation.suites.held_out_tasks import draw_tasks
from pipeline_lib.evaluation.suites.models import CheckpointEncoder
from pipeline_lib.evaluation.suites.variants import truncated
from pipeline_lib.export.exported import TorchQueries
from pipeline_lib.index.verified import read_json
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.search import registry
from pipeline_lib.search.answers import TOP, indexed_vectors, overlap, recall
from pipeline_lib.search.query import Searcher
from pipeline_lib.search.registry import Candidate
from pipeline_lib.search.registry_log import Champion, Home
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from tasks.ui import StageProgress, show_table, stage_task

EXACT = "Flat"  # FAISS factory of an index without approximation
Row = dict[str, Any]


@dataclass(frozen=True)
class Rivals:
    """A champion and a candidate, each measured on validation of the candidate's corpus.

    Attributes:
        found: the champion as the registry knows it.
        champion, candidate: their evaluations.
        checkpoint: the candidate's.
    """

    found: Champion
    champion: Sequence[Artifact]
    candidate: Sequence[Artifact]
    pair: Candidate
    checkpoint: Checkpoint


@stage_task("compare-with-champion")
def compare_task(store: Store, curated: Artifact, rivals: Rivals, contracts: Check, config: RunConfig) -> list[Check]:
    """The gate's checks, as a table in the UI: score and kinds, contracts, recall of the index, overlap of the answers."""
    progress = StageProgress("promotion gate")
    rule = config.promote
    checks = [*compare(rivals.champion, rivals.candidate, config.select, rule), contracts]
    queries = sample_queries(curated, config)
    mine = Searcher(registry.as_pair(rivals.pair), TorchQueries)
    checks.append(_recall(store, curated, rivals, mine, queries, config))
    theirs = Searcher(rivals.found, TorchQueries)
    shared = overlap(theirs, mine, queries)
    checks.append(Check(f"top {TOP} in common, {len(queries):,} queries", candidate=shared, asked="shown only"))
    held_back = [check.reason for check in checks if check.reason]
    show_comparison(rivals.found.name, checks, held_back)
    progress.finish("; ".join(held_back) or "better than the champion")
    return checks


@stage_task("promote")
def promote_task(home: Home, name: str, candidate: Candidate, why: str, told: Row, against: int | None) -> Champion:
    """From now on searches for the name use this model and this index."""
    return registry.promote(home, name, candidate, why, told, against)


@stage_task("reindex")
def reindex_task(home: Home, name: str, index: Artifact, against: str) -> Champion:
    """From now on searches for the name use its champion with this index, in place of the one of that digest."""
    return registry.reindex(home, name, index, {"why": "the dump has changed"}, against=against)


def sample_queries(curated: Artifact, config: RunConfig) -> list[str]:
    """Queries of the validation split's search tasks, as many of each kind, in the order of their hash."""
    tasks = draw_tasks(curated, "validation", config.evaluate)
    of_kind = [task.texts_of("x") for kind in ("code_search", "text_search") if (task := tasks.of_kind(kind))]
    each = -(-config.promote.sample_queries // max(1, len(of_kind)))
    return [query for queries in of_kind for query in queries[:each] if query.strip()]


def show_comparison(name: str, checks: Sequence[Check], held_back: Sequence[str]) -> None:
    """The table of a comparison in Prefect's UI, under the name of the model."""
    said = f"Held back: {'; '.join(held_back)}." if held_back else "Better than the champion in all that was asked for."
    show_table(f"promotion-{name}", [check.row() for check in checks], said)


def comparison_markdown(name: str, checks: Sequence[Check]) -> str:
    """A comparison as a page that a person decides by."""
    head = "| | champion | candidate | difference | asked for | |\n|---|---|---|---|---|---|"
    return f"**Candidate for `{name}`**\n\n{head}\n" + "\n".join(map(_line, checks))


def _line(check: Check) -> str:
    figures = [f"{value:.3f}" if value is not None else "" for value in (check.champion, check.candidate)]
    between = f" [{check.low:+.3f}, {check.high:+.3f}]" if check.low is not None and check.high is not None else ""
    difference = f"{check.difference:+.3f}{between}" if check.difference is not None else ""
    verdict = {True: "yes", False: "**no**", None: ""}[check.passed]
    return f"| {check.what} | {' | '.join(figures)} | {difference} | {check.asked} | {verdict} |"


def _recall(
    store: Store, curated: Artifact, rivals: Rivals, mine: Searcher, queries: Sequence[str], config: RunConfig
) -> Check:
    """Recall of the candidate's index; an exact one needs no measurement."""
    least, factory = config.promote.least_recall, read_json(mine.current.index / "index.json").get("factory", "")
    found = 1.0
    if factory != EXACT:
        whole = CheckpointEncoder(rivals.checkpoint, config.index.batch_tokens, config.index.precision)
        model = truncated(whole, config.export.truncate_dim)
        slices = indexed_vectors(store, curated, model.id.fingerprint, config.index.rows_per_slice)
        with closing(slices):
            found = recall(mine, slices, queries)
    reason = "" if found >= least else f"recall@{TOP} of the index {factory} is {found:.3f}, {least:g} is asked for"
    return Check(f"index recall@{TOP}", candidate=found, asked=f"at least {least:g}", passed=not reason, reason=reason)


def contracts_check(artifacts: Mapping[str, Artifact]) -> Check:
    """The contracts of the run: a stage whose contract is broken never ends, so what is here has passed.

    Args:
        artifacts: what contracts were run over, by the name of the stage.
    """
    rows = sum(artifact.manifest.counts.quarantined for artifact in artifacts.values())
    asked = f"kept by {', '.join(artifacts)}; {rows:,} rows in quarantine"
    missing = "check validation" not in artifacts
    reason = "the figures on validation were not checked against their contract" if missing else ""
    return Check("contracts", asked=asked, passed=not missing, reason=reason)

"""Data lost of a dump: files that ended early, or have gaps, weighed by their bytes; and what is said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipeline_lib.config.data import ContractConfig
from pipeline_lib.store.artifact import Artifact

LOSSES_FILE = "losses.parquet"  # of extract's parts that lost something
SHOWN = 10
REASONS_SHOWN = 5

Row = Mapping[str, Any]


@dataclass(frozen=True)
class DataLosses:
    """What one extraction lost.

    Args:
        rows: of schemas.LOSSES, the largest first.
        dump_bytes: of all files of the dump.
    """

    rows: Sequence[Row]
    dump_bytes: int

    @classmethod
    def of(cls, extracted: Artifact) -> DataLosses:
        """What an extract artifact lost."""
        rows = [row for path in extracted.paths(LOSSES_FILE) for row in pq.read_table(path).to_pylist()]
        rows.sort(key=lambda row: (-row["lost_bytes"], row["source"], row["path"], row["reason"]))
        return cls(rows, int(extracted.manifest.facts.get("bytes", 0)))

    @property
    def lost_bytes(self) -> int:
        """Bytes on disk that were lost."""
        return sum(row["lost_bytes"] for row in self.rows)

    @property
    def files(self) -> int:
        """Files that lost a part."""
        return len({(row["source"], row["path"]) for row in self.rows})

    @property
    def share(self) -> float:
        """Share of the dump's bytes that was lost."""
        return self.lost_bytes / self.dump_bytes if self.dump_bytes else 0.0

    @property
    def sentence(self) -> str:
        """The whole in one sentence; empty where nothing was lost."""
        if not self.rows:
            return ""
        files = "1 file of the dump was" if self.files == 1 else f"{self.files:,} files of the dump were"
        return (
            f"{files} not read whole: {self.lost_bytes:,} of {self.dump_bytes:,} bytes ({_percent(self.share)}) count as lost"
        )

    def lines(self, shown: int = SHOWN) -> list[str]:
        """A line a loss, the largest first, and one that counts those that are left out."""
        lines = [loss_line(row) for row in self.rows[:shown]]
        more = len(self.rows) - shown
        return lines if more <= 0 else [*lines, f"and {more:,} more: {commonest_of(self.rows[shown:])}"]

    def faults(self, config: ContractConfig) -> list[str]:
        """Why the run must stop; nothing where the losses are within their bound."""
        if not self.rows or self.share <= config.max_lost_share:
            return []
        most, advice = _percent(config.max_lost_share), "raise contract.max_lost_share to go on with what there is"
        return [f"{self.sentence}, at most {most} may; the largest: {loss_line(self.rows[0])}; mend what was lost, or {advice}"]


def loss_line(row: Row) -> str:
    """One loss: file, reason, place, what was kept, what it cost, and why."""
    place = f" at offset {row['offset']:,}" if row["offset"] >= 0 else ""
    times = f", {row['count']:,} times, first" if row["count"] > 1 else ""
    share = row["lost_bytes"] / row["file_bytes"] if row["file_bytes"] else 1.0
    cost = f"{row['lost_bytes']:,} of its {row['file_bytes']:,} bytes ({_percent(share)}) lost"
    if row["reason"] == "truncated" and row["lost_bytes"]:
        cost = f"nobody knows how much is missing, so all its {row['file_bytes']:,} bytes count"
    kept = f"{row['texts']:,} texts before it kept"
    return f"{row['path']}: {row['reason']}{times}{place}, {kept}; {cost}: {row['detail']}"


def commonest_of(rows: Sequence[Row]) -> str:
    """Reasons of losses with the number of files, the commonest first."""
    return by_count(Counter(row["reason"] for row in rows))


def by_count(reasons: Mapping[str, int]) -> str:
    """Reasons with their counts, the commonest first, e.g. "not_json 12, redirect 3"."""
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(ranked) - REASONS_SHOWN} more reasons" if len(ranked) > REASONS_SHOWN else ""
    return (", ".join(f"{reason} {count:,}" for reason, count in ranked[:REASONS_SHOWN]) or "none") + more


def no_pair_fault(extracted: Artifact) -> list[str]:
    """Why there is nothing to train on: the commonest reasons with their counts; nothing where there is a pair."""
    manifest = extracted.manifest
    if manifest.counts.n_out or "texts" not in manifest.facts:
        return []
    facts, left_out = manifest.facts, manifest.facts["left_out"]
    pairs = Counter(manifest.counts.dropped)
    pairs.subtract(left_out)
    why = {
        "texts refused": facts["refused"],
        "texts left out whole": left_out,
        "candidates dropped": {reason: count for reason, count in pairs.items() if count > 0},
        "files not read whole": facts["losses"],
    }
    reasons = "; ".join(f"{what}: {by_count(counts)}" for what, counts in why.items() if counts)
    found = f"{facts['texts']:,} texts in {facts['files']:,} files, {facts['documents']:,} documents"
    advice = "expected functions with docstrings, or prose of several paragraphs: `cpt inspect` shows samples of each reason"
    return [f"not one pair came of {found}; {reasons or 'no reason was counted'}; {advice}"]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or not share else "under 0.1%"

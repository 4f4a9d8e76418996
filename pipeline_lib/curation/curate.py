"""Stage "curate": validated pairs, each text once, cut into train, validation and test.

Contaminated pairs go first, then exact duplicates, then near-duplicates; what survives is split by group, and a text that two
splits share stays in one of them.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.schemas import PAIRS, SPLITS
from pipeline_lib.config.data import CurateConfig
from pipeline_lib.curation.decontaminate import decontaminate
from pipeline_lib.curation.dedup import Curation
from pipeline_lib.curation.known_splits import know, known_units
from pipeline_lib.curation.near_duplicates import drop_near_duplicates
from pipeline_lib.curation.split import Split, pinned_units, split_documents, split_groups, split_of
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Part, Stage, draft_part
from pipeline_lib.store.store import Store

STAGE = Stage(name="curate", version=2)

ROW_GROUP_ROWS = 20_000  # some 20 MB of texts: what a reader of one row group holds


def curate(
    store: Store,
    validated: Artifact,
    config: CurateConfig,
    progress: Progress = silent,
    contamination: Artifact | None = None,
    known: Artifact | None = None,
) -> Artifact:
    """Drop duplicates over the whole set and split it by group; one part a split, its `pairs.parquet` sorted by id.

    The order of parts and of rows changes nothing. Facts: rows, groups and documents per split and kind; the unit of the
    split and why it was chosen; leaks, which are 0; what was found of each evaluation suite. A set of fewer than
    `min_groups` groups, or one that a split by group would leave a split empty of, is split by document.

    Args:
        store: where the parts go.
        validated: of the stage "validate".
        config: what is dropped, and how the rest is split.
        progress: called after every pass.
        contamination: of the stage "contamination"; pairs that hold one of its texts are dropped first.
        known: of the stage "known_splits"; documents and texts that it names stay in their split, and the unit is its unit.

    Raises:
        UserError: there are too few documents for three splits, or a package that near-duplicates need is missing.
        ContractViolation: a pair id occurs twice.
        CorruptArtifact: an input's bytes are not those of its manifest.
    """
    given = {"validated": validated, "contamination": contamination, "known": known}
    inputs = {name: artifact for name, artifact in given.items() if artifact}

    def make(_: str) -> Outcome:
        scratch = store.scratch(STAGE.name)
        try:
            with Curation(validated.paths("pairs.parquet"), config, scratch) as curation:
                return _curate(store, inputs, curation, config, progress)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    return store.build(STAGE, config, inputs, make)


def _curate(
    store: Store, inputs: Mapping[str, Artifact], curation: Curation, config: CurateConfig, progress: Progress
) -> Outcome:
    steps = len(SPLITS) + 2
    total = curation.rows()
    if not total:
        raise UserError(
            "curate: not one pair came through validation; expected functions with docstrings or prose of several paragraphs"
            " in the source folder"
        )
    progress(0, steps, f"{total:,} pairs to deduplicate")
    known = inputs.get("known")
    if known:
        know(curation, known)
    facts = drop(curation, config, inputs.get("contamination"))
    progress(1, steps, f"{total:,} pairs deduplicated")
    unit, reason = split(curation, config, known)
    sizes = curation.sizes()
    leaks = curation.leaks(unit)
    assert not any(leaks.values()), f"curate: splits share what they must not: {leaks}"
    progress(2, steps, f"{total:,} pairs split")
    parts = []
    for name in SPLITS:
        parts.append(_write_split(store, inputs, curation, name, config))
        written = sum(part.counts.n_out for part in parts)
        progress(2 + len(parts), steps, f"{written:,} pairs written")
    facts |= {"split_unit": unit.removesuffix("_id"), "split_reason": reason, "splits": sizes, "leaks": leaks}
    if told := split_warnings(curation, config):
        facts["split_warnings"] = told
    counts = Counts(n_in=total, n_out=sum(part.counts.n_out for part in parts), dropped=curation.dropped())
    return Outcome(parts=tuple(parts), counts=counts, facts=facts)


def drop(curation: Curation, config: CurateConfig, contamination: Artifact | None) -> dict[str, Any]:
    """Everything that goes before the split: evaluation texts, exact duplicates, near-duplicates.

    Returns:
        The facts about what was found of each evaluation suite; empty where none was given.

    Raises:
        ContractViolation: a pair id occurs twice.
    """
    curation.check_ids()
    facts = {"contamination": decontaminate(curation, contamination)} if contamination else {}
    curation.drop_repeated()
    if config.near.threshold:
        drop_near_duplicates(curation, config.near)
    return facts


def split(curation: Curation, config: CurateConfig, known: Artifact | None = None) -> tuple[str, str]:
    """Choose the unit of the split, give every surviving row its split and drop the held-out twins.

    Sources with a `hold_out` go where it says; the unit is that of all others.

    Args:
        known: the splits of an earlier growth.

    Returns:
        The unit's column ("group" or "document_id"), and why it was chosen.

    Raises:
        UserError: a split would be empty by document too, or sources that go to different splits share a group.
    """
    unit, reason, splits = _grown(curation, config, known) if known else _first(curation, config)
    short = {name: "train" if unit == "document_id" else split_of(name, config) for name in curation.survivors_by(unit, True)}
    curation.assign(unit, short | splits)
    curation.drop_twins()
    empty = [name for name in SPLITS if name not in curation.sizes()]
    if empty:
        asked = f" (hold_out: {config.hold_out})" if config.hold_out else ""
        came = f"{len(splits)} {unit.removesuffix('_id')}s came through{asked}"
        raise UserError(
            f"curate: no pairs are left for {' and '.join(empty)}: {came}, expected 3 at least with texts of their own; add"
            " files to the source, or give a source of the dump spec the `hold_out`"
            f" {'never' if 'train' in empty else empty[0]}"
        )
    return unit, reason


def _grown(curation: Curation, config: CurateConfig, known: Artifact) -> tuple[str, str, dict[str, Split]]:
    """The unit and split of a set that has grown: as they were, new units by the hash of their name."""
    unit = str(known.manifest.facts["unit"])
    column = "document_id" if unit == "document" else unit
    pinned = _pinned(curation, config)
    if column == "document_id":
        pinned = _in_groups(curation, pinned)
    units = split_groups(curation.survivors_by(column), config)
    return column, "as before the set grew", units | pinned | known_units(curation, column)


def _first(curation: Curation, config: CurateConfig) -> tuple[str, str, dict[str, Split]]:
    """The unit that suits a set, why, and each unit's split."""
    groups = curation.survivors_by("group")
    pinned = _pinned(curation, config)
    free = {group: kinds for group, kinds in groups.items() if group not in pinned}
    by_group = split_groups(groups, config) | pinned
    if free and len(groups) < config.min_groups:
        unit, reason = "document_id", f"{len(groups)} groups, fewer than the {config.min_groups} that a split by group needs"
    elif lacking := _lacking(groups, free, by_group):
        unit, reason = "document_id", f"by group the set would have no {lacking}"
    else:
        unit, reason = "group", f"{len(groups)} groups"
    return unit, reason, by_group if unit == "group" else _by_document(curation, config)


def _pinned(curation: Curation, config: CurateConfig) -> dict[str, Split]:
    """The split of each group that a source with a `hold_out` has a share in."""
    return pinned_units(curation.sources_by("group"), config.hold_out) if config.hold_out else {}


def _by_document(curation: Curation, config: CurateConfig) -> dict[str, Split]:
    """The split of each document; a group that a source with a `hold_out` has a share in stays whole here too."""
    documents = curation.survivors_by("document_id")
    pinned = _in_groups(curation, _pinned(curation, config))
    return split_documents({name: kinds for name, kinds in documents.items() if name not in pinned}, config) | pinned


def _in_groups(curation: Curation, groups: Mapping[str, Split]) -> dict[str, Split]:
    """The split of each document of these groups."""
    return {document: groups[group] for document, group in curation.groups_of_documents().items() if group in groups}


def _lacking(groups: Mapping[str, frozenset[str]], free: Mapping[str, frozenset[str]], splits: Mapping[str, str]) -> str:
    """The kinds of pairs that a split would lack although the set has them, e.g. "text in validation".

    Args:
        groups: all groups, with the kinds of their pairs.
        free: those that the hash decides about; a kind that none of them has can go nowhere else.
    """
    kinds = sorted(frozenset[str]().union(*free.values()))
    held = {(kind, splits[group]) for group, kinds_here in groups.items() for kind in kinds_here}
    return ", ".join(f"{kind} in {name}" for name in SPLITS for kind in kinds if (kind, name) not in held)


def split_warnings(curation: Curation, config: CurateConfig) -> list[str]:
    """What a person must hear of a split before anything is trained on it, each with what to do.

    Said are kinds of pairs that a split lacks, and a source (of a few) or a language of which nothing is for training: the
    single repository of it fell into a held-out split.
    """
    sizes = curation.sizes()
    kinds = sorted({kind for of_split in sizes.values() for kind in of_split})
    told = [
        f"the split {name} holds no {kind} pairs; add groups with some, or set `hold_out` of a source that has some"
        for name in SPLITS
        for kind in kinds
        if kind not in sizes[name]
    ]
    for column in ("source", "language"):
        splits_of = curation.splits_by(column)
        if column == "source" and not 1 < len(splits_of) < config.min_groups:
            continue  # of many sources some are held out whole: that is the split
        for value, splits in splits_of.items():
            if "train" not in splits and not (column == "source" and value in config.hold_out):
                told.append(
                    f"nothing of the {column} {value!r} is for training: all of it fell into {' and '.join(sorted(splits))};"
                    " keep its source out of the held-out splits (`hold_out: never` in the dump spec), or add more groups"
                )
    return told


def _write_split(store: Store, inputs: Mapping[str, Artifact], curation: Curation, name: str, config: CurateConfig) -> Part:
    key = store.key(STAGE, config, {**{of: artifact.digest for of, artifact in inputs.items()}, "split": name})
    found = store.find_part(STAGE.name, key)
    if found is not None:
        return found
    scratch = store.scratch(STAGE.name)
    rows = write_pairs(scratch / "pairs.parquet", curation.pairs(name, ROW_GROUP_ROWS))
    counts = Counts(n_in=rows, n_out=rows)
    return store.commit_part(draft_part(STAGE, key, name, counts, {"pairs.parquet": rows}), scratch)


def write_pairs(path: Path, batches: Iterable[pa.RecordBatch]) -> int:
    """Write rows of schemas.PAIRS in row groups of `ROW_GROUP_ROWS`, whatever the size of the batches; returns the rows."""
    rows = 0
    with pq.ParquetWriter(path, PAIRS, compression="zstd") as writer:
        for table in _regroup(batches):
            writer.write_table(table.cast(PAIRS), row_group_size=ROW_GROUP_ROWS)
            rows += table.num_rows
    return rows


def _regroup(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    rows = 0
    for batch in batches:
        waiting.append(pa.Table.from_batches([batch]))
        rows += batch.num_rows
        while rows >= ROW_GROUP_ROWS:
            table = pa.concat_tables(waiting)
            # combined, so that the pages of the file do not depend on how the engine cut its batches
            yield table.slice(0, ROW_GROUP_ROWS).combine_chunks()
            waiting, rows = [table.slice(ROW_GROUP_ROWS)], rows - ROW_GROUP_ROWS
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()


UNKNOWN = "not said"


def count_training_pairs(curated: Artifact, column: str) -> dict[str, int]:
    """Training pairs by the values of a column, the most frequent first, ties by name; "not said" where there is none.

    Args:
        curated: of stage "curate".
        column: of the pairs' schema, such as "licence" or "kind". It is read alone, a batch of rows at a time.
    """
    found: Counter[str] = Counter()
    with pq.ParquetFile(curated.part_folder("train") / "pairs.parquet") as file:
        for batch in file.iter_batches(columns=[column]):
            for value in batch.column(0).value_counts().to_pylist():
                found[value["values"] or UNKNOWN] += value["counts"]
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

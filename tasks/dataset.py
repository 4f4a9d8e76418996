"""Dataset tasks, from raw dump to token shards: each task is one library call, with its progress and its table."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from data_contracts.check_shards import check_shards
from data_contracts.data_loss import DataLosses, by_count
from data_contracts.validate import validate
from data_contracts.verdicts import verdict_rows
from pipeline_lib.config.data import ShardConfig
from pipeline_lib.config.model import PromptsConfig
from pipeline_lib.config.run import RunConfig
from pipeline_lib.curation.curate import curate
from pipeline_lib.curation.decontaminate import hash_evaluations
from pipeline_lib.curation.known_splits import note_splits
from pipeline_lib.evaluation.candidates import is_tracked
from pipeline_lib.pairs.extract import extract
from pipeline_lib.pairs.queries import BAD_FILE, add_queries
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.sources.changes import Files, listed_files
from pipeline_lib.sources.dump_files import list_bundles, listing_key
from pipeline_lib.sources.dump_spec import held_out_sources
from pipeline_lib.sources.folder import Skips
from pipeline_lib.sources.python_installation import differences
from pipeline_lib.sources.safe_open import printable
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import sum_counts
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.guide import Cleaned
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.tokens.tokenizer import adopt_tokenizer, prompted_tokenizer, train_tokenizer
from tasks.ui import StageProgress, say, show_table, stage_task

ROWS_SHOWN = 1_000  # of a table in Prefect's UI


@stage_task("list")
def listing_task(store: Store, config: RunConfig) -> tuple[str, Files]:
    """The key of the dump's listing as it is now, and its files by content; nothing is written."""
    skips = Skips()
    bundles = list_bundles(config.source, skips, config.extract.more_forms)
    return listing_key(store, config.source, bundles, skips), listed_files(file for one in bundles for file in one.files)


@stage_task("extract")
def extract_task(store: Store, config: RunConfig) -> Artifact:
    """Documents and pairs of the dump, by Dask processes that live as long as this task."""
    progress = StageProgress("extract")
    artifact = extract(store, config.source, config.extract, progress)
    facts = artifact.manifest.facts
    progress.finish(f"{facts['documents']:,} documents, {facts['code_pairs']:,} code pairs, {facts['text_pairs']:,} text pairs")
    if "skipped" in facts:
        progress.tell(told := Skips.of(facts["skipped"]).sentence())
        say(f"  {'':<18} {told}")
    if is_tracked(config) and (why := differences(artifact)):
        progress.tell(f"{WARNING}the demo's figures will not be comparable with others': {'; '.join(why)}")
    for line in left_out_lines(artifact):
        progress.note(line)
    losses = DataLosses.of(artifact)
    if losses.rows:
        progress.tell(f"{WARNING}{losses.sentence}")
        for line in losses.lines():
            progress.tell(f"{WARNING}{printable(line)}")
        show_table(
            "losses", [dict(row) for row in losses.rows[:ROWS_SHOWN]], f"{losses.sentence}; what came before each break is kept"
        )
    show_table("extract", drop_rows(artifact), "What came in, what was dropped and why")
    return artifact


@stage_task("queries")
def queries_task(store: Store, extracted: Artifact, config: RunConfig) -> Artifact:
    """Pairs of a file's queries and the dump's texts, behind those of the dump."""
    progress = StageProgress("queries")
    artifact = add_queries(store, extracted, config.queries, config.extract.generation, progress)
    told = artifact.manifest.facts["queries"]
    progress.finish(f"{told['pairs']:,} pairs of {told['rows']:,} rows, {sum(told['bad'].values()):,} in quarantine")
    if told["bad"]:
        folder = artifact.part_folder("queries")
        progress.tell(
            f"{WARNING}rows of queries set aside: {by_count(told['bad'])}; each with its reason in {folder}/{BAD_FILE}"
        )
    return artifact


@stage_task("validate")
def validate_task(store: Store, extracted: Artifact, config: RunConfig) -> Artifact:
    """Great Expectations over every part; bad rows go to quarantine with their reasons."""
    progress = StageProgress("validate")
    artifact = validate(store, extracted, config.contract, progress, config.extract)
    counts = sum_counts(artifact.manifest.parts)
    lost = DataLosses.of(extracted)
    tail = f"; {lost.sentence}" if lost.rows else ""
    progress.finish(f"{counts.n_out:,} good rows, {counts.quarantined:,} in quarantine{tail}")
    show_table("validate", verdict_rows(artifact), "The contract's verdict on each part")
    return artifact


@stage_task("contamination")
def contamination_task(store: Store, config: RunConfig) -> Artifact:
    """The evaluation texts that no pair may hold, hashed."""
    progress = StageProgress("contamination")
    artifact = hash_evaluations(store, config.contamination, progress)
    suites = artifact.manifest.facts["suites"]
    progress.finish(f"{sum(suites.values()):,} texts of {len(suites)} suites")
    show_table("contamination", drop_rows(artifact), "Evaluation texts by file, and what could not be one")
    return artifact


@stage_task("known-splits")
def known_splits_task(store: Store, curated: Artifact, before: Artifact | None) -> Artifact:
    """What was in a split stays in it: the documents and texts of a dataset, for the next one under its name."""
    return note_splits(store, curated, before)


@stage_task("curate")
def curate_task(
    store: Store,
    validated: Artifact,
    config: RunConfig,
    contamination: Artifact | None = None,
    known: Artifact | None = None,
) -> Artifact:
    """Decontamination and deduplication over the whole set, and the split by group; known splits stay."""
    progress = StageProgress("curate")
    hold_out = {**config.curate.hold_out, **held_out_sources(config.source.dump)}
    curate_config = config.curate.model_copy(update={"hold_out": hold_out})
    artifact = curate(store, validated, curate_config, progress, contamination, known)
    rows = ", ".join(f"{part.label} {part.counts.n_out:,}" for part in artifact.manifest.parts)
    progress.finish(f"{rows} pairs; {sum(artifact.manifest.counts.dropped.values()):,} dropped")
    facts = artifact.manifest.facts
    if facts["split_unit"] == "document":
        easier = "files of one group are on both sides, which makes figures easier: give more groups, or sources a `hold_out`"
        progress.tell(f"{WARNING}split by document, not by group: {facts['split_reason']}; {easier}")
    for told in facts.get("split_warnings", ()):
        progress.tell(f"{WARNING}{told}")
    show_table("curate", drop_rows(artifact), "Rows by split")
    if "contamination" in artifact.manifest.facts:
        show_table("decontaminate", contamination_rows(artifact), "What was found of each evaluation suite")
    return artifact


@stage_task("tokenizer")
def tokenizer_task(store: Store, curated: Artifact, config: RunConfig) -> Artifact:
    """A byte-level BPE of the training split, or the tokenizer of the model that training starts from."""
    progress = StageProgress("tokenizer")
    if config.model.init:
        artifact = adopt_tokenizer(store, Path(config.model.init), config.tokenizer.delimiters, config.tokenizer.bos)
    else:
        artifact = train_tokenizer(store, curated, config.tokenizer, progress)
    progress.finish(f"{artifact.manifest.facts['vocab_size']:,} ids")
    return artifact


@stage_task("prompts")
def prompts_task(store: Store, tokenizer: Artifact, prompts: PromptsConfig, lengths: ShardConfig) -> Artifact:
    """The tokenizer with prompts before the texts of each side and task."""
    progress = StageProgress("prompts")
    artifact = prompted_tokenizer(store, tokenizer, prompts, lengths)
    progress.finish(", ".join(told_prompts(prompts)) or "none")
    return artifact


def told_prompts(prompts: PromptsConfig) -> list[str]:
    """Each prompt by its name."""
    sides = {"query": prompts.query, "document": prompts.document}
    of_tasks = {f"{task}-{side}": text for task, found in prompts.tasks.items() for side, text in found.items()}
    return [f"{name} {text!r}" for name, text in (sides | of_tasks).items() if text is not None]


@stage_task("shards")
def shards_task(store: Store, curated: Artifact | Cleaned, tokenizer: Artifact, config: RunConfig) -> Artifact:
    """Token ids in memory-mapped Arrow files."""
    progress = StageProgress("shards")
    artifact = write_shards(store, curated, tokenizer, config.shards, progress, config.extract)
    progress.finish(", ".join(f"{part.label} {part.counts.n_out:,}" for part in artifact.manifest.parts))
    show_table(
        "shards", [{"part": p.label, "rows": p.counts.n_out, **p.facts} for p in artifact.manifest.parts], "Token shards"
    )
    return artifact


@stage_task("check-shards")
def check_shards_task(store: Store, shards: Artifact, tokenizer: Artifact, config: RunConfig) -> Artifact:
    """Great Expectations over the token shards."""
    progress = StageProgress("check shards")
    artifact = check_shards(store, shards, tokenizer, config.contract, progress)
    progress.finish(f"{sum_counts(artifact.manifest.parts).n_in:,} rows keep their contract")
    show_table("check-shards", verdict_rows(artifact), "The contract's verdict on each part of the shards")
    return artifact


def left_out_lines(extracted: Artifact) -> list[str]:
    """What extraction did not take, one line each: refused texts, texts left out whole, candidates for pairs; by reason."""
    facts, counts = extracted.manifest.facts, extracted.manifest.counts
    candidates = Counter(counts.dropped)
    candidates.subtract(facts["left_out"])
    skipped = Skips.of(facts.get("skipped", {})).by_reason()  # told by themselves
    by_name = {
        f"texts of {facts['texts']:,} refused": facts["refused"],
        f"texts of {facts['texts']:,} left out whole": facts["left_out"],
        "parts of texts left out on purpose": facts.get("omitted", {}),
        "candidates for pairs dropped": {reason: n for reason, n in candidates.items() if n > 0 and reason not in skipped},
    }
    return [f"{sum(reasons.values()):,} {name}: {by_count(reasons)}" for name, reasons in by_name.items() if reasons]


def contamination_rows(curated: Artifact) -> list[dict[str, object]]:
    """What curation found of each evaluation suite: one row a suite."""
    return [
        {
            "suite": suite,
            "texts": found["texts"],
            "texts found": found["texts_found"],
            "pairs dropped": found["pairs"],
            "samples": " | ".join(f"{sample['path']}: {sample['shared']}" for sample in found["samples"]),
        }
        for suite, found in curated.manifest.facts["contamination"].items()
    ]


def drop_rows(artifact: Artifact) -> list[dict[str, object]]:
    """The accounting of a stage as a table: one row a part, one column a reason."""
    reasons = sorted({reason for part in artifact.manifest.parts for reason in part.counts.dropped})
    return [
        {
            "part": part.label,
            "in": part.counts.n_in,
            "out": part.counts.n_out,
            "quarantined": part.counts.quarantined,
            **{reason: part.counts.dropped.get(reason, 0) for reason in reasons},
        }
        for part in artifact.manifest.parts
    ]

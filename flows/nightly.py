"""Nights: a run of a published name does what is new since the last one, and the champion's index takes it in whatever comes.

What the last night left stands in the name's history (search/registry.py), in its newest event `night`. It is written last, so
that a night that was killed is done again from the same state: it finds its stages done, and comes to the same end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flows.build_dataset import Pairs, dataset_of, pairs_of
from flows.params import RunParams
from flows.publish import Published, publish_run
from flows.runs import asked_digest, name_in_registry, with_settings
from flows.train import train_on
from flows.workspace import Workspace, in_subflow, recorded_params
from pipeline_lib.curation.known_splits import new_share
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import Checkpoint, Lineage, lineage_of, open_checkpoint
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.search.registry import Home, latest, pair_of, record
from pipeline_lib.sources.changes import Changes, changes_between, files_of, listed_files
from pipeline_lib.sources.dump_files import list_bundles, listing_key
from pipeline_lib.sources.folder import Skips
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of, sha256_file
from pipeline_lib.store.store import Store
from tasks.dataset import known_splits_task
from tasks.promotion import reindex_task
from tasks.publishing import index_task
from tasks.ui import say

EVENT = "night"
OUTCOMES = {
    "promoted": "promoted",
    "in use": "promoted",
    "tried": "tried",
}  # of what became of a candidate; else it is held back


@dataclass(frozen=True)
class State:
    """What a night left, by the keys of its artifacts; empty: there was none.

    Attributes:
        source: the listing of its dump.
        curate: its dataset.
        known: the splits that this one kept.
        trained_source, trained_on: listing and dataset of the last training, promoted or held back.
        asked: digest of the configuration.
        contamination: digest of the evaluation texts that no pair may hold.
    """

    source: str = ""
    curate: str = ""
    known: str = ""
    trained_source: str = ""
    trained_on: str = ""
    asked: str = ""
    contamination: str = ""


@dataclass(frozen=True)
class Reigning:
    """The champion of a name, and what it was made from.

    Attributes:
        checkpoint: as RUN/step-000240.
        lineage: of its run, with the pairs that it was trained on.
        indexed: digest of the pairs that its index holds.
    """

    model_digest: str
    index_digest: str
    exported: Artifact
    checkpoint: str
    lineage: Lineage
    indexed: str


@dataclass(frozen=True)
class Look:
    """What a night finds before it does anything.

    Attributes:
        home, name: of the registry, and in it.
        listing: key of the dump's listing as it is now.
        contamination: digest of the evaluation texts as they are now.
        changes: since the last night.
        since_training: since the last training.
        is_indexed: the champion's index holds what the last night found; after a rollback it may not.
    """

    home: Home
    name: str
    policy: str
    min_new_share: float
    champion: Reigning | None
    last: State
    listing: str
    contamination: str
    changes: Changes
    since_training: Changes
    is_asked_alike: bool
    is_indexed: bool

    @property
    def is_empty(self) -> bool:
        """True where there is nothing to do."""
        as_it_was = self.listing == self.last.source and self.contamination == self.last.contamination
        return as_it_was and self.is_asked_alike and self.is_indexed

    @property
    def champion_name(self) -> str:
        """The champion's checkpoint, as RUN/step-000240."""
        return self.champion.checkpoint if self.champion else "none"

    def verdict(self, share: float) -> tuple[bool, str]:
        """Whether a model is trained, and why, where so large a share of the training pairs is new."""
        if self.champion is None:
            return True, "nothing is published under this name yet: the whole is trained"
        if not self.is_asked_alike:
            return True, "the configuration is another one than last time: it is trained from its own start"
        told = f"{share:.1%} of the training pairs are new since the last training"
        if share <= self.min_new_share:
            return False, f"{told}, not above {self.min_new_share:.1%}: nothing is trained, the champion's index takes them in"
        if self.policy == "continue":
            return True, f"{told}: training goes on from the champion, {self.champion_name}"
        return True, f"{told}: training begins anew"

    def told(self) -> dict[str, Any]:
        """It as JSON, the files in numbers."""
        files = {kind: len(getattr(self.changes, kind)) for kind in ("new", "changed", "removed")}
        return {"name": self.name, "files": files, "champion": self.champion_name, "policy": self.policy}


@dataclass(frozen=True)
class Night:
    """What came of a night.

    Attributes:
        outcome: `nothing new`, `indexed`, `promoted`, `held back`, or `tried` of sizes that mean nothing; `dry run`.
        sentence: in words.
        lines: more of it, for a terminal.
        report: of the run that was trained; empty where none was.
    """

    outcome: str
    sentence: str
    told: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> dict[str, Any]:
        """The result of the flow's run: the report, if there is one, and the night."""
        night = {"outcome": self.outcome, "sentence": self.sentence, "lines": list(self.lines), **self.told}
        return {**self.report, "night": night}


def look(work: Workspace, params: RunParams) -> Look:
    """List the dump, file by file and by content, and compare it with what the last night saw. Writes nothing.

    Raises:
        UserError: a source is missing or cannot be read.
        TransientError: a server did not answer.
    """
    config, store, skips = work.config, work.store, Skips()
    home: Home = store.remote or work.home
    name, _ = name_in_registry(config, params.settings(), home)
    champion = reigning(store, home, name)
    last = _last(work, (home, name), champion)
    bundles = list_bundles(config.source, skips)
    now = listed_files(file for bundle in bundles for file in bundle.files)
    curated = store.find("curate", last.curate) if last.curate else None
    since = {key: _files(store, key) for key in {last.source, last.trained_source}}
    changes, since_training = (changes_between(since[key], now) for key in (last.source, last.trained_source))
    return Look(
        home=home,
        name=name,
        policy=config.nightly.policy,
        min_new_share=config.nightly.min_new_share,
        champion=champion,
        last=last,
        listing=listing_key(store, config.source, bundles, skips),
        contamination=_content_of(config.contamination.folder),
        changes=changes,
        since_training=since_training,
        is_asked_alike=last.asked == work.asked,
        is_indexed=bool(champion and curated and champion.indexed == curated.digest),
    )


def dry_run(work: Workspace, params: RunParams) -> Night:
    """What a night would do. The share of new pairs is that of bytes: to know it of pairs, they would have to be made."""
    found = look(work, params)
    share = found.since_training.share
    if found.policy == "whole":
        verdict = "the policy is whole: all stages run that are not found done"
    elif found.is_empty:
        verdict = "nothing is new: it would end at once"
    else:
        verdict = found.verdict(share)[1].replace("of the training pairs are new", "of the bytes are new", 1)
    sentence = f"dry run of {found.name}: {found.changes.sentence}; {verdict}"
    told = {**found.told(), "share_of_bytes": share, "verdict": verdict}
    lines = (*found.changes.lines(), f"champion {found.champion_name}")
    return Night("dry run", sentence, told, lines)


def night(work: Workspace, params: RunParams, report: Callable[[Published], dict[str, Any]]) -> Night:
    """Do what is new: build its parts, let the champion's index take them in, train by policy, let the gate decide.

    The index comes first, whatever becomes of the training; what is embedded for it is not embedded again.

    Args:
        report: makes the report of what was published.
    """
    found = look(work, params)
    say(f"  {found.changes.sentence} since the last night of {found.name}; champion: {found.champion_name}")
    if found.is_empty:
        nothing = "nothing new: every file is as it was, and so is the configuration"
        return _noted(found, found.last, Night("nothing new", nothing))
    known = _known(work.store, found.last)
    pairs = in_subflow("build-dataset", found.name, pairs_of, work, known)
    state = _state(work, found, pairs, known)
    trained_on = work.store.find("curate", found.last.trained_on) if found.last.trained_on else None
    share = new_share(pairs.curate, trained_on)
    trains, why = found.verdict(share)
    _index(work, found, pairs)
    if not trains:
        return _noted(found, state, Night("indexed", why, {"new_share": round(share, 6)}))
    published = _trained(work, params, found, pairs).promoted()
    told = report(published)
    state = replace(state, trained_source=state.source, trained_on=state.curate)
    pair, sentence = pair_of(found.home, found.name), f"{why}; {published.promotion['sentence']}"
    is_champion = pair is not None and pair.model_digest == published.stages["export"].digest
    if pair and not is_champion:
        sentence += "; the champion's index holds the night's documents"
    outcome = OUTCOMES.get(str(published.promotion["event"]), "held back")
    return _noted(found, state, Night(outcome, sentence, {"new_share": round(share, 6)}, report=told))


def _trained(work: Workspace, params: RunParams, found: Look, pairs: Pairs) -> Published:
    """The night's candidate."""
    name = work.config.name
    work = replace(work, config=with_settings(work.config, "train", when_grown="restart"))  # the policy says from where
    dataset = in_subflow("build-dataset", name, dataset_of, work, pairs, _start(work.store, found, pairs))
    run = in_subflow("train", name, train_on, work, params, dataset)
    return in_subflow("publish", name, publish_run, run)


def _start(store: Store, found: Look, pairs: Pairs) -> Checkpoint | None:
    """The checkpoint that training goes on from: the champion's or, of a champion of these very pairs, the one that it had.

    The latter is that of a night which was killed between its promotion and its end, and is done again.
    """
    champion = found.champion
    if found.policy != "continue" or champion is None or not found.is_asked_alike:
        return None
    if champion.lineage.curated.digest == pairs.curate.digest:
        return open_checkpoint(store, champion.lineage.origin.parent) if champion.lineage.origin.parent else None
    return open_checkpoint(store, champion.checkpoint)


def reigning(store: Store, home: Home, name: str) -> Reigning | None:
    """The champion of a name; None where there is none, or where this store has not what it was made from."""
    pair = pair_of(home, name)
    exported = pair and _of_digest(store, "export", pair.model_digest)
    trained = exported and _of_digest(store, "train", exported.manifest.inputs["trained"])
    if not pair or not exported or not trained:
        return None
    try:
        lineage = lineage_of(store, trained)
    except UserError:
        return None
    index = _of_digest(store, "index", pair.index_digest)
    return Reigning(
        model_digest=pair.model_digest,
        index_digest=pair.index_digest,
        exported=exported,
        checkpoint=f"{trained.manifest.key}/{exported.manifest.config['label']}",
        lineage=lineage,
        indexed=index.manifest.inputs["curated"] if index else "",
    )


def _index(work: Workspace, found: Look, pairs: Pairs) -> None:
    """Let the champion's index hold the night's pairs: texts that are new are embedded, and those that went are no row."""
    store, champion = work.store, reigning(work.store, found.home, found.name)
    if champion is None:
        return
    checkpoint = open_checkpoint(store, champion.checkpoint)
    index = in_subflow("index", found.name, index_task, store, champion.exported, pairs.curate, checkpoint, work.config)
    if index.digest != champion.index_digest:
        reindex_task(found.home, found.name, index)


def _noted(found: Look, state: State, done: Night) -> Night:
    """The night's end in the history, which the next one begins with."""
    told = {**found.told(), **done.told}
    event = {"event": EVENT, "outcome": done.outcome, "why": done.sentence, **told, "state": asdict(state)}
    record(found.home, found.name, event)
    say(f"  {done.sentence}")
    return replace(done, sentence=f"{found.name}: {done.sentence}", told=told, lines=tuple(found.changes.lines()))


def _last(work: Workspace, place: tuple[Home, str], champion: Reigning | None) -> State:
    """What the last night left; where there was none, what the champion was made from."""
    event = latest(*place, EVENT)
    if event is not None:
        return State(**{name: str(event["state"].get(name, "")) for name in State.__dataclass_fields__})
    if champion is None:
        return State()
    curated = champion.lineage.curated
    listing = _listing_of(work.store, curated)
    recorded = recorded_params(champion.lineage)
    asked, key = asked_digest(recorded.resolve()) if recorded else "", curated.manifest.key
    source = listing.manifest.key if listing else ""
    return State(source, key, "", source, key, asked, _content_of(work.config.contamination.folder))


def _known(store: Store, last: State) -> Artifact | None:
    """The splits of all datasets of the name so far."""
    curated = store.find("curate", last.curate) if last.curate else None
    if curated is None:
        if last.curate:
            say(f"{WARNING}the last night's dataset, curate {last.curate}, is gone: splits are drawn anew")
        return None
    return known_splits_task(store, curated, store.find("known_splits", last.known) if last.known else None)


def _state(work: Workspace, found: Look, pairs: Pairs, known: Artifact | None) -> State:
    listing = _input(work.store, pairs.extract, "source", "source")
    return replace(
        found.last,
        source=listing.manifest.key if listing else "",
        curate=pairs.curate.manifest.key,
        known=known.manifest.key if known else "",
        asked=work.asked,
        contamination=found.contamination,
    )


def _content_of(folder: str | None) -> str:
    """Digest of a folder's files; empty where there is none."""
    files = sorted(path for path in Path(folder).expanduser().rglob("*") if path.is_file()) if folder else []
    return digest_of([(path.name, sha256_file(path)) for path in files]) if files else ""


def _listing_of(store: Store, curated: Artifact) -> Artifact | None:
    """The listing of the dump that a dataset was made from."""
    found: Artifact | None = curated
    for stage, name in (("validate", "validated"), ("extract", "extracted"), ("source", "source")):
        found = found and _input(store, found, stage, name)
    return found


def _input(store: Store, made: Artifact, stage: str, name: str) -> Artifact | None:
    return _of_digest(store, stage, made.manifest.inputs.get(name, ""))


def _of_digest(store: Store, stage: str, digest: str) -> Artifact | None:
    return next((found for found in store.artifacts(stage) if found.digest == digest), None)


def _files(store: Store, key: str) -> Mapping[tuple[str, str], tuple[str, int]]:
    listing = store.find("source", key) if key else None
    return files_of(listing) if listing else {}

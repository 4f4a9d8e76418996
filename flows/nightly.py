"""Nights: a run of a published name does what is new since the last one, and the champion's index takes it in whatever comes.

A night's event in the history is written last, so that one that was killed is done again from the same state: it finds its
stages done, and comes to the same end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from flows.build_dataset import Pairs, dataset_of, pairs_of
from flows.candidate import Published, publish_run
from flows.hooks import in_subflow
from flows.night_look import EVENT, Look, State, look, state_in
from flows.params import RunParams
from flows.promotion import promoted
from flows.runs import as_exported, champion_run, input_of, with_settings
from flows.train import train_on
from flows.workspace import Workspace
from pipeline_lib.curation.known_splits import new_share
from pipeline_lib.model.checkpoint import Checkpoint, open_checkpoint
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.search.registry import ChampionChanged, latest, pair_of, record
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from tasks.dataset import known_splits_task
from tasks.promotion import reindex_task
from tasks.publishing import update_index_task
from tasks.ui import say

# what a night came to, by what became of its candidate; else it was held back
OUTCOMES = {"promoted": "promoted", "in use": "promoted", "tried": "tried"}


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


def dry_run(work: Workspace, params: RunParams) -> Night:
    """What a night would do. The share of new pairs is that of bytes: to know it of pairs, they would have to be made."""
    found = look(work, params)
    share = found.since_training.share
    if found.policy == "whole":
        verdict = "the policy is whole: all stages run that are not found done"
    elif found.is_empty:
        verdict = "nothing is new: it would end at once"
    elif found.changes.shrunk > found.max_shrink_share:
        verdict = f"it would fail: the dump has {found.changes.shrunk:.0%} fewer bytes, see nightly.max_shrink_share"
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
        return _noted(work, found.last, Night("nothing new", nothing, found.told(), tuple(found.changes.lines())))
    found.check_shrunk()
    known = _known(work.store, found.last)
    pairs = in_subflow("build-dataset", found.name, pairs_of, work, known)
    state = _state(work, found, pairs, known)
    trained_on = work.store.find("curate", found.last.trained_on) if found.last.trained_on else None
    share = new_share(pairs.curate, trained_on)
    trains, why = found.verdict(share)
    _index(work, found.name, pairs.curate)
    told = {**found.told(), "new_share": round(share, 6)}
    if not trains:
        return _noted(work, state, Night("indexed", why, told, tuple(found.changes.lines())))
    newest = latest(found.home, found.name, EVENT)
    seen = Seen(why, told, found.changes.lines(), asdict(state), newest["number"] if newest else 0)
    return decided(work, seen, _trained(work, params, found, pairs), report)


@dataclass(frozen=True)
class Seen:
    """What a night saw before it trained, as JSON: it may end in another process, once a person has answered.

    Attributes:
        why: a model is trained.
        told, lines: see `Night`.
        state: see night_look.py.
        after: number of the last night's event.
    """

    why: str
    told: dict[str, Any]
    lines: list[str]
    state: dict[str, str]
    after: int


def decided(work: Workspace, seen: Seen, published: Published, report: Callable[[Published], dict[str, Any]]) -> Night:
    """The end of a night that trained: its candidate is promoted or held back, and the history says what the night saw.

    Where other nights came while a person was asked, the dump is as the last of them saw it, and so is the champion's index.
    """
    home, name = work.registry, str(seen.told["name"])
    published = promoted(published, asdict(seen))
    told = report(published)
    newest = latest(home, name, EVENT)
    own = State(**seen.state)
    state = state_in(newest) if newest and newest["number"] > seen.after else own
    if state.curate != own.curate and (curated := work.store.find("curate", state.curate)):
        _index(work, name, curated)  # which the candidate's index does not hold
    state = replace(state, trained_source=own.source, trained_on=own.curate)
    pair, sentence = pair_of(home, name), f"{seen.why}; {published.promotion['sentence']}"
    is_champion = pair is not None and pair.model_digest == published.stages["export"].digest
    if pair and not is_champion:
        sentence += "; the champion's index holds the night's documents"
    outcome = OUTCOMES.get(str(published.promotion["event"]), "held back")
    return _noted(work, state, Night(outcome, sentence, seen.told, tuple(seen.lines), told))


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


def _index(work: Workspace, name: str, curated: Artifact) -> None:
    """Let the champion's index hold a dataset's pairs: texts that are new are embedded, and those that went are no row.

    Of a champion that changes meanwhile, the new one's.
    """
    store, home = work.store, work.registry
    while (champion := champion_run(store, home, name)) is not None:
        inputs = {"exported": champion.exported, "curated": curated}
        checkpoint = as_exported(store, open_checkpoint(store, champion.checkpoint), champion.exported)
        index = in_subflow("index", name, update_index_task, store, champion.index, inputs, checkpoint, work.config)
        if index.digest == champion.index_digest:
            return
        try:
            reindex_task(home, name, index, champion.index_digest)
            return
        except ChampionChanged as error:
            say(f"  {error}")


def _noted(work: Workspace, state: State, done: Night) -> Night:
    """The night's end in the history, which the next one begins with."""
    name = str(done.told["name"])
    event = {"event": EVENT, "outcome": done.outcome, "why": done.sentence, **done.told, "state": asdict(state)}
    record(work.registry, name, event)
    say(f"  {done.sentence}")
    return replace(done, sentence=f"{name}: {done.sentence}")


def _known(store: Store, last: State) -> Artifact | None:
    """The splits of all datasets of the name so far."""
    curated = store.find("curate", last.curate) if last.curate else None
    if curated is None:
        if last.curate:
            say(f"{WARNING}the last night's dataset, curate {last.curate}, is gone: splits are drawn anew")
        return None
    return known_splits_task(store, curated, store.find("known_splits", last.known) if last.known else None)


def _state(work: Workspace, found: Look, pairs: Pairs, known: Artifact | None) -> State:
    listing = input_of(work.store, pairs.extract, "source", "source")
    return replace(
        found.last,
        source=listing.manifest.key if listing else "",
        curate=pairs.curate.manifest.key,
        known=known.manifest.key if known else "",
        asked=work.asked,
        contamination=found.contamination,
    )

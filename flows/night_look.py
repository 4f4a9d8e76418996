"""Look of a night at its dump: what changed since the last one, what the champion is, and what the policy makes of it.

What the last night left stands in the name's history (search/registry.py), in its newest event `night`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.params import RunParams
from flows.runs import ChampionRun, asked_digest, champion_run, input_of, name_in_registry
from flows.workspace import Workspace, recorded_params
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.search.registry import latest, pair_of
from pipeline_lib.search.registry_log import Home
from pipeline_lib.sources.changes import Changes, Files, changes_between, files_of
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of, sha256_file
from pipeline_lib.store.store import Store
from tasks.dataset import listing_task
from tasks.ui import say

EVENT = "night"


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

    @property
    def artifacts(self) -> list[tuple[str, str]]:
        """Stage and key of what the next night begins with."""
        keys = {"source": (self.source, self.trained_source), "curate": (self.curate, self.trained_on)}
        return [(stage, key) for stage, of in {**keys, "known_splits": (self.known,)}.items() for key in of if key]


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
    max_shrink_share: float
    champion: ChampionRun | None
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

    def check_shrunk(self) -> None:
        """Look whether what is missing can be meant: the index would forget it.

        Raises:
            UserError: the dump has lost more than it may.
        """
        shrunk, most, removed = self.changes.shrunk, self.max_shrink_share, self.changes.removed
        if shrunk > most:
            gone = f"; {removed[0]} is the first of {len(removed):,} that are gone" if removed else ""
            raise UserError(
                f"{self.name}: the dump has {shrunk:.0%} fewer bytes than last night, more than nightly.max_shrink_share allows"
                f" ({most:.0%}){gone}. Nothing was changed. Mount or complete the dump; if this is meant, run the night once"
                " with nightly.max_shrink_share=1 (`--set` of `cpt run`, `set` in the form of a custom run)"
            )

    def verdict(self, share: float) -> tuple[bool, str]:
        """Whether a model is trained, and why, where so large a share of the training pairs is new.

        Raises:
            UserError: only the index is to be updated, and there is none.
        """
        if self.policy == "index":
            if self.champion is None:
                raise UserError(f"{self.name}: nothing is published whose index could be updated; train it with `cpt run`")
            return False, "nothing is trained, the champion's index takes in what is new"
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


def look(work: Workspace, params: RunParams) -> Look:
    """List the dump, file by file and by content, and compare it with what the last night saw. Writes nothing.

    Raises:
        UserError: a source is missing or cannot be read; or the sizes are of a test, and the name has a champion.
        TransientError: a server did not answer.
    """
    config, store = work.config, work.store
    home = work.registry
    name, _ = name_in_registry(config, params.settings(), home)
    pair = pair_of(home, name)
    if pair and not pair.is_trial and config.tests_plumbing and config.nightly.policy != "whole":
        raise UserError(f"{name} has a champion, and its nights cannot go on with sizes that only test that everything runs")
    champion = champion_run(store, home, name)
    if pair and champion is None:
        say(f"{WARNING}the run of {name}'s champion is not in {store.place}: its index cannot take in what is new")
    last = _last(work, (home, name), champion)
    listing, now = listing_task(store, config)
    curated = store.find("curate", last.curate) if last.curate else None
    since = {key: _files(store, key) for key in {last.source, last.trained_source}}
    changes, since_training = (changes_between(since[key], now) for key in (last.source, last.trained_source))
    return Look(
        home=home,
        name=name,
        policy=config.nightly.policy,
        min_new_share=config.nightly.min_new_share,
        max_shrink_share=config.nightly.max_shrink_share,
        champion=champion,
        last=last,
        listing=listing,
        contamination=_content_of(config.contamination.folder),
        changes=changes,
        since_training=since_training,
        is_asked_alike=last.asked == work.asked,
        is_indexed=bool(champion and curated and champion.indexed == curated.digest),
    )


def _last(work: Workspace, place: tuple[Home, str], champion: ChampionRun | None) -> State:
    """What the last night left; where there was none, what the champion was made from."""
    event = latest(*place, EVENT)
    if event is not None:
        return state_in(event)
    if champion is None:
        return State()
    curated = champion.lineage.curated
    listing = _listing_of(work.store, curated)
    recorded = recorded_params(champion.lineage)
    asked, key = asked_digest(recorded.resolve()) if recorded else "", curated.manifest.key
    source = listing.manifest.key if listing else ""
    return State(source, key, "", source, key, asked, _content_of(work.config.contamination.folder))


def state_of_name(home: Home, name: str) -> State:
    """What the last night of a name left; empty: there was none."""
    event = latest(home, name, EVENT)
    return state_in(event) if event else State()


def state_in(event: Mapping[str, Any]) -> State:
    """What a night left, by its event."""
    return State(**{name: str(event["state"].get(name, "")) for name in State.__dataclass_fields__})


def _listing_of(store: Store, curated: Artifact) -> Artifact | None:
    """The listing of the dump that a dataset was made from."""
    found: Artifact | None = curated
    for stage, name in (("validate", "validated"), ("extract", "extracted"), ("source", "source")):
        if found and stage == "extract":  # what was validated may have a file's queries behind it
            found = input_of(store, found, "queries", name) or found
        found = found and input_of(store, found, stage, name)
    return found


def _files(store: Store, key: str) -> Files:
    listing = store.find("source", key) if key else None
    return files_of(listing) if listing else {}


def _content_of(folder: str | None) -> str:
    """Digest of a folder's files; empty where there is none."""
    files = sorted(path for path in Path(folder).expanduser().rglob("*") if path.is_file()) if folder else []
    return digest_of([(path.name, sha256_file(path)) for path in files]) if files else ""

"""Comparison of the pair that answers with another one: a candidate of the same name, an earlier pair, or another name's.

The other pair is opened when it is first asked for. One of them is open at a time, and none for longer than a while after it
was last used, so that a comparison takes the memory of one pair more.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.search import registry
from pipeline_lib.search.encoders import LoadWeights
from pipeline_lib.search.hits import Hit, hit_facts
from pipeline_lib.search.query import Searcher
from pipeline_lib.search.registry_log import NAME, Files, Held, champion_of

if TYPE_CHECKING:
    from pipeline_lib.search.registry_log import Champion, Home
    from pipeline_lib.store.artifact import Artifact
    from pipeline_lib.store.store import Store

LEAST_DIGITS = 4  # of a run's key that is cut short
MOST_EVENTS = 50  # of a name's history that are looked at for candidates, the newest ones
NUMBER = re.compile("[0-9]{1,9}")  # of an event
TRAINED = "candidate"  # of an event without a pair: RUN/LABEL of what was held back


class Rival(NamedTuple):
    """A pair that the champion can be compared with.

    Attributes:
        against: what names it: the number of an event, a name of the registry, or RUN/LABEL.
        event: what became of it.
    """

    against: str
    event: str
    label: str
    at: str
    why: str


@dataclass
class Rivals:
    """The other pair, opened while it is compared with; used by one thread, closed by another.

    Args:
        home: see `Engine`.
    """

    home: Home
    load_weights: LoadWeights | None
    text_cache_bytes: int
    idle_seconds: float

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._open: Searcher | None = None
        self._used = 0.0

    def searcher(self, pair: Champion) -> Searcher:
        """The searcher of a pair; another one that is open is closed first.

        Raises:
            UserError, CorruptArtifact: see `Searcher`.
        """
        with self._lock:
            found = self._open
            digests = (pair.model_digest, pair.index_digest)
            if found is None or (found.current.model_digest, found.current.index_digest) != digests:
                found = self._open = None  # its memory goes before that of the next comes
                found = self._open = Searcher(pair, self.load_weights, text_cache_bytes=self.text_cache_bytes)
            self._used = time.monotonic()
            return found

    def close_idle(self) -> None:
        """Close the pair that was last used too long ago."""
        if self._open is not None and time.monotonic() - self._used > self.idle_seconds and self._lock.acquire(blocking=False):
            self._open = None
            self._lock.release()

    def close(self) -> None:
        """Close what is open."""
        self._open = None


def rivals_of(home: Home, served: Champion) -> Iterator[Rival]:
    """What the pair that answers can be compared with, the newest first: pairs and candidates of its name's history."""
    seen: set[Any] = set()
    label_now = _label(served.trained, served.checkpoint)
    for event in _events(home, served.name):
        pair, held_back = event.get("pair"), str(event.get(TRAINED, ""))
        digests = (pair["model_digest"], pair["index_digest"]) if pair else held_back
        is_served = digests == (served.model_digest, served.index_digest) or (not pair and held_back == label_now)
        if not digests or is_served or digests in seen:
            continue
        seen.add(digests)
        label = _label(pair.get("trained", ""), pair.get("checkpoint", "")) if pair else held_back
        told = [str(event.get(name, "")) for name in ("event", "at", "why")]
        yield Rival(str(event["number"]), told[0], label or str(digests[0])[:12], told[1], told[2])


def rival(home: Home, served: Champion, against: str) -> tuple[str, Champion]:
    """A pair to compare with, and what names it.

    Args:
        against: the number of an event of the served name's history, another name, or RUN/LABEL of a candidate; empty: the
            newest candidate or earlier pair of the name's history that can be opened.

    Raises:
        UserError: there is none.
        CorruptArtifact: its record cannot be understood.
    """
    if not against:
        for one in rivals_of(home, served):
            try:
                return one.against, rival(home, served, one.against)[1]
            except (UserError, CorruptArtifact):  # its index is gone, or was never made
                continue
        raise UserError(f"{served.name} has no other pair or candidate; publish another run, or name one by `against`")
    files = Files.of(home, served.name)
    event = files.event(served.name, int(against)) if NUMBER.fullmatch(against) else None
    if event is not None:
        if event.get("pair"):
            return against, _there(champion_of(files, served.name, Held(int(against), event["pair"])))
        if event.get(TRAINED):
            return against, candidate_pair(_store(served), str(event[TRAINED]), served.name)
        raise UserError(f"event {against} of {served.name} is about no pair of model and index")
    if NAME.fullmatch(against) and against in registry.names(home):
        return against, registry.in_use(home, against)
    return against, candidate_pair(_store(served), against, served.name)


def candidate_pair(store: Store, candidate: str, name: str) -> Champion:
    """The newest export of a run's checkpoint with its newest index, whether it was ever published or not.

    Args:
        candidate: RUN/LABEL, or RUN alone; a run's key may be cut short.

    Raises:
        UserError: there is none, or it was never indexed.
    """
    run, _, label = candidate.partition("/")
    key = next((key for key in store.keys("train") if len(run) >= LEAST_DIGITS and key.startswith(run)), "")
    trained = {found.digest for found in store.artifacts("train") if found.manifest.key == key} if key else set()
    if not trained:
        raise UserError(f"{candidate!r}: no event, name or training run of this registry")
    exports = [found for found in store.artifacts("export") if found.manifest.inputs.get("trained") in trained]
    made = {found.digest: found for found in exports if not label or found.manifest.config.get("label") == label}
    indexes = [found for found in store.artifacts("index") if found.manifest.inputs.get("exported") in made]
    if not indexes:
        raise UserError(f"{candidate}: has no index; `cpt publish --checkpoint {candidate} --no-promote` makes one")
    indexed = max(indexes, key=_written)
    exported = made[indexed.manifest.inputs["exported"]]
    told = registry.Candidate(exported, indexed, key, str(exported.manifest.config.get("label", "")))
    return _there(registry.as_pair(told, name))


def compared(champion: Searcher, candidate: Searcher, query: str, search: dict[str, Any]) -> dict[str, Any]:
    """Hits of both for one query, what moved between them, and the share of the first k that both have.

    Args:
        search: of `Searcher.search`: kind, k, filters, mode.
    """
    theirs, mine = (searcher.search(query, **search) for searcher in (champion, candidate))
    places_before, places_now = ({key: hit.rank for key, hit in _keyed(hits)} for hits in (theirs, mine))
    both = len(places_before.keys() & places_now.keys())
    of_champion = [_with_change(hit, hit.rank, places_now.get(key), "gone") for key, hit in _keyed(theirs)]
    of_candidate = [_with_change(hit, places_before.get(key), hit.rank, "new") for key, hit in _keyed(mine)]
    counts = Counter(one["change"] for one in of_candidate) + Counter(gone=len(theirs) - both)
    return {
        "query": query,
        "overlap": round(both / max(1, len(theirs), len(mine)), 4),
        "counts": {name: counts[name] for name in ("same", "up", "down", "new", "gone")},
        "champion": {"model": about(champion.current, champion), "hits": of_champion},
        "candidate": {"model": about(candidate.current, candidate), "hits": of_candidate},
    }


def about(pair: Champion, searcher: Searcher) -> dict[str, Any]:
    """Which model and index a column is of."""
    return {
        "name": pair.name,
        "label": _label(pair.trained, pair.checkpoint) or pair.model_digest[:12],
        "event": pair.event,
        "since": pair.since,
        "model_digest": pair.model_digest,
        "index_digest": pair.index_digest,
        "texts": searcher.rows.num_rows,
    }


def _keyed(hits: Sequence[Hit]) -> Iterator[tuple[Any, Hit]]:
    """Each hit with what it is told apart by in both lists: the second of two alike is the second of them in the other."""
    seen: Counter[Any] = Counter()
    for hit in hits:
        seen[hit.place] += 1
        yield (hit.place, seen[hit.place]), hit


def _with_change(hit: Hit, before: int | None, now: int | None, alone: str) -> dict[str, Any]:
    moved = "same" if now == before else "up" if (now or 0) < (before or 0) else "down"
    return {**hit_facts(hit), "change": alone if None in (before, now) else moved, "before": before, "now": now}


def _events(home: Home, name: str) -> Iterator[dict[str, Any]]:
    files = Files.of(home, name)
    for number in sorted(files.numbers(name), reverse=True)[:MOST_EVENTS]:
        try:
            event = files.event(name, number)
        except CorruptArtifact as error:  # which is no reason to show none of the others
            logging.getLogger(__name__).warning("event %d of %s: %s", number, name, error)
            continue
        if event:
            yield event


def _there(pair: Champion) -> Champion:
    for folder in (pair.model, pair.index):
        if "://" not in str(pair.home) and not folder.is_dir():
            raise UserError(f"{pair.name}: {folder.name} of {_label(pair.trained, pair.checkpoint)} is gone from the store")
    return pair


def _store(served: Champion) -> Store:
    """The store that the served pair lies in."""
    from pipeline_lib.store.store import Store

    home = str(served.home)
    return Store.at(home) if "://" in home else Store(served.index.parents[2])  # ROOT/index/parts/KEY-CONTENT


def _written(artifact: Artifact) -> float:
    path = artifact.folder / "manifest.json"
    return path.stat().st_mtime if path.is_file() else 0.0


def _label(trained: str, checkpoint: str) -> str:
    return f"{trained}/{checkpoint}" if trained else ""

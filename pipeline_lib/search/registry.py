"""Registry of models by name: the champion that searches use, and the history of every candidate with its reasons.

    HOME/registry/NAME/champion.json         the pair (model, index) in use
    HOME/registry/NAME/history/000007.json   one event: promoted, rejected, tried, reindexed, rolled back

A process that is killed anywhere leaves the pair before or the pair after; of two that promote at once one comes after the
other (registry_log.py says how).

A home of an earlier version has current.json, the one pair of all runs: it is the champion of its run's name until that name
has a history, which then begins with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.index.verified import parse_json
from pipeline_lib.search.registry_log import (
    FOLDER,
    Champion,
    Files,
    Held,
    Home,
    append_event,
    as_bytes,
    champion_of,
    check_maker,
    checked,
    earlier_pair,
    event_place,
    place_of,
    read_held,
)

if TYPE_CHECKING:
    from pipeline_lib.store.artifact import Artifact


@dataclass(frozen=True)
class Candidate:
    """A pair that may become champion, and what it was made from.

    Attributes:
        exported, indexed: artifacts of one part each.
        trained: key of the training run.
        checkpoint: its label.
        keys: stage to key: export, card, index, curate, shards, tokenizer and the like.
        validation: keys of its `evaluate_suite` artifacts on validation.
        source: digest of where the data came from; empty: unknown.
    """

    exported: Artifact
    indexed: Artifact
    trained: str = ""
    checkpoint: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    validation: Sequence[str] = ()
    source: str = ""


class ChampionChanged(UserError):
    """Another pair came into use since a candidate was compared with the champion, or an index was made for it."""


def names(home: Home) -> list[str]:
    """The names that have a history, in order; that of an earlier version's pair among them."""
    found = set(Files(home).names())
    if earlier := earlier_pair(home):
        found.add(earlier["run"])
    return sorted(found)


def champion(home: Home, name: str) -> Champion | None:
    """The pair in use under a name; None where there is none but a trial.

    Raises:
        UserError: it is no name.
        CorruptArtifact: its record cannot be understood.
    """
    found = pair_of(home, name)
    return found if found and not found.is_trial else None


def pair_of(home: Home, name: str) -> Champion | None:
    """The champion of a name or, where there is none, its last trial. See `champion`."""
    files = Files.of(home, name)
    held = read_held(files, name)
    return champion_of(files, name, held) if held.pair else None


def in_use(home: Home, name: str = "") -> Champion:
    """The pair that a search uses.

    Args:
        name: empty: see `default_name`.

    Raises:
        UserError: nothing is published (under that name).
        CorruptArtifact: the record cannot be understood, or what it points at is gone.
    """
    name = name or default_name(home)
    found = pair_of(home, name)
    if found is None:
        known = ", ".join(names(home)) or "nothing"
        raise UserError(f"no index of the name {name!r} under {home}; there is: {known}")
    for what, folder in {"model": found.model, "index": found.index}.items():
        if "://" not in str(found.home) and not folder.is_dir():
            raise CorruptArtifact(f"{Files(found.home).where(name)}: its {what} is gone: {folder}; run `cpt run` again")
    return found


def kept_pairs(home: Home) -> list[Champion]:
    """The pairs of every name that have to stay: those in use, and those that a rollback brings back."""
    found = []
    for name in names(home):
        files = Files.of(home, name)
        held = read_held(files, name)
        if held.pair is None:
            continue
        found.append(champion_of(files, name, held))
        before = held.pair.get("before")
        earlier = files.event(name, before) if before is not None else None
        if earlier and earlier.get("pair"):
            found.append(champion_of(files, name, Held(held.number, earlier["pair"])))
    return found


def default_name(home: Home) -> str:
    """The name that is searched where none is given: the only one, else that of the last publication by a person.

    Raises:
        UserError: nothing is published, or several names are and none of them by a person.
    """
    content, earlier = Files(home).read("_default.json"), earlier_pair(home)
    chosen = str(parse_json(content, f"{home}/{FOLDER}/_default.json").get("name", "")) if content else ""
    if chosen and champion(home, chosen):  # most often; nothing else has to be read
        return chosen
    pairs = {name: pair for name in names(home) if (pair := pair_of(home, name))}
    found = [name for name, pair in pairs.items() if not pair.is_trial] or list(pairs)  # trials where there is nothing else
    for name in (chosen, earlier["run"] if earlier else ""):
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"no index yet under {home}: run `make demo` or `cpt run --preset demo`")
    raise UserError(f"several models are published and none of them by hand; choose one with --name: {', '.join(found)}")


def default_stamp(home: Home) -> bytes | None:
    """What changes with the name that is searched where none is given."""
    return Files(home).read("_default.json")


def set_default(home: Home, name: str) -> None:
    """Let searches without a name use this one from now on."""
    Files(home).replace("_default.json", as_bytes({"name": checked(name)}))


def stand_in(home: Path, name: str, bucket: str) -> None:
    """Let a name of this home stand in a bucket's registry, which every machine that works on the bucket shares.

    A name that stands elsewhere, or has a champion here, stays there as long as the bucket has no champion of that name.
    """
    files, place, now = Files(home), f"{checked(name)}/at.json", as_bytes({"artifacts": bucket})
    before = files.read(place)
    is_elsewhere = before is not None or read_held(files, name).has_champion
    if before != now and not (is_elsewhere and champion(bucket, name) is None):
        files.replace(place, now)


def history(home: Home, name: str, after: int = 0) -> list[dict[str, Any]]:
    """The events of a name, the oldest first, each with its number, event, time and reasons.

    Args:
        after: number of the event that they begin behind.

    Raises:
        UserError: it is no name.
    """
    files = Files.of(home, name)
    return [event for number in files.numbers(name) if number > after and (event := files.event(name, number))]


def latest(home: Home, name: str, event: str) -> dict[str, Any] | None:
    """The newest event of that kind in a name's history, read from its end; None where there is none."""
    files = Files.of(home, name)
    found = (files.event(name, number) for number in reversed(files.numbers(name)))
    return next((entry for entry in found if entry and entry.get("event") == event), None)


def record(home: Home, name: str, event: Mapping[str, Any]) -> int:
    """Write an event that changes no pair into the history; returns its number.

    Args:
        event: "event", a word or two, and whatever a reader shall know.
    """
    return append_event(home, name, lambda held: dict(event)).number


def promote(
    home: Home,
    name: str,
    candidate: Candidate,
    why: str = "",
    told: Mapping[str, Any] | None = None,
    against: int | None = None,
) -> Champion:
    """Let searches for a name use this pair from now on; one that is under way keeps the pair that it opened.

    A pair that is in use already stays, and no event happens; of the model in use, the index alone is replaced (`reindex`).

    Args:
        why: the reason, in words.
        told: the comparison with the champion, and who started it.
        against: the event of the champion that the candidate was compared with (0: there was none); None: whatever it is.

    Raises:
        ChampionChanged: it is not that one any more; nothing was written.
        CorruptArtifact: a file's bytes are not those of its manifest.
        UserError: the index was made by another model, or it is no name.
    """
    pair = _pair(Files.of(home, name).home, candidate)
    held = pair_of(home, name)
    if held and not held.is_trial and held.model_digest == candidate.exported.digest:
        return reindex(home, name, candidate.indexed, {"why": why, **(told or {})}, candidate.keys)

    def event(held: Held) -> dict[str, Any]:
        now = held.before or 0  # a trial is no champion
        if against is not None and now != against:
            raise ChampionChanged(f"{name}: event {now} changed the champion meanwhile; compare with it")
        now_in_use = {**pair, "before": held.before, "taken_back": held.taken_back(pair["model_digest"])}
        return {"event": "promoted", "why": why, **(told or {}), "pair": now_in_use}

    return _changed(home, name, event)


def try_out(home: Home, name: str, candidate: Candidate, why: str, told: Mapping[str, Any] | None = None) -> None:
    """Make a pair searchable by its name as long as there is no champion: it only shows that everything works."""
    now = pair_of(home, name)
    digests = (candidate.exported.digest, candidate.indexed.digest)
    if now and now.is_trial and (now.model_digest, now.index_digest) == digests:
        return  # found done
    pair = {**_pair(Files.of(home, name).home, candidate), "is_trial": True}

    def event(held: Held) -> dict[str, Any]:
        found = {"event": "tried", "why": why, **(told or {})}
        return found if held.has_champion else {**found, "pair": {**pair, "before": None}}

    append_event(home, name, event)


def reindex(
    home: Home,
    name: str,
    indexed: Artifact,
    told: Mapping[str, Any] | None = None,
    keys: Mapping[str, str] | None = None,
    against: str | None = None,
) -> Champion:
    """The same model with another index of its own, unless it has that; a rollback still brings back the model before it.

    Args:
        told: "why", in words, and whatever a reader shall know.
        keys: of artifacts that belong to the pair from now on, by stage, such as the pairs that were indexed.
        against: digest of the index that this one follows; None: whichever is in use.

    Raises:
        ChampionChanged: the index was made by another model than the champion's, or another index is in use by now, which may
            be of a newer corpus; nothing was written.
        UserError: there is no champion.
        CorruptArtifact: a file's bytes are not those of its manifest.
    """
    indexed.verify()
    place = place_of(Files.of(home, name).home, indexed)
    if (found := pair_of(home, name)) and found.index_digest == indexed.digest:
        return found

    def event(held: Held) -> dict[str, Any]:
        if held.pair is None:
            raise UserError(f"{name}: nothing is published that could get another index")
        try:
            check_maker(indexed, held.pair["model_digest"], held.pair["model"])
        except UserError as error:
            raise ChampionChanged(str(error)) from error
        if against is not None and held.pair["index_digest"] != against:
            raise ChampionChanged(f"{name}: event {held.before or 0} brought another index meanwhile; update once more")
        now = {**held.pair.get("keys", {}), **(keys or {}), "index": indexed.manifest.key}
        pair = {**held.pair, "index": place, "index_digest": indexed.digest, "keys": now}
        return {"event": "reindexed", "why": "", **(told or {}), "pair": pair}

    return _changed(home, name, event)


def rollback(home: Home, name: str, to: int | None = None, why: str = "") -> Champion:
    """Bring an earlier pair of a name back.

    Args:
        to: number of the event that put it in use; None: the one before the present pair.

    Raises:
        UserError: there is no such pair.
        CorruptArtifact: its files are gone.
    """
    files = Files.of(home, name)

    def event(held: Held) -> dict[str, Any]:
        number: int | None = to if to is not None else (held.pair or {}).get("before")
        earlier = files.event(name, number) if number is not None else None
        if not earlier or not earlier.get("pair"):
            which = "no pair before the present one" if to is None else f"no pair in event {to}"
            raise UserError(f"{name}: {which}; `cpt rollback --name {name} --list` shows its history")
        now = (held.pair or {}).get("model_digest", "")
        pair = {**earlier["pair"], "taken_back": held.taken_back(earlier["pair"]["model_digest"], now)}
        back = champion_of(files, name, Held(0, pair))
        if back.is_trial:
            raise UserError(f"{name}: event {number} was a trial, and no champion that could be brought back")
        for folder in (back.model, back.index):
            if files.is_local and not folder.is_dir():
                raise CorruptArtifact(f"{folder}: gone, event {number} of {name} cannot be brought back; run `cpt run` again")
        return {"event": "rolled back", "why": why, "to": number, "pair": pair}

    return _changed(home, name, event)


def as_pair(candidate: Candidate, name: str = "candidate") -> Champion:
    """A candidate as a pair that can be opened, though no name uses it."""
    exported, indexed = candidate.exported, candidate.indexed
    return Champion(
        home=exported.root,
        name=name,
        model=exported.part_folder(),
        model_digest=exported.digest,
        index=indexed.part_folder(),
        index_digest=indexed.digest,
    )


def choose(home: Home, name: str) -> None:
    """Make a name that a person published the default; a trial only where nothing else is published."""
    found = pair_of(home, name)
    if found and (not found.is_trial or not any(champion(home, other) for other in names(home))):
        set_default(home, name)


def has_moved(found: Champion, home: Home | None = None) -> bool:
    """True if another pair may be in use under the name by now, for readers of a home also in a bucket; a look at two files."""
    stands_elsewhere = home is not None and Files.of(home, found.name).home != found.home
    return stands_elsewhere or Files(found.home).exists(event_place(found.name, found.read_to + 1))


def _changed(home: Home, name: str, make: Callable[[Held], dict[str, Any]]) -> Champion:
    held = append_event(home, name, make)
    return champion_of(Files.of(home, name), name, held)


def _pair(home: Home, candidate: Candidate) -> dict[str, Any]:
    """A candidate as it is written, its bytes verified."""
    exported, indexed = candidate.exported, candidate.indexed
    exported.verify()
    indexed.verify()
    check_maker(indexed, exported.digest, str(exported.part_folder()))
    return {
        "model": place_of(home, exported),
        "model_digest": exported.digest,
        "index": place_of(home, indexed),
        "index_digest": indexed.digest,
        "trained": candidate.trained,
        "checkpoint": candidate.checkpoint,
        "keys": dict(candidate.keys),
        "validation": list(candidate.validation),
        "source": candidate.source,
    }

"""Registry of models by name: the champion that searches use, and the history of every candidate with its reasons.

    HOME/registry/NAME/history/000007.json   one event: promoted, rejected, tried, reindexed, rolled back; never rewritten
    HOME/registry/NAME/champion.json         the pair (model, index) in use as of an event: the first thing a reader opens
    HOME/registry/NAME/at.json               URL of the bucket whose registry this name stands in, if it does
    HOME/registry/_default.json              the name that is searched where none is given

An event happens when its numbered file comes to be, which one writer alone achieves (put-if-absent, on a disk and in a bucket).
champion.json is a copy that saves reading them all: whoever opens it reads on through the events that came after it. A process
that is killed anywhere leaves the pair before or the pair after; of two that promote at once one comes after the other.

A home of an earlier version has current.json, the one pair of all runs: it is the champion of its run's name until that name
has a history, which then begins with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.search.verified import parse_json, read_json

if TYPE_CHECKING:
    from pipeline_lib.store.artifact import Artifact

FOLDER = "registry"
EARLIER = "current.json"  # of a version with one pair for all runs
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,127}")
Home = Path | str  # the artifact root, or the URL of a bucket's store
_TEXTS = ("model", "model_digest", "index", "index_digest")


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


@dataclass(frozen=True)
class Champion:
    """The pair that searches for a name use; its folders are absolute.

    Attributes:
        home: where the registry is.
        event: number of the event that put it in use; 0: of an earlier version.
        before: number of the event whose pair was in use before it, which a rollback brings back; None: there was none.
        since: time of the event.
        is_trial: it only shows that everything works: searchable by its name, and no champion.
    """

    home: Home
    name: str
    model: Path
    model_digest: str
    index: Path
    index_digest: str
    trained: str = ""
    checkpoint: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    validation: tuple[str, ...] = ()
    source: str = ""
    event: int = 0
    before: int | None = None
    since: str = ""
    is_trial: bool = False
    read_to: int = field(default=0, compare=False)  # the last event when it was read


class ChampionChanged(UserError):
    """Another candidate was promoted between the comparison and the promotion."""


def names(home: Home) -> list[str]:
    """The names that have a history, in order; that of an earlier version's pair among them."""
    found = set(_Files(home).names())
    if earlier := _earlier(home):
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
    files = _Files.of(home, name)
    held = _read(files, name)
    return _champion(files, name, held) if held.pair else None


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
            raise CorruptArtifact(f"{_Files(found.home).where(name)}: its {what} is gone: {folder}; run `cpt run` again")
    return found


def kept_pairs(home: Home) -> list[Champion]:
    """The pairs of every name that have to stay: those in use, and those that a rollback brings back."""
    found = []
    for name in names(home):
        files = _Files.of(home, name)
        held = _read(files, name)
        if held.pair is None:
            continue
        found.append(_champion(files, name, held))
        before = held.pair.get("before")
        earlier = files.event(name, before) if before is not None else None
        if earlier and earlier.get("pair"):
            found.append(_champion(files, name, _Held(held.number, earlier["pair"])))
    return found


def default_name(home: Home) -> str:
    """The name that is searched where none is given: the only one, else that of the last publication by a person.

    Raises:
        UserError: nothing is published, or several names are and none of them by a person.
    """
    pairs = {name: pair for name in names(home) if (pair := pair_of(home, name))}
    real = [name for name, pair in pairs.items() if not pair.is_trial]
    content = _Files(home).read("_default.json")
    chosen = str(parse_json(content, f"{home}/{FOLDER}/_default.json").get("name", "")) if content else ""
    earlier = _earlier(home)
    for name in (chosen, earlier["run"] if earlier else ""):
        if name in real:
            return name
    if len(found := real or list(pairs)) == 1:
        return found[0]
    if not found:
        raise UserError(f"no index yet under {home}: run `make demo` or `cpt run --preset demo`")
    raise UserError(f"several models are published and none of them by hand; choose one with --name: {', '.join(found)}")


def set_default(home: Home, name: str) -> None:
    """Let searches without a name use this one from now on."""
    _Files(home).replace("_default.json", _bytes({"name": _checked(name)}))


def stand_in(home: Path, name: str, bucket: str) -> None:
    """Let a name of this home stand in a bucket's registry, which every machine that works on the bucket shares."""
    if _Files(home).read(f"{_checked(name)}/at.json") is None:
        _Files(home).replace(f"{name}/at.json", _bytes({"artifacts": bucket}))


def history(home: Home, name: str) -> list[dict[str, Any]]:
    """The events of a name, the oldest first, each with its number, event, time and reasons.

    Raises:
        UserError: it is no name.
    """
    files = _Files.of(home, name)
    return [event for number in files.numbers(name) if (event := files.event(name, number))]


def record(home: Home, name: str, event: Mapping[str, Any]) -> int:
    """Write an event that changes no pair into the history; returns its number.

    Args:
        event: "event", a word or two, and whatever a reader shall know.
    """
    return _append(home, name, lambda held: dict(event)).number


def reject(home: Home, name: str, reasons: Sequence[str], told: Mapping[str, Any] | None = None) -> int:
    """Write down that a candidate was held back, and why.

    Args:
        told: the candidate and its comparison with the champion.
    """
    return record(home, name, {"event": "rejected", "why": "; ".join(reasons), **(told or {})})


def promote(
    home: Home,
    name: str,
    candidate: Candidate,
    why: str = "",
    told: Mapping[str, Any] | None = None,
    against: int | None = None,
) -> Champion:
    """Let searches for a name use this pair from now on; one that is under way keeps the pair that it opened.

    Args:
        why: the reason, in words.
        told: the comparison with the champion, and who started it.
        against: the event of the champion that the candidate was compared with (0: there was none); None: whatever it is.

    Raises:
        ChampionChanged: it is not that one any more; nothing was written.
        CorruptArtifact: a file's bytes are not those of its manifest.
        UserError: the index was made by another model, or it is no name.
    """
    pair = _pair(home, candidate)

    def event(held: _Held) -> dict[str, Any]:
        now = _event_of(held.pair)
        if against is not None and now != against:
            raise ChampionChanged(f"{name}: event {now} changed the champion meanwhile; compare with it")
        return {"event": "promoted", "why": why, **(told or {}), "pair": {**pair, "before": held.before}}

    return _changed(home, name, event)


def try_out(home: Home, name: str, candidate: Candidate, why: str, told: Mapping[str, Any] | None = None) -> None:
    """Make a pair searchable by its name as long as there is no champion: it only shows that everything works."""
    pair = {**_pair(home, candidate), "is_trial": True}

    def event(held: _Held) -> dict[str, Any]:
        found = {"event": "tried", "why": why, **(told or {})}
        return found if held.has_champion else {**found, "pair": {**pair, "before": None}}

    _append(home, name, event)


def reindex(home: Home, name: str, indexed: Artifact, why: str = "", told: Mapping[str, Any] | None = None) -> Champion:
    """The same model with another index of its own; a rollback still brings back the model before it.

    Raises:
        UserError: there is no champion, or the index was made by another model than it.
        CorruptArtifact: a file's bytes are not those of its manifest.
    """
    indexed.verify()
    place = _place(home, indexed.part_folder())

    def event(held: _Held) -> dict[str, Any]:
        if held.pair is None:
            raise UserError(f"{name}: nothing is published that could get another index")
        _check_maker(indexed, held.pair["model_digest"], held.pair["model"])
        keys = {**held.pair.get("keys", {}), "index": indexed.manifest.key}
        pair = {**held.pair, "index": place, "index_digest": indexed.digest, "keys": keys}
        return {"event": "reindexed", "why": why, **(told or {}), "pair": pair}

    return _changed(home, name, event)


def rollback(home: Home, name: str, to: int | None = None, why: str = "") -> Champion:
    """Bring an earlier pair of a name back.

    Args:
        to: number of the event that put it in use; None: the one before the present pair.

    Raises:
        UserError: there is no such pair.
        CorruptArtifact: its files are gone.
    """
    files = _Files.of(home, name)

    def event(held: _Held) -> dict[str, Any]:
        number = to if to is not None else held.pair and held.pair.get("before")
        earlier = files.event(name, number) if number is not None else None
        if not earlier or not earlier.get("pair"):
            which = "no pair before the present one" if to is None else f"no pair in event {to}"
            raise UserError(f"{name}: {which}; `cpt rollback --name {name} --list` shows its history")
        pair = earlier["pair"]
        back = _champion(files, name, _Held(0, pair))
        for folder in (back.model, back.index):
            if files.is_local and not folder.is_dir():
                raise CorruptArtifact(f"{folder}: gone, event {number} of {name} cannot be brought back; run `cpt run` again")
        return {"event": "rolled back", "why": why, "to": number, "pair": pair}

    return _changed(home, name, event)


def has_moved(found: Champion) -> bool:
    """True if another pair may be in use under the name by now; a look at one file's presence."""
    return _Files(found.home).exists(_event_place(found.name, found.read_to + 1))


def to_json(found: Champion) -> dict[str, Any]:
    """The record with its folders as text, for reports."""
    told = {**asdict(found), "home": str(found.home), "model": str(found.model), "index": str(found.index)}
    return {name: value for name, value in told.items() if name != "read_to"}


@dataclass(frozen=True)
class _Held:
    """What a name holds as of an event: the pair in use, as it is written; None: none yet."""

    number: int = 0
    pair: dict[str, Any] | None = None

    @property
    def has_champion(self) -> bool:
        return self.pair is not None and not self.pair.get("is_trial")

    @property
    def before(self) -> int | None:
        """The event that a rollback of the next promotion brings back."""
        return _event_of(self.pair) if self.has_champion else None


class _Files:
    """The files of a registry, on a disk or in a bucket, by their names below its folder."""

    def __init__(self, home: Home) -> None:
        self.is_local = "://" not in str(home)
        self.home: Home = Path(home).absolute() if self.is_local else home
        if not self.is_local:
            from pipeline_lib.store.bucket import Bucket

            self._bucket = Bucket(str(home))

    @classmethod
    def of(cls, home: Home, name: str) -> _Files:
        """Where a name stands: here, or in the bucket that its at.json names."""
        files = cls(home)
        content = files.read(f"{_checked(name)}/at.json") if files.is_local else None
        return cls(str(parse_json(content, files.where(name))["artifacts"])) if content else files

    def where(self, name: str) -> str:
        """The name's folder, for messages."""
        return f"{self.home}/{FOLDER}/{name}"

    def names(self) -> Iterator[str]:
        if self.is_local:
            yield from (path.name for path in Path(self.home, FOLDER).glob("*/") if NAME.fullmatch(path.name))
        else:
            yield from {name.split("/")[1] for name in self._bucket.sizes(FOLDER) if name.count("/") > 1}

    def numbers(self, name: str) -> list[int]:
        folder = f"{FOLDER}/{name}/history"
        if self.is_local:
            found = [path.name for path in Path(self.home, folder).glob("*.json")]
        else:
            found = [entry.rpartition("/")[2] for entry in self._bucket.sizes(folder)]
        return sorted(int(entry.removesuffix(".json")) for entry in found if re.fullmatch(r"\d+\.json", entry))

    def event(self, name: str, number: int) -> dict[str, Any] | None:
        place = _event_place(name, number)
        content = self.read(place)
        return parse_json(content, f"{self.home}/{FOLDER}/{place}") if content is not None else None

    def exists(self, place: str) -> bool:
        if self.is_local:
            return Path(self.home, FOLDER, place).exists()
        return self.read(place) is not None

    def read(self, place: str) -> bytes | None:
        if not self.is_local:
            return self._bucket.read(f"{FOLDER}/{place}")
        try:
            return Path(self.home, FOLDER, place).read_bytes()
        except FileNotFoundError:
            return None

    def replace(self, place: str, content: bytes) -> None:
        from pipeline_lib.store.files import replace_file

        if self.is_local:
            replace_file(Path(self.home, FOLDER, place), content)
        else:
            self._bucket.replace(f"{FOLDER}/{place}", content)

    def put(self, place: str, content: bytes) -> bool:
        from pipeline_lib.store.files import put_if_absent

        if self.is_local:
            return put_if_absent(Path(self.home, FOLDER, place), content)
        return self._bucket.put_if_absent(f"{FOLDER}/{place}", content)


def _read(files: _Files, name: str) -> _Held:
    """champion.json, and the events after it."""
    place = f"{name}/champion.json"
    content = files.read(place)
    held = _Held(0, _pair_of_earlier(files, name))
    if content is not None:
        where = f"{files.home}/{FOLDER}/{place}"
        found = parse_json(content, where)
        number, pair = found.get("as_of"), found.get("pair")
        if not isinstance(number, int) or not isinstance(pair, dict | None):
            raise CorruptArtifact(f"{where}: not what it should be; remove it, and it is made again from the history")
        held = _Held(number, pair)
    while (event := files.event(name, held.number + 1)) is not None:
        held = _Held(held.number + 1, event.get("pair", held.pair))
    return held


def _append(home: Home, name: str, make: Callable[[_Held], dict[str, Any]]) -> _Held:
    """Write the next event; where another writer was first, it is made anew from what that left."""
    from pipeline_lib.store.files import fault_point

    files = _Files.of(home, name)
    _adopt_earlier(files, name)
    while True:
        held = _read(files, name)
        event, number = make(held), held.number + 1
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if "pair" in event:
            event["pair"] = {**event["pair"], "event": number, "since": now}
        fault_point("registry:before_event")
        if files.put(_event_place(name, number), _bytes({"number": number, "at": now, **event})):
            break
    held = _Held(number, event.get("pair", held.pair))
    fault_point("registry:before_pointer")
    files.replace(f"{name}/champion.json", _bytes({"as_of": held.number, "pair": held.pair}))
    return held


def _changed(home: Home, name: str, make: Callable[[_Held], dict[str, Any]]) -> Champion:
    held = _append(home, name, make)
    return _champion(_Files.of(home, name), name, held)


def _champion(files: _Files, name: str, held: _Held) -> Champion:
    assert held.pair is not None, f"{name}: no pair to read"
    pair = held.pair
    where = f"{files.where(name)}/champion.json"
    known = Champion.__dataclass_fields__
    if not all(isinstance(pair.get(text), str) for text in _TEXTS):
        raise CorruptArtifact(f"{where}: got {sorted(pair)}, expected texts under {sorted(_TEXTS)}; run `cpt run` again")
    fields = {
        **{entry: value for entry, value in pair.items() if entry in known},
        "validation": tuple(pair.get("validation", ())),
    }
    if files.is_local:
        base = Path(files.home)
    else:
        from pipeline_lib.store.store import Store

        base = Store.at(str(files.home)).root
    folders = {"model": base / pair["model"], "index": base / pair["index"]}
    return Champion(**{**fields, **folders, "home": files.home, "name": name, "read_to": held.number})


def _pair(home: Home, candidate: Candidate) -> dict[str, Any]:
    """A candidate as it is written, its bytes verified."""
    exported, indexed = candidate.exported, candidate.indexed
    exported.verify()
    indexed.verify()
    _check_maker(indexed, exported.digest, str(exported.part_folder()))
    return {
        "model": _place(home, exported.part_folder()),
        "model_digest": exported.digest,
        "index": _place(home, indexed.part_folder()),
        "index_digest": indexed.digest,
        "trained": candidate.trained,
        "checkpoint": candidate.checkpoint,
        "keys": dict(candidate.keys),
        "validation": list(candidate.validation),
        "source": candidate.source,
    }


def _check_maker(indexed: Artifact, model_digest: str, model: str) -> None:
    made_by = read_json(indexed.part_folder() / "index.json")["model_digest"]
    if made_by != model_digest:
        raise UserError(
            f"{indexed.part_folder()}: made by model {made_by[:12]}, not by {model_digest[:12]} in {model}; index with the"
            " model that is to be searched with"
        )


def _place(home: Home, folder: Path) -> str:
    """Relative to the artifact root, which may be moved, or to a bucket's store, where the folder is below it."""
    if "://" in str(home):
        return "/".join(folder.parts[-3:])  # STAGE/parts/KEY-CONTENT
    home = Path(home).absolute()
    return folder.relative_to(home).as_posix() if folder.is_relative_to(home) else str(folder)


def _earlier(home: Home) -> dict[str, Any] | None:
    """The record of an earlier version's one pair, the run's name as one of the registry's."""
    if "://" in str(home):
        return None
    path = Path(home).absolute() / EARLIER
    if not path.is_file():
        return None
    found = read_json(path)
    if sorted(found) != sorted((*_TEXTS, "run")) or not all(isinstance(value, str) for value in found.values()):
        raise CorruptArtifact(f"{path}: got {sorted(found)}, expected texts under {sorted((*_TEXTS, 'run'))}; remove it")
    return {**found, "run": found["run"] if NAME.fullmatch(found["run"]) else "earlier"}


def _pair_of_earlier(files: _Files, name: str) -> dict[str, Any] | None:
    found = _earlier(files.home)
    return {text: found[text] for text in _TEXTS} if found and found["run"] == name else None


def _adopt_earlier(files: _Files, name: str) -> None:
    """Begin the history with an earlier version's pair, so that a rollback can bring it back."""
    pair = _pair_of_earlier(files, name)
    if pair and not files.exists(_event_place(name, 1)) and not files.exists(f"{name}/champion.json"):
        at = datetime.fromtimestamp((Path(files.home) / EARLIER).stat().st_mtime, UTC).isoformat(timespec="seconds")
        event = {"number": 1, "at": at, "event": "adopted", "why": f"it was in {EARLIER}"}
        files.put(_event_place(name, 1), _bytes({**event, "pair": {**pair, "event": 1, "since": at, "before": None}}))


def _event_of(pair: Mapping[str, Any] | None) -> int:
    return int(pair.get("event", 0)) if pair else 0


def _event_place(name: str, number: int) -> str:
    return f"{name}/history/{number:06d}.json"


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name of a model: lower-case letters, digits, and _ . - after the first")
    return name


def _bytes(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"

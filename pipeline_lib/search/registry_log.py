"""Event log of the registry: where each name's events lie, how the next one is written, and what they come to.

    HOME/registry/NAME/history/000007.json   one event; never rewritten
    HOME/registry/NAME/champion.json         the pair in use as of an event
    HOME/registry/NAME/at.json               URL of the bucket whose registry this name stands in, if it does
    HOME/registry/_default.json              the name that is searched where none is given

An event happens when its numbered file comes to be, which one writer alone achieves (put-if-absent, on a disk and in a bucket).
champion.json is a copy that saves reading them all: whoever opens it reads on through the events that came after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.index.verified import parse_json, read_json

if TYPE_CHECKING:
    from pipeline_lib.store.artifact import Artifact

FOLDER = "registry"
EARLIER = "current.json"  # of a version with one pair for all runs
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,127}")
Home = Path | str  # the artifact root, or the URL of a bucket's store
TEXTS = ("model", "model_digest", "index", "index_digest")


@dataclass(frozen=True)
class Champion:
    """The pair that searches for a name use; its folders are absolute.

    Attributes:
        home: where the registry is.
        event: number of the event that put it in use; 0: of an earlier version.
        before: number of the event whose pair was in use before it, which a rollback brings back; None: there was none.
        since: time of the event.
        taken_back: digests of the models that were rolled back from and not promoted since.
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
    taken_back: tuple[str, ...] = ()
    is_trial: bool = False
    read_to: int = field(default=0, compare=False)  # the last event when it was read


@dataclass(frozen=True)
class Held:
    """What a name holds as of an event: the pair in use, as it is written; None: none yet."""

    number: int = 0
    pair: dict[str, Any] | None = None

    @property
    def has_champion(self) -> bool:
        """Whether the pair is more than a trial."""
        return self.pair is not None and not self.pair.get("is_trial")

    @property
    def before(self) -> int | None:
        """The event that a rollback of the next promotion brings back."""
        return event_of(self.pair) if self.has_champion else None

    def taken_back(self, used: str, left: str = "") -> list[str]:
        """Models that were rolled back from, once one comes into use again and another one is left so."""
        before = (self.pair or {}).get("taken_back", ())
        return sorted({*before, left} - {used, ""})


class Files:
    """The files of a registry, on a disk or in a bucket, by their names below its folder."""

    def __init__(self, home: Home) -> None:
        self.is_local = "://" not in str(home)
        self.home: Home = Path(home).absolute() if self.is_local else home
        if not self.is_local:
            from pipeline_lib.store.bucket import Bucket

            self._bucket = Bucket(str(home))

    @classmethod
    def of(cls, home: Home, name: str) -> Files:
        """Where a name stands: here, or in the bucket that its at.json names."""
        files = cls(home)
        content = files.read(f"{checked(name)}/at.json") if files.is_local else None
        return cls(str(parse_json(content, files.where(name))["artifacts"])) if content else files

    def where(self, name: str) -> str:
        """The name's folder, for messages."""
        return f"{self.home}/{FOLDER}/{name}"

    def names(self) -> Iterator[str]:
        """The names that have a folder."""
        if self.is_local:
            yield from (path.name for path in Path(self.home, FOLDER).glob("*/") if NAME.fullmatch(path.name))
        else:
            below = {name.split("/")[1] for name in self._bucket.sizes(FOLDER) if name.count("/") > 1}
            yield from filter(NAME.fullmatch, below)

    def numbers(self, name: str) -> list[int]:
        """The events of a name."""
        folder = f"{FOLDER}/{name}/history"
        if self.is_local:
            found = [path.name for path in Path(self.home, folder).glob("*.json")]
        else:
            found = [entry.rpartition("/")[2] for entry in self._bucket.sizes(folder)]
        return sorted(int(entry.removesuffix(".json")) for entry in found if re.fullmatch(r"\d+\.json", entry))

    def event(self, name: str, number: int) -> dict[str, Any] | None:
        """One event; None where there is none."""
        place = event_place(name, number)
        content = self.read(place)
        return parse_json(content, f"{self.home}/{FOLDER}/{place}") if content is not None else None

    def exists(self, place: str) -> bool:
        """Whether there is such a file."""
        if self.is_local:
            return Path(self.home, FOLDER, place).exists()
        return self.read(place) is not None

    def read(self, place: str) -> bytes | None:
        """A file's content; None where there is none."""
        if not self.is_local:
            return self._bucket.read(f"{FOLDER}/{place}")
        try:
            return Path(self.home, FOLDER, place).read_bytes()
        except FileNotFoundError:
            return None

    def replace(self, place: str, content: bytes) -> None:
        """Write a file in place of what is there."""
        from pipeline_lib.store.files import replace_file

        if self.is_local:
            replace_file(Path(self.home, FOLDER, place), content)
        else:
            self._bucket.replace(f"{FOLDER}/{place}", content)

    def put(self, place: str, content: bytes) -> bool:
        """Write a file unless there is one; returns whether this call wrote it."""
        from pipeline_lib.store.files import put_if_absent

        if self.is_local:
            return put_if_absent(Path(self.home, FOLDER, place), content)
        name = f"{FOLDER}/{place}"
        # where the answer to a put is lost, its client puts again, and finds what it has written itself
        return self._bucket.put_if_absent(name, content) or self._bucket.read(name) == content


def read_held(files: Files, name: str) -> Held:
    """champion.json, and the events after it."""
    place = f"{name}/champion.json"
    content = files.read(place)
    held = Held(0, _pair_of_earlier(files, name))
    if content is not None:
        where = f"{files.home}/{FOLDER}/{place}"
        found = parse_json(content, where)
        number, pair = found.get("as_of"), found.get("pair")
        if not isinstance(number, int) or not isinstance(pair, dict | None):
            raise CorruptArtifact(f"{where}: not what it should be; remove it, and it is made again from the history")
        held = Held(number, pair)
    while (event := files.event(name, held.number + 1)) is not None:
        held = Held(held.number + 1, event.get("pair", held.pair))
    return held


def champion_of(files: Files, name: str, held: Held) -> Champion:
    """The pair that a name holds, its folders absolute.

    Raises:
        CorruptArtifact: its record cannot be understood.
    """
    assert held.pair is not None, f"{name}: no pair to read"
    pair = held.pair
    where = f"{files.where(name)}/champion.json"
    known = Champion.__dataclass_fields__
    if not all(isinstance(pair.get(text), str) for text in TEXTS):
        raise CorruptArtifact(f"{where}: got {sorted(pair)}, expected texts under {sorted(TEXTS)}; run `cpt run` again")
    fields = {
        **{entry: value for entry, value in pair.items() if entry in known},
        **{entry: tuple(pair.get(entry, ())) for entry in ("validation", "taken_back")},
    }
    if files.is_local:
        base = Path(files.home)
    else:
        from pipeline_lib.store.store import Store

        base = Store.at(str(files.home)).root
    folders = {"model": base / pair["model"], "index": base / pair["index"]}
    return Champion(**{**fields, **folders, "home": files.home, "name": name, "read_to": held.number})


def opened(found: Champion) -> Champion:
    """The pair with its files on this machine: fetched, where the registry is a bucket's.

    Raises:
        CorruptArtifact: they are gone.
    """
    if "://" not in str(found.home):
        return found
    from pipeline_lib.store.store import Store

    store = Store.at(str(found.home))
    for folder in (found.model, found.index):
        stage, key = folder.parent.parent.name, folder.name.rpartition("-")[0]
        part = store.find_part(stage, key)
        if part is None or store.folder_of(part) != folder:
            raise CorruptArtifact(f"{store.place}: {stage} {key} of {found.name} is gone; run `cpt run` again")
    return found


def append_event(home: Home, name: str, make: Callable[[Held], dict[str, Any]]) -> Held:
    """Write the next event; where another writer was first, it is made anew from what that left."""
    from pipeline_lib.store.files import fault_point

    files = Files.of(home, name)
    _adopt_earlier(files, name)
    while True:
        held = read_held(files, name)
        event, number = make(held), held.number + 1
        now = datetime.now(UTC).isoformat(timespec="seconds")
        if "pair" in event:
            event["pair"] = {**event["pair"], "event": number, "since": now}
        fault_point("registry:before_event")
        if files.put(event_place(name, number), as_bytes({"number": number, "at": now, **event})):
            break
    held = Held(number, event.get("pair", held.pair))
    fault_point("registry:before_pointer")
    files.replace(f"{name}/champion.json", as_bytes({"as_of": held.number, "pair": held.pair}))
    return held


def earlier_pair(home: Home) -> dict[str, Any] | None:
    """The record of an earlier version's one pair, the run's name as one of the registry's."""
    if "://" in str(home):
        return None
    path = Path(home).absolute() / EARLIER
    if not path.is_file():
        return None
    found = read_json(path)
    if sorted(found) != sorted((*TEXTS, "run")) or not all(isinstance(value, str) for value in found.values()):
        raise CorruptArtifact(f"{path}: got {sorted(found)}, expected texts under {sorted((*TEXTS, 'run'))}; remove it")
    return {**found, "run": found["run"] if NAME.fullmatch(found["run"]) else "earlier"}


def _pair_of_earlier(files: Files, name: str) -> dict[str, Any] | None:
    found = earlier_pair(files.home)
    return {text: found[text] for text in TEXTS} if found and found["run"] == name else None


def _adopt_earlier(files: Files, name: str) -> None:
    """Begin the history with an earlier version's pair, so that a rollback can bring it back."""
    pair = _pair_of_earlier(files, name)
    if pair and not files.exists(event_place(name, 1)) and not files.exists(f"{name}/champion.json"):
        at = datetime.fromtimestamp((Path(files.home) / EARLIER).stat().st_mtime, UTC).isoformat(timespec="seconds")
        event = {"number": 1, "at": at, "event": "adopted", "why": f"it was in {EARLIER}"}
        files.put(event_place(name, 1), as_bytes({**event, "pair": {**pair, "event": 1, "since": at, "before": None}}))


def event_of(pair: Mapping[str, Any] | None) -> int:
    """Number of the event that put a pair in use; 0: none, or an earlier version's."""
    return int(pair.get("event", 0)) if pair else 0


def event_place(name: str, number: int) -> str:
    """File of an event, below the registry's folder."""
    return f"{name}/history/{number:06d}.json"


def checked(name: str) -> str:
    """The name, which cannot leave the folder.

    Raises:
        UserError: it is no name.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name of a model: lower-case letters, digits, and _ . - after the first")
    return name


def check_maker(indexed: Artifact, model_digest: str, model: str) -> None:
    """Look whether an index was made by a model.

    Raises:
        UserError: by another one.
    """
    made_by = read_json(indexed.part_folder() / "index.json")["model_digest"]
    if made_by != model_digest:
        raise UserError(
            f"{indexed.part_folder()}: made by model {made_by[:12]}, not by {model_digest[:12]} in {model}; index with the"
            " model that is to be searched with"
        )


def place_of(home: Home, made: Artifact) -> str:
    """Relative to the artifact root, which may be moved, or to a bucket's store, where the folder is below it.

    A store outside of the artifact root notes who publishes from it.
    """
    from pipeline_lib.store.prune import note_home

    folder = made.part_folder()
    if "://" in str(home):
        return "/".join(folder.parts[-3:])  # STAGE/parts/KEY-CONTENT
    home = Path(home).absolute()
    note_home(made.root, home)
    return folder.relative_to(home).as_posix() if folder.is_relative_to(home) else str(folder)


def as_bytes(value: Mapping[str, Any]) -> bytes:
    """A record as a person reads it."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"

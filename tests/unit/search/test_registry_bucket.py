"""The registry on an S3 server: writers that race, a rollback in the middle, a kill anywhere, readers without rights."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from exported_models import Exported
from unit.search.candidates import candidate

from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import CorruptArtifact, TransientError, UserError
from pipeline_lib.index.hybrid import FILES as WORD_FILES
from pipeline_lib.index.index import build_index
from pipeline_lib.search import registry, registry_log
from pipeline_lib.search.encoders import MODEL_FILES
from pipeline_lib.search.query import FollowingSearcher, Searcher
from pipeline_lib.search.registry import Candidate, ChampionChanged, has_moved, history, in_use, promote, rollback
from pipeline_lib.store import files as faults
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.bucket import Bucket
from pipeline_lib.store.files import digest_of
from pipeline_lib.store.store import Store

PROJECT = Path(__file__).parents[3]
INDEX_FILES = ("index.json", "index.faiss", "rows.arrow", "texts.sha256", *WORD_FILES)  # hashed before a search
POINTS = ("registry:before_event", "registry:before_pointer")

WRITER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from unit.search.candidates import candidate
from pipeline_lib.search.registry import promote, rollback
from pipeline_lib.store import files as faults
from pipeline_lib.store.store import Store
place, cache, point, numbers = sys.argv[2], sys.argv[3], sys.argv[4], [int(word) for word in sys.argv[5:]]
made = [candidate(Store(Path(cache), place), number) for number in numbers]
if point:
    faults.arm(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
print("ready", flush=True)
sys.stdin.readline()
for one in made:
    promote(place, "mine", one)
"""


@pytest.fixture
def place(s3: Any, request: pytest.FixtureRequest) -> Iterator[str]:
    """A store of its own in the bucket."""
    if not s3.exists("registry"):
        s3.mkdir("registry")
    yield f"s3://registry/{digest_of(request.node.name)[:12]}"
    faults.disarm()


@pytest.fixture
def store(tmp_path: Path, place: str) -> Store:
    return Store(tmp_path / "here", place)


def trained(number: int) -> str:
    return f"{number:024d}"


def writer(tmp_path: Path, place: str, name: str, *numbers: int, point: str = "") -> subprocess.Popen[str]:
    """A process on another machine that promotes these candidates, one after the other, when it is told to."""
    words = [str(PROJECT / "tests"), place, str(tmp_path / name), point, *map(str, numbers)]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate(timeout=30)[1]
    return process


def test_of_puts_that_race_one_writes(place: str) -> None:
    bucket = Bucket(place)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: [bucket.put_if_absent(f"race/{r}", b"%d" % n) for r in range(10)], range(8)))
    assert [sum(rounds) for rounds in zip(*won, strict=True)] == [1] * 10
    for number in range(10):
        assert [n for n in range(8) if won[n][number]] == [int(bucket.read(f"race/{number}") or b"")]


def test_two_machines_that_promote_at_once_come_one_after_the_other(tmp_path: Path, place: str, store: Store) -> None:
    writers = [writer(tmp_path, place, "left", 1, 2, 3), writer(tmp_path, place, "right", 11, 12, 13)]
    for process in writers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(120) for process in writers] == [0, 0], [process.stderr for process in writers]
    events = history(place, "mine")
    assert [event["number"] for event in events] == [1, 2, 3, 4, 5, 6]
    order = [event["pair"]["trained"] for event in events]
    assert sorted(order) == [trained(n) for n in (1, 2, 3, 11, 12, 13)]
    assert [one for one in order if one < trained(10)] == [trained(n) for n in (1, 2, 3)], "each in its own order"
    assert [event["pair"]["before"] for event in events] == [None, 1, 2, 3, 4, 5], "none is lost on the way back"
    assert in_use(place).trained == order[-1]
    (bucket_pointer,) = [Bucket(place).read("registry/mine/champion.json")]
    assert json.loads(bucket_pointer or b"")["as_of"] <= 6
    registry.stand_in(tmp_path / "home", "mine", place)
    assert registry.champion(tmp_path / "home", "mine") == registry.champion(place, "mine")


def meanwhile(point: str, step: Callable[[], object]) -> None:
    """Let something else happen when a writer comes to a point, once."""

    def happen() -> None:
        faults.disarm()
        step()

    faults.arm(point, happen)


def test_a_rollback_while_a_candidate_is_published(place: str, store: Store) -> None:
    promote(place, "mine", candidate(store, 1))
    second = promote(place, "mine", candidate(store, 2))
    compared = candidate(store, 3)
    meanwhile("registry:before_event", lambda: rollback(place, "mine", why="drill"))
    with pytest.raises(ChampionChanged, match="event 3 changed the champion meanwhile"):
        promote(place, "mine", compared, against=second.event)
    assert in_use(place).trained == trained(1) and len(history(place, "mine")) == 3

    meanwhile("registry:before_event", lambda: rollback(place, "mine", 2))
    promote(place, "mine", compared, "promote: always")
    assert in_use(place).trained == trained(3)
    assert [event["event"] for event in history(place, "mine")] == [
        "promoted",
        "promoted",
        "rolled back",
        "rolled back",
        "promoted",
    ]
    assert rollback(place, "mine").trained == trained(2), "what the other's rollback had brought back"


def test_a_put_whose_answer_is_lost_is_one_event(place: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from moto.s3.responses import S3Response

    made, put, lost = candidate(store, 1), S3Response.put_object, list[str]()

    def put_object(self: Any) -> Any:
        answer = put(self)
        if "/history/" in self.uri and not lost:
            lost.append(self.uri)
            return 500, {}, b"<Error><Code>InternalError</Code><Message>written, and nobody knows</Message></Error>"
        return answer

    monkeypatch.setattr(S3Response, "put_object", put_object)
    assert promote(place, "mine", made, against=0).event == 1
    assert lost and [event["event"] for event in history(place, "mine")] == ["promoted"]


def test_the_pointer_of_a_slower_writer_takes_nobody_back(place: str, store: Store) -> None:
    promote(place, "mine", candidate(store, 1))
    later = candidate(store, 3)
    meanwhile("registry:before_pointer", lambda: promote(place, "mine", later))
    promote(place, "mine", candidate(store, 2))  # its champion.json is written last, and is an event behind
    assert json.loads(Bucket(place).read("registry/mine/champion.json") or b"")["as_of"] == 2
    assert in_use(place).trained == trained(3)


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_s10_a_promoter_that_is_killed_leaves_the_pair_before_or_after(
    tmp_path: Path, place: str, store: Store, point: str, record_property: Callable[[str, object], None]
) -> None:
    promote(place, "mine", candidate(store, 1))
    killed = writer(tmp_path, place, "killed", 2, point=point)
    killed.communicate("go\n", timeout=60)
    assert killed.returncode == -signal.SIGKILL
    began = time.monotonic()
    done = point == POINTS[1]
    assert in_use(place).trained == trained(2 if done else 1)
    assert promote(place, "mine", candidate(Store(tmp_path / "other", place), 2)).trained == trained(2)
    record_property("recovery_seconds", round(time.monotonic() - began, 2))
    assert [event["number"] for event in history(place, "mine")] == [1, 2]


@pytest.fixture
def rights(s3: Any) -> Iterator[Callable[[str], dict[str, str]]]:
    """Users of the server, which looks at rights from now on: what environment has so much of a right."""
    boto3 = pytest.importorskip("boto3")
    from moto import settings

    iam = boto3.client("iam", endpoint_url=os.environ["AWS_ENDPOINT_URL"])

    def user(actions: str) -> dict[str, str]:
        name = f"user-{digest_of(actions)[:6]}"
        iam.create_user(UserName=name)
        allowed = {"Effect": "Allow", "Action": actions.split(), "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=policy)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    yield user
    settings.INITIAL_NO_AUTH_ACTION_COUNT = float("inf")


READER = """
import sys
from pathlib import Path
from pipeline_lib.errors import UserError
from pipeline_lib.search import registry, registry_log
place, step = sys.argv[1:]
try:
    if step == "read":
        found = registry_log.opened(registry.in_use(place, "mine"))
        assert (found.model / "w").is_file() and (found.index / "index.json").is_file()
        print(found.trained, registry.names(place), len(registry.history(place, "mine")), registry.has_moved(found))
    else:
        registry.rollback(place, "mine")
except UserError as error:
    sys.exit(f"refused: {error}")
"""


def read(place: str, step: str, cache: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_") or name == "AWS_ENDPOINT_URL"}
    alone = {
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": str(cache),
        "CPT_CACHE": str(cache),
    }
    command = [sys.executable, "-c", READER, place, step]
    return subprocess.run(command, env=kept | alone | env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_a_reader_needs_no_right_to_write_and_one_without_credentials_is_told_so(
    tmp_path: Path, place: str, store: Store, rights: Callable[[str], dict[str, str]]
) -> None:
    for number in (1, 2):
        found = promote(place, "mine", candidate(store, number))
    reader = rights("s3:GetObject s3:ListBucket")
    answer = read(place, "read", tmp_path / "reader", reader)
    assert answer.stdout.split() == [trained(2), "['mine']", "2", "False"], answer.stderr
    refused = read(place, "roll back", tmp_path / "reader", reader)
    assert refused.returncode == 1 and "are the credentials those of this bucket?" in refused.stderr, refused.stderr
    nobody = read(place, "read", tmp_path / "nobody", {})
    assert nobody.returncode == 1 and nobody.stderr.startswith("refused: s3://registry/"), nobody.stderr
    assert "credentials" in nobody.stderr and len(nobody.stderr.strip().splitlines()) == 1
    from moto import settings

    settings.INITIAL_NO_AUTH_ACTION_COUNT = float("inf")
    assert not has_moved(found), "what was refused left no event"


@pytest.fixture
def searchable(place: str, store: Store, curate: Callable[..., Artifact], export_model: Callable[..., Artifact]) -> str:
    """A model and its index, promoted in the bucket."""
    exported = export_model()
    promote(place, "mine", Candidate(exported, build_index(store, exported, curate(), IndexConfig(), Exported(exported))))
    return place


def objects_of(place: str) -> dict[str, bytes]:
    """What a search reads: name to content."""
    bucket, pair = Bucket(place), in_use(place)
    files = [*((pair.model, name) for name in MODEL_FILES), *((pair.index, name) for name in INDEX_FILES)]
    return {name: bucket.read(name) or b"" for name in ("/".join([*at.parts[-3:], file]) for at, file in files)}


def changed(content: bytes, chance: random.Random) -> bytes:
    """The bytes with one bit flipped, an end cut off or put on, or some of them zeroed."""
    at, kind = chance.randrange(len(content)), chance.randrange(4)
    found = {
        0: content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :],
        1: content[:at],
        2: content + content[at:],
        3: content[:at] + bytes(len(content[at : at + 64])) + content[at + 64 :],
    }[kind]
    return found if found != content else content[:-1]


def see_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test fail whose index or model is read."""
    monkeypatch.setattr("faiss.read_index", lambda *_: pytest.fail("faiss saw it"))
    monkeypatch.setattr("pipeline_lib.search.query.load_encoder", lambda *_: pytest.fail("onnxruntime saw it"))


def test_s10_of_a_thousand_changes_on_a_disk_none_is_missed(
    searchable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, chance = registry_log.opened(in_use(searchable)), random.Random(10)
    files = [pair.model / name for name in MODEL_FILES] + [pair.index / name for name in INDEX_FILES]
    good = {path: path.read_bytes() for path in files}
    monkeypatch.setattr("pipeline_lib.search.query.opened", lambda found: found)  # they lie here
    see_nothing(monkeypatch)
    for _ in range(1000):
        path = chance.choice(files)
        path.write_bytes(changed(good[path], chance))
        with pytest.raises(CorruptArtifact, match="sha256 is"):
            Searcher(pair)
        path.write_bytes(good[path])
    monkeypatch.undo()
    assert Searcher(pair).search("close the socket", k=1)


@pytest.mark.parametrize("times", [10, pytest.param(300, marks=pytest.mark.slow)])
def test_s10_no_change_of_an_object_reaches_faiss_or_onnxruntime(
    searchable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    bucket, good, chance = Bucket(searchable), objects_of(searchable), random.Random(16)
    see_nothing(monkeypatch)
    for number in range(times):
        name = chance.choice(list(good))
        bucket.replace(name, changed(good[name], chance))
        monkeypatch.setenv("CPT_CACHE", str(tmp_path / "machines" / str(number)))
        with pytest.raises(CorruptArtifact, match=r"sha256 is|is gone"):
            Searcher(in_use(searchable))
        bucket.replace(name, good[name])
        shutil.rmtree(tmp_path / "machines")
    monkeypatch.undo()
    assert Searcher(in_use(searchable)).search("close the socket", k=1)


def test_s10_a_service_answers_by_its_pair_whatever_the_next_one_is(
    searchable: str, store: Store, tmp_path: Path, curate: Callable[..., Artifact], export_model: Callable[..., Artifact]
) -> None:
    searcher = FollowingSearcher(searchable, "mine", every=0.0)
    before = searcher.search("close the socket")
    other = export_model(1)
    index = build_index(store, other, curate(), IndexConfig(), Exported(other))
    promote(searchable, "mine", Candidate(other, index))
    name = next(name for name in objects_of(searchable) if name.endswith("index.faiss"))
    good = Bucket(searchable).read(name) or b""
    Bucket(searchable).replace(name, good[:-1])
    shutil.rmtree(store.root / "index")  # this machine's copy, which is whole
    for _ in range(20):
        assert searcher.search("close the socket") == before
        time.sleep(0.02)
    began = time.monotonic()
    rollback(searchable, "mine", why="its index is damaged")
    assert Searcher(in_use(searchable)).search("close the socket") == before
    assert time.monotonic() - began < 5, "a rollback is a matter of seconds"


@pytest.mark.slow
def test_what_is_damaged_is_made_again_by_removing_it(
    tmp_path: Path, searchable: str, s3: Any, curate: Callable[..., Artifact], export_model: Callable[..., Artifact]
) -> None:
    pair, bucket = in_use(searchable), Bucket(searchable)
    good = objects_of(searchable)
    name = next(name for name in good if name.endswith("index.faiss"))
    bucket.replace(name, good[name][:-1])
    elsewhere = Store(tmp_path / "elsewhere", searchable)
    exported = elsewhere.open("export-0", next(iter(elsewhere.keys("export-0"))))
    s3.rm(f"{searchable}/index", recursive=True)  # what the message names
    made = build_index(elsewhere, exported, curate(), IndexConfig(), Exported(exported))
    assert made.digest == pair.index_digest and bucket.read(name) == good[name], "the bytes are the same"
    assert Searcher(in_use(searchable)).search("close the socket", k=1)


@pytest.mark.slow
def test_r16_a_server_that_is_away_is_a_transient_error_and_no_event_and_then_all_is_well(
    tmp_path: Path, s3: Any, store: Store, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto, s3fs = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
    first, second = candidate(store, 1), candidate(store, 2)
    promote(place, "mine", first)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")  # the same objects behind another door
    s3fs.S3FileSystem.clear_instance_cache()
    assert in_use(place).trained == trained(1)
    server.stop()
    with pytest.raises(TransientError, match="registry/mine"):
        promote(place, "mine", second)
    again = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=port)
    again.start()
    try:
        assert len(history(place, "mine")) == 1
        assert promote(place, "mine", second).event == 2
    finally:
        again.stop()
        monkeypatch.undo()
        s3fs.S3FileSystem.clear_instance_cache()


def test_a_bucket_that_is_not_there_is_said(s3: Any) -> None:
    for ask in (lambda place: in_use(place, "mine"), lambda place: registry.set_default(place, "mine")):
        with pytest.raises(UserError, match="make the bucket first"):
            ask("s3://nobody-made-this/store")

"""`cpt push`: a model goes to the hub whole, once, private, with its card, and only where it may; the hub is on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants as hub_constants
import pytest
from builders import write_artifact
from hub_server import TOKEN, Hub, Repository, hub_server
from typer.testing import CliRunner

from flows.cli.commands import app
from flows.cli.push import find_model
from pipeline_lib.config.base import StageConfig
from pipeline_lib.errors import TransientError, UserError
from pipeline_lib.export.push import Destination, push, stale_files
from pipeline_lib.search import registry
from pipeline_lib.search.registry import Candidate
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store

FILES = {
    "modules.json": b"[]",
    "encoder/config.json": b'{"width": 32}',
    "encoder/model.safetensors": b"w" * 5000,
    "query/tokenizer.json": b"t" * 3000,
    "model.onnx": b"o" * 4000,
}


class Choice(StageConfig):
    """A config as the stages of a model have."""

    label: str = ""
    seed: int = 0


def made(store: Store, stage: str, files: dict[str, bytes], config: StageConfig, **inputs: Artifact) -> Artifact:
    def make(key: str) -> Outcome:
        scratch = store.scratch(stage)
        for name, content in files.items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).write_bytes(content)
        return Outcome(parts=(store.commit_part(draft_part(Stage(name=stage, version=1), key, stage), scratch),))

    return store.build(Stage(name=stage, version=1), config, inputs, make)


class Home:
    """A home with runs; each has one checkpoint, its export and, unless it is taken away, its card."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, Store(root / "store")

    def run(self, seed: int, label: str = "step-000002", has_card: bool = True, **files: bytes) -> Candidate:
        trained = write_artifact(
            self.store,
            "train",
            ["step-000002", "step-000004"],
            lambda f, name: (f / "w").write_text(f"{seed} {name}"),
            Choice(seed=seed),
        )
        content = FILES | {name.replace("__", "."): given for name, given in files.items()}
        content["encoder/config.json"] = json.dumps({"seed": seed, "label": label}).encode()
        exported = made(self.store, "export", content, Choice(label=label, seed=seed), trained=trained)
        if has_card:
            made(self.store, "card", {"README.md": f"# Model {seed}\n".encode()}, Choice(seed=seed), exported=exported)
        told = json.dumps({"model_digest": exported.digest}).encode()
        indexed = made(self.store, "index", {"index.json": told}, Choice(seed=seed), exported=exported)
        return Candidate(exported, indexed, trained.manifest.key, label)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("CPT_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with hub_server() as found:
        monkeypatch.setattr(hub_constants, "ENDPOINT", found.address)  # which HF_ENDPOINT sets in a new process, see below
        monkeypatch.setattr(hub_constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hub_constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


@pytest.fixture
def cpt(home: Home) -> Callable[..., str]:
    def run(*words: str) -> str:
        answer = CliRunner().invoke(app, ["push", *words])
        if answer.exception is not None:
            raise answer.exception
        return answer.output

    return run


def test_the_champion_goes_whole_and_a_second_push_makes_no_commit(home: Home, hub: Hub, cpt: Callable[..., str]) -> None:
    one = home.run(1)
    registry.promote(home.root, "demo", one)
    said = cpt("demo", "lab/finder")
    repo = hub.repositories["lab/finder"]
    files = hub.files("lab/finder")
    assert repo.private and files.pop(".gitattributes")
    expected = {**FILES, "encoder/config.json": files["encoder/config.json"], "README.md": b"# Model 1\n"}
    assert files == expected and json.loads(files["encoder/config.json"])["seed"] == 1
    assert repo.messages == ["initial commit", f"demo: {one.trained}/step-000002"]
    assert f"pushed {one.trained}/step-000002: 6 files" in said and f"{hub.address}/lab/finder/commit/" in said
    assert 'load it with SentenceTransformer("lab/finder")' in said
    assert hub.authorized <= {f"Bearer {TOKEN}", ""} and TOKEN not in said  # large files go to signed addresses
    sent = hub.puts()
    again = cpt(one.trained[:6], "lab/finder")
    assert "was there already: no new commit" in again
    assert len(repo.commits) == 2 and hub.puts() == sent == 3


def test_another_model_takes_the_place_of_the_files_of_the_one_before(home: Home, hub: Hub, cpt: Callable[..., str]) -> None:
    registry.promote(home.root, "demo", home.run(1, model__int8__onnx=b"8" * 2000))
    cpt("demo", "lab/finder")
    repo = hub.repositories["lab/finder"]
    mine = {**repo.commits[repo.branches["main"]], "NOTES.md": ("n", hub.kept(b"of a person"))}
    repo.commit("main", mine, "notes")
    registry.promote(home.root, "demo", home.run(2))
    said = cpt("demo", "lab/finder")
    files = hub.files("lab/finder")
    assert "removed model.int8.onnx, of an earlier model" in said and "model.int8.onnx" not in files
    assert files["NOTES.md"] == b"of a person" and files["README.md"] == b"# Model 2\n"
    assert stale_files(["a.txt", "encoder/old.json", "old.safetensors", "img/x.png"], dict.fromkeys(FILES, Path())) == [
        "encoder/old.json",
        "old.safetensors",
    ]


def test_a_branch_is_made_and_main_stays(home: Home, hub: Hub, cpt: Callable[..., str]) -> None:
    registry.promote(home.root, "demo", home.run(1))
    said = cpt("demo", "finder", "--revision", "night/2026-11-30", "--public")
    assert 'SentenceTransformer("somebody/finder", revision="night/2026-11-30")' in said
    assert not hub.repositories["somebody/finder"].private
    assert set(hub.files("somebody/finder")) == {".gitattributes"}
    assert "README.md" in hub.files("somebody/finder", "night/2026-11-30")


def test_a_dry_run_lists_files_and_bytes_and_asks_nobody(
    home: Home, hub: Hub, cpt: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    registry.promote(home.root, "demo", home.run(1))
    lines = cpt("demo", "lab/finder", "--dry-run").splitlines()
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines[:-2]}
    assert listed == {name: len(content) for name, content in FILES.items()} | {
        "README.md": 10,
        "encoder/config.json": listed["encoder/config.json"],
    }
    assert f"6 files, {sum(listed.values()):,} bytes, for lab/finder, private, branch main; nothing was sent" in lines[-2]
    assert hub.asked == []


def test_what_is_not_promoted_goes_only_where_that_is_asked_for(home: Home, hub: Hub, cpt: Callable[..., str]) -> None:
    registry.promote(home.root, "demo", home.run(1))
    held, unknown, trial = home.run(2), home.run(3), home.run(4)
    told = {"event": "rejected", "why": "code search fell by 0.030", "candidate": f"{held.trained}/{held.checkpoint}"}
    registry.record(home.root, "demo", told)
    registry.try_out(home.root, "smoke", trial, "its sizes only show that everything works")
    for name, why in {
        held.trained: "held back: code search fell by 0.030",
        unknown.trained: "no name of the registry has it as its champion",
        "smoke": "a trial: its sizes only show",
    }.items():
        with pytest.raises(UserError, match=rf"is not promoted \({why}.*--not-promoted"):
            cpt(name, "lab/finder")
    assert hub.asked == []
    assert "pushed" in cpt(held.trained, "lab/finder", "--not-promoted")


def test_a_model_without_a_card_an_export_or_a_name_is_refused(home: Home, hub: Hub, cpt: Callable[..., str]) -> None:
    bare = home.run(1, has_card=False)
    with pytest.raises(UserError, match=r"has no model card; `cpt publish --checkpoint \w+/step-000002` writes it"):
        find_model(bare.trained)
    with pytest.raises(UserError, match="step-000004 is not exported; `cpt publish --checkpoint"):
        find_model(f"{bare.trained}/step-000004")
    with pytest.raises(UserError, match="is no name that is searched and no finished run; `cpt runs` lists them"):
        find_model("nobody")
    two = home.run(2), home.run(2, "step-000004")
    with pytest.raises(UserError, match=r"several checkpoints are exported and none is promoted; name one: .*2, .*4"):
        find_model(two[0].trained)
    registry.promote(home.root, "demo", two[0])
    assert find_model(two[0].trained).checkpoint.endswith("step-000002"), "the champion is the one that is meant"
    with pytest.raises(UserError, match=r"no README.md among the files"):
        push({}, Destination("lab/finder"), "x")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("repo", "revision"),
    [
        (name, "main")
        for name in ("", "a/b/c", "https://hub/a/b", "a--b", "-a", "a b/c", "x/" + "n" * 120, "datasets/a", "lab/x.git")
    ]
    + [("lab/a", name) for name in ("", "-b", "a..b", "a b", "a//b", "/a", "a/", "a.lock", "a~1", "x" * 300, "a/.b", "ä")],
)
def test_names_that_the_hub_would_not_take_are_refused_before_it_is_asked(repo: str, revision: str) -> None:
    with pytest.raises(UserError, match=r"no name of a|is a place of the hub itself"):
        Destination(repo, revision)


def test_a_repository_that_everybody_sees_is_not_pushed_to_unasked(home: Home, hub: Hub, cpt: Callable[..., str]) -> None:
    registry.promote(home.root, "demo", home.run(1))
    hub.repositories["lab/open"] = Repository(private=False)
    hub.repositories["lab/open"].commit("main", {}, "initial commit")
    with pytest.raises(UserError, match="everybody can see it; --public says that this is meant"):
        cpt("demo", "lab/open")
    hub.repositories["lab/open"].private = None
    with pytest.raises(UserError, match="the hub does not say that it is private; --public says that this is meant"):
        cpt("demo", "lab/open")
    assert hub.files("lab/open") == {} and hub.puts() == 0
    assert "pushed" in cpt("demo", "lab/open", "--public")


def test_refusals_of_the_hub_are_told_in_one_line(
    home: Home, hub: Hub, cpt: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    registry.promote(home.root, "demo", home.run(1))
    hub.left_out = (".onnx",)
    with pytest.raises(UserError, match=r"left out 1 of 6 files \(model.onnx\): who loads it gets no whole model"):
        cpt("demo", "lab/forbids")
    hub.left_out, hub.gitignore = (), (".onnx",)
    cpt("demo", "lab/ignores")
    assert hub.files("lab/ignores")["model.onnx"] == FILES["model.onnx"], "a .gitignore there keeps nothing back"
    hub.gitignore, hub.broken = (), "/api/repos/create"
    with pytest.raises(TransientError, match=r"answered 503 \(the hub is being mended\); run it again, it goes on"):
        cpt("demo", "lab/finder")
    hub.broken = ""
    monkeypatch.setenv("HF_TOKEN", "hf_" + "another9token8of7nobody")
    with pytest.raises(UserError, match="refuses this login") as refused:
        cpt("demo", "lab/finder")
    assert "nobody" not in str(refused.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="no login for the hub; log in with `hf auth login`, or set HF_TOKEN"):
        cpt("demo", "lab/finder")
    (tmp_path / "no-login").write_text(TOKEN)
    assert "pushed" in cpt("demo", "lab/finder"), "the login that the hub's own client keeps"


@pytest.mark.slow  # two processes that import all that a terminal imports
def test_an_interrupted_push_goes_on_and_sends_nothing_twice(home: Home, tmp_path: Path) -> None:
    registry.promote(home.root, "demo", home.run(1))
    with hub_server() as hub:
        hub.large_let_through = 1
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": TOKEN,
        }
        words = [sys.executable, "-m", "flows.cli", "push", "demo", "lab/finder"]
        with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(1200):
                if hub.puts() == 3 or process.poll() is not None:
                    break
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            said, complaint = process.communicate(timeout=20)  # and not only when the files on their way are there
        assert process.returncode == 130 and "the same command goes on from here" in complaint, complaint
        assert hub.files("lab/finder").keys() == {".gitattributes"}, "a model is there whole or not at all"
        large = {name for name, content in FILES.items() if len(content) >= hub.least_large}
        there = sum(1 for name in large if FILES[name] in hub.content.values())
        assert there == 1
        hub.large_let_through, before = 1_000_000, hub.puts()
        again = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        assert hub.puts() - before == len(large) - there
        assert hub.files("lab/finder")["model.onnx"] == FILES["model.onnx"]
        assert TOKEN not in said + complaint + again.stdout + again.stderr

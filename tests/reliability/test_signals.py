"""Ctrl-C and SIGTERM at any moment: 128 + the signal, one line, no traceback, nothing left running, and work that goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpus import write_corpus
from terminals import PROJECT, Terminal

from pipeline_lib.runtime.interruption import STUCK_SECONDS
from pipeline_lib.store.store import Store

GOES_ON = "cpt: interrupted; the same command goes on from here"
PROGRAM = """
import gc, hashlib, sys, time
from pathlib import Path
from pipeline_lib.runtime import interruption
from pipeline_lib.runtime.processes import start_child

def say(line):
    sys.stdout.write(line + "\\n")
    sys.stdout.flush()

class Swallows:
    def __del__(self):
        say("ready")
        time.sleep(60)

def swallowed():
    Swallows()
    gc.collect()
    time.sleep(60)

def kept():
    try:
        say("ready")
        time.sleep(60)
    except KeyboardInterrupt:
        interruption.check()

def cleaned():
    try:
        say("ready")
        time.sleep(60)
    finally:
        time.sleep(1)
        say("cleaned")

def stuck():
    say("ready")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

def held():
    with interruption.postponed():
        say("ready")
        time.sleep(1.5)
        say("done")
    say("went on")

def never_ends():
    start_child(["sleep", "60"], {}, None)
    try:
        say("ready")
        time.sleep(60)
    finally:
        time.sleep(60)

def over():
    import atexit
    atexit.register(lambda: (say("ready"), time.sleep(60)))
    return 0

interruption.listening(lambda: globals()[sys.argv[1]]() or 0, "stopped")
"""

DEAF = """
import multiprocessing, re, sys, time
from pathlib import Path
from pipeline_lib.runtime.processes import deaf_children

def blocked(pid):
    return bool(int(re.search(r"SigBlk:\\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text())[1], 16) & 2)

with deaf_children():
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(30,))
    child.start()
print(blocked(child.pid), blocked("self"))
child.kill()
"""


def small(tmp_path: Path, case: str) -> Terminal:
    terminal = Terminal(["-c", PROGRAM, case], tmp_path)
    terminal.until("ready")
    return terminal


@pytest.mark.parametrize(
    ("case", "says"),
    [("swallowed", ""), ("kept", ""), ("cleaned", "cleaned"), ("stuck", ""), ("held", "done"), ("over", "")],
)
def test_one_ctrl_c_ends_it(tmp_path: Path, case: str, says: str) -> None:
    terminal = small(tmp_path, case)
    terminal.press_ctrl_c()
    began = time.monotonic()
    assert terminal.end(30) == 130, terminal.text
    assert time.monotonic() - began < STUCK_SECONDS + 5
    assert terminal.lines[-1] == "cpt: stopped"
    assert says in terminal.text
    assert not any(word in terminal.text for word in ("Traceback", "Exception ignored", "went on"))


def test_the_second_ctrl_c_ends_it_at_once_and_all_that_it_started(tmp_path: Path) -> None:
    terminal = small(tmp_path, "never_ends")
    terminal.press_ctrl_c()
    terminal.until("once more ends it at once")
    assert any("sleep" in words for words in terminal.left_behind())
    terminal.press_ctrl_c()
    began = time.monotonic()
    assert terminal.end(30) == 130
    assert time.monotonic() - began < 5
    assert terminal.lines[-1] == "cpt: stopped"
    assert terminal.left_behind() == []


def test_sigterm_ends_it_with_143(tmp_path: Path) -> None:
    terminal = small(tmp_path, "cleaned")
    os.kill(terminal.child.pid, signal.SIGTERM)
    assert terminal.end(30) == 143
    assert "cleaned" in terminal.text


def test_processes_that_dask_and_pools_start_do_not_hear_ctrl_c() -> None:
    """In a program of its own: here the helper that lifts the block runs already."""
    answer = subprocess.run([sys.executable, "-c", DEAF], capture_output=True, text=True, timeout=60, check=True, cwd=PROJECT)
    assert answer.stdout.split() == ["True", "False"], "blocked in the child, and not in the parent"


@pytest.mark.parametrize("words", [["search", "anything"], ["inspect", "."]])
def test_a_command_that_leaves_nothing_is_just_stopped(tmp_path: Path, words: list[str]) -> None:
    terminal = Terminal(["-m", "flows.cli", *words], tmp_path)
    terminal.until_listening()
    terminal.press_ctrl_c()
    assert terminal.end(30) == 130
    assert terminal.lines == ["^Ccpt: stopped"] or terminal.lines[-1] == "cpt: stopped"
    assert "Traceback" not in terminal.text


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tree", packages=14, functions=8)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all moments: each goes on from the one before."""
    return tmp_path_factory.mktemp("home")


def run(home: Path, tree: Path, *more: str) -> Terminal:
    words = ["run", "--preset", "smoke", "--source", str(tree), "--steps", "5", "--name", "tree", *more]
    return Terminal(["-m", "flows.cli", *words], home)


def check_end(terminal: Terminal, code: int) -> None:
    assert terminal.end(120) == code, terminal.text[-3000:]
    assert terminal.lines[-1] == GOES_ON, terminal.text[-3000:]
    assert not any(word in terminal.text for word in ("Traceback", "Exception ignored")), terminal.text[-3000:]
    assert terminal.left_behind() == []
    assert "RUNNING" not in terminal.flow_runs(), "a run that is over would stay in the UI for ever"
    check_store(terminal.home)


def check_store(home: Path) -> None:
    """Every artifact that says it is there is there, to the byte."""
    store = Store(home / "store")
    for stage in sorted({path.parts[-3] for path in store.root.glob("*/*/manifest.json")}):
        for artifact in store.artifacts(stage):
            artifact.verify()


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("", signal.SIGINT),  # imports
        ("5 steps", signal.SIGINT),  # the server starts
        (r"extract .*\[", signal.SIGINT),  # Dask's processes start, work, or end
        ("starting the trainer", signal.SIGINT),
        pytest.param("starting the trainer", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_interrupted(home: Path, tree: Path, moment: str, number: int) -> None:
    terminal = run(home, tree)
    terminal.until_listening()
    terminal.until(moment)
    if number == signal.SIGINT:
        terminal.press_ctrl_c()
    else:
        os.kill(terminal.child.pid, number)
    check_end(terminal, 128 + number)


def test_an_interrupted_run_goes_on_and_a_known_failure_is_its_state(home: Path, tree: Path) -> None:
    too_large = run(home, tree, "--batch-size", "5000")
    assert too_large.end(120) == 2, too_large.text[-3000:]
    told = too_large.lines[-1].removeprefix("cpt: ")
    assert "5,000" in told and "the training split has 109 pairs" in told
    assert "Traceback" not in too_large.text
    assert told in too_large.flow_runs()["FAILED"]
    finished = run(home, tree)
    assert finished.end(180) == 0, finished.text[-3000:]
    assert (home / "reports" / "tree" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("presses", [1, 2])
def test_a_run_is_interrupted_at_many_moments(tmp_path: Path, tree: Path, presses: int) -> None:
    """A home each: as many moments as a whole run has seconds, at random within each."""
    calm = run(tmp_path / "calm", tree)
    began = time.monotonic()
    assert calm.end(180) == 0
    seconds = time.monotonic() - began
    pick = random.Random(presses)
    for number in range(int(seconds)):
        terminal = run(tmp_path / str(number), tree)
        terminal.until_listening()
        terminal.wait(number + pick.random())
        if "make up" in terminal.text:  # its last line: whether it is over yet, nobody can tell
            assert terminal.end(30) == 0
            continue
        terminal.press_ctrl_c()
        if presses == 1:
            check_end(terminal, 130)
            continue
        terminal.wait(0.7)
        if terminal.child.poll() is None:
            terminal.press_ctrl_c()
        assert terminal.end(30) == 130
        assert terminal.left_behind() == []
        check_store(terminal.home)

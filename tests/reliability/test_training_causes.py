"""A trainer that dies says why: the exception of the rank that failed first stands last, memory is named, a kill is said.

Real torchrun processes, which run the trainer behind a few lines that make it fail at a named place.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_runs import MODEL, tiny_config, write_inputs

from pipeline_lib.errors import TrainingFailed
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.store.store import Store
from pipeline_lib.train import launch
from pipeline_lib.train.launch import TrainInputs, train

PROJECT = Path(__file__).parents[2]
Start = Callable[..., tuple[str, list[str], int]]

FAULTY = """
import itertools, os, signal, sys
from pathlib import Path
from pipeline_lib.store import files as faults
from pipeline_lib.train import __main__ as trainer
passes = itertools.count(1)

def fault():
    if next(passes) == {number} and os.environ["RANK"] == "{rank}":
        {act}

with Path({starts!r}).open("a") as stream:
    stream.write(os.environ["RANK"] + "\\n")
sys.excepthook = trainer.end_with_report
trainer.end_with_torchrun()
faults.arm({point!r}, fault)
trainer.main(Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, TrainInputs]:
    return write_inputs(tmp_path_factory.mktemp("causes"))


@pytest.fixture
def fails(inputs: tuple[Store, TrainInputs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Train until it fails: the message, the lines for people, and how often a rank was started."""

    def run(act: str, rank: int = 0, point: str = "trainer:after_backward", number: int = 3, **changes: Any) -> Any:
        starts = tmp_path / "starts"
        script = tmp_path / "faulty.py"
        script.write_text(FAULTY.format(act=act, rank=rank, point=point, number=number, starts=str(starts)))
        whole = launch.command

        def command(*given: Any) -> list[str]:
            *words, _, _, job = whole(*given)  # ... -m pipeline_lib.train JOB
            return [*words, str(script), job]

        monkeypatch.setattr("pipeline_lib.train.launch.command", command)
        lines: list[str] = []
        # the seed makes a run of its own
        config = tiny_config(seed=1 + abs(hash((act, rank, point))) % 10**6, **changes)
        with pytest.raises(TrainingFailed) as failure:
            train(*inputs, config, MODEL, log=lines.append)
        return str(failure.value), lines, len(starts.read_text().splitlines())

    return run


def test_the_exception_of_the_rank_that_failed_first_stands_last(fails: Start) -> None:
    message, _, _ = fails("raise ValueError('a page of the\\nledger is torn')", rank=1, processes=2, max_restarts=0)
    last = message.splitlines()[-1]
    assert last == "rank 1 of 2, step 3: ValueError: a page of the ledger is torn"
    assert "the trainer died once" in message.splitlines()[0]
    assert "Traceback" in message and "take_step" in message, "the first rank's own"
    assert "ChildFailedError" not in message, "torchrun's"


def test_a_disk_that_is_full_is_named(fails: Start) -> None:
    act = "raise OSError(28, 'No space left on device', '/data/states')"
    message, _, _ = fails(act, point="state:before_tensors", number=1, resume_every_seconds=1e-9, max_restarts=0)
    assert message.splitlines()[-1].endswith("OSError: [Errno 28] No space left on device: '/data/states'")


def test_memory_that_ran_out_is_named_with_what_to_lower_and_not_tried_again(fails: Start) -> None:
    message, _, starts = fails("import torch; torch.empty(1 << 50)", rank=1, processes=2)
    assert starts == 2, "two ranks, once"
    assert len(message.splitlines()) == 1
    assert "out of memory: rank 1 of 2, step 3: RuntimeError: " in message
    assert "can't allocate memory" in message
    assert "lower micro_batch_tokens (128), activation_bytes" in message


def test_the_same_kill_twice_ends_the_run_and_each_is_said(fails: Start) -> None:
    message, lines, starts = fails("os.kill(os.getpid(), signal.SIGKILL)", rank=1, processes=2)
    assert starts == 4, "two ranks, twice"
    (said,) = (line for line in lines if line.startswith(WARNING))
    assert "the trainer died: rank 1 of 2 was ended by signal 9 (SIGKILL) after step 2" in said
    assert said.endswith("starting it again from its last complete state")
    assert "died 2 times without a step gained" in message
    assert "rank 1 of 2 was ended by signal 9" in message and "lower micro_batch_tokens" in message


TOO_FAST = """
import sys
from pipeline_lib.config import built_in
smoke = built_in.smoke()
train = {"learning_rate": 1e25, "mixture": {"docstring": 0.6, "name": 0.1, "neighbour": 0.3}}
fast = smoke.model_copy(update={"train": smoke.train.model_copy(update=train)})
built_in.PRESETS["smoke"] = lambda: fast
from flows.cli import main
main()
"""


def test_a_run_that_diverges_says_what_was_not_finite_in_terminal_and_ui(tmp_path: Path, corpus: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")} | {"CPT_HOME": str(tmp_path)}
    words = ["run", "--preset", "smoke", "--source", str(corpus)]
    answer = subprocess.run(
        [sys.executable, "-c", TOO_FAST, *words],
        env=env,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
        check=False,
    )
    assert answer.returncode == 2, answer.stdout[-3000:]
    last = answer.stdout.splitlines()[-1]
    assert last.startswith("cpt: step 2: embeddings are not finite: 64 of 64 x (pair "), answer.stdout[-3000:]
    assert "last good checkpoint: none; try a lower learning_rate" in last
    assert "Traceback" not in answer.stdout
    assert "warning: the mixture asks for name, of which this dataset has no rows" in answer.stdout
    database = sqlite3.connect(f"file:{tmp_path}/prefect/prefect.db?mode=ro", uri=True)
    states = dict(database.execute("select f.name, s.message from flow_run r join flow f on f.id = r.flow_id "
                                   "join flow_run_state s on s.id = r.state_id where s.type = 'FAILED'"))  # fmt: skip
    assert set(states) == {"retrain", "train"}
    cause = last.removeprefix("cpt: ")
    assert all(message.endswith(f"TrainingFailed: {cause}") for message in states.values()), states

"""What a rank reports of its end, and what the launcher makes of the reports and of torchrun's table."""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pipeline_lib.config.training import PretrainConfig, TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.train.failure import ATOMIC_BYTES, Witness, is_out_of_memory, memory_advice, report
from pipeline_lib.train.job import parse_event

HUGE = 1 << 50  # bytes that no machine has


def of(act: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as failure:
        act()
    return failure.value


def wrapped() -> None:
    try:
        np.empty(HUGE)
    except MemoryError as error:
        raise RuntimeError("the batch could not be read") from error


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda: torch.empty(HUGE), True),  # DefaultCPUAllocator: can't allocate memory
        (lambda: np.empty(HUGE), True),
        (lambda: bytearray(HUGE), True),
        (wrapped, True),
        (lambda: torch.zeros(2) @ torch.zeros(3), False),
        (lambda: open("/nowhere"), False),  # noqa: PTH123, SIM115
    ],
)
def test_memory_that_ran_out_is_known_whoever_says_so(act: Callable[[], Any], expected: bool) -> None:
    assert is_out_of_memory(of(act)) == expected


def test_memory_that_ran_out_is_known_by_the_kernels_and_the_gpus_words() -> None:
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not is_out_of_memory(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_out_of_memory(RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:3321"))


def reported(error: Exception, capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    report(error)
    (line,) = capfd.readouterr().out.splitlines()
    assert len(line.encode()) < ATOMIC_BYTES, "lines of two ranks would mix"
    event = parse_event(line)
    assert event is not None
    return event


def test_a_report_is_one_line_and_a_known_kind_keeps_its_words(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "3")
    event = reported(UserError("train.steps: got 0"), capfd)
    assert (event["kind"], event["rank"], event["message"]) == ("UserError", 3, "train.steps: got 0")
    error = RuntimeError("a\nb")
    error.add_note("step 7")
    event = reported(error, capfd)
    assert (event["message"], event["at"], event["memory"]) == ("RuntimeError: a b", "step 7", False)
    message = reported(ValueError("å" * 5000 + " the end"), capfd)["message"]
    assert message.startswith("ValueError: å") and message.endswith("å the end")


TABLE = """
Root Cause (first observed failure):
[{n}]:
  time      : 2026-11-29_12:00:00
  host      : here
  rank      : {rank} (local_rank: {rank})
  exitcode  : {code} (pid: {pid}) (SIGKILL)
  error_file: <N/A>
"""


def witness(rows: list[tuple[int, int]], before: str = "", **report: Any) -> Witness:
    heard = Witness(2, report)
    for line in [before, *"".join(TABLE.format(n=r, rank=r, code=c, pid=100 + r) for r, c in rows).splitlines()]:
        heard.hear(line)
    return heard


PEER = {"kind": "RuntimeError", "rank": 0, "message": "RuntimeError: Connection closed by peer", "memory": False}


def text_of(heard: Witness, code: int = 1, kills: int = 0) -> str:
    death = heard.death(code, 7, kills)
    return death.text if death else ""


def test_a_killed_rank_is_the_cause_of_what_the_others_report() -> None:
    heard = witness([(0, 1), (1, -9)], **PEER)
    assert text_of(heard).startswith("rank 1 of 2 was ended by signal 9 (SIGKILL) after step 7: most often the kernel")
    assert "the kernel killed 2 for lack of memory" in text_of(heard, kills=2)
    death = heard.death(1, 7, 0)
    assert death is not None and death.killed


def test_what_torchrun_ends_itself_is_no_cause() -> None:
    forced = "W1129 api.py:1046] Unable to shutdown process 101 via SIGTERM, forcefully exiting via SIGKILL"
    assert text_of(witness([(0, 1), (1, -9)], forced, **PEER)) == "rank 0 of 2: RuntimeError: Connection closed by peer"
    assert text_of(witness([(0, 1), (1, -15)], **PEER)).startswith("rank 0 of 2: RuntimeError")
    assert text_of(witness([(0, 1), (1, -6)], **PEER)).startswith("rank 0 of 2"), "an abort may follow"
    assert text_of(witness([]), code=-signal.SIGKILL).startswith("torchrun was ended by signal 9")
    assert text_of(witness([])) == ""


def test_a_program_that_aborts_for_want_of_memory_is_out_of_memory() -> None:
    heard = witness([(0, -6)], "terminate called after throwing an instance of 'std::bad_alloc'")
    death = heard.death(1, 3, 0)
    assert death is not None and death.out_of_memory and "signal 6 (SIGABRT)" in death.text


def test_the_advice_names_what_there_is_to_lower() -> None:
    advice = memory_advice(TrainConfig(micro_batch_tokens=4096, batch_size=64))
    assert "lower micro_batch_tokens (4,096), activation_bytes (2,147,483,648) or batch_size (64)" in advice
    assert "checkpoint_activations=true" in advice and "parallel=fsdp" in advice
    assert "batch_tokens (16,384) or sequence_tokens (128)" in memory_advice(PretrainConfig())
    cut = memory_advice(TrainConfig(checkpoint_activations=True, parallel="fsdp"))
    assert "checkpoint_activations" not in cut and "parallel" not in cut

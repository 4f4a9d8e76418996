"""Training state: the full state of a run at one step, written asynchronously, complete or absent, and read by a restart.

    root/STAGE/KEY/states/parts/...      states of one run, as parts of a store: the newest that verifies is used

States belong to no artifact and go when the run is done. Random numbers are no part of a state: each step seeds its own from
(seed, step, rank), see trainer.py.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.model.adapter import is_adapted
from pipeline_lib.runtime.machine import cores
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.store.artifact import verify_part
from pipeline_lib.store.files import fault_point
from pipeline_lib.store.records import Part, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.train.distributed import ALONE, Ranks
from pipeline_lib.train.job import Job, forget_part, part_key
from pipeline_lib.train.sharding import Like, LocalShard, ShardedTensors, own

RECEIPT = "written-"  # one a rank: its files of this state are on the disk
POLL_SECONDS = 0.02
WRITE_SECONDS = 600.0  # that the first rank waits for the others' receipts


@dataclass
class TrainerState:
    """One rank's part of all that the next step depends on, and the record of the steps so far.

    Attributes:
        step: optimizer steps done.
        tensors: groups of tensors, a file each and rank: "weights", "moments", "average".
        texts: files of text: the metrics' rows up to `step` and the held-out figures; the first rank's are written.
    """

    step: int
    tensors: dict[str, LocalShard] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


@dataclass
class SavedState:
    """A state on the disk, by any number of ranks."""

    step: int
    folder: Path
    texts: dict[str, str] = field(default_factory=dict)

    def read(self, group: str, like: Like = lambda name: None) -> dict[str, Tensor]:
        """A group of tensors, cut as those that `like` returns for their names; empty where there is none.

        Raises:
            CorruptArtifact: a file cannot be read.
        """
        return ShardedTensors(self.folder, group).read(like)


class StateFolder:
    """The saved states of one run."""

    def __init__(self, job: Job, ranks: Ranks = ALONE) -> None:
        self.store = Store(job.root)
        self.stage = Stage(name=f"{job.stage.name}/{job.key}/states", version=job.stage.version)
        self.identity = job.identity(torch.__version__)
        self.continued = job.continued
        self.folder = job.folder / "states"
        self.ranks = ranks
        self._run_key = job.key
        self._kept = job.config.keep_states

    def save(self, state: TrainerState) -> list[int]:
        """Write this rank's files; the first rank commits the state when all have, then forgets all but the newest.

        Returns:
            The steps of those that are kept, newest first; none on other ranks.

        Raises:
            OSError: no space left; what was there before is untouched.
            TimeoutError: another rank's files did not come.
        """
        scratch = self.folder / "scratch" / f"step-{state.step:09d}"
        scratch.mkdir(parents=True, exist_ok=True)
        fault_point("state:before_tensors")
        for name, piece in state.tensors.items():
            piece.save(scratch, name)
            fault_point("state:after_tensors")
        (scratch / f"{RECEIPT}{self.ranks.rank}").touch()
        fault_point("state:after_receipt")
        return self._commit(state, scratch) if self.ranks.is_first else []

    def _commit(self, state: TrainerState, scratch: Path) -> list[int]:
        _await_receipts(scratch, self.ranks.size)
        for name, text in state.texts.items():
            (scratch / name).write_text(text)
        (scratch / "state.json").write_text(
            json.dumps({"step": state.step, "identity": self.identity}, sort_keys=True, indent=1)
        )
        fault_point("state:before_commit")
        label = f"state-{state.step:09d}"
        draft = draft_part(self.stage, part_key(self._run_key, label), label, facts={"step": state.step})
        self.store.commit_part(draft, scratch)
        fault_point("state:after_commit")
        parts = self.parts()
        for old in parts[self._kept :]:
            forget_part(self.store, old)
        return [part.facts["step"] for part in parts[: self._kept]]

    def load(self, step: int) -> SavedState:
        """The state of that step, which another rank has verified."""
        (part,) = (part for part in self.parts() if part.facts["step"] == step)
        return self._read(part)

    def parts(self) -> list[Part]:
        """The states whose files are all there with their sizes, newest first."""
        records = sorted((self.folder / "parts").glob("*.json"))
        found = [self.store.find_part(self.stage.name, record.stem) for record in records]
        return sorted((part for part in found if part is not None), key=lambda part: part.label, reverse=True)

    def newest(self, accept: Callable[[SavedState], bool], log: Callable[[str], None]) -> SavedState | None:
        """The newest state that verifies and is accepted; the others are removed, each with a line that says why.

        Args:
            accept: predicate on a state: the checkpoints due by then are whole.
            log: callback with what was wrong with each state that is not used.

        Raises:
            UserError: the state was written under another configuration, vocabulary or torch.
        """
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)  # what a killed trainer was writing
        for part in self.parts():
            try:
                verify_part(self.store.root, part)
                state = self._read(part)
                if note := check_identity(self._identity_of(state), self.identity, self.folder):
                    log(note)
            except CorruptArtifact as error:
                log(f"{part.label} is damaged, taking the one before it: {error}")
            else:
                if accept(state):
                    return state
                log(f"{part.label} is not used: a checkpoint before it is damaged or gone")
            forget_part(self.store, part)
        return None

    def clear(self) -> None:
        """Take all states away: the run is done."""
        for part in self.parts():
            forget_part(self.store, part)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _identity_of(self, state: SavedState) -> dict[str, Any]:
        identity: dict[str, Any] = json.loads((state.folder / "state.json").read_text())["identity"]
        return identity

    def _read(self, part: Part) -> SavedState:
        return read_state(self.store.root / part.folder)


def read_state(folder: Path) -> SavedState:
    """The state in a folder, whose files have been verified."""
    saved = json.loads((folder / "state.json").read_text())
    texts = {path.name: path.read_text() for path in sorted(folder.glob("*.jsonl"))}
    return SavedState(saved["step"], folder, texts)


def _await_receipts(scratch: Path, n_ranks: int) -> None:
    """Wait until every rank has written, then take the receipts away; a rank that died takes this process with it."""
    receipts = [scratch / f"{RECEIPT}{rank}" for rank in range(n_ranks)]
    deadline = time.monotonic() + WRITE_SECONDS
    while not all(receipt.exists() for receipt in receipts):
        if time.monotonic() > deadline:
            missing = [receipt.name for receipt in receipts if not receipt.exists()]
            raise TimeoutError(f"{scratch}: no {missing[0]} after {WRITE_SECONDS:.0f} s; do all processes share this disk?")
        time.sleep(POLL_SECONDS)
    for receipt in receipts:
        receipt.unlink()


def check_identity(saved: Mapping[str, Any], expected: Mapping[str, Any], where: Path) -> str:
    """Compare what a state was written under with what is about to run.

    Returns:
        A warning where torch is another build or patch of the same version, which may move the last bits; else nothing.

    Raises:
        UserError: with the first field that differs, got and expected.
    """
    for name in sorted({*saved, *expected}):
        differs = saved.get(name) != expected.get(name)
        if differs and (name != "torch" or torch_minor(saved.get(name)) != torch_minor(expected.get(name))):
            raise UserError(
                f"{where}: the saved state has {name} = {saved.get(name)!r}, this run has {expected.get(name)!r}; "
                f"go on with what it was started with, or remove {where} to start again"
            )
    if saved.get("torch") == expected.get("torch"):
        return ""
    return (
        f"{WARNING}the saved state is of torch {saved.get('torch')}, this is {expected.get('torch')}: training goes on, "
        "and may differ in the last bits from a run that was not interrupted"
    )


def torch_minor(version: Any) -> str:
    """ "2.13" of "2.13.0+cu126": what the meaning of a state may depend on."""
    return ".".join(str(version).partition("+")[0].split(".")[:2])


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each shared one once; beside adapters those alone that are trained."""
    if is_adapted(module):
        return {name: weight.detach() for name, weight in module.named_parameters() if weight.requires_grad}
    persistent = module.state_dict()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in persistent}
    return {name: parameter.detach() for name, parameter in module.named_parameters()} | buffers


@torch.no_grad()
def restore_module(module: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Put back what `module_tensors` took.

    Raises:
        CorruptArtifact: a name or shape differs.
    """
    live = module_tensors(module)
    if live.keys() != saved.keys():
        raise CorruptArtifact(f"the saved weights differ from the model in {sorted(live.keys() ^ saved.keys())[:5]}")
    for name, tensor in live.items():
        if tensor.shape != saved[name].shape:
            raise CorruptArtifact(f"{name}: saved {tuple(saved[name].shape)}, the model has {tuple(tensor.shape)}")
        own(tensor).copy_(own(saved[name]))


class SavePace:
    """When the next state is due: after the least interval, or so much later that saving keeps to its share of the time.

    A save costs what the steps wait for: the copy, and the write before where that was not done. One that is written beside
    the steps costs the processor time of that too, spread over the cores. While it is being written none is due.

    Args:
        every_seconds: least time between two saves.
        share: of the time; None: no bound.
    """

    def __init__(self, every_seconds: float, share: float | None) -> None:
        self._every_seconds, self._share = every_seconds, share
        self._cost_seconds = 0.0  # of the last save
        self._last = time.monotonic()

    @property
    def interval_seconds(self) -> float:
        """Least time from the end of one save to the next."""
        return max(self._every_seconds, self._cost_seconds / self._share if self._share else 0.0)

    def is_due(self, writing: bool) -> bool:
        """True once the interval has passed.

        Args:
            writing: the state before is still being written; where time is bounded, none waits for that.
        """
        return not (writing and self._share) and time.monotonic() - self._last > self.interval_seconds

    @contextmanager
    def save(self) -> Iterator[None]:
        """What happens inside is a save, and keeps the steps waiting."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self._last = time.monotonic()
            self._cost_seconds = self._last - begin

    @contextmanager
    def write(self) -> Iterator[None]:
        """What happens inside writes a state, in a thread of its own."""
        begin = time.thread_time()
        try:
            yield
        finally:
            self._cost_seconds += (time.thread_time() - begin) / cores()


class AsyncWriter:
    """Asynchronous writes: one piece of work at a time, in a thread beside the training steps.

    Args:
        enabled: False: in the caller's thread, at once.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="state-writer")
        self._pending: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin; waits for what was begun before. Raises what that raised."""
        self.wait()
        if self._enabled:
            self._pending = self._pool.submit(work)
        else:
            work()

    @property
    def is_busy(self) -> bool:
        """True while something is being written."""
        return self._pending is not None and not self._pending.done()

    def settle(self) -> BaseException | None:
        """Wait until all is done; returns what it raised."""
        pending, self._pending = self._pending, None
        return pending.exception() if pending is not None else None

    def wait(self) -> None:
        """Wait until all is done. Raises what it raised."""
        if error := self.settle():
            raise error

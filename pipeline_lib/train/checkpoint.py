"""The trainer's state, complete or absent: what a restart goes on from.

    root/STAGE/KEY/states/parts/...      states of one run, as parts of a store: newest that verifies is used, two are kept

They belong to no artifact and go when the run is done. Random numbers are no part of a state: each step seeds its own from
(seed, step, rank), see trainer.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline_lib.artifact import Part, Stage, Store, draft_part, verify_part
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.faults import fault_point
from pipeline_lib.train.job import Job, part_key

KEPT_STATES = 2


@dataclass
class TrainerState:
    """All that the next step depends on, and the record of the steps so far.

    Attributes:
        step: optimizer steps done.
        tensors: groups of tensors, a file each: "weights", "moments", "average".
        texts: files of text: the metrics' rows up to `step`, the hardest negatives.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


class StateFolder:
    """The saved states of one run."""

    def __init__(self, job: Job) -> None:
        self.store = Store(job.root)
        self.stage = Stage(name=f"{job.stage.name}/{job.key}/states", version=job.stage.version)
        self.identity = job.identity(torch.__version__)
        self.folder = job.folder / "states"
        self._run_key = job.key

    def save(self, state: TrainerState) -> Part:
        """Commit a state, then forget all but the newest two.

        Raises:
            OSError: no space left; what was there before is untouched.
        """
        scratch = self.store.scratch(self.stage.name)
        for name, tensors in state.tensors.items():
            save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, scratch / f"{name}.safetensors")
            fault_point("state:after_tensors")
        for name, text in state.texts.items():
            (scratch / name).write_text(text)
        (scratch / "state.json").write_text(
            json.dumps({"step": state.step, "identity": self.identity}, sort_keys=True, indent=1)
        )
        label = f"state-{state.step:09d}"
        facts = {"step": state.step}
        part = self.store.commit_part(draft_part(self.stage, part_key(self._run_key, label), label, facts=facts), scratch)
        for old in self.parts()[KEPT_STATES:]:
            forget_part(self.store, old)
        return part

    def load(self, step: int) -> TrainerState:
        """The state of that step, which another rank has verified."""
        (part,) = (part for part in self.parts() if part.facts["step"] == step)
        return self._read(part)

    def parts(self) -> list[Part]:
        """The states whose files are all there with their sizes, newest first."""
        records = sorted((self.folder / "parts").glob("*.json"))
        found = [self.store.find_part(self.stage.name, record.stem) for record in records]
        return sorted((part for part in found if part is not None), key=lambda part: part.label, reverse=True)

    def newest(self, accept: Callable[[int], bool], log: Callable[[str], None]) -> TrainerState | None:
        """The newest state that verifies and is accepted; the others are removed, each with a line that says why.

        Args:
            accept: called with a state's step: whether the checkpoints due by then are whole.
            log: told what was wrong with each state that is not used.

        Raises:
            UserError: the state was written under another configuration, vocabulary or torch.
        """
        shutil.rmtree(self.folder / "scratch", ignore_errors=True)  # what a killed trainer was writing
        for part in self.parts():
            try:
                verify_part(self.store.root, part)
                state = self._read(part)
            except CorruptArtifact as error:
                log(f"{part.label} is damaged, taking the one before it: {error}")
            else:
                if accept(state.step):
                    return state
                log(f"{part.label} is not used: a checkpoint before it is damaged or gone")
            forget_part(self.store, part)
        return None

    def clear(self) -> None:
        """Take all states away: the run is done."""
        for part in self.parts():
            forget_part(self.store, part)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, part: Part) -> TrainerState:
        folder = self.store.root / part.folder
        saved = json.loads((folder / "state.json").read_text())
        check_identity(saved["identity"], self.identity, self.folder)
        state = TrainerState(step=saved["step"])
        for file in part.files:
            path = folder / file.name
            if path.suffix == ".safetensors":
                state.tensors[path.stem] = _load_tensors(path)
            elif path.name != "state.json":
                state.texts[path.name] = path.read_text()
        return state


def forget_part(store: Store, part: Part) -> None:
    """Take a part away: first its record, which makes it exist, then its files."""
    (store.root / part.stage / "parts" / f"{part.key}.json").unlink(missing_ok=True)
    shutil.rmtree(store.root / part.folder, ignore_errors=True)


def check_identity(saved: Mapping[str, Any], expected: Mapping[str, Any], where: Path) -> None:
    """Compare what a state was written under with what is about to run.

    Raises:
        UserError: with the first field that differs, got and expected.
    """
    for name in sorted({*saved, *expected}):
        if saved.get(name) != expected.get(name):
            raise UserError(
                f"{where}: the saved state has {name} = {saved.get(name)!r}, this run has {expected.get(name)!r}; "
                f"go on with what it was started with, or remove {where} to start again"
            )


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each shared one once."""
    persistent = module.state_dict()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in persistent}
    return {name: parameter.detach() for name, parameter in module.named_parameters()} | buffers


@torch.no_grad()
def restore_module(module: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Put back what `module_tensors` took.

    Raises:
        CorruptArtifact: a name or shape differs.
    """
    own = module_tensors(module)
    if own.keys() != saved.keys():
        raise CorruptArtifact(f"the saved weights differ from the model in {sorted(own.keys() ^ saved.keys())[:5]}")
    for name, tensor in own.items():
        if tensor.shape != saved[name].shape:
            raise CorruptArtifact(f"{name}: saved {tuple(saved[name].shape)}, the model has {tuple(tensor.shape)}")
        tensor.copy_(saved[name])


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CorruptArtifact(f"{path}: no readable safetensors file: {error}") from error

"""What any number of ranks wrote, any number reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.gloo import run_ranks
from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.train.distributed import ALONE, Ranks
from pipeline_lib.train.sharding import LocalShard, ShardedTensors, own, shard, whole


def build() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 1))  # rows that divide by no number of ranks


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()} | {"held": torch.arange(6.0), "count": torch.tensor(3.0)}


@dataclass(frozen=True)
class Written:
    folder: Path
    cut: bool

    def __call__(self, ranks: Ranks) -> list[str]:
        module = build()
        if self.cut:
            shard(module, ranks, "step")
        piece = LocalShard(tensors_of(module), ranks)
        with torch.no_grad():
            for parameter in module.parameters():
                own(parameter).zero_()  # what training does next is no part of what is saved
        piece.save(self.folder, "weights")
        return sorted(piece.tensors)


@dataclass(frozen=True)
class Read:
    folder: Path

    def __call__(self, ranks: Ranks) -> bool:
        module, expected = build(), tensors_of(build())
        shard(module, ranks, "step")
        found = ShardedTensors(self.folder, "weights").read(dict(module.named_parameters()).get)
        like = dict(module.named_parameters())
        return all(torch.equal(whole(found[name]), expected[name]) for name in expected) and all(
            own(found[name]).shape == own(like[name]).shape for name in like
        )


@pytest.mark.parametrize(
    ("writers", "cut"),
    [
        (1, False),
        (3, True),
        pytest.param(3, False, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_ranks_reads_what_any_number_wrote(tmp_path: Path, writers: int, cut: bool) -> None:
    names = run_ranks(writers, Written(tmp_path, cut))
    held = [name for rank in names for name in rank if name in ("held", "count")]
    assert sorted(held) == ["count", "held"], "each whole tensor is written once"
    found = ShardedTensors(tmp_path, "weights").read()
    expected = tensors_of(build())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(run_ranks(2, Read(tmp_path)))
    if cut and writers == 3:
        (tmp_path / "weights-00002-of-00003.safetensors").unlink()
        with pytest.raises(CorruptArtifact, match=r"0\.bias: 4 of the rows 0 to 7 are in 2 files"):
            ShardedTensors(tmp_path, "weights").read()


def test_a_file_of_no_format_is_refused(tmp_path: Path) -> None:
    LocalShard({"w": torch.ones(3)}, ALONE).save(tmp_path, "weights")
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"no tensors")
    with pytest.raises(CorruptArtifact, match="no readable safetensors"):
        ShardedTensors(tmp_path, "weights")

"""FSDP2 and data parallelism: the gradients of the oracle, and exactly the collectives that each should cost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.equivalence import measure
from benchmarks.equivalence_rows import MODEL, PAIRS, ROWS, Row, build, gradients
from benchmarks.gloo import run_ranks
from pipeline_lib.model.outline import blocks_of
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.optim import clip_gradients
from pipeline_lib.train.sharding import first_row, own, shard, whole

GROUPS = MODEL.layers + 1  # the blocks, and what is around them
PASSES = 4  # micro-batches of a rank
KINDS = ("sum", "step", "micro_batch")


class Collectives(TorchDispatchMode):
    """Counts the collectives of the process group that run inside, by their kind."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.counts[func.__name__.removesuffix(".default").strip("_")] += 1
        return func(*args, **(kwargs or {}))


def count(row: Row, ranks: Ranks) -> dict[str, int]:
    with Collectives() as collectives:
        gradients(row, "float32", ranks)
    return dict(collectives.counts)


def assert_collectives(size: int, device: str = "cpu") -> None:
    rows = [Row(kind, size, 2 * PAIRS // size // PASSES, parallel=kind) for kind in KINDS]
    # the embeddings, their gradients, and the gradients of what every rank holds whole
    always = {"allgather": 1, "allreduce": 2}
    for whole_weights, step, micro_batch in run_ranks(size, CountAll(rows), device):
        assert whole_weights == always
        assert step == {**always, "allgather_base": GROUPS, "reduce_scatter_base": GROUPS}
        # gathered for the pass without a graph, the pass with one, and the way back
        gathers = 3 * GROUPS * PASSES
        assert micro_batch == {**always, "allgather_base": gathers, "reduce_scatter_base": GROUPS * PASSES}


class CountAll:
    """A function that spawned processes can be given."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __call__(self, ranks: Ranks) -> list[dict[str, int]]:
        return [count(row, ranks) for row in self.rows]


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_collectives_of_a_step(size: int) -> None:
    assert_collectives(size)


@pytest.mark.parametrize("sizes", [(1,), (2,), pytest.param((4,), marks=pytest.mark.slow)])
def test_r09_r10_every_way_gives_the_oracles_gradients_and_the_controls_do_not(sizes: tuple[int, ...]) -> None:
    results = measure(sizes)
    assert results["failed"] == 0, {name: value for name, value in results.items() if isinstance(value, float)}
    assert results["rows"] == sum(len(row.precisions) for row in ROWS if row.ranks in sizes)


def test_a_broken_way_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.equivalence_rows.sum_gradients", lambda *_: None)
    rows = [row for row in ROWS if row.name in ("local_loss_2", "fsdp2_2")]
    monkeypatch.setattr("benchmarks.equivalence_rows.ROWS", rows)
    # under FSDP2 only the logit scale's gradient is summed by hand
    assert measure((2,))["failed"] == 4, "gradients that were not summed passed for the whole"


def figures_of_cut_weights(ranks: Ranks) -> dict[str, Any]:
    encoder = build()
    before = {name: p.detach().clone() for name, p in encoder.backbone.named_parameters()}
    norms = []
    for cut in (False, True):
        if cut:
            shard(encoder.backbone, ranks, "step")
        generator = torch.Generator().manual_seed(5)
        for parameter in encoder.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = torch.zeros_like(parameter)
            own(parameter.grad).copy_(
                gradient[first_row(parameter) :][: len(own(parameter))] if cut and parameter.dim() else gradient
            )
        norms.append(float(clip_gradients(encoder, 1.0)))
        norms.append(sum(float(whole(p.grad).square().sum()) for p in encoder.parameters() if p.grad is not None) ** 0.5)
    after = {name: whole(p.detach()) for name, p in encoder.backbone.named_parameters()}
    rows = [len(own(p)) for p in encoder.backbone.parameters()]
    return {"norms": norms, "same": all(torch.equal(before[name], after[name]) for name in before), "rows": rows}


def test_cut_weights_are_the_whole_ones_row_by_row_and_clip_to_the_same_norm() -> None:
    found = run_ranks(2, figures_of_cut_weights)
    whole_norm, clipped, cut_norm, cut_clipped = found[0]["norms"]
    assert cut_norm == pytest.approx(whole_norm, rel=1e-6)
    assert cut_clipped == pytest.approx(clipped, rel=1e-5)
    assert clipped == pytest.approx(1.0, rel=1e-5)
    assert found[0]["norms"] == found[1]["norms"]
    assert all(member["same"] for member in found)
    encoder = build()
    totals = [len(p) for p in encoder.backbone.parameters()]
    assert [sum(rows) for rows in zip(*(member["rows"] for member in found), strict=True)] == totals


def test_blocks_are_found_by_the_configs_number_of_layers() -> None:
    encoder = build()
    assert blocks_of(encoder.backbone) == list(encoder.backbone.h)
    assert blocks_of(nn.Linear(2, 2)) == []

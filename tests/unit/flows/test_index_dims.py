"""`cpt index`: bytes and measured quality by dimensions, which models are measured at which, and the start of an update."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from flows.cli.index import by_dims
from flows.evaluate import at_dimensions
from flows.runs import as_tuned
from pipeline_lib.config.overrides import apply
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.models import CheckpointEncoder, ModelId
from pipeline_lib.evaluation.suites.variants import TruncatedModel
from pipeline_lib.model.checkpoint import Checkpoint, Lineage

PROJECT = Path(__file__).parents[3]
MEASURED = {64: {"code_search": {"value": 0.5}}, 256: {"code_search": {"value": 0.625}}}


def test_bytes_and_quality_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    by_dims(1000, "256, 64,128", None, MEASURED, as_json=True)
    rows = json.loads(capsys.readouterr().out)["dims"]
    assert [row["dim"] for row in rows] == [64, 128, 256]
    assert [row["disk_bytes"] for row in rows] == [1000 * 4 * dim for dim in (64, 128, 256)]
    assert [row["quality"] for row in rows] == [{"code_search": 0.5}, {}, {"code_search": 0.625}]
    by_dims(1000, "64,128", None, MEASURED, as_json=False)
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["dimensions", "kind", "on", "disk", "in", "memory", "code_search"]
    assert (first.split()[0], first.split()[-1], second.split()[-1]) == ("64", "0.500", "-")


def test_without_figures_the_bytes_stand_alone(capsys: pytest.CaptureFixture[str]) -> None:
    by_dims(1000, "64", None, {}, as_json=False)
    assert "evaluate.dims" in capsys.readouterr().out


@pytest.mark.parametrize("dims", ["0", "64,x", "64,64", "512", ""])
def test_what_cannot_be_is_refused(dims: str) -> None:
    with pytest.raises(UserError, match="--dims"):
        by_dims(1000, dims, None, MEASURED, as_json=False)


class OfEightDimensions:
    """Another model, narrower than the run's."""

    id = ModelId("small", "ab" * 12)

    def encode(self, texts: Any, side: str, progress: Any = None) -> np.ndarray:
        return np.eye(8, dtype=np.float32)[: len(texts)]


class Checkpoints(CheckpointEncoder):
    """The run's own."""

    id = ModelId("step-000001", "cd" * 12)  # type: ignore[assignment]


def test_another_model_is_measured_at_the_dimensions_that_it_has_more_of(capsys: pytest.CaptureFixture[str]) -> None:
    config = apply(RunConfig(), {"evaluate.dims": (4, 8, 16), "model.width": 64})
    own = Checkpoints(cast(Checkpoint, SimpleNamespace()))
    cut = cast(list[TruncatedModel], at_dimensions([own, OfEightDimensions()], config))
    assert [model.dim for model in cut if model.encoder is own] == [4, 8, 16]
    assert [model.dim for model in cut if model.encoder is not own] == [4]
    assert at_dimensions([OfEightDimensions()], RunConfig()) == []


def test_a_tuned_run_is_measured_at_the_prefixes_of_its_own_loss() -> None:
    base = RunConfig()
    manifest = SimpleNamespace(config={"config": {"matryoshka": {"dims": [8, 16]}}})
    tuned = cast(Lineage, SimpleNamespace(trained=SimpleNamespace(manifest=manifest), base="a run"))
    assert as_tuned(base, tuned).measured_dims == (8, 16)
    assert as_tuned(base, cast(Lineage, SimpleNamespace(base=None))) is base


def test_an_update_does_not_import_prefect_before_its_server_is_there(tmp_path: Path) -> None:
    """Prefect reads at its import where its server is, and would start another one."""
    program = (
        "import sys\n"
        "import flows.cli.terminal\n"
        "from flows.cli.index import update_params\n"
        "from pipeline_lib.errors import UserError\n"
        "try:\n"
        "    update_params()\n"
        "except UserError:\n"
        "    print('prefect' in sys.modules)\n"
    )
    command, env = [sys.executable, "-c", program], os.environ | {"CPT_HOME": str(tmp_path)}
    assert subprocess.run(command, env=env, capture_output=True, text=True, check=True, cwd=PROJECT).stdout == "False\n"

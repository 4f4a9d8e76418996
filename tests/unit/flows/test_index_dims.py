"""`cpt index --dims`: bytes of an index by dimensions, and the quality that the report of the model in use measured there."""

from __future__ import annotations

import json

import pytest

from flows.cli.index import by_dims
from pipeline_lib.errors import UserError

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

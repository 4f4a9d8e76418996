"""The plan of an index: sizes by hand, the choice within a budget, rates measured once, and the command that shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli.commands import app
from pipeline_lib.config.run import IndexConfig
from pipeline_lib.errors import UserError
from pipeline_lib.index import plan
from pipeline_lib.index.build import Vectors, write_files
from pipeline_lib.index.plan import Rates, calibrated, describe, measure_rates, plan_rows
from pipeline_lib.index.recipes import FLOORS, KINDS, choose, lists_for, parse_bytes, recipe_for, weight
from pipeline_lib.store.store import Store

RATES = Rates(256, 12_288, dict.fromkeys(KINDS, 2.0) | {"flat": 0.01}, 1e-11, 4)
MILLION = 1_000_000


@pytest.mark.parametrize(
    ("n", "d", "budget", "kind"),
    [
        (100_000, 512, None, "flat"),
        (MILLION, 256, None, "flat"),  # 1.02 GB, less than a GiB
        (3 * MILLION, 256, None, "hnsw"),
        (50 * MILLION, 256, None, "ivf_flat"),
        (MILLION, 256, "2GB", "flat"),
        (MILLION, 256, "300MB", "sq8"),
        (MILLION, 256, "100MB", "ivf_pq"),
        (MILLION, 256, "40MB", "binary"),
        (20 * MILLION, 256, "2GB", "ivf_pq"),
        (1, 1, None, "flat"),
    ],
)
def test_the_most_exact_kind_that_is_fast_enough_and_fits(n: int, d: int, budget: str | None, kind: str) -> None:
    assert choose(n, d, parse_bytes(budget) if budget else None) == kind
    rows = plan_rows(n, d, parse_bytes(budget) if budget else None, RATES)
    assert [row.kind for row in rows if row.chosen] == [kind] and [row.kind for row in rows] == list(KINDS)
    assert all(row.fits for row in rows if row.chosen)
    assert all(row.expected_recall >= FLOORS[row.kind] for row in rows), "what is expected is published"


def test_what_does_not_fit_and_what_makes_no_sense_is_said() -> None:
    with pytest.raises(UserError, match="no kind of index fits 1,000 bytes; binary takes the least"):
        plan_rows(MILLION, 256, 1_000, RATES)
    for n, d in ((0, 8), (10**13, 8), (5, 0), (5, 100_000)):
        with pytest.raises(UserError, match="expected 1 to"):
            plan_rows(n, d, None, RATES)
    for words in ("", "two", "2XB", "-1GB", "0", "1e9", "9" * 400, "9" * 30 + "TB"):
        with pytest.raises(UserError, match="is no size"):
            parse_bytes(words)
    assert [parse_bytes(words) for words in ("2GB", "1.5 GiB", "800m", "12")] == [2 * 10**9, 3 * 2**29, 8 * 10**8, 12]


def test_parameters_follow_the_guide() -> None:
    assert lists_for(MILLION) == 4_096 and lists_for(100) == 2 and lists_for(1) == 1
    assert recipe_for("ivf_flat", 100 * MILLION, 256).factory == "IVF32768_HNSW32,Flat"
    assert recipe_for("ivf_pq", MILLION, 256).factory == "OPQ64_256,IVF4096,PQ64x8np"
    assert recipe_for("ivf_pq", 500, 30).factory == "IVF8,PQ6x8np", "6 divides 30, and 500 rows teach no rotation"
    assert recipe_for("hnsw", MILLION, 32).M == 16


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_of_the_files(kind: str, tmp_path: Path) -> None:
    n, d = 4_000, 64
    vectors_ND = np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)
    folder = tmp_path / "index"
    folder.mkdir()
    vectors = Vectors(lambda at: vectors_ND[at : at + 1_000], range(0, n, 1_000))
    write_files(vectors, IndexConfig(kind=kind, workers=1, links=8, ef_construction=16), folder, Store(tmp_path / "home"))
    found = sum(path.stat().st_size for path in folder.iterdir())
    codebooks = 4 * 256 * d if kind == "ivf_pq" else 0
    expected = weight(kind, n, d, recipe_for(kind, n, d, M=8)).disk_bytes + codebooks
    assert found == pytest.approx(expected, rel=0.05)


def test_rates_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(plan, "ROWS", 700)
    measured = measure_rates(8, lambda done, total, note="": said.append(note), rows=700)
    assert set(measured.seconds) == set(KINDS) and min(measured.seconds.values()) > 0 and measured.product_seconds > 0
    assert said[0] == "measuring flat" and said[-1] == "measured"
    calls: list[int] = []
    monkeypatch.setattr(plan, "measure_rates", lambda d, progress: calls.append(d) or measured)
    assert calibrated(tmp_path, 8) == calibrated(tmp_path, 8) == measured and calls == [8]
    calibrated(tmp_path, 16)
    assert calls == [8, 16]
    (tmp_path / plan.RATES_FILE).write_text("[half")
    assert calibrated(tmp_path, 8) == measured and calls == [8, 16, 8], "a broken file is measured anew"


def test_the_command_shows_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(tmp_path))
    monkeypatch.setattr(plan, "measure_rates", lambda d, progress: RATES)
    done = CliRunner().invoke(app, ["index", "--plan", "20000000", "--budget", "2GB"])
    assert done.exit_code == 0, done.output
    assert "* ivf_pq" in done.output and "20,000,000 vectors of 256 dimensions" in done.output and "- flat" in done.output
    done = CliRunner().invoke(app, ["index", "--plan", "1000", "--dim", "64", "--json"])
    found = json.loads(done.stdout)
    assert (found["vectors"], found["dim"], [row["kind"] for row in found["kinds"] if row["chosen"]]) == (1000, 64, ["flat"])
    assert "float32 20.5 GB" in describe(plan_rows(20 * MILLION, 256, None, RATES), 20 * MILLION, 256)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plan", "10" + "0" * 12], "expected 1 to 1,000,000,000,000 of 1 to"),
        (["--plan", "1" + "0" * 400], "a number of 401 digits of vectors"),
        (["--plan", "1" + "0" * 400, "--dims", "64"], "a number of 401 digits of vectors"),
        (["--plan", "1000", "--dims", "9" * 5000], "expected numbers of dimensions"),
        (["--plan", "1000000", "--budget", "1kB"], "no kind of index fits 1,000 bytes"),
    ],
)
def test_what_cannot_be_planned_is_said_before_anything_is_measured(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPT_HOME", str(tmp_path))
    monkeypatch.setattr(plan, "measure_rates", lambda d, progress: pytest.fail("half a minute for nothing"))
    done = CliRunner().invoke(app, ["index", *words])
    assert isinstance(done.exception, UserError) and said in str(done.exception)


def test_a_plan_is_told_where_its_rates_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "measure_rates", lambda d, progress: RATES)
    assert calibrated(Path("/proc/home"), 8) == RATES, "no folder can be made there, whoever asks"


def test_rates_of_wide_vectors_are_scaled_and_damaged_ones_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(d: int, *_: object) -> Rates:
        measured.append(d)
        return replace(RATES, width=d)

    monkeypatch.setattr(plan, "measure_rates", measure)
    assert calibrated(tmp_path, 65_536).width == 1_024 and calibrated(tmp_path, 2_000).width == 1_024
    assert measured == [1_024], "a width of 65,536 would take gigabytes"
    rows = plan_rows(MILLION, 65_536, None, calibrated(tmp_path, 65_536))
    assert rows[0].build_seconds == pytest.approx(0.01 * MILLION / 12_288 * 64)
    kept = json.loads((tmp_path / plan.RATES_FILE).read_text())
    (name,) = kept
    wrong = [{name: 3}, {name: kept[name] | {"rows": "x"}}, {name: kept[name] | {"seconds": {"flat": 1.0}}}, []]
    for damaged in (b"", b"[" * 100_000, *(json.dumps(one).encode() for one in wrong)):
        (tmp_path / plan.RATES_FILE).write_bytes(damaged)
        measured.clear()
        assert calibrated(tmp_path, 65_536).width == 1_024 and measured == [1_024], damaged[:99]


def test_build_time_grows_with_rows_and_a_graph_faster_than_they_do() -> None:
    small, large = ({row.kind: row.build_seconds for row in plan_rows(n, 256, None, RATES)} for n in (MILLION, 10 * MILLION))
    assert all(small[kind] < large[kind] for kind in KINDS)
    assert large["hnsw"] > 10 * small["hnsw"] and large["flat"] == pytest.approx(10 * small["flat"])

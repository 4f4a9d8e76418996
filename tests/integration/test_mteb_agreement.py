"""mteb itself, run on an export with local files, agrees with our suites: by sentence-transformers and by our own loader."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from exported_models import tiny_checkpoint

from pipeline_lib.config.run import ExportConfig
from pipeline_lib.export.export import export
from pipeline_lib.store.store import Store

pytest.importorskip("mteb")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("home"))
    return export(store, tiny_checkpoint(store), ExportConfig(onnx=False)).part_folder()


def test_a_sample_of_sts_b(exported: Path, eval_data: Path, tmp_path: Path) -> None:
    from benchmarks.mteb_agreement import compare

    name = Path("senteval") / "STS" / "STSBenchmark" / "sts-test.csv"
    (tmp_path / name).parent.mkdir(parents=True)
    with (eval_data / name).open(encoding="utf-8") as stream:
        (tmp_path / name).write_text("".join(itertools.islice(stream, 80)), encoding="utf-8")
    figures = compare(exported, tmp_path, ["STSBenchmark"])
    assert {"STSBenchmark_ours", "STSBenchmark_mteb", "STSBenchmark_mteb_our_loader"} < figures.keys()
    assert figures["largest_difference"] < 0.1, figures


@pytest.mark.slow
@pytest.mark.parametrize("name", ["STSBenchmark", "SICK-R", "SciFact"])
def test_a_whole_set(exported: Path, eval_data: Path, name: str) -> None:
    from benchmarks.mteb_agreement import compare

    figures = compare(exported, eval_data, [name])
    assert figures["largest_difference"] < 0.1, figures

"""The exported folder in other frameworks: queries as x and documents as y, by the recipes of docs/how-to/frameworks.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_models import tiny_checkpoint

from pipeline_lib.config.run import ExportConfig
from pipeline_lib.export.export import export
from pipeline_lib.export.exported import ExportedModel
from pipeline_lib.store.store import Store

RECIPES = Path(__file__).parents[2] / "docs" / "how-to" / "frameworks.md"
QUERY, DOCUMENTS = "parse a date", ["def parse(text): return date(text)", "red cats"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("home"))
    return export(store, tiny_checkpoint(store), ExportConfig(onnx=False)).part_folder()


@pytest.fixture(scope="module")
def expected(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of the query and of the documents."""
    model = ExportedModel(folder)
    query, documents = model.embed([QUERY], "x")[0], model.embed(DOCUMENTS, "y")
    assert np.abs(model.embed(DOCUMENTS, "x") - documents).max() > 1e-2  # the sides differ: a mistake would show
    return query, documents


def recipe(heading: str, folder: Path) -> dict[str, Any]:
    """What the page's code under a heading leaves behind, run with this folder."""
    pytest.importorskip("sentence_transformers", reason="all three load the folder by sentence-transformers")
    section = RECIPES.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    code = "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))
    assert "path/to/model" in code
    names: dict[str, Any] = {"query": QUERY, "documents": DOCUMENTS}
    exec(compile(code.replace("path/to/model", str(folder)), heading, "exec"), names)
    return names


def gap(names: dict[str, Any], expected: tuple[np.ndarray, np.ndarray]) -> float:
    """The largest difference of a number in the recipe's vectors from our own."""
    found = (names["query_vector"], names["document_vectors"])
    return max(float(np.abs(np.asarray(ours) - theirs).max()) for ours, theirs in zip(found, expected, strict=True))


def test_sentence_transformers(folder: Path, expected: tuple[np.ndarray, np.ndarray]) -> None:
    assert gap(recipe("sentence-transformers", folder), expected) < 1e-5


def test_langchain(folder: Path, expected: tuple[np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("langchain_huggingface", reason="pip install langchain-huggingface")
    assert gap(recipe("LangChain", folder), expected) < 1e-5


def test_mteb(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    mteb = pytest.importorskip("mteb")
    from benchmarks.mteb_agreement import local_task

    sts_b = tmp_path / "senteval" / "STS" / "STSBenchmark" / "sts-test.csv"
    sts_b.parent.mkdir(parents=True)
    rows = [
        (5, "red cats", "cats that are red"),
        (3, "parse a date", "a date"),
        (0, "open the file", "red cats"),
        (1, "a", "dates"),
    ]
    sts_b.write_text("".join(f"g\tf\ty\t{n}\t{grade}\t{x}\t{y}\n" for n, (grade, x, y) in enumerate(rows)))
    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [local_task("STSBenchmark", tmp_path)])
    names = recipe("MTEB", folder)
    ((name, score),) = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert name == "STSBenchmark" and -1 <= float(score) <= 1
    assert [task.metadata.name for task in names["tasks"]] == [name]


def test_llama_index(folder: Path, expected: tuple[np.ndarray, np.ndarray]) -> None:
    pytest.importorskip("llama_index.embeddings.huggingface", reason="pip install llama-index-embeddings-huggingface")
    assert gap(recipe("LlamaIndex", folder), expected) < 1e-5


def test_haystack(folder: Path, expected: tuple[np.ndarray, np.ndarray]) -> None:
    name = "haystack_integrations.components.embedders.sentence_transformers"
    pytest.importorskip(name, reason="pip install haystack-ai sentence-transformers-haystack")
    assert gap(recipe("Haystack", folder), expected) < 1e-5

"""Our suites against `mteb` on the same model and files: `python -m benchmarks.mteb_agreement MODEL --data DIR`.

`mteb.evaluate` runs its own task classes with their data put in from local files, without network: STSBenchmark, SICK-R (all
pairs, as it has them) and SciFact. The model goes in twice: as `SentenceTransformer(MODEL)`, which any user of mteb would
write, and through our own loader. Ours runs the suites `sts-b`, `sick-r-all` and `beir/scifact`. Figures are times 100; the
last line is one flat JSON object with the largest difference, which must stay below 0.1.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import EVAL_DATA

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

AGREEMENT = 0.1
SUITES = {  # mteb's task and metric to ours
    "STSBenchmark": ("cosine_spearman", "sts-b", "spearman"),
    "SICK-R": ("cosine_spearman", "sick-r-all", "spearman"),
    "SciFact": ("ndcg_at_10", "beir/scifact", "ndcg@10"),
}


def main() -> None:
    """Measure, and print every figure, the largest difference last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="an export, or any sentence-transformers folder")
    parser.add_argument("--data", type=Path, default=EVAL_DATA)
    parser.add_argument("--tasks", nargs="+", default=list(SUITES), choices=list(SUITES))
    options = parser.parse_args()
    figures = compare(options.model, options.data, options.tasks)
    print(json.dumps(figures | {"within": AGREEMENT}))
    assert figures["largest_difference"] < AGREEMENT, f"mteb and our suites differ by {figures['largest_difference']}"


def compare(folder: Path, data: Path, names: list[str]) -> dict[str, Any]:
    """Each task by mteb over sentence-transformers, by mteb over our loader where it is our export, and by our suite."""
    from sentence_transformers import SentenceTransformer

    from pipeline_lib.evaluation.suites.outside import ExportEncoder
    from pipeline_lib.evaluation.suites.registry import open_model

    model = open_model(f"model={folder}")
    others: dict[str, Any] = {"mteb": SentenceTransformer(str(folder), device="cpu")}
    if isinstance(model, ExportEncoder):
        others["mteb_our_loader"] = mteb_encoder(model)
    figures: dict[str, Any] = {}
    gaps = []
    for name in names:
        ours = by_suite(model, data, name)
        found = {who: by_mteb(other, data, name) for who, other in others.items()}
        figures |= {f"{name}_{who}": round(value, 3) for who, value in {"ours": ours, **found}.items()}
        gaps += [abs(value - ours) for value in found.values()]
    return figures | {"largest_difference": round(max(gaps), 4)}


def by_suite(model: Any, data: Path, name: str) -> float:
    """Our figure, times 100."""
    from pipeline_lib.config.evaluation import SuiteConfig
    from pipeline_lib.evaluation.suites.registry import open_suite

    _, suite, metric = SUITES[name]
    result = open_suite(suite, data, SuiteConfig(bootstrap=10)).run(model, "test")
    return 100 * next(figure.interval.value for figure in result.figures if figure.metric == metric)


def by_mteb(model: Any, data: Path, name: str) -> float:
    """mteb's figure, times 100."""
    import mteb

    metric = SUITES[name][0]
    result = mteb.evaluate(model, local_task(name, data), cache=None, show_progress_bar=False, co2_tracker=False)
    return 100 * float(result.task_results[0].scores["test"][0][metric])


def local_task(name: str, data: Path) -> Any:
    """mteb's own task object with its data from files, so that it asks no hub."""
    import mteb
    from datasets import Dataset

    task = mteb.get_task(name)
    if name == "SciFact":
        task.dataset = {"default": {"test": _retrieval(data / "beir" / "scifact")}}
    else:
        rows = list({"STSBenchmark": _sts_b, "SICK-R": _sick}[name](data / "senteval"))
        columns = ("sentence1", "sentence2", "score")
        task.dataset = {"test": Dataset.from_dict(dict(zip(columns, zip(*rows, strict=True), strict=True)))}
    task.data_loaded = True
    return task


def mteb_encoder(model: Any) -> Any:
    """One of our encoders as mteb wants them: documents are y, all else is x."""
    import numpy as np
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.types import PromptType

    class Ours(AbsEncoder):
        def __init__(self) -> None:
            self.mteb_model_meta = ModelMeta.create_empty({"name": "ours/export", "revision": model.id.fingerprint})

        def encode(self, inputs: Any, *, prompt_type: Any = None, **_: Any) -> np.ndarray:
            texts = [text for batch in inputs for text in batch["text"]]
            return model.encode(texts, "y" if prompt_type == PromptType.document else "x")

    return Ours()


def _sts_b(folder: Path) -> Iterator[tuple[str, str, float]]:
    for line in (folder / "STS" / "STSBenchmark" / "sts-test.csv").read_text(encoding="utf-8").splitlines():
        columns = line.split("\t")
        yield columns[5], columns[6], float(columns[4])


def _sick(folder: Path) -> Iterator[tuple[str, str, float]]:
    for name in ("SICK_train.txt", "SICK_trial.txt", "SICK_test_annotated.txt"):
        with (folder / "SICK" / name).open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
                yield row["sentence_A"], row["sentence_B"], float(row["relatedness_score"])


def _retrieval(folder: Path) -> dict[str, Any]:
    from datasets import Dataset

    relevant: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        relevant.setdefault(query, {})[document] = int(grade)
    documents = [
        {"id": row["_id"], "title": row.get("title", ""), "text": row["text"]} for row in _rows(folder / "corpus.jsonl")
    ]
    queries = [{"id": row["_id"], "text": row["text"]} for row in _rows(folder / "queries.jsonl") if row["_id"] in relevant]
    return {
        "corpus": Dataset.from_list(documents),
        "queries": Dataset.from_list(queries),
        "relevant_docs": relevant,
        "top_ranked": None,
    }


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    packed = path.with_name(f"{path.name}.gz")
    content = gzip.decompress(packed.read_bytes()) if packed.is_file() else path.read_bytes()
    yield from map(json.loads, content.decode("utf-8").splitlines())


if __name__ == "__main__":
    main()

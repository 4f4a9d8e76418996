"""Reference page and descriptions: the page in docs/ is the generated one, and every option says in a sentence what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline_lib.config.ablations import AblateConfig
from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.config.finetuning import FinetuneConfig, MiningConfig, TrainingSetConfig
from pipeline_lib.config.options import options
from pipeline_lib.config.reference import reference
from pipeline_lib.config.run import RunConfig

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"
NO_BEGINNING = ("Of", "That", "So", "As", "Where", "Whether")
DESCRIBED = """
    source.limits.max_text_bytes source.limits.seconds_per_text
    extract.filters.quality.enabled extract.filters.code.max_line_characters
    extract.text.unit extract.text.max_word_overlap contract.max_quarantined_share contract.max_x_words contract.max_y_words
    contamination.ngram_words curate.near.threshold train.precision train.compile train.attention train.parallel train.nodes
    train.evaluation_pairs train.keep_checkpoints train.reading.fetched_bytes suites.depth suites.folds suites.faiss_factory
    index.factory index.probes select.weights export.onnx extract.scheduler extract.worker_wait_seconds
"""


def test_the_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "python -m pipeline_lib.config.reference > docs/reference/configuration.md"
    )


def test_what_the_docs_describe_is_an_option() -> None:
    assert set(DESCRIBED.split()) - {option.name for option in options(RunConfig)} == set()


@pytest.mark.parametrize("model", [RunConfig, SuiteConfig, FinetuneConfig, MiningConfig, TrainingSetConfig, AblateConfig])
def test_every_option_says_what_it_is(model: type[BaseModel]) -> None:
    found = {option.name: option.field.description or "" for option in options(model)}
    wrong = {
        name: text
        for name, text in found.items()
        if not text[:1].isupper() or not text.endswith(".") or text.split()[0].strip(",.:") in NO_BEGINNING
    }
    assert wrong == {}

"""Names of flow runs: what a person typed, and what is said of a run that nobody named."""

from __future__ import annotations

import pytest
from prefect.utilities.names import generate_slug

from flows.hooks import is_generated
from flows.notices import title_of
from flows.options import Params
from flows.params import AblateParams, EvaluateParams, FinetuneParams, PublishParams, RunParams
from flows.promotion import RollbackParams


def test_names_that_prefect_makes_up_are_told_from_typed_ones() -> None:
    assert all(is_generated(generate_slug(2)) for _ in range(500))
    of_the_ui = [
        "tau8-aquarii-nebula",
        "omicron-canis-majoris-void",
        "alpha123-tanaka",
        "mu2-ursae-minoris-x",
        "phi-circini",
        "xi-barad-dur",
    ]
    assert all(map(is_generated, of_the_ui))
    typed = ["my first run", "nightly-demo", "alpha-test", "retrain-demo-corpus", "beta", "v2-final", "fast-run", "demo", ""]
    assert [name for name in typed if is_generated(name)] == []


@pytest.mark.parametrize(
    ("params", "subject"),
    [
        (RunParams(preset="demo"), "demo"),
        (RunParams(preset="demo", source="/data/My Corpus/"), "demo-my-corpus"),
        (RunParams(preset="demo", source="specs/wiki.yaml"), "demo-wiki"),
        (RunParams(preset="demo", source="/data/corpus", name="mine"), "demo-mine"),
        (RunParams(preset="demo", set=("name=mine",)), "demo-mine"),
        (RunParams(preset="demo", config="/not/there.yaml"), "demo"),
        (AblateParams(preset="demo", source="/data/corpus"), "demo-corpus"),
        (PublishParams(preset="smoke", source="/data/corpus"), "smoke-corpus"),
        (PublishParams(checkpoint="abcd/step-000240"), "abcd/step-000240"),
        (FinetuneParams(checkpoint="published", training_data=("nli=a",)), "published"),
        (EvaluateParams(), "published-validation"),
        (RollbackParams(name="mine"), "mine"),
        (RollbackParams(), "default"),
        (EvaluateParams(preset="demo", source="/data/corpus", split="test"), "demo-corpus-test"),
        (EvaluateParams(models=("abcd/step-000240", "mine=/models/m", "bm25"), suites=("sts-b",)),
         "abcd/step-000240, mine, bm25-sts-b-validation"),
    ],
)  # fmt: skip
def test_a_run_says_preset_and_source(params: Params, subject: str) -> None:
    assert title_of(params) == subject

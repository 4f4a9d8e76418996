"""The four held-out suites: what they write, that they are found again, and what they refuse."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_contracts.check_evaluations import check_evaluations
from data_contracts.schemas import EVALUATIONS, PER_QUERY
from pipeline_lib.config.data import ShardConfig, TokenizerConfig
from pipeline_lib.config.evaluation import HELD_OUT_SUITES, EvaluateConfig, parted_suites
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.metrics import differences, read_evaluations, read_queries
from pipeline_lib.evaluation.report_data import split_facts
from pipeline_lib.evaluation.suites.evaluate import evaluate_suite
from pipeline_lib.evaluation.suites.held_out_pairs import held_out_suites
from pipeline_lib.evaluation.suites.models import CheckpointEncoder, HybridModel, ModelId
from pipeline_lib.evaluation.suites.registry import open_model
from pipeline_lib.index.fusion import Fusion
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store

CONFIG = EvaluateConfig(candidates=50, bootstrap=20, min_class_texts=12, similarity_pairs=20)
KINDS = ("code_search", "text_search", "classification", "similarity")


class Constant:
    """Every text gets one vector."""

    def __init__(self, name, vector):
        self.id, self.vector = ModelId(name, name), np.array(vector, np.float32)

    def encode(self, texts, side, progress=None):
        return np.tile(self.vector, (len(texts), 1))


@pytest.fixture
def measure(store, curated):
    """One model on every held-out suite that fits it."""

    def run(model, split="validation", pairs=curated, kinds=KINDS):
        suites = [suite for suite in held_out_suites(pairs, CONFIG) if suite.kind in getattr(model, "kinds", kinds)]
        return [evaluate_suite(store, model, suite, split) for suite in suites if suite.kind in kinds]

    return run


def test_each_suite_has_its_name_one_task_and_the_tables_of_all_suites(measure, encoder):
    found = measure(encoder)
    assert [artifact.manifest.config["suite"] for artifact in found] == [f"{kind}_held_out" for kind in KINDS]
    assert [artifact.manifest.facts["headline"] for artifact in found] == [
        "code_search_50", "text_search_50", "package_of_prose", "graded_prose",
    ]  # fmt: skip
    for artifact in found:
        assert [part.label for part in artifact.manifest.parts] == ["words-validation"]
        assert pq.read_schema(artifact.paths("evaluations.parquet")[0]).equals(EVALUATIONS)
        assert pq.read_schema(artifact.paths("per_query.parquet")[0]).equals(PER_QUERY)
    rows = read_evaluations(found)
    assert [row["kind"] for row in rows] == ["code_search"] * 3 + ["text_search"] * 3 + ["classification"] * 2 + ["similarity"]
    assert {(row["model"], row["step"], row["split"]) for row in rows} == {("words", -1, "validation")}
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)


def test_held_out_suites_are_named_alone_and_beside_public_ones(curated):
    assert parted_suites([]) == (HELD_OUT_SUITES, ())
    assert parted_suites(["sts-b"]) == ((), ("sts-b",))
    assert parted_suites(["similarity_held_out", "sts-b"]) == (("similarity_held_out",), ("sts-b",))
    assert parted_suites(["held-out", "cisi", "code_search_held_out"]) == (HELD_OUT_SUITES, ("cisi",))
    assert tuple(suite.name for suite in held_out_suites(curated, CONFIG)) == HELD_OUT_SUITES
    named = held_out_suites(curated, CONFIG, ("similarity_held_out", "code_search_held_out"))
    assert [suite.kind for suite in named] == ["code_search", "similarity"]


def test_figures_are_the_means_of_what_the_queries_got(measure, encoder):
    (artifact,) = measure(encoder, kinds=("code_search",))
    table = pq.read_table(artifact.paths("per_query.parquet")[0]).to_pylist()
    for row in read_evaluations([artifact]):
        values = [query["value"] for query in table if query["metric"] == row["metric"]]
        assert row["value"] == pytest.approx(np.mean(values)) and row["n"] == len(values) == 100
    assert {query["group"] for query in table} == {f"validation-{noun}" for noun in ("matrix", "socket", "archive", "cookie")}


def test_baselines_find_planted_answers(measure):
    for name in ("bm25", "tfidf"):
        model = open_model(name)
        values = {(row["kind"], row["metric"]): row["value"] for row in read_evaluations(measure(model))}
        assert {kind for kind, _ in values} == set(model.kinds)
        assert values["code_search", "mrr"] > 0.9
    assert values["classification", "accuracy"] == 1.0 and values["similarity", "spearman"] > 0.5


def test_vectors_and_bm25_are_fused_on_the_same_queries(measure, encoder):
    fusion = Fusion("scores", {"code": 0.5, "text": 0.25}, depth=20)
    kinds = ("code_search", "text_search")
    alone = [*measure(encoder, "test", kinds=kinds), *measure(open_model("bm25"), "test", kinds=kinds)]
    asked = len(encoder.asked)
    hybrid = measure(HybridModel(encoder, fusion), "test", kinds=kinds)
    assert len(encoder.asked) == asked, "its vectors are those of the encoder"
    rows = differences(hybrid, alone, resamples=50)
    assert {(row["kind"], row["model"], row["baseline"]) for row in rows} == {
        (kind, "hybrid", name) for kind in kinds for name in ("words", "bm25")
    }
    only = [HybridModel(encoder, Fusion("scores", dict.fromkeys(("code", "text"), share), 1000)) for share in (1.0, 0.0)]
    for model, name in zip(only, ("words", "bm25"), strict=True):
        for row in differences(measure(model, "test", kinds=kinds), alone, resamples=50):
            assert row["baseline"] != name or row["mean"] == pytest.approx(0, abs=2e-3), "a whole share is that side alone"
    assert len({model.id.fingerprint for model in (*only, HybridModel(encoder, fusion))}) == 3


def test_a_second_run_embeds_nothing(measure, encoder):
    first = measure(encoder)
    asked = len(encoder.asked)
    assert [artifact.digest for artifact in measure(encoder)] == [artifact.digest for artifact in first]
    assert len(encoder.asked) == asked


def test_two_stores_write_the_same_bytes(tmp_path, curated, encoder):
    digests = set()
    for name in ("one", "other"):
        suites = held_out_suites(curated, CONFIG)
        found = [evaluate_suite(Store(tmp_path / name), encoder, suite, "validation") for suite in suites]
        content = b"".join(path.read_bytes() for artifact in found for path in artifact.paths("per_query.parquet"))
        digests.add(hashlib.sha256(content).hexdigest())
    assert len(digests) == 1


def test_each_text_is_embedded_once_a_side_for_all_four(measure, encoder):
    (first,) = measure(encoder, kinds=("similarity",))
    asked = list(encoder.asked)
    assert len(asked) == len(set(asked)) and {side for side, _ in asked} == {"x", "y"}
    assert len(measure(encoder)) == 4 and first.manifest.key
    assert encoder.asked == asked, "the suite that ran first embedded the texts of all"


def test_a_constant_model_scores_chance(measure):
    found = {
        row["kind"]: row["value"]
        for row in read_evaluations(measure(Constant("flat", [0.5] * 4)))
        if row["metric"] != "macro_f1"
    }
    assert found["classification"] < 0.5 and found["similarity"] == 0.0
    rows = read_evaluations(measure(Constant("flat", [0.5] * 4), kinds=("code_search",)))
    assert rows[0]["value"] == pytest.approx(1 / 25.5), "ties earn nothing"


def test_an_unknown_checkpoint_and_an_unknown_split_are_named(measure, curated, encoder):
    unknown = Checkpoint(curated, "step-000099", curated, ShardConfig())
    with pytest.raises(UserError, match="no part 'step-000099'; there are: train, validation, test"):
        measure(CheckpointEncoder(unknown))
    with pytest.raises(UserError, match="code_search_held_out has no split 'tset'; it has: train, validation, test"):
        measure(encoder, "tset")


def test_baselines_and_their_paired_differences(measure, encoder):
    mine = measure(encoder, "test")
    theirs = [artifact for name in ("bm25", "tfidf") for artifact in measure(open_model(name), "test")]
    rows = differences(mine, theirs, resamples=50)
    assert {(row["kind"], row["baseline"]) for row in rows} == {
        ("code_search", "bm25"),
        ("text_search", "bm25"),
        *((kind, "tfidf") for kind in KINDS),
    }
    values = {(r["model"], r["task"], r["metric"]): r["value"] for r in read_evaluations([*mine, *theirs])}
    for row in rows:
        name = (row["task"], row["metric"])
        assert row["mean"] == pytest.approx(values["words", *name] - values[row["baseline"], *name], abs=1e-12)
        assert row["low"] <= row["mean"] <= row["high"]


def test_different_queries_cannot_be_paired(measure, encoder):
    with pytest.raises(UserError, match="different queries of code_search_50"):
        differences(measure(encoder, "test"), measure(open_model("bm25"), "validation"), resamples=10)


def test_a_split_with_too_little_has_reasons_in_place_of_figures(store, measure, curated_of, encoder):
    found = measure(encoder, pairs=curated_of({"validation": []}))
    assert read_evaluations(found) == [] and all(read_queries(artifact) == {} for artifact in found)
    facts = split_facts(found)
    assert facts["tasks"] == {} and list(facts["skipped"]) == list(KINDS)
    assert "needed" in facts["skipped"]["classification"]
    assert check_evaluations(store, found).manifest.counts.n_in == 0


def test_a_real_encoder_of_the_house_can_be_measured(store, curated):
    from pipeline_lib.model.encoder import Encoder
    from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
    from pipeline_lib.tokens.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(store, curated, TokenizerConfig(vocab_size=400))
    sizes = ModelConfig(layers=1, width=16, heads=2, inner=32, positions=32)
    stage = Stage(name="train", version=1)

    def make(key):
        scratch = store.scratch("train")
        Encoder.build(sizes, PairTokenizer.load(tokenizer.part_folder()), seed=1).save(scratch)
        return Outcome(parts=(store.commit_part(draft_part(stage, key, "step-000001"), scratch),))

    trained = store.build(stage, TrainConfig(), {}, make)
    checkpoint = Checkpoint(trained, "step-000001", tokenizer, ShardConfig(max_x_tokens=24, max_y_tokens=32))
    told = []
    suite = held_out_suites(curated, CONFIG)[0]
    found = evaluate_suite(store, CheckpointEncoder(checkpoint), suite, "validation", lambda *now: told.append(now))
    (mrr, *_) = read_evaluations([found])
    assert 1 / 50 < mrr["value"] <= 1 and (mrr["model"], mrr["step"]) == ("step-000001", 1)
    assert told[-1][0] == told[-1][1], "progress ends with all texts"


def test_an_embedding_that_is_not_finite_is_named_by_suite_model_and_text(measure, curated, encoder):
    similarity = held_out_suites(curated, CONFIG)[3].pairs.tasks("validation").of_kind("similarity")
    spoilt, whole = similarity.left[2], encoder.embed

    def embed(texts, side="x"):
        vectors_ND = np.array(whole(texts, side))
        vectors_ND[[text == spoilt for text in texts], 1] = np.nan
        return vectors_ND

    encoder.embed = embed
    with pytest.raises(
        UserError, match=r"^similarity_held_out, validation: words: the embedding of row \d+, .*diverged"
    ) as error:
        measure(encoder, kinds=("similarity",))
    assert repr(spoilt[:60]) in str(error.value)


@pytest.mark.parametrize(
    ("kind", "method"), [("text_search", "search"), ("similarity", "similarity"), ("classification", "features")]
)
def test_a_score_that_is_not_finite_is_named_by_model_task_and_row(measure, encoder, monkeypatch, kind, method):
    from pipeline_lib.evaluation.suites.held_out_pairs import _Scores

    whole = getattr(_Scores, method)

    def spoilt(*given):
        found = whole(*given)
        (found[1] if method == "features" else found)[0] = np.nan
        return found

    monkeypatch.setattr(_Scores, method, spoilt)
    pattern = rf"^{kind}_held_out, validation: words on \w+: .* of row 0, '[^']+', and 0 more of \d+ are not finite"
    with pytest.raises(UserError, match=pattern):
        measure(encoder, kinds=(kind,))

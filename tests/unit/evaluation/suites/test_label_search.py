"""Zero-shot by label texts, and k nearest neighbours."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.label_search import SST2_PROMPTS
from pipeline_lib.evaluation.suites.registry import open_suite

DEV = [("a positive thing", "1"), ("so negative", "0"), ("positive and negative negative", "0"), ("a positive end", "0")]


@pytest.fixture
def sst(put):
    put("SST/binary/sentiment-dev", "".join(f"{text}\t{label}\n" for text, label in DEV))
    rows = [(f"positive {n}", "1") for n in range(8)] + [(f"negative {n}", "0") for n in range(12)]
    put("SST/binary/sentiment-train", "".join(f"{text}\t{label}\n" for text, label in rows))
    return rows


def test_zero_shot_takes_the_nearest_label_text(sst, data, config, encoder, embed_words):
    result = open_suite("sst2-zero-shot", data, config).run(encoder, "validation")
    accuracy = {figure.task: figure for figure in result.figures if figure.metric == "accuracy"}
    assert set(accuracy) == {"sst2-zero-shot:words", "sst2-zero-shot"}
    for task, way in (("sst2-zero-shot:words", "words"), ("sst2-zero-shot", "prompts")):
        cosines = embed_words([text for text, _ in DEV]) @ embed_words([SST2_PROMPTS[way][label] for label in "01"]).T
        expected = [str(row.argmax()) == label for row, (_, label) in zip(cosines, DEV, strict=True)]
        assert list(accuracy[task].values) == expected
    assert accuracy["sst2-zero-shot:words"].interval.value == 0.75
    assert {side for side, _ in encoder.asked} == {"x"}
    assert "this is an example of a positive movie review." in {text for _, text in encoder.asked}


@pytest.mark.parametrize("k", [1, 5, 256])
def test_neighbours_vote(sst, data, encoder, embed_words, k):
    config = SuiteConfig(bootstrap=20, neighbours=k)
    result = open_suite("sst2-knn", data, config).run(encoder, "validation")
    cosines = np.round(embed_words([text for text, _ in DEV]) @ embed_words([text for text, _ in sst]).T, 6)
    expected = []
    for row, (_, label) in zip(cosines, DEV, strict=True):
        nearest = np.argsort(-row, kind="stable")[:k]
        expected.append(Counter(sst[i][1] for i in nearest).most_common(1)[0][0] == label)
    assert list(result.figures[0].values) == expected and result.facts["k"] == k
    if k == 256:  # all twenty vote, and most are negative
        assert expected == [label == "0" for _, label in DEV]


def test_equal_votes_go_to_the_nearer(put, data, encoder):
    put("SST/binary/sentiment-train", "a b c\t1\na x y\t0\n")
    put("SST/binary/sentiment-dev", "a b\t1\n")
    result = open_suite("sst2-knn", data, SuiteConfig(bootstrap=20, neighbours=2)).run(encoder, "validation")
    assert result.figures[0].interval.value == 1.0


def test_any_labelled_set_with_prompts(put, data, config, encoder):
    put("labelled/mail/test.tsv", "buy now\tspam\nmeet me\tham\n")
    put("labelled/mail/train.tsv", "buy\tspam\nmeet\tham\n")
    prompts = put("labelled/mail/prompts.json", json.dumps({"spam": "buy", "ham": "meet"}))
    assert open_suite("zero-shot/mail", data, config).run(encoder, "test").figures[0].interval.value == 1.0
    one = config.model_copy(update={"neighbours": 1})
    assert open_suite("knn/mail", data, one).run(encoder, "test").figures[0].interval.value == 1.0
    prompts.write_text(json.dumps({"spam": "buy"}))
    with pytest.raises(UserError, match="no prompt for the labels ham"):
        open_suite("zero-shot/mail", data, config).run(encoder, "test")
    prompts.write_text("[1]")
    with pytest.raises(UserError, match="expected one object"):
        open_suite("zero-shot/mail", data, config).run(encoder, "test")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_set_of_ones_own_may_be_gzipped_and_begin_with_a_byte_order_mark(put, data, config, encoder, suffix):
    put(f"labelled/mail/test.tsv{suffix}", "buy\tspam\nmeet me\tham\n", "utf-8-sig")
    put(f"labelled/mail/prompts.json{suffix}", '{"spam": "buy", "ham": "meet"}', "utf-8-sig")
    suite = open_suite("zero-shot/mail", data, config)
    assert suite.run(encoder, "test").figures[0].interval.value == 1.0
    assert [text.text for text in suite.texts("test")] == ["buy", "meet me"]


@pytest.mark.parametrize(("content", "encoding"), [("[" * 100_000, "ascii"), ('"caf\xe9"', "latin-1"), ("{", "ascii")])
def test_prompts_that_cannot_be_read_name_their_file(put, data, config, encoder, content, encoding):
    put("labelled/mail/test.tsv", "buy\tspam\n")
    put("labelled/mail/prompts.json", content, encoding)
    with pytest.raises(UserError, match=r"mail/prompts.json: (not JSON|cannot be read to its end as utf-8)[^/]*$"):
        open_suite("zero-shot/mail", data, config).run(encoder, "test")

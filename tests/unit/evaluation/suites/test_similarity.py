"""STS12 to STS16, STS-B and SICK-R in their official layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.official_files import MissingData
from pipeline_lib.evaluation.suites.registry import open_suite
from pipeline_lib.evaluation.suites.similarity import SOURCES

PAIRS = [
    ("a red cat sat", "a red cat sat", 5.0),
    ("a red cat sat", "a red dog ran", 2.5),
    ("one", "two", 0.0),
    ("b c", "c b", 4.0),
]


def write_sts(put, year="sts12", grades=("5.0", "2.5", "0.0", "4.0"), suffix=""):
    for source in SOURCES[year]:
        folder = f"STS/{year.upper()}-en-test"
        put(f"{folder}/STS.input.{source}.txt{suffix}", "".join(f"{a}\t{b}\textra column\n" for a, b, _ in PAIRS))
        put(f"{folder}/STS.gs.{source}.txt{suffix}", "".join(f"{grade}\n" for grade in grades))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_year_has_a_figure_over_all_and_one_a_source(put, data, config, encoder, suffix):
    write_sts(put, suffix=suffix)
    result = open_suite("sts12", data, config).run(encoder, "test")
    by_task = {(figure.task, figure.metric): figure for figure in result.figures}
    assert [task for task, metric in by_task if metric == "pearson"] == [
        "sts12",
        *(f"sts12:{s}" for s in sorted(SOURCES["sts12"])),
    ]
    over_all = by_task["sts12", "spearman"]
    assert over_all.interval.n == 20 and by_task["sts12:MSRvid", "spearman"].interval.n == 4
    # the headline is of the pairs together, not the mean of the sources
    assert over_all.interval.value == pytest.approx(spearmanr(over_all.values, over_all.targets).statistic)
    assert by_task["sts12", "pearson"].interval.value == pytest.approx(pearsonr(over_all.values, over_all.targets).statistic)
    assert {side for side, _ in encoder.asked} == {"x"}


def test_pairs_without_a_grade_do_not_count(put, data, config):
    write_sts(put, "sts16", ("5.0", "", "0.0", "4.0"))
    pairs = list(open_suite("sts16", data, config).pairs("test"))
    assert len(pairs) == 15 and not any(pair.id.endswith("-2") for pair in pairs)


def test_input_and_grades_of_different_length_are_refused(put, data, config, encoder):
    write_sts(put, grades=("5.0", "2.5", "0.0"))
    with pytest.raises(UserError, match=r"STS.input.MSRpar.txt: 4 pairs, but 3 grades"):
        open_suite("sts12", data, config).run(encoder, "test")


def test_a_blank_line_moves_no_grade_to_another_pair(put, data, config):
    write_sts(put, "sts15", ("5.0", "", "2.0", ""))
    folder = "STS/STS15-en-test/STS.input.belief.txt"
    put(folder, "a\tb\n\nc\td\ne\tf\n")
    pairs = list(open_suite("sts15", data, config).pairs("test"))
    assert [pair[2:] for pair in pairs if pair.source == "belief"] == [("a", "b", 5.0), ("c", "d", 2.0)]
    put(folder, "a\tb\nc\td\n\ne\tf\n")
    with pytest.raises(UserError, match=r"STS.input.belief.txt, line 3: 1 columns, expected 2"):
        list(open_suite("sts15", data, config).pairs("test"))


@pytest.mark.parametrize("grades", [("", "", "", ""), ()])
def test_a_source_without_a_grade_is_refused(put, data, config, encoder, grades):
    write_sts(put, "sts13")
    if not grades:
        put("STS/STS13-en-test/STS.input.headlines.txt", "")
    put("STS/STS13-en-test/STS.gs.headlines.txt", "".join(f"{grade}\n" for grade in grades))
    with pytest.raises(UserError, match=r"STS.gs.headlines.txt: no graded pair in it; .* from SentEval"):
        open_suite("sts13", data, config).run(encoder, "test")


def test_empty_files_are_refused(put, data, config, encoder):
    put("STS/STSBenchmark/sts-test.csv", "")
    with pytest.raises(UserError, match=r"sts-test.csv: no graded pair in it"):
        open_suite("sts-b", data, config).run(encoder, "test")
    put("SICK/SICK_test_annotated.txt", "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\r\n")
    with pytest.raises(UserError, match=r"SICK_test_annotated.txt: no graded pair in it"):
        open_suite("sick-r", data, config).run(encoder, "test")
    put("SICK/SICK_test_annotated.txt", "pair_ID\tsentence_A\tsentence_B\tentailment_label\trelatedness_score\n")
    with pytest.raises(UserError, match=r"its header is .*entailment_label'\], expected .*relatedness_score"):
        open_suite("sick-r", data, config).run(encoder, "test")


def test_sts_b_takes_quotes_as_they_are_and_extra_columns(put, data, config):
    rows = ['main-news\tMSRpar\t2012\t0001\t4.5\t"an open quote\tanother\tsource\tsource', "main-forums\tf\t2\t3\t0.5\ta\tb"]
    put("senteval/STS/STSBenchmark/sts-dev.csv", "\n".join(rows))
    pairs = list(open_suite("sts-b", data, config).pairs("validation"))
    assert [(pair.left, pair.right, pair.grade) for pair in pairs] == [('"an open quote', "another", 4.5), ("a", "b", 0.5)]


@pytest.mark.parametrize("grade", ["four", "nan", "inf", ""])
def test_a_grade_that_is_no_number_names_its_line(put, data, config, grade):
    put("STS/STSBenchmark/sts-test.csv", f"g\tf\ty\ti\t{grade}\ta\tb\n")
    with pytest.raises(UserError, match=rf"sts-test.csv: line 1's grade is '{grade}'"):
        list(open_suite("sts-b", data, config).pairs("test"))


def test_what_is_missing_is_said_with_where_to_get_it(data, config):
    with pytest.raises(MissingData, match=r"SICK_test_annotated.txt is not there.*SentEval"):
        open_suite("sick-r", data, config).paths("test")


def test_the_quick_variant_goes_under_another_name(put, data, config, encoder):
    write_sts(put)
    quick = config.model_copy(update={"quick": True, "max_test_texts": 7})
    figures = open_suite("sts12", data, quick).run(encoder, "test").figures
    assert figures[0].task == "sts12-quick" and figures[0].interval.n == 7
    assert all(figure.task.startswith("sts12-quick") for figure in figures)


def test_shared_sets_have_their_published_sizes(eval_data: Path, config):
    sizes = {
        ("sts-b", "train"): 5749, ("sts-b", "validation"): 1500, ("sts-b", "test"): 1379,
        ("sick-r", "test"): 4927, ("sick-r-all", "test"): 9927,
    }  # fmt: skip
    found = {(name, split): sum(1 for _ in open_suite(name, eval_data, config).pairs(split)) for name, split in sizes}
    assert found == sizes
    grades = np.array([pair.grade for pair in open_suite("sts-b", eval_data, config).pairs("test")])
    assert grades.min() == 0 and grades.max() == 5

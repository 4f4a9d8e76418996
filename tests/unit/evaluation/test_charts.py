"""Charts: read out to those who do not see them, in the colours of the page, the same bytes each time."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from pipeline_lib.evaluation.charts import PALETTE, Chart, ablation_chart, line_chart, theme

EVIL = "<script>alert(1)</script>"
ROWS = [("batch", arm, task, (0.1, 0.2, 0.3)) for arm in ("64", "256") for task in ("code_search_1k", "graded_prose")]


def chart(**more):
    return Chart(EVIL, [(1, 0.5), (2, 0.7)], references=((EVIL, 0.6, "bm25"),), marked_x=2, **more)


def test_a_chart_says_what_it_shows_and_keeps_labels_harmless():
    svg = str(line_chart(chart()))
    told = ElementTree.fromstring(svg.replace("<svg", '<svg xmlns:xlink="x" ', 1))
    assert (told.get("role"), told.get("aria-label"), told.findtext("title")) == ("img", EVIL, EVIL)
    assert told.findtext("desc") == f"step 1: 0.5; step 2: 0.7; {EVIL}: 0.6"
    assert "<script" not in svg


def test_one_point_is_no_curve():
    assert line_chart(Chart("one point", [(1, 0.5)])) == ""
    assert line_chart(Chart("two, one of them none", [(1, 0.5), (2, float("nan"))])) == ""


@pytest.mark.parametrize("svg", [line_chart(chart()), ablation_chart(ROWS)], ids=["in a page", "as a file"])
def test_every_colour_is_of_the_theme(svg):
    drawn = svg.replace(theme(), "")
    assert not re.findall(r"#[0-9a-f]{6}\b", drawn), "a colour that stays when the theme changes"
    assert set(re.findall(r"var\(--([a-z0-9-]+)\)", drawn)) <= set(PALETTE)
    assert "font-family: '" not in drawn and ' id="figure' not in drawn and "<metadata" not in drawn


def test_light_colours_tell_their_variables_apart():
    assert len({light for light, _ in PALETTE.values()}) == len(PALETTE)


def test_long_curves_are_thinned_and_told_by_their_ends_and_extremes():
    svg = line_chart(Chart("loss", [(x, 1 / (x + 1)) for x in range(100_000)]))
    assert len(svg) < 20_000
    assert len(re.search("<desc>(.*)</desc>", svg)[1].split("; ")) == 2


def test_an_ablation_is_one_file_with_a_panel_a_task_and_a_row_an_arm():
    svg = ablation_chart(ROWS)
    ElementTree.fromstring(svg)
    for text in ("code search 1k", "graded prose", "batch: 64", "batch: 256"):
        assert svg.count(f">{text}</text>") == 1
    assert "code_search_1k: batch 64 0.200" in svg
    assert svg == ablation_chart(ROWS)

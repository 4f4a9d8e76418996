"""A snippet shows the lines that hold the query's words, and marks those words alone."""

from __future__ import annotations

import pytest

from pipeline_lib.search.snippets import LINE_CHARACTERS, LINES, marks_of, snippet

BODY = """def load(path):
    if not path:
        return None
    with open(path) as stream:
        rows = csv.reader(stream)
        header = next(rows)
    return [dict(zip(header, row)) for row in rows]"""


def marked(text: str, query: str) -> list[str]:
    return [text[start:end] for start, end in marks_of(text, query)]


def test_shows_the_lines_with_most_of_the_querys_words() -> None:
    found = snippet(BODY, "csv reader with header")
    assert (
        found.text == "    rows = csv.reader(stream)\n    header = next(rows)\nreturn [dict(zip(header, row)) for row in rows]"
    )
    assert [found.text[start:end] for start, end in found.marks][:3] == ["csv", "reader", "header"]


def test_a_rare_word_weighs_more_than_a_frequent_one() -> None:
    text = "\n".join(["row row row"] * 20 + ["the needle"] + ["row row row"] * 20)
    assert snippet(text, "row needle").text.startswith("the needle")


def test_the_beginning_where_no_word_of_the_query_stands_in_the_text() -> None:
    found = snippet(BODY, "quicksort")
    assert found.text == "def load(path):\n    if not path:\n        return None" and found.marks == ()
    assert snippet("", "x") == ("", ()) and snippet("\n \n", "x") == ("", ()) and snippet("text", "") == ("text", ())


@pytest.mark.parametrize(
    ("text", "query", "words"),
    [
        ("parseISODate(text)", "parse iso date", ["parseISODate"]),
        ("read_csv_files", "reading files", ["read", "files"]),
        ("HTTPServer2", "http", ["HTTP"]),
        ("the house of a cat", "the cat", ["cat"]),
        ("die Größe der Straße", "GRÖSSE STRASSE", ["Größe", "Straße"]),
        ("naïve façade", "NAÏVE", ["naïve"]),
        ("テキストを解析する", "テキスト解析", ["テキスト", "解析"]),
        ("हिन्दी में पाठ", "हिन्दी", ["हिन्दी"]),
        ("Разбор даты", "разбор", ["Разбор"]),
        ("to be or not", "to be", ["to", "be"]),
        ("stopped early", "stop", ["stopped"]),
        ("id 42 of 420", "42", ["42"]),
    ],
)
def test_words_are_marked_whatever_their_case_ending_and_script(text: str, query: str, words: list[str]) -> None:
    assert marked(text, query) == words


def test_long_lines_are_cut_between_words() -> None:
    text = "filler words " * 60 + "a needle in it " + "more words " * 60
    found = snippet(text, "needle")
    assert "needle" in found.text and found.text.startswith("… ") and found.text.endswith(" …")
    assert len(found.text) <= LINES * (LINE_CHARACTERS + 1) + 4 and not found.text.removesuffix(" …").endswith(" m")
    assert len(snippet("x" * 100_000, "y").text) < 500


def test_marks_stand_in_the_snippet_in_order() -> None:
    for query in ("rows path header", "return", "OPEN the STREAM"):
        found = snippet(BODY, query)
        ends = [place for mark in found.marks for place in mark]
        assert found.marks and ends == sorted(ends) and ends[-1] <= len(found.text)

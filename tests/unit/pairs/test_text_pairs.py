# ruff: noqa: RUF001
from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prose_samples import SENTENCES, UNSPACED, letters, prose

from pipeline_lib.config.data import ExtractConfig, SourceConfig, TextPairsConfig
from pipeline_lib.languages.scripts import count_units, graphemes
from pipeline_lib.pairs.extract import ExtractWork, extract_file
from pipeline_lib.pairs.filters import TEXT_RULES, SampledDrops, letter_share, word_overlap
from pipeline_lib.pairs.prose import Paragraph, paragraphs
from pipeline_lib.pairs.tables import Rows
from pipeline_lib.pairs.text_pairs import TEXT_REASONS, Section, least_size_of_a_pair, segment, text_pairs
from pipeline_lib.sources.source_file import SourceFile

WORDS = st.sampled_from(["a", "Word", "another", "end.", "Why?", "(so)", 'said."', "naïve", "x1"])
PARAGRAPHS = st.lists(st.lists(WORDS, min_size=1, max_size=90), max_size=12)


def numbered(texts: list[list[str]]) -> list[Paragraph]:
    return [Paragraph(" ".join(words), line, len(words)) for line, words in enumerate(texts, 1)]


@st.composite
def bounds(draw) -> TextPairsConfig:
    least = draw(st.integers(1, 20))
    most = draw(st.integers(max(2, least), 60))
    return TextPairsConfig(min_words=least, max_words=most, target_words=draw(st.integers(1, 60)))


@settings(deadline=None, max_examples=200)
@given(PARAGRAPHS, bounds())
def test_pieces_are_the_document_in_order_without_overlap(texts: list[list[str]], config: TextPairsConfig) -> None:
    pieces = segment(numbered(texts), config)
    words = [word for text in texts for word in text]
    taken = [word for piece in pieces for word in piece.text.split()]
    assert taken == words[: len(taken)], "not a prefix: a word is lost, moved, changed or taken twice"
    assert len(words) - len(taken) < config.min_words, "only a last remainder may be left out"
    assert len(pieces) < 2 or len(words) >= least_size_of_a_pair(config)
    assert all(config.min_words <= piece.size <= config.max_words for piece in pieces)
    assert all(piece.size == len(piece.text.split()) for piece in pieces)
    assert [piece.line for piece in pieces] == sorted(piece.line for piece in pieces)


@settings(deadline=None, max_examples=50)
@given(PARAGRAPHS, st.integers(1, 5))
def test_pairs_are_neighbours_and_all_are_accounted_for(texts: list[list[str]], most: int) -> None:
    config = TextPairsConfig(min_words=3, max_words=12, target_words=5, max_pairs_per_document=most, min_letter_share=0.0)
    section = Section("s", numbered(texts))
    pieces = segment(section.paragraphs, config)
    dropped: Counter[str] = Counter()
    pairs = text_pairs([section], config, dropped)
    neighbours = {(a.text, b.text) for a, b in pairwise(pieces)}
    assert {(pair.x, pair.y) for pair in pairs} <= neighbours
    assert len(pairs) <= most
    assert len(pairs) + dropped.total() - dropped["short_rest"] == max(1, len(pieces) - 1)
    assert dropped["short_rest"] <= 1 < max(2, len(pieces))
    assert sum(dropped[reason] for reason in ("no_prose", "short_text", "one_piece")) == (len(pieces) < 2)


@settings(deadline=None, max_examples=100)
@given(st.text("ab.:`*#>|-= \n\t[](){}\"'1é", max_size=300))
def test_any_text_is_cut_into_paragraphs_of_its_own_lines(text: str) -> None:
    found = paragraphs(text, 5)
    assert all(5 <= p.line <= 5 + text.count("\n") and p.words == len(p.text.split()) > 0 for p in found)
    assert [p.line for p in found] == sorted(p.line for p in found)


def test_cuts_fall_on_paragraphs_and_else_on_sentences() -> None:
    config = TextPairsConfig(min_words=4, max_words=10, target_words=6)
    text = "One two three four. Five six seven. Eight nine ten eleven twelve.\n\nA b c d e f.\n\nG h."
    assert [(p.text, p.size) for p in segment(paragraphs(text), config)] == [
        ("One two three four. Five six seven.", 7),
        ("Eight nine ten eleven twelve.", 5),
        ("A b c d e f.\nG h.", 8),
    ]


def test_too_many_pairs_are_thinned_evenly() -> None:
    config = TextPairsConfig(min_words=2, max_words=4, target_words=2, max_pairs_per_document=4)
    texts = [[f"word{letter}", "alone"] for letter in "abcdefghijklmnopq"]
    dropped: Counter[str] = Counter()
    pairs = text_pairs([Section("s", numbered(texts))], config, dropped)
    assert [pair.x for pair in pairs] == ["worda alone", "worde alone", "wordi alone", "wordm alone"]
    assert dropped == {"over_document_limit": 12}


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ("1 2 3 4 5 6", "some words here", "not_prose"),
        ("the same words", "the same words", "same_text"),
        ("a \x1b escape code", "some words here", "not_text"),
    ],
)
def test_pieces_that_are_no_prose_are_dropped(x: str, y: str, reason: str) -> None:
    config = TextPairsConfig(min_words=2, max_words=8, target_words=2)
    dropped: Counter[str] = Counter()
    assert text_pairs([Section("s", numbered([x.split(), y.split()]))], config, dropped) == []
    assert dropped == {reason: 1}


def test_pieces_of_different_sections_are_no_neighbours() -> None:
    config = TextPairsConfig(min_words=2, max_words=4, target_words=2)
    sections = [Section(name, numbered([[name, "first"], [name, "second"]])) for name in ("one", "two")]
    pairs = text_pairs(sections, config, Counter())
    assert [(pair.name, pair.x, pair.y) for pair in pairs] == [
        ("one", "one first", "one second"), ("two", "two first", "two second")
    ]  # fmt: skip


def test_bounds_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="min_words 30 is above max_words 20"):
        TextPairsConfig(min_words=30, max_words=20)


@settings(deadline=None, max_examples=150)
@given(PARAGRAPHS, st.integers(1, 60), st.integers(2, 200), st.integers(1, 120))
def test_lengths_may_be_counted_in_characters(texts: list[list[str]], least: int, more: int, target: int) -> None:
    config = TextPairsConfig(unit="characters", min_words=least, max_words=least + more, target_words=target)
    pieces = segment(numbered(texts), config)
    letters = "".join(word for text in texts for word in text)
    taken = "".join("".join(piece.text.split()) for piece in pieces)
    assert taken == letters[: len(taken)], "not a prefix: a character is lost, moved, changed or taken twice"
    assert all(len(piece.text) < piece.size + 1 <= config.max_words + 1 for piece in pieces)
    assert all(piece.size >= config.min_words for piece in pieces)


MARKDOWN = """# The whole guide

One two three four. Five six.

## Setting it up

Seven eight nine ten. More of it.

Then some more words here.

## Usage

Eleven twelve thirteen fourteen.
"""


def pairs_of(dropped: Counter[str], **choices: object) -> list[tuple[str, str, str]]:
    config = TextPairsConfig(min_words=3, max_words=12, target_words=5, **choices)
    found = text_pairs([Section("s", paragraphs(MARKDOWN))], config, dropped)
    return [(pair.view, pair.x, pair.y) for pair in found]


def test_headings_and_sections_give_pairs_where_asked() -> None:
    dropped: Counter[str] = Counter()
    assert pairs_of(dropped, views=("title", "section")) == [
        ("title", "The whole guide", "One two three four. Five six."),
        ("title", "Setting it up", "Seven eight nine ten. More of it."),
        ("section", "One two three four. Five six.", "Seven eight nine ten. More of it."),
        ("section", "Seven eight nine ten. More of it.", "Eleven twelve thirteen fourteen."),
    ]
    assert dropped == {"short_title": 1}


def test_no_piece_crosses_a_heading_unless_allowed() -> None:
    across = pairs_of(Counter())
    assert len(across) > 1 and {view for view, _, _ in across} == {"neighbour"}
    within = pairs_of(Counter(), across_headings=False)
    assert within == [
        ("neighbour", "Setting it up\nSeven eight nine ten. More of it.", "Then some more words here."),
    ]


def test_headings_are_known_by_hash_signs_and_underlines() -> None:
    text = "Title\n=====\n\nProse of it.\n\nPart\n----\nMore prose.\n\n### Third ###\nEven more.\n"
    assert [(p.text, p.heading) for p in paragraphs(text)] == [
        ("Title", True), ("Prose of it.", False), ("Part", True), ("More prose.", False), ("Third", True), ("Even more.", False)
    ]  # fmt: skip


LANGUAGES = st.sampled_from(sorted(SENTENCES))
SPACES = str.maketrans("", "", " \n")


@st.composite
def documents(draw) -> str:
    """Paragraphs of sentences in one language or several, some of them without any sentence end."""
    parts = draw(st.lists(st.tuples(LANGUAGES, st.integers(1, 12), st.integers(0, 99), st.booleans()), min_size=1, max_size=5))
    texts = [prose(language, n, seed) for language, n, seed, _ in parts]
    flat = [part[3] for part in parts]
    no_ends = str.maketrans("", "", ".?!。？！｡؟۔।።។།")
    return "\n\n".join(text.translate(no_ends) if bare else text for text, bare in zip(texts, flat, strict=True))


@settings(deadline=None, max_examples=300)
@given(documents(), bounds(), st.sampled_from(["auto", "words", "characters"]))
def test_text_of_any_script_is_cut_without_loss_inside_its_bounds(text: str, config: TextPairsConfig, unit: str) -> None:
    most = config.max_words + 2 * (unit == "characters")
    config = config.model_copy(update={"unit": unit, "max_words": most})
    found = paragraphs(text)
    pieces = segment(found, config)
    whole = "".join(paragraph.text for paragraph in found).translate(SPACES)
    taken = "".join(piece.text for piece in pieces).translate(SPACES)
    assert whole.startswith(taken), "a character is lost, moved, changed or taken twice"
    size = {"auto": count_units, "words": lambda text: len(text.split()), "characters": len}[unit]
    assert all(config.min_words <= piece.size <= config.max_words for piece in pieces)
    assert all(size(piece.text) in (piece.size, piece.size - (unit == "characters")) for piece in pieces)
    assert size(whole[len(taken) :]) <= config.min_words
    if unit == "characters":
        return
    ends = [piece.text[-1:] + "|" for piece in pieces]
    assert all(len(graphemes(end)) == 2 for end in ends)
    words = {word for paragraph in found for word in paragraph.text.split()}
    spaced = [piece.text.split() for piece in pieces if unit == "words" or not set(piece.text) & WITHOUT_SPACES]
    assert all(word in words for cut in spaced for word in cut), "a word between spaces was cut"


WITHOUT_SPACES = {letter for language in (*UNSPACED, "mixed") for text in SENTENCES[language] for letter in text} - set(
    "abcdefghijklmnopqrstuvwxyz .,?!IL35"
)


@pytest.mark.parametrize("language", sorted(SENTENCES))
def test_a_document_in_any_script_gives_pairs_at_the_default_bounds(language: str) -> None:
    dropped: Counter[str] = Counter()
    section = Section("s", paragraphs("\n\n".join(prose(language, 20, seed) for seed in range(6))))
    pairs = text_pairs([section], TextPairsConfig(), dropped)
    assert len(pairs) >= 2 and set(dropped) <= {"short_rest"}
    assert all(20 <= count_units(side) <= 200 for pair in pairs for side in (pair.x, pair.y))


def test_a_long_paragraph_without_a_sentence_end_is_cut_at_clauses_else_at_spaces_else_between_units() -> None:
    config = TextPairsConfig(min_words=5, max_words=15, target_words=10)  # a sentence's pieces: ten units, 20 characters
    run = "".join(letters("chinese", 60, 1))
    comma = run[:16] + "，" + run[16:]
    assert next(piece.text for piece in segment(paragraphs(comma), config)) == comma[:17]
    space = run[:15] + " " + run[15:]
    assert next(piece.text for piece in segment(paragraphs(space), config)) == space[:15]
    assert [len(piece.text) for piece in segment(paragraphs(run), config)] == [20, 20, 20]
    early = run[:4] + "，" + run[4:]  # in the first half: a piece would be too short
    assert next(piece.text for piece in segment(paragraphs(early), config)) == early[:21]


def test_no_character_is_cut_inside_where_lengths_are_characters() -> None:
    config = TextPairsConfig(unit="characters", min_words=4, max_words=24, target_words=10)
    for language in ("thai", "hindi", "tamil", "khmer", "mixed"):
        (paragraph,) = paragraphs("".join(prose(language, 9).split()))
        pieces = [piece.text for piece in segment([paragraph], config)]
        assert len(pieces) > 4 and sum(len(graphemes(piece)) for piece in pieces) == len(graphemes("".join(pieces)))


def test_lines_of_chinese_are_one_paragraph_without_spaces() -> None:
    assert [p.text for p in paragraphs("这艘船停\n在港口里。\n整夜，\n下雨。\n\nrain all\nnight")] == [
        "这艘船停在港口里。整夜，下雨。",
        "rain all night",
    ]


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("", {}, {"no_prose": 1}),
        ("```\ncode\n```\n\n| a | b |\n\n.. note\n", {}, {"no_prose": 1}),
        ("# One\n\n## Two\n\n### Three\n", {}, {"only_headings": 1}),
        ("这艘船停在港口里。", {}, {"short_text": 1}),
        ("The ship lies in the harbour.", {}, {"short_text": 1}),
        (prose("chinese", 10), {}, {"one_piece": 1}),
        (prose("thai", 6), {}, {"one_piece": 1}),
        (prose("english", 8), {}, {"one_piece": 1}),
        ("# A\n\nfew\n\n# B\n\n" + prose("english", 8), {"across_headings": False}, {"short_text": 1, "one_piece": 1}),
        (prose("english", 8), {"views": ("title",)}, {"no_heading": 1}),
        (prose("english", 8), {"views": ("section",)}, {"one_piece": 1}),
        ("# A title\n\nfew\n", {"views": ("title",)}, {"short_text": 1}),
        ("# 船\n\n" + prose("chinese", 10), {"views": ("title",)}, {"short_title": 1}),
        ("1 2 3 4 5 " * 60, {}, {"not_prose": 1}),
        (prose("chinese", 24) * 2, {"max_word_overlap": 0.1}, {"similar": 1}),
    ],
)  # fmt: skip
def test_text_that_gives_no_pair_is_counted_by_its_reason(
    text: str, choices: dict[str, object], expected: dict[str, int]
) -> None:
    dropped = SampledDrops()
    assert text_pairs([Section("s", paragraphs(text))], TextPairsConfig(**choices), dropped) == []
    assert dropped == expected and dropped.samples.keys() == expected.keys()
    assert expected.keys() <= TEXT_REASONS.keys() | {rule.name for rule in TEXT_RULES}
    assert all(TEXT_REASONS.values())


def test_docstrings_that_are_short_are_no_candidates() -> None:
    dropped: Counter[str] = Counter()
    sections = [Section("f", paragraphs(prose("english", n))) for n in (1, 8)]
    assert text_pairs(sections, TextPairsConfig(), dropped, whole=False) == [] and not dropped


def test_what_is_left_at_the_end_is_counted() -> None:
    config = TextPairsConfig(min_words=3, max_words=4, target_words=3)
    dropped: Counter[str] = Counter()
    texts = [["one", "two", "three"], ["four", "five", "six", "seven"], ["eight"]]
    assert len(text_pairs([Section("s", numbered(texts))], config, dropped)) == 1
    assert dropped == {"short_rest": 1}


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("हिन्दी भाषा", 1.0),
        ("ที่นี่", 1.0),
        ("كِتَابٌ", 1.0),
        ("na\u0308ive", 1.0),
        ("می\u200cخواهم", 1.0),  # a sign of no width is no character of its own
        ("１２３４", 0.0),
        ("٣٤٥", 0.0),
        ("😀👍🏽", 0.0),
        ("ab１２", 0.5),
        ("用户，。", 0.5),
        ("ab12", 0.5),
        (" \n", 0.0),
    ],
)
def test_letters_with_their_marks_are_letters_and_digits_and_emoji_are_none(text: str, share: float) -> None:
    assert letter_share(text) == share


@pytest.mark.parametrize("language", sorted(SENTENCES.keys() - {"mixed"}))
def test_prose_of_any_script_is_prose(language: str) -> None:
    assert letter_share(prose(language, 20)) > 0.7


def test_overlap_without_spaces_is_of_neighbouring_letters() -> None:
    one, other = ("".join(letters("chinese", 60, seed)) for seed in (1, 2))
    assert word_overlap(one, one[1:]) > 0.9 and word_overlap(one, other) < 0.1
    assert word_overlap("甲乙丙丁", "丁丙乙甲") == 0


MARKDOWN_WITHOUT_PROSE = {
    "code": "```\nx = 1\n```\n",
    "table": "| a | b |\n|---|---|\n",
    "badges": "[![a](b)](c)\n",
    "spaces": " \n \n",
}
DOCSTRINGS = 'def one():\n    """Return it."""\n    return 1\n\n\ndef two():\n    """{}"""\n    return 2\n'


def test_every_document_gives_a_pair_or_a_reason(tmp_path: Path) -> None:
    texts = {f"{language}-{n}.md": prose(language, n) for language in SENTENCES for n in (1, 8, 40)}
    texts |= {f"{name}.md": text for name, text in MARKDOWN_WITHOUT_PROSE.items()}
    reasons: Counter[str] = Counter()
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        rows = rows_of(tmp_path / name, "markdown")
        assert bool(rows.pairs) != bool(rows.dropped), f"{name}: {rows.dropped}"
        rows.counts().check(name)
        reasons += rows.dropped
    assert reasons == {"short_text": 24, "one_piece": reasons["one_piece"], "no_prose": 3, "file_empty": 1}
    assert reasons["one_piece"] >= 20


def test_short_docstrings_are_no_losses_of_a_source_file(tmp_path: Path) -> None:
    for name, text in {"a.py": DOCSTRINGS.format("Too short."), "b.py": DOCSTRINGS.format(prose("chinese", 60))}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    short, long = (rows_of(tmp_path / name, "python") for name in ("a.py", "b.py"))
    assert not short.pairs and short.dropped == {"trivial": 2}
    assert {row[1] for row in long.pairs} >= {"text"} and not long.dropped.keys() & TEXT_REASONS.keys()


def rows_of(path: Path, form: str) -> Rows:
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    file = SourceFile(
        place=str(path), path=path.name, source="s", group="g", licence="MIT", form=form, bytes=len(data), sha256=sha256
    )
    rows = Rows(0)
    extract_file(file, ExtractWork(source=SourceConfig(), extract=ExtractConfig()), rows)
    return rows

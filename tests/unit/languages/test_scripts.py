"""Units, sentences, tokens and sets of text in the world's scripts."""

# ruff: noqa: RUF001
from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prose_samples import SENTENCES, UNSPACED, prose

from pipeline_lib.languages.scripts import (
    WORD_WEIGHT,
    _pattern,
    count_units,
    elements,
    ends_clause,
    is_spaced,
    join_lines,
    letters_beyond_ascii,
    sentences,
    tokens,
    units,
    weights,
)


@pytest.mark.parametrize("language", sorted(SENTENCES.keys() - {"mixed"}))
def test_a_sentence_of_any_script_is_found_and_is_some_words_long(language: str) -> None:
    text = prose(language, 40)
    found = [sentence.strip() for sentence in sentences(text)]
    assert "".join(sentences(text)) == text
    assert all(any(part in sentence for sentence in SENTENCES[language]) for part in found), found
    assert 40 <= len(found) <= 70, found  # a quotation ends inside some
    assert is_spaced(text) == (language not in UNSPACED)
    words = count_units(text) / 40
    assert 2 <= words <= 12, f"{words} units a sentence"  # the English ones have five on average
    if language not in UNSPACED:
        assert count_units(text) == len(text.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("他说：“走！”然后走了。「真的吗？」她问。", ["他说：“走！”", "然后走了。", "「真的吗？」", "她问。"]),
        ("真的吗?不!好……是。", ["真的吗?", "不!", "好……", "是。"]),
        ("版本3.5发布了。", ["版本3.5发布了。"]),
        ("「はい。」と言った。（終わり。）次へ｡終", ["「はい。」", "と言った。", "（終わり。）", "次へ｡", "終"]),
        ("What?! Yes. No… maybe. e.g. this", ["What?! ", "Yes. ", "No… maybe. e.g. this"]),
        ("А. С. Пушкин родился. Он поэт.", ["А. С. Пушкин родился. ", "Он поэт."]),
        ("Что?! Да... Нет. „Да!“ Élan", ["Что?! ", "Да... ", "Нет. ", "„Да!“ ", "Élan"]),
        ("هل تعلم؟ نعم. لا۔ جی", ["هل تعلم؟ ", "نعم. ", "لا۔ ", "جی"]),
        ("यह है। वह॥ नहीं", ["यह है। ", "वह॥ ", "नहीं"]),
        ("หนังสือ สีแดง ต่าง ๆ 2 เล่ม", ["หนังสือ ", "สีแดง ", "ต่าง ๆ 2 เล่ม"]),
        ("ነው። አይደለም፧ እሺ", ["ነው። ", "አይደለም፧ ", "እሺ"]),
        ("ជា។ ទេ៕ បាទ", ["ជា។ ", "ទេ៕ ", "បាទ"]),
        ("དེ་ནི། །འདི་ནི། ཡིན།", ["དེ་ནི། །", "འདི་ནི། ", "ཡིན།"]),
        ("⁇ 好⁉真‼是", ["⁇ ", "好⁉", "真‼", "是"]),
    ],
)
def test_sentence_ends_of_each_script(text: str, expected: list[str]) -> None:
    assert list(sentences(text)) == expected


@pytest.mark.parametrize("language", sorted(SENTENCES))
def test_ends_are_those_of_a_search_of_the_whole_text(language: str) -> None:
    text = prose(language, 60) + " “Ja?!” Nun... А. С. П. No‼ Да; Ναι; نعم؟ "
    ends = [0, *(end.end() for end in _pattern("sentence").finditer(text)), len(text)]
    assert list(sentences(text)) == [text[start:end] for start, end in pairwise(ends)]


def test_a_word_between_spaces_is_not_cut_where_spaces_are_asked_for() -> None:
    assert list(sentences("यह है।वह नहीं। हाँ", after_spaces=True)) == ["यह है।वह नहीं। ", "हाँ"]


@given(st.text("aé.?! 。！？「」”“)中国かｶﾞไทยเ็่།་ខ្ម한Ü\u200b\u200d👩1", max_size=60))
@settings(deadline=None, max_examples=300)
def test_units_and_sentences_are_the_whole_text(text: str) -> None:
    text = text.strip()
    assert "".join(sentences(text)) == "".join(sentences(text, after_spaces=True)) == text
    assert "".join(units(text)) == text and len(units(text)) == count_units(text)


def test_units_of_mixed_text() -> None:
    assert units("我爱Python语言，「他说」：3.5倍。") == ["我爱", "Python", "语言，", "「他说」：", "3.5", "倍。"]
    assert units("Il est là. 한국어는 띄어쓰기") == ["Il ", "est ", "là. ", "한국어는 ", "띄어쓰기"]
    assert units("བོད་སྐད་ཡིན། ") == ["བོད་", "སྐད་", "ཡིན། "]


def test_no_unit_cuts_what_is_drawn_as_one() -> None:
    for language in UNSPACED:
        for unit in units(prose(language, 30)):
            assert not unit.startswith(tuple("ะาำัิีึืุູົຳ\u0eb1\u17b6\u17d2\u103a\u102c\u0f72\u3099\uff9e")), (language, unit)


def test_clauses_end_with_the_marks_of_their_script() -> None:
    assert all(map(ends_clause, ("好，", "说：", "a, ", "b;", "نعم، ", "…", "、」", "ጥሩ፣ ")))
    assert not any(map(ends_clause, ("好", "a ", "“", "")))


def test_lines_of_chinese_and_japanese_are_joined_without_a_space() -> None:
    assert join_lines("这艘船\n停在，\n港口\nLinux\n里") == "这艘船停在，港口\nLinux\n里"
    assert (
        join_lines("two\nlines") == "two\nlines"
        and join_lines("เรือ\nจอด") == "เรือ\nจอด"
        and join_lines("배가\n항구") == "배가\n항구"
    )


def test_tokens_are_words_or_single_letters() -> None:
    assert tokens("Naïve ＴＥＸＴ, na\u0308ive 1️⃣ ☺️ fi\ufb01") == ["naïve", "text", "näive", "1", "fifi"]
    assert tokens("हिन्दी भाषा।") == ["हिन्दी", "भाषा"]
    assert tokens("كِتَابٌ") == tokens("كتـاب") == ["كتاب"] and tokens("שָׁלוֹם") == tokens("שלום")
    assert tokens("我爱Python 3。ﾊﾟﾝ") == ["我", "爱", "python", "3", "パ", "ン"]
    assert tokens("ที่นี่ ok") == ["ท", "ี", "่", "น", "ี", "่", "ok"]
    assert weights(tokens("我爱 python ไป")) == [20, 20, WORD_WEIGHT, 10, 10]


def test_sets_hold_words_and_pairs_of_neighbours() -> None:
    assert elements("two - words two") == {"two", "words", "-"}
    assert elements("我爱python语言，好") == {"我爱", "python", "语言", "好"}
    assert elements("ที่นี่") == {"ที่นี่"}


@pytest.mark.parametrize(
    "part",
    [
        "。", "!", "?!。", "。!", "། ", "。「", '!"', "(", "「", ",", "，」", "中\n", "中\u3000\n ", "ก", "ก ", "ေ", "ก็", "်က",
        "္", "a.", "α;", "…", "\u0301", "👩\u200d", "؟ ",
    ],
)  # fmt: skip
def test_no_text_takes_long(part: str) -> None:
    text = "中" + part * (60_000 // len(part))
    start = time.process_time()
    joined = join_lines(text)
    for each in (text, joined, joined + "中"):
        assert "".join(sentences(each)) == each and "".join(units(each)) == each
        assert count_units(each) and tokens(each) and elements(each) and letters_beyond_ascii(each)
        ends_clause(each)
    assert time.process_time() - start < 5, "some 0.1 s where time is a constant a character"

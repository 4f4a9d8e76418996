"""The fast rule and the pattern in tokenizer.json leave the same words."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers

from pipeline_lib.tokens.words import REACH, drop_repeated_words, repeated_word, without_repeat_step

PATTERNS = {n: normalizers.Replace(Regex(repeated_word(n)), "") for n in (1, 2, 3)}


def drop_repeats(text: str, n: int) -> str:
    return " ".join(drop_repeated_words(text.split(" "), n))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(["a", "ab", "b", "ba", "c", "é"]), max_size=40), st.sampled_from([1, 2, 3]))
def test_both_leave_the_same_words(words: list[str], n: int) -> None:
    text = " ".join(words)
    assert drop_repeats(text, n) == PATTERNS[n].normalize_str(text)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, REACH + 3), min_size=1, max_size=4), st.sampled_from([1, 2]))
def test_both_look_equally_far(gaps: list[int], n: int) -> None:
    text = "word " + " ".join(" ".join([*(f"w{place}x{i}" for i in range(gap)), "word"]) for place, gap in enumerate(gaps))
    assert drop_repeats(text, n) == PATTERNS[n].normalize_str(text)


def test_a_long_text_takes_no_time() -> None:
    text = " ".join(str(i % 5000) for i in range(200_000))
    assert drop_repeats(text, 2) == text  # five thousand words apart
    assert len(drop_repeats("a " * 200_000 + "a", 2).split()) == 2


def test_the_step_is_found_in_a_tokenizer_and_only_there() -> None:
    tokenizer = Tokenizer(models.BPE())
    assert without_repeat_step(tokenizer) is None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), PATTERNS[2]])
    found = without_repeat_step(tokenizer)
    assert found is not None
    assert found[1] == 2
    assert found[0].normalize_str("A a a A") == "a a a a"

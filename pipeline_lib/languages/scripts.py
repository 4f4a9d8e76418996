"""Units of text in every script: words where a script writes spaces, and what stands for a word where it writes none.

Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan and their like write words without a space between. There a cluster is a
letter with all that is drawn on or below it: a character of Chinese, some 1.5 characters of Thai, a syllable of Khmer. Korean
has spaces, and its words are words.

- A unit measures length: a word, or two clusters of Chinese and Japanese, or three of the others, about five characters. These
  are the lengths of a word in translations, so that one set of bounds serves all. Text without such letters has as many units
  as `str.split` finds words, to the letter.
- A token is what n-grams are made of: a word, or one letter or mark, so that an n-gram begins at every letter. Where a length
  in words is meant, a character of Chinese or Japanese weighs two thirds of a word, one of the others a third: names and set
  phrases are shorter than 13 such words, as they are in English.
- An element is what sets are made of: a word, or two neighbouring clusters; single characters are too few to tell texts apart.

Classes of characters are those of Unicode, by the package `regex`: sentence ends are UAX 29's `STerm` and `ATerm`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

# Blocks of scripts without spaces, of what they are read in, and of combining marks; a text without is known by one search.
_UNSPACED = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u2fdf\u3005-\u3007\u3021-\u3035\u3038-\u303c"
    "\u3041-\u309f\u30a1-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u4dbf\u4e00-\ua4cf\ua980-\ua9ff\uaa60-\uaadf"
    "\uf900-\ufaff\uff66-\uff9f\U00016fe0-\U0001b2ff\U00020000-\U0003ffff]"
)
_COMPLEX = re.compile(
    "[\u0300-\u036f\u0483-\u109f\u135d-\u135f\u1700-\u1cff\u1dc0-\u1dff\u20d0-\u20ff\u2cef-\u2cf1\u2d7f-\u312f\u3190-\uabff"
    "\uf900-\ufaff\ufb1e\ufe00-\ufe2f\uff66-\uff9f\U00010000-\U0001efff\U00020000-\U000e01ef]"
)
_RARE = re.compile("[\U00010000-\U0001efff]")  # scripts beyond the basic plane
_ASCII = re.compile(r"[\x00-\x7f]+")
_WORD = re.compile(r"[^\W_]+")
_FOLDED = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}

_WIDE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\p{Tangut}\p{Nushu}\u30fc\uff70]"
_FULL = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Yi}\u3001-\u303f\u30a0-\u30ff\uff01-\uffef]"
_DENSE_SCRIPTS = (
    r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}"
    r"\p{Balinese}]"
)
_DENSE = rf"[{_DENSE_SCRIPTS}&&\p{{L}}]"
_DENSE_PART = rf"[{_DENSE_SCRIPTS}&&[\p{{L}}\p{{M}}]]"
_STACKERS = r"[\u1039\u17d2\u1a60\u1b44\ua9c0]"  # the next letter is drawn below
_FINAL = r"[\u1000-\u1021]\u1037?\u103a\p{M}*"  # of a syllable of Burmese
_WIDE_CLUSTER = rf"(?:{_WIDE}[\p{{M}}\uff9e\uff9f]*)"
_DENSE_CLUSTER = rf"(?:[เ-ไເ-ໄ]?{_DENSE}\p{{M}}*(?:(?<={_STACKERS}){_DENSE}\p{{M}}*)*[ะาำๅະາຳ]?(?:{_FINAL})*)"
_MARK = r"[^\s\p{L}\p{M}\p{N}]"  # punctuation, symbols, and signs of no width
_OTHER = rf"(?:(?!{_WIDE}|{_DENSE})\S)"
_OPENING = r"[\p{Ps}\p{Pi}\"'¿¡]"
_CLOSING = r"[\p{Pe}\p{Pf}\"'\u201c]"
_END = r"[\p{SB=STerm}།༎༏༐༑༔๚๛\uff0e]"
_SHAD = "[།༎༏༐༑༔]"  # of Tibetan, where one with a space before it may follow another
_JOINED = r"[[\p{L}\p{N}\p{Mn}\p{Mc}]--\p{Variation_Selector}]"  # what goes on with a word
_PATTERNS = {
    "unit": (rf"{_MARK}*+(?:{_WIDE_CLUSTER}{{1,2}}|{_DENSE_CLUSTER}{{1,3}})[{_MARK}--[\p{{Ps}}\p{{Pi}}]]*+\s*|{_OTHER}+\s*"),
    "token": rf"{_WIDE}|{_DENSE_PART}|(?!{_WIDE}|{_DENSE})[\p{{L}}\p{{N}}](?:(?!{_WIDE}|{_DENSE_PART}){_JOINED})*",
    "wide": _WIDE,
    "run": rf"{_WIDE_CLUSTER}+|{_DENSE_CLUSTER}+",
    "cluster": rf"{_WIDE_CLUSTER}|{_DENSE_CLUSTER}",
    "grapheme": r"\X",
    # vowels and the like that most writers of Arabic and Hebrew leave out, and the stroke that lengthens a word
    "unwritten": r"[[\p{Arabic}\p{Hebrew}\u064b-\u0655\u0670]&&\p{Mn}]|\u0640|\p{Variation_Selector}",
    "wrapped": rf"(?<={_FULL})[^\S\n]*+\n\s*+(?={_FULL})",
    "identifier": r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+",
    "identifiers": r"\w+",
    "no_letter": r"[^\p{L}\p{M}]+",
    # nor arrows and the lines of drawings, which stand among words more often than tables of numbers
    "no_sign": r"[\s\p{Cf}\u0f0b\u0f0c\u1361\u2190-\u21ff\u2500-\u259f]+",
    "mark": rf"[{_END}\p{{SB=ATerm}};\u037e…]",  # what a sentence's end begins with
    "sentence": (
        r"[.!?][\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])"  # as English has it
        # other alphabets: not after a single letter, as initials are
        rf"|(?:(?<=[\p{{L}}\p{{M}}\p{{N}}]{{2}})\p{{SB=ATerm}}|(?<![!?])[!?]|(?<=\p{{Greek}})[;\u037e])[!?\p{{SB=ATerm}}]*+"
        rf"{_CLOSING}*+\s++"
        rf"(?={_OPENING}*[\p{{Lu}}\p{{Lt}}\p{{Lo}}\p{{Georgian}}])"
        rf"|(?<![!?…])(?:[!?]++|…{{2,}}+){_CLOSING}*+(?={_OPENING}*+{_WIDE})"
        # marks of their own end a sentence wherever they stand
        rf"|(?<!{_END})(?<!{_SHAD}\s)[!?]*+[{_END}--[!?]](?:{_END}++|\s++(?={_SHAD}))*+{_CLOSING}*+\s*+(?={_OPENING}*+[\p{{L}}\p{{N}}])"
        # Thai and Lao have none: a space stands between sentences and clauses
        r"|(?<=[\p{Thai}\p{Lao}])\s+(?=[\p{L}--[ๆໆ]])"
    ),
    "clause": rf"[\p{{Terminal_Punctuation}}…—]{_CLOSING}*\s*\Z",
}


@cache
def _pattern(name: str) -> Any:
    import regex

    return regex.compile(_PATTERNS[name], regex.V1)


def is_spaced(text: str) -> bool:
    """True where a text has no letter of a script without spaces."""
    return text.isascii() or _UNSPACED.search(text) is None


def is_complex(text: str) -> bool:
    """True where a text may have letters of a script without spaces, or marks that the standard library's words break at."""
    return not text.isascii() and _COMPLEX.search(text) is not None


def join_lines(text: str) -> str:
    """A text without the line breaks between two characters of Chinese or Japanese, where no space is meant."""
    if "\n" not in text or is_spaced(text):
        return text
    joined: str = _pattern("wrapped").sub("", text)
    return joined


def units(text: str) -> list[str]:
    """The units of a text, each with the spaces after it."""
    return _SPACED_UNIT.findall(text) if is_spaced(text) else _pattern("unit").findall(text)


_SPACED_UNIT = re.compile(r"\S+\s*")


def count_units(text: str) -> int:
    """The length of a text in units."""
    return len(text.split()) if is_spaced(text) else len(_pattern("unit").findall(text))


def graphemes(text: str) -> list[str]:
    """What a reader takes for one character each: letters with their marks, emoji with what modifies them."""
    found: list[str] = _pattern("grapheme").findall(text)
    return found


def sentences(text: str, after_spaces: bool = False) -> Iterator[str]:
    """The sentences of a text, each with the spaces after it; together they are the text.

    Args:
        after_spaces: only those count that a space follows, so that no word is cut.
    """
    start = 0
    for end in _LATIN_SENTENCE.finditer(text) if text.isascii() else _sentence_ends(text):
        if after_spaces and not text[end.end() - 1].isspace():
            continue
        yield text[start : end.end()]
        start = end.end()
    yield text[start:]


def _sentence_ends(text: str) -> Iterator[re.Match[str]]:
    sentence = _pattern("sentence")
    if not is_spaced(text) or _RARE.search(text):
        yield from sentence.finditer(text)
        return
    past = 0
    for mark in _sentence_marks().finditer(text):  # a seventh of the time that the search itself takes
        if mark.start() >= past and (end := sentence.match(text, mark.start())):
            past = end.end()
            yield end


@cache
def _sentence_marks() -> re.Pattern[str]:
    marks = _pattern("mark").findall("".join(map(chr, range(0x10000))))  # `re` finds none so fast among further ones
    return re.compile(f"[{re.escape(''.join(marks))}]")


_LATIN_SENTENCE = re.compile(r"[.!?][\"')\]]?\s+(?=[\"'(\[]?[A-Z0-9])")


def ends_clause(unit: str) -> bool:
    """True where a unit ends with a comma, a colon or the like of any script."""
    return _pattern("clause").search(unit[-4:]) is not None  # a mark, a closing quote and a bracket, a space


def tokens(text: str) -> list[str]:
    """The tokens of a text in order, without case, punctuation, compatibility forms, and vowels that few write."""
    if text.isascii():  # a third of the expression's time
        return text.translate(_FOLDED).split()
    folded = unicodedata.normalize("NFKC", text).casefold()
    if _COMPLEX.search(folded) is None:
        return _WORD.findall(folded)
    found: list[str] = _pattern("token").findall(_pattern("unwritten").sub("", folded))
    return found


def characters(text: str) -> str:
    """The characters of a text without spaces between its words, case and compatibility forms aside, one space for several;
    nothing of any other text.
    """
    if is_spaced(text) or 2 * len(_UNSPACED.findall(text)) < len("".join(text.split())):
        return ""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


WORD_WEIGHT = 30  # of a token that is a word


def weights(found: list[str]) -> list[int]:
    """The weight of each token, of which WORD_WEIGHT make a word."""
    return [
        WORD_WEIGHT if token.isascii() or _UNSPACED.match(token) is None else 20 if _pattern("wide").match(token) else 10
        for token in found
    ]


def elements(text: str) -> set[str]:
    """The words of a text between spaces, and pairs of neighbouring clusters where it has none."""
    if is_spaced(text):
        return set(text.split())
    runs = _pattern("run")
    found = {word for word in runs.sub(" ", text).split() if any(map(str.isalnum, word))}
    for run in runs.findall(text):
        clusters = _pattern("cluster").findall(run)
        found.update(map("".join, pairwise(clusters)) if len(clusters) > 1 else clusters)
    return found


def identifiers(text: str) -> list[str]:
    """The runs of letters, marks, digits and underscores."""
    found: list[str] = _pattern("identifiers").findall(text)
    return found


def identifier_words(identifier: str) -> list[str]:
    """The elements of an identifier, split at case and underscores, lower-cased."""
    parts = _pattern("identifier").findall(identifier)
    return sorted({element for part in parts for element in elements(part.lower())})


def letters_beyond_ascii(text: str) -> tuple[int, int]:
    """How many characters beyond ASCII are letters or marks of them, and how many count at all: no spaces, no lines."""
    others = _ASCII.sub("", text)  # in most texts a hundredth, which the slower expressions see alone
    return len(_pattern("no_letter").sub("", others)), len(_pattern("no_sign").sub("", others))

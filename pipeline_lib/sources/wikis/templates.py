"""Templates that are shown: the few that hold words of the sentence that they stand in. All others are left out and counted.

Rendered, by the names of the English Wikipedia and the commonest ones of others:

- a language: `lang`, `lang-xx`, `langx`, `langue`, `transl`, `nihongo`: the words, without the language's name
- a quotation: `quote`, `blockquote`, `zitat`, `citat` and the like: a paragraph of its own, without its author
- a measure: `convert`, `cvt`, `unité`, `unidad`: number and unit as they are written, not converted
- words in a style or with a note: `nowrap`, `small`, `abbr`, `sic`, `ill` and the like: the words
- single characters: `ndash`, `snd`, `nbsp`, `'`, `!`; fractions; the page's name; `formatnum:`, `lc:`, `uc:`
- `{{{parameter|default}}}` shows its default, `{{#if:x|a|b}}` a or b by x
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from pipeline_lib.sources.wikis.names import folded

_LANGUAGE = "lang langue langx language llang vjazyce2 cizojazyčně språk dil שפה".split()
_TRANSCRIBED = "transl transliteration tlit translit rtl-lang".split()
_QUOTES = """quote blockquote quotation cquote rquote bquote block_quote poemquote zitat citat citation_bloc cita
citazione citação citaat cytat цитата citát sitaatti sitat idézet alıntı παράθεμα 인용문 اقتباس ציטוט""".split()
_MEASURES = "convert cvt unité unidad unit".split()
_STYLED = """nowrap nobr nobreak small smaller big larger abbr tooltip em strong sic ill interlanguage_link link-interwiki
vanchor visible_anchor anchored_text angbr mono kbd var math mvar tt serif sc smallcaps small_caps sup sub linktext as_written
not_a_typo underline strikethrough no_italic noitalic nihongo_foot 仮リンク le tsl ilh""".split()
_CHARACTERS = {
    "!": "|", "=": "=", "'": "'", "'s": "'s", "ndash": "–", "–": "–", "mdash": "—", "—": "—", "emdash": "—", "snd": " – ",
    "spnd": " – ", "spaced ndash": " – ", "nbsp": " ", "space": " ", "spaces": " ", "·": " · ", "dot": " · ", "•": " • ",
    "bull": " • ", "ellipsis": "...", "...": "...", "wbr": "", "shy": "", "zwj": "", "zwnj": "\u200c",
}  # fmt: skip
_NAMES_OF_PAGE = frozenset({"pagename", "fullpagename", "basepagename", "subpagename"})
_NAMED = re.compile(r"\s*([^=\[\]{}<>\n|]{1,40}?)\s*=")
_NUMBER = re.compile(r"[-+−]?\d[\d.,  /]*\s*")
_RANGES = {
    "-": "–",
    "–": "–",
    "to": " to ",
    "and": " and ",
    "or": " or ",
    "x": " × ",
    "×": " × ",
    "by": " by ",
    "+/-": " ± ",
    "±": " ± ",
}


class Arguments:
    """Arguments of a template: those with a name by it, the others by their number from 1."""

    def __init__(self, parts: Sequence[str]) -> None:
        self.named: dict[str, str] = {}
        number = 0
        for part in parts:
            name = _NAMED.match(part)
            if name is None:
                number += 1
            self.named[name.group(1).casefold() if name else str(number)] = part[name.end() :].strip() if name else part.strip()

    def first(self, *names: str) -> str:
        """The first of these that is given and not empty."""
        return next((value for name in names if (value := self.named.get(name))), "")

    def numbered(self) -> list[str]:
        """Those with numbers, from 1 to the first gap."""
        found: list[str] = []
        while (value := self.named.get(str(len(found) + 1))) is not None:
            found.append(value)
        return found


def _last(given: Arguments) -> str:
    return next((value for value in reversed(given.numbered()) if value), "")


def _quote(given: Arguments) -> str:
    text = given.first("text", "quote", "content", "1", "citat", "zitat", "texte", "texto", "testo", "treść", "tekst")
    return f"\n\n{text}\n\n" if text else ""


def _measure(given: Arguments) -> str:
    """The numbers with what joins them and their units: 5 km; 5 ft 6 in; 10–20 km."""
    shown, values = "", given.numbered()
    for at, value in enumerate(values):
        number = _NUMBER.fullmatch(value) is not None
        if number and at and _NUMBER.fullmatch(values[at - 1]):
            break  # the precision
        if number:
            shown += value
        elif (joint := _RANGES.get(value)) is not None:
            shown += joint
        else:
            shown += f" {value}"
            if at + 2 >= len(values) or not _NUMBER.fullmatch(values[at + 1]) or _NUMBER.fullmatch(values[at + 2]):
                break  # the units that it is converted to
            shown += " "
    return shown


def _fraction(given: Arguments) -> str:
    values = given.numbered()
    whole, parts = (values[0] + " ", values[1:]) if len(values) > 2 else ("", values)
    return whole + "/".join(["1", *parts] if len(parts) == 1 else parts)


def _nihongo(given: Arguments) -> str:
    noted = ", ".join(filter(None, (given.first("2"), given.first("3"))))
    return f"{given.first('1')} ({noted})" if given.first("1") and noted else given.first("1") or noted


Show = Callable[[Sequence[str], str], str]

_SHOWN: Mapping[str, Callable[[Arguments], str]] = {
    **dict.fromkeys(_LANGUAGE, lambda given: given.first("2", "text")),
    **dict.fromkeys(_TRANSCRIBED, _last),
    **dict.fromkeys([name.replace("_", " ") for name in _QUOTES], _quote),
    **dict.fromkeys(_MEASURES, _measure),
    **dict.fromkeys([name.replace("_", " ") for name in _STYLED], lambda given: given.first("1", "text")),
    **dict.fromkeys(("frac", "fraction", "sfrac", "bruch"), _fraction),
    **dict.fromkeys(("circa", "c.", "ca", "ca."), lambda given: f"c. {given.first('1')}".strip()),
    "val": lambda given: " ".join(filter(None, (given.first("1"), given.first("u", "ul")))),
    "nihongo": _nihongo,
}
_OF_LETTERS: Mapping[str, Callable[[str], str]] = {
    "formatnum": str,
    "lc": str.lower,
    "uc": str.upper,
    "lcfirst": lambda text: text[:1].lower() + text[1:],
    "ucfirst": lambda text: text[:1].upper() + text[1:],
}


def shown_by(name: str) -> Show | None:
    """What makes a reader's view of a template, from its arguments and its page's title; None where it is left out.

    Args:
        name: without the namespace of templates.
    """
    key = folded(name)
    if (show := _SHOWN.get(key)) is not None:
        return lambda parts, _: show(Arguments(parts))
    if (character := _CHARACTERS.get(key)) is not None:
        return lambda _, __: character
    if key.startswith("lang-"):
        return lambda parts, _: Arguments(parts).first("1", "text")
    if key in _NAMES_OF_PAGE:
        return lambda _, title: title
    function, colon, value = name.partition(":")
    function = folded(function) if colon else ""
    if function == "#if":
        return lambda parts, _: "".join(parts[:1] if value.strip() else parts[1:2]).strip()
    change = _OF_LETTERS.get(function)
    return None if change is None else lambda _, __: change(value.strip())

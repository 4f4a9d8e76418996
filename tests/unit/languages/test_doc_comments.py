"""Documentation of all languages in the ways that people write it: x is its first paragraph of prose, without marks."""

from __future__ import annotations

import time

import pytest
from unit.languages.documented import WANTED, block, slashes, x_of

from pipeline_lib.languages.go import go_prose
from pipeline_lib.languages.java import java_prose
from pipeline_lib.languages.python import without_epytext
from pipeline_lib.languages.ruby import ruby_prose

JAVA = {
    slashes(WANTED): WANTED,
    slashes("Reads a date", "from text."): WANTED,
    slashes(WANTED, "", "@param a the text"): WANTED,
    slashes(WANTED, "@return a date"): WANTED,
    slashes("Reads a **date** from _text_."): WANTED,
    slashes("Reads a `date` from text."): WANTED,
    slashes("Reads [a date][java.time.LocalDate] from text."): WANTED,
    slashes("Reads like [LocalDate#parse(CharSequence)] does."): "Reads like LocalDate.parse(CharSequence) does.",
    slashes("Reads [#rows] and `[x]` of it."): "Reads rows and [x] of it.",
    slashes("Reads [a date](https://example.org/date) from text."): WANTED,
    slashes("# Dates", "", WANTED): WANTED,
    slashes(WANTED, "", "```java", "int a = 1;", "```"): WANTED,
    slashes("Reads a {@code date} from {@link String text}."): WANTED,
    slashes("An old one.") + "\n//\n" + slashes(WANTED): WANTED,
    block("An old one.") + "\n" + slashes(WANTED): WANTED,
    slashes("An old one.") + "\n" + block(WANTED): WANTED,
    slashes(WANTED) + "\n@Deprecated": WANTED,
    slashes(WANTED) + "\n// a remark": WANTED,
    slashes("Titles of what follows.") + "\n// a remark\n": "",
    "//////////\n" + slashes(WANTED): WANTED,
    slashes("Dates and times of day") + "\n": "",
    "// no documentation": "",
    block("Reads a {@code Map<K, List<V>>} of rows."): "Reads a Map<K, List<V>> of rows.",
    block("Reads {@literal a &lt; b} of rows."): "Reads a &lt; b of rows.",
    block("Reads {@link java.util.Map<String, List<A>>#get the value} of it."): "Reads the value of it.",
    block("Reads {@link java.util.List#of(int, Object[])} again."): "Reads java.util.List.of(int, Object[]) again.",
    block("Reads {@linkplain #rows() all rows} of it."): "Reads all rows of it.",
    block("{@return a date of the {@code text}}"): "Returns a date of the text.",
    block("{@summary Reads a date from text.} And more."): WANTED + " And more.",
    block("{@inheritDoc}"): "",
    block("{@inheritDoc}", "", "@param a the text"): "",
    block(WANTED, "<p>And more.</p>"): WANTED,
    block("Reads a&nbsp;date from <em>text</em>."): WANTED,
    block(WANTED, "<pre>{@code", "  if (a) { b(); }", "}</pre>"): WANTED,
    block(WANTED, "{@snippet :", "  int a = 1;", "}"): WANTED,
    block("Reads {@value #MOST} rows of it."): "Reads #MOST rows of it.",
    block("Reads a date <!-- or a time --> from text."): WANTED,
    block('Reads {@index "a date" of a year} from text.'): WANTED,
}
JAVASCRIPT = {
    block("@summary " + WANTED): WANTED,
    block("@description " + WANTED): WANTED,
    block("@desc", WANTED): WANTED,
    block("@name parse", "@category Dates", "@summary " + WANTED, "", "@description", "More of it."): WANTED,
    block("@param {string} a - the text", "@description " + WANTED): WANTED,
    block("@returns {Date}", "@summary Reads a date", "from text.", "@since 1.0"): WANTED,
    block("@example", "parse('a')", "", "@desc " + WANTED): WANTED,
    block("@async", "@function parse", "@desc " + WANTED, "@param a"): WANTED,
    block(WANTED, "@param {string} a", "@description More of it."): WANTED,
    block("@summary Reads a date from text.", "@description More of it."): WANTED,
    block("@param a", "@summaryless nothing"): "",
    block("@class", "@classdesc " + WANTED): WANTED,
    block("Works like [`gather`]{@link module:Rows.gather} but keeps rows."): "Works like gather but keeps rows.",
    block("Works like {@link module:Rows.gather} but keeps rows."): "Works like Rows.gather but keeps rows.",
    block("Works like {@link module:Rows~gather|gather} but keeps rows."): "Works like gather but keeps rows.",
    block("Works like {@link gather the other one} but keeps rows."): "Works like the other one but keeps rows.",
    block("Works like {@linkcode Rows#gather} but keeps rows."): "Works like Rows.gather but keeps rows.",
    block("See {@link https://example.org/#a} for what it is."): "See https://example.org/#a for what it is.",
    block("See [the {long} guide]{@tutorial guide} on dates."): "See the {long} guide on dates.",
    block("See {@tutorial guide} on dates."): "See guide on dates.",
    block("Reads {@code {a: {b: 1}}} of it."): "Reads {a: {b: 1}} of it.",
    block("Reads [a date](https://example.org) from text."): WANTED,
    block("{@inheritDoc}", "@override"): "",
    block("@inheritDoc"): "",
    block("@file Dates of all kinds."): "",
    block("@module dates", "@description Dates of all kinds."): "",
    block("@typedef {Object} Row", "@description One row of it."): "",
    block("Reads me@example.org and @rest of it."): "Reads me@example.org and @rest of it.",
    block(WANTED) + "\n// eslint-disable-next-line no-console": WANTED,
    "/** " + WANTED + " */": WANTED,
    "/** @summary " + WANTED + " */": WANTED,
    "/*** " + WANTED + " ***/": WANTED,
    "/** " + WANTED + "\n    @param a */": WANTED,
}
PHP = {
    block(WANTED, "", "@param string $a"): WANTED,
    block("Reads a {@see Date} from text."): "Reads a Date from text.",
    block("Reads {@see Date::of() a date} from text."): WANTED,
    block("Reads {@link https://example.org a date} from text."): WANTED,
    block("Reads {@link https://example.org} first."): "Reads https://example.org first.",
    block("Reads a date{@internal of {@link Date} only}} from text."): WANTED,
    block("{@inheritdoc}"): "",
    block("{@inheritDoc}", "@return int"): "",
    block("@inheritdoc"): "",
    block("@since 1.0", "@deprecated Use another one."): "",
    block(WANTED, "", "{@example samples/date.php}"): WANTED,
    block("Reads <code>a date</code> from text."): WANTED,
    block(WANTED, "<ul><li>one</li></ul>"): WANTED,
    block("@api", "@summary " + WANTED): WANTED,
    block("Reads a date from text. {@source 2 1}"): WANTED,
    "/**#@+\n * @access private\n */": "",
    block(WANTED) + "\n#[Pure]": WANTED,
    "#[Pure]\n" + block(WANTED): WANTED,
    block("An old one.") + "\n#[Pure]\n" + block(WANTED) + "\n// a remark": WANTED,
    block(WANTED) + "\n#[Pure]\n// a remark": WANTED,
    "#[Pure(/** no documentation */ 1)]": "",
    block(WANTED) + "\n// phpcs:ignore": WANTED,
    block(WANTED, "@param array $a {", "    @type int $b", "}"): WANTED,
    block("Reads \\Vendor\\Date from text."): "Reads \\Vendor\\Date from text.",
    "# " + WANTED: "",
    "/* " + WANTED + " */": "",
}
GO = {
    slashes(WANTED, mark="//"): WANTED,
    slashes("parse reads a [Date] from [text.Reader].", mark="//"): "parse reads a Date from text.Reader.",
    slashes("parse reads a [*Date] by [Date.Parse].", mark="//"): "parse reads a Date by Date.Parse.",
    slashes("parse reads m[key] and x[1][2].", mark="//"): "parse reads m[key] and x[1]2.",
    slashes(
        "parse follows [RFC 7159] in all.", "", "[RFC 7159]: https://example.org", mark="//"
    ): "parse follows RFC 7159 in all.",
    slashes("[RFC 7159]: https://example.org", "", "parse follows [RFC 7159].", mark="//"): "parse follows RFC 7159.",
    slashes("# Dates", "", WANTED, mark="//"): WANTED,
    slashes(WANTED, "", "# Dates", "", "More of it.", mark="//"): WANTED,
    slashes(WANTED, "", "Deprecated: use another one.", mark="//"): WANTED,
    slashes("Deprecated: use another one.", "", WANTED, mark="//"): WANTED,
    slashes("Deprecated: use another one.", mark="//"): "Deprecated: use another one.",
    slashes(WANTED, mark="//") + "\n//go:noinline": WANTED,
    slashes(WANTED, mark="//") + "\n//nolint:all": WANTED,
    slashes(WANTED, mark="//") + "\n": "",
    "/*\n" + WANTED + "\n*/": WANTED,
    "/* " + WANTED + " */": WANTED,
    "// old\n\n" + slashes(WANTED, mark="//"): WANTED,
    "var a = 1 // one\n" + slashes(WANTED, mark="//"): WANTED,
    slashes(WANTED, "", "\tcode()", mark="//"): WANTED,
    slashes("Reads a date", "from text.", mark="//"): WANTED,
    slashes("C# is none of it.", mark="//"): "C# is none of it.",
    "//" + WANTED: WANTED,
}
RUBY = {
    slashes(WANTED, mark="#"): WANTED,
    slashes("= Dates", WANTED, mark="#"): WANTED,
    slashes("== Dates", "", WANTED, mark="#"): WANTED,
    slashes("=Dates", WANTED, mark="#"): WANTED,
    slashes("= Dates of all kinds", mark="#"): "Dates of all kinds",
    slashes("# Dates", "", WANTED, mark="#"): WANTED,
    slashes(WANTED, "== Example", "parse(1)", mark="#"): WANTED,
    slashes(":call-seq:", "  parse(a) -> date", "  parse(a, b) -> date", "", WANTED, mark="#"): WANTED,
    slashes("call-seq: parse(a)", "", WANTED, mark="#"): WANTED,
    slashes(":nodoc:", mark="#"): "",
    slashes(":nodoc: all", mark="#"): "",
    slashes(":category: Dates", WANTED, mark="#"): WANTED,
    slashes(":method: parse", WANTED, mark="#"): WANTED,
    slashes("Public: " + WANTED, mark="#"): WANTED,
    slashes("Internal: Reads a date", "from text.", "", "a - The String.", "", "Returns a Date.", mark="#"): WANTED,
    slashes("Public: " + WANTED, "Returns a Date.", mark="#"): WANTED,
    slashes("Public: " + WANTED, "a - The String to read.", mark="#"): WANTED,
    slashes("Private: " + WANTED, "", "Examples", "", "  parse(1)", mark="#"): WANTED,
    slashes("Deprecated: " + WANTED, mark="#"): WANTED,
    slashes("Note: " + WANTED, mark="#"): "Note: " + WANTED,
    slashes(WANTED, "", "@param a [String] the text", "@return [Date]", mark="#"): WANTED,
    slashes(WANTED, "@api private", mark="#"): WANTED,
    slashes("@return [Date]", mark="#"): "",
    slashes("@api private", WANTED, mark="#"): WANTED,
    slashes("@param a [String] the text", "  and more of it", "", "  and more", WANTED, "@return [Date]", mark="#"): WANTED,
    slashes("@deprecated Use another one.", "", "Reads a date", "from text.", mark="#"): WANTED,
    slashes(WANTED, mark="#") + "\nsig { params(a: T::Hash[Symbol, {b: Integer}]).returns(Date) }": WANTED,
    slashes(WANTED, mark="#") + "\nsig(:final) do\n  params(\n    a: Integer,\n  ).returns(Date)\nend\n": WANTED,
    "# old\nsig { void }\n" + slashes(WANTED, mark="#"): WANTED,
    slashes(WANTED, mark="#") + "\nother { 1 }": "",
    slashes(": (String) -> Date", WANTED, mark="#"): WANTED,
    slashes("Reads a {Date} from {String#to_s text}.", mark="#"): "Reads a Date from text.",
    slashes("Reads +a+ *date* from <tt>text</tt>.", mark="#"): WANTED,
    slashes("Reads {a date}[https://example.org] from text.", mark="#"): WANTED,
    slashes("Reads a date from text.", "--", "Nobody sees this.", "++", mark="#"): WANTED,
    "#--\n# hidden\n#++\n" + slashes(WANTED, mark="#"): WANTED,
    "##\n" + slashes(WANTED, mark="#"): WANTED,
    "=begin\n" + WANTED + "\n=end": WANTED,
    "# rubocop:disable Metrics\n" + slashes(WANTED, mark="#"): WANTED,
    "# frozen_string_literal: true\n\n" + slashes(WANTED, mark="#"): WANTED,
    slashes("Reads @size rows of it.", mark="#"): "Reads @size rows of it.",
}
PYTHON = {
    WANTED: WANTED,
    "Reads L{a date<datetime.date>} from text.": WANTED,
    "Reads a L{date} from C{text}.": WANTED,
    "Reads a B{I{date}} from text.": WANTED,
    "Reads U{a date<https://example.org/>} from text.": WANTED,
    "Reads C{{'a': 1}} of it.": "Reads {'a': 1} of it.",
    "Reads E{lb}aE{rb} of it.": "Reads {a} of it.",
    "Reads X{a date} from text.": WANTED,
    WANTED + "\n    @param a: the text": WANTED,
    WANTED + "\n    @type a: C{str}\n    @rtype: date": WANTED,
    WANTED + "\n    @keyword a: the text": WANTED,
    WANTED + "\n    @ivar a: the text": WANTED,
    WANTED + "\n    @note: more of it": WANTED,
    WANTED + "\n    @raises ValueError: it is none": WANTED,
    WANTED + "\n    :param a: the text": WANTED,
    WANTED + "\n    Args:\n        a: the text": WANTED,
    WANTED + "\n    Parameters\n    ----------\n    a : str": WANTED,
    WANTED + "\n    >>> parse(1)": WANTED,
    WANTED + "\n    .. note:: more of it": WANTED,
    "Reads a :class:`~datetime.date` from text.": "Reads a datetime.date from text.",
    "Reads me@example.org: all of it.": "Reads me@example.org: all of it.",
    "Reads DATA{x} and f{y} of it.": "Reads DATA{x} and f{y} of it.",
    "@param a: the text": "",
}
CASES = {"java": JAVA, "javascript": JAVASCRIPT, "php": PHP, "go": GO, "ruby": RUBY, "python": PYTHON}


@pytest.mark.parametrize(
    ("language", "doc", "wanted"), [(language, *case) for language, cases in CASES.items() for case in cases.items()]
)
def test_first_paragraph(language: str, doc: str, wanted: str) -> None:
    assert x_of(language, doc) == wanted


def test_there_are_twenty_cases_of_each_language() -> None:
    assert all(len(cases) >= 20 for cases in CASES.values())


@pytest.mark.parametrize("unit", ["<!--", "{@internal ", "`", "[a]{@link ", "\n= A", "# a\n", "\n--", "L{", "*a ", "\n@desc x"])
def test_comments_made_to_be_hard_take_no_square_of_their_length(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    start = time.process_time()
    for clean, mark in ((java_prose, "/// "), (java_prose, "/** "), (ruby_prose, "# "), (go_prose, "// ")):
        clean([mark + text])
    without_epytext(text)
    assert time.process_time() - start < 10  # a square takes minutes

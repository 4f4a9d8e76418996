"""Documentation of the further languages in the ways that people write it: x is its first paragraph of prose, without marks."""

from __future__ import annotations

import time

import pytest
from unit.languages.documented import WANTED, block, slashes, x_of

from pipeline_lib.languages import language_called, language_names, languages_by_suffix
from pipeline_lib.languages.c import doxygen_prose, header_language
from pipeline_lib.languages.csharp import xml_prose
from pipeline_lib.languages.kotlin import kdoc_prose
from pipeline_lib.languages.rust import rust_prose
from pipeline_lib.languages.scala import scaladoc_prose
from pipeline_lib.languages.swift import swift_prose
from pipeline_lib.sources.source_file import form_of

C = {
    block(WANTED): WANTED,
    block(WANTED, mark="/*!"): WANTED,
    slashes(WANTED): WANTED,
    slashes(WANTED, mark="//!"): WANTED,
    slashes("Reads a date", "from text.", "", "More of it."): WANTED,
    block("\\brief " + WANTED): WANTED,
    block("@brief " + WANTED, "@param a the text"): WANTED,
    block("@param a the text", "@brief " + WANTED): WANTED,
    block("@param a the text,", "  and more of it", "", WANTED): WANTED,
    block("@brief Reads a date", "from text.", "@return it"): WANTED,
    block("@ingroup dates", WANTED): WANTED,
    block("@fn int parse(int a)", "@brief " + WANTED): WANTED,
    block("Reads a \\c date from \\p text."): WANTED,
    block('Reads \\ref parse_date "a date" from text.'): WANTED,
    block("Reads a <tt>date</tt> from <b>text</b>."): WANTED,
    block("@code", "parse(1);", "@endcode", WANTED): WANTED,
    block("parse() - Reads a date from text.", "@a: the text", "", "Return: it"): WANTED,
    block("parse - Reads a date from text.", "@a: the text"): WANTED,
    block("@file Dates of all kinds."): "",
    block("@copydoc other()"): "",
    "/* " + WANTED + " */": WANTED,
    slashes(WANTED, mark="//"): WANTED,
    "/* " + WANTED + " */\n": "",
    slashes("Copyright 2026 by nobody.", mark="//"): "",
    "/* SPDX-License-Identifier: MIT */": "",
    slashes("TODO: read a date from text.", mark="//"): "",
    "// clang-format off": "",
    "// a = parse(b);": "",
    "//////////\n" + slashes(WANTED): WANTED,
    "/*****************\n * " + WANTED + "\n *****************/": WANTED,
    "/* ====== dates ====== */": "",
    slashes(WANTED) + "\n// a remark": WANTED,
    block("Reads %Date and me@example.org of it."): "Reads Date and me@example.org of it.",
    block("parse:", "@a: the text", "", WANTED, "", "Returns: (transfer full): it"): WANTED,
    block("g_date_parse: (skip)", "@a: (nullable): the text", "  and more", "", WANTED): WANTED,
    block("parse()", "", WANTED): WANTED,
    "/*\n * parse\n *\n * " + WANTED + "\n */": WANTED,
    "/*****\n ** Reads a date   **\n ** from text.     **\n *****/": WANTED,
    block("Reads a char *", "of it."): "Reads a char * of it.",
    block("Reads a map<a,b> and a <b>date</b>."): "Reads a map<a,b> and a date.",
    "int b; /**< how many */": "",
    "int b; ///< how many": "",
    "int b; // how many there are": "",
}
CSHARP = {
    slashes("<summary>" + WANTED + "</summary>"): WANTED,
    slashes("<summary>", WANTED, "</summary>", '<param name="a">the text</param>'): WANTED,
    slashes("<summary>", "Reads a date", "from text.", "</summary>"): WANTED,
    "/** <summary>" + WANTED + "</summary> */": WANTED,
    block("<summary>" + WANTED + "</summary>"): WANTED,
    slashes(WANTED): WANTED,
    slashes('<summary>Reads a <see cref="Date"/> of it.</summary>'): "Reads a Date of it.",
    slashes('<summary>Reads a <see cref="T:System.Date">date</see> from text.</summary>'): WANTED,
    slashes('<summary>Reads <see cref="M:A.Of(System.Int32)"/> of it.</summary>'): "Reads A.Of(System.Int32) of it.",
    slashes('<summary>Reads <see cref="List{T}"/> of <typeparamref name="T"/>.</summary>'): "Reads List of T.",
    slashes('<summary>Reads <paramref name="a"/> or <see langword="null"/>.</summary>'): "Reads a or null.",
    slashes("<summary>Reads <c>List&lt;int&gt;</c> of it.</summary>"): "Reads List<int> of it.",
    slashes("<summary><para>" + WANTED + "</para><para>More of it.</para></summary>"): WANTED,
    slashes("<summary>" + WANTED + "<code>", "parse(1);", "</code></summary>"): WANTED,
    slashes("<inheritdoc/>"): "",
    slashes('<inheritdoc cref="Other"/>'): "",
    slashes('<param name="a">the text</param>'): "",
    slashes("<returns>a date</returns>", "<summary>" + WANTED + "</summary>"): WANTED,
    slashes("<remarks>More of it.</remarks>", "<summary>" + WANTED + "</summary>"): WANTED,
    slashes("<summary>" + WANTED): WANTED,
    slashes("<summary>" + WANTED + "</summary>") + "\n[Pure]": WANTED,
    slashes("<summary>" + WANTED + "</summary>") + '\n[Pure, Obsolete("]")]\n// a remark': WANTED,
    slashes("<summary>" + WANTED + "</summary>") + "\n#region dates": WANTED,
    slashes("<summary><![CDATA[Reads a List<int> & more.]]></summary>"): "Reads a List<int> & more.",
    slashes("<summary>" + WANTED, '<param name="a">the text</param>'): WANTED,
    slashes("<summary>" + WANTED, "<returns>it</returns>", "</summary>"): WANTED,
    slashes('<summary>Reads <paramref name="a"/>, a <para>date</para></summary>'): "Reads a, a",
    slashes(WANTED, mark="//"): "",
    "//// " + WANTED: "",
}
RUST = {
    slashes(WANTED): WANTED,
    slashes(" Reads a date", "from text.", "", "# Examples", "", "```", "parse();", "```"): WANTED,
    block(WANTED): WANTED,
    "/** " + WANTED + " */": WANTED,
    f'#[doc = "{WANTED}"]': WANTED,
    f'#[doc = r#"{WANTED}"#]': WANTED,
    '#[doc = "Reads a \\"date\\" from text."]': 'Reads a "date" from text.',
    '#[doc = "Reads a date\\n\\tfrom te\\x78t\\u{2e}\\n\\nMore."]': WANTED,
    '#[doc = "Reads \\u{d800}a\\u{110000} \\u{ffffffff}date."]': "Reads a date.",
    slashes("Dates", "=====", "", WANTED): WANTED,
    slashes("Dates of all kinds", "------------------", WANTED): WANTED,
    slashes("---", WANTED, "---", "More."): WANTED,
    slashes("Reads a HashMap<i, b> of it."): "Reads a HashMap<i, b> of it.",
    "/// Reads a\n#[inline]\n/// date from text.": WANTED,
    "#[inline]\n" + slashes(WANTED): WANTED,
    slashes(WANTED) + "\n#[cfg(any(unix, windows))]\n#[must_use]": WANTED,
    slashes(WANTED) + "\n// a remark": WANTED,
    slashes(WANTED) + "\n#[inline] // a remark": WANTED,
    slashes(WANTED) + "\n": WANTED,
    slashes("Reads a [`Date`] of it."): "Reads a Date of it.",
    slashes("Reads [a date](crate::Date) from text."): WANTED,
    slashes("Reads [a date][date] from text.", "", "[date]: crate::Date"): WANTED,
    slashes("[date]: crate::Date", "", WANTED): WANTED,
    slashes("Reads a **date** from _text_."): WANTED,
    slashes("# Dates", "", WANTED): WANTED,
    slashes("Reads `a[0]` and b[1] of it."): "Reads a[0] and b[1] of it.",
    slashes("Reads <b>a</b> Vec<u8> of it."): "Reads a Vec<u8> of it.",
    '#[doc = include_str!("a.md")]': "",
    "#[doc(hidden)]": "",
    slashes(WANTED, mark="//"): "",
    "//// " + WANTED: "",
    "/* " + WANTED + " */": "",
    "/*** " + WANTED + " */": "",
}
KOTLIN = {
    block(WANTED): WANTED,
    "/** " + WANTED + " */": WANTED,
    block(WANTED, "", "@param a the text"): WANTED,
    block(WANTED, "@return it"): WANTED,
    block("Reads a date", "from text."): WANTED,
    block("Reads a [Date] of it."): "Reads a Date of it.",
    block("Reads [a date][java.time.LocalDate.of] from text."): WANTED,
    block("Reads [a date](https://example.org) from text."): WANTED,
    block("Reads a `date` from **text**."): WANTED,
    block("# Dates", "", WANTED): WANTED,
    block("```", "parse(1)", "```", "", WANTED): WANTED,
    block(WANTED, "", "```kotlin", "parse(1)", "```"): WANTED,
    block(WANTED) + "\n@Pure": WANTED,
    block(WANTED) + "\ncontext(Clock, a: Zone)": WANTED,
    block(WANTED) + '\n@Pure(a = "(", b = [1])\n@JvmStatic': WANTED,
    block(WANTED) + "\n// a remark": WANTED,
    block(WANTED) + "\n": WANTED,
    block("An old one.") + "\n" + block(WANTED): WANTED,
    block("@suppress"): "",
    block("@param a the text"): "",
    slashes(WANTED, mark="//"): "",
    "/* " + WANTED + " */": "",
    block("@since 1.0", "@see other"): "",
}
SWIFT = {
    slashes(WANTED): WANTED,
    block(WANTED): WANTED,
    "/** " + WANTED + " */": WANTED,
    "/**\n   " + WANTED + "\n\n   - Parameter a: the text\n   */": WANTED,
    slashes("Reads a date", "from text."): WANTED,
    slashes(WANTED, "- Parameter a: the text"): WANTED,
    slashes(WANTED, "- Parameters:", "  - a: the text", "- Returns: it"): WANTED,
    slashes(WANTED, "", "- Throws: an error"): WANTED,
    slashes(WANTED, "- throws: an error"): WANTED,
    slashes(WANTED, "* Returns: it"): WANTED,
    slashes("- Note: It is old.", "", WANTED): WANTED,
    slashes("Reads a ``Date`` of it."): "Reads a Date of it.",
    slashes("Reads ``Date/of(_:)`` of it."): "Reads Date.of(_:) of it.",
    slashes("Reads [a date](https://example.org) from text."): WANTED,
    slashes("Reads a *date* from `text`."): WANTED,
    slashes("# Dates", "", WANTED): WANTED,
    slashes(WANTED, "", "```swift", "parse()", "```"): WANTED,
    slashes(WANTED) + "\n@discardableResult": WANTED,
    slashes(WANTED) + '\n@available(iOS 13, *, message: "(")\n@objc': WANTED,
    slashes(WANTED) + "\n// a remark": WANTED,
    slashes("An old one.") + "\n" + block(WANTED): WANTED,
    "// MARK: - Dates of all kinds": "",
    slashes(WANTED, mark="//"): "",
    "/* " + WANTED + " */": "",
}
SCALA = {
    block(WANTED): WANTED,
    "/** " + WANTED + " */": WANTED,
    "/** Reads a date\n  * from text.\n  *\n  * @param a the text\n  */": WANTED,
    block(WANTED, "@return it"): WANTED,
    block("Reads a [[Date]] of it."): "Reads a Date of it.",
    block("Reads [[java.time.LocalDate a date]] from text."): WANTED,
    block("Reads a '''date''' from ''text''."): WANTED,
    block("Reads a `date` from __text__."): WANTED,
    block("Reads x^2^ and a,,1,, of it."): "Reads x^2^ and a,,1,, of it.",
    block("= Dates =", "", WANTED): WANTED,
    block(WANTED, "{{{", "parse(1)", "}}}"): WANTED,
    block("{{{", "parse(1)", "}}}", WANTED): WANTED,
    block(WANTED, "", "```", "parse(1)", "```"): WANTED,
    block(WANTED) + "\n@inline": WANTED,
    block(WANTED) + '\n@deprecated("use another", "1.0")\n@tailrec': WANTED,
    block(WANTED) + "\n// a remark": WANTED,
    block(WANTED) + "\n": WANTED,
    block("Reads a <code>date</code> from text."): WANTED,
    block("An old one.") + "\n" + block(WANTED): WANTED,
    block("@inheritdoc"): "",
    block("@param a the text"): "",
    slashes(WANTED, mark="//"): "",
    "/* " + WANTED + " */": "",
}
TYPESCRIPT = {
    block(WANTED): WANTED,
    block(WANTED, "", "@remarks", "More of it."): WANTED,
    block("@summary " + WANTED): WANTED,
    block("Reads {@link Date | a date} from text."): WANTED,
    block("Reads {@link Date} of it."): "Reads Date of it.",
    block("Reads a `date` from text.", "", "@typeParam T - of it"): WANTED,
    block("{@inheritDoc Other.parse}"): "",
    block("The package of dates.", "", "@packageDocumentation"): "",
    block("@internal"): "",
    block(WANTED) + "\n@Memo()": WANTED,
    block(WANTED) + '\n@Memo({\n  key: ")",\n})\n@Pure': WANTED,
    block(WANTED) + "\n// @ts-ignore": WANTED,
    block(WANTED) + "\n// eslint-disable-next-line": WANTED,
    block(WANTED) + "\npublic static async": WANTED,
    block(WANTED) + "\nparse(a: string): string;": WANTED,
    block("An old one.") + "\nparse(a: string): string;\n" + block(WANTED) + "\nparse(a: boolean): string;": WANTED,
    block(WANTED) + "\nparse(a: string): string;\n// the implementation": WANTED,
    block("Of another one.") + "\nother(a: string): string;": "",
    block("Of a field alone.") + "\nfield: string;": "",
    block("An old one.") + "\n\n" + block(WANTED): WANTED,
    slashes(WANTED, mark="//"): "",
    "/* " + WANTED + " */": "",
}
CASES = {
    "c": C, "cpp": C, "csharp": CSHARP, "rust": RUST, "kotlin": KOTLIN, "swift": SWIFT, "scala": SCALA,
    "typescript": TYPESCRIPT,
}  # fmt: skip


@pytest.mark.parametrize(
    ("language", "doc", "wanted"), [(language, *case) for language, cases in CASES.items() for case in cases.items()]
)
def test_first_paragraph(language: str, doc: str, wanted: str) -> None:
    assert x_of(language, doc) == wanted


def test_there_are_twenty_cases_of_each_language() -> None:
    assert all(len(cases) >= 20 for cases in CASES.values())


@pytest.mark.parametrize(
    "unit",
    ["<!--", "`", "[a](b", "\n# a\n", "\\brief ", "\n@param a\n", "@code ", "\\f$", "<summary>", "<see cref='", "<c>", "{{{",
     "[[a ", "''", "^a", "\n- Note: a\n  b", "``a", "\n[a]: b", "a - ", "\n@a: b\n c", "\n\n"],
)  # fmt: skip
def test_comments_made_to_be_hard_take_no_square_of_their_length(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    start = time.process_time()
    for clean, mark in (
        (doxygen_prose, "/** "), (doxygen_prose, "/// "), (xml_prose, "/// "), (rust_prose, "/// "), (kdoc_prose, "/** "),
        (swift_prose, "/// "), (scaladoc_prose, "/** "),
    ):  # fmt: skip
        clean([mark + text])
    assert time.process_time() - start < 10  # a square takes minutes


def test_a_header_is_of_the_language_that_it_is_written_in() -> None:
    assert header_language(b"int f(int a);\nstruct a { int b; };\n") == "c"
    assert header_language(b"namespace a {\nclass B;\n}\n") == "cpp"
    assert header_language(b"template <typename T>\nT f(T a);\n") == "cpp"
    assert form_of("a.h", ("c", "cpp")) == form_of("a.h", ("c",)) == "c" and form_of("a.h", ("cpp",)) == "cpp"
    assert form_of("a.h") is None and form_of("a.ts") is None and form_of("a.ipynb") is None


def test_each_suffix_is_of_one_language_and_names_are_understood_as_people_write_them() -> None:
    assert languages_by_suffix()[".tsx"] == "tsx" and languages_by_suffix()[".kts"] == "kotlin"
    assert [language_called(name) for name in ("C++", " c# ", "TS", "rs", "Scala", "toml")] == [
        "cpp", "csharp", "typescript", "rust", "scala", "toml",
    ]  # fmt: skip
    assert language_names()[:6] == ("python", "javascript", "java", "go", "php", "ruby") and len(language_names()) == 15

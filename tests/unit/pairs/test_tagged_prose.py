"""Documentation comments with tags: what is cut off before the stars are taken off is what would be cut off after it."""

from __future__ import annotations

import re

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pipeline_lib.languages import rules_of
from pipeline_lib.languages.doc_comments import tagged_prose, without_stars
from pipeline_lib.pairs.definitions import find_definitions

_PIECES = ("\n", " ", "\t", "*", "* ", "**", "/", "@", "@param x", "@file", "@summary", "@description ", "a", "b.", "{@code x}")


def stars_first(block: str) -> str:
    """The same, in the order in which one would write it."""
    text = "\n" + without_stars(block)
    if re.search(r"\n[ \t]*@(?:file|fileoverview|overview|module|typedef|callback|namespace)\b", text):
        return ""
    before, *rest = re.split(r"\n[ \t]*@([A-Za-z]\w*)[ \t]*", text)
    texts = [
        said for tag, said in zip(rest[::2], rest[1::2], strict=True) if tag in ("desc", "description", "summary", "classdesc")
    ]
    return "\n\n".join([before, *texts]).replace("{@code x}", "x").strip()


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(_PIECES), max_size=14).map("".join))
@example("\n * **bold**\n * @param x")
@example("\n * @summary @param x")
@example("\n * * @param x")
def test_tags_are_cut_off_as_after_the_stars(inner: str) -> None:
    assume(re.search(r"@(?:summary|description)[ \t*]*@(?:summary|description)", inner) is None)  # what one says is no tag
    block = f"/**{inner.replace('*/', '')}*/"
    assert tagged_prose([block]) == stars_first(block)


def test_what_stands_before_a_name_is_looked_into() -> None:
    source = b"<?php #[A(new class { function inner() {} })] function outer() { return function () {}; }"
    definitions = find_definitions(source, rules_of("php"), "module")
    assert [definition.name for definition in definitions] == ["module", "outer", "inner"]

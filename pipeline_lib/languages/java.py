"""Java: methods, and the Javadoc before them."""

from __future__ import annotations

import re

from pipeline_lib.languages.rules import (
    BRACES_CODE_LINE,
    SLASHES_COMMENT_LINE,
    TEST_CLASS,
    TEST_FUNCTION,
    CommentedRules,
    last_doc_block,
    named,
    tagged_prose,
)

RULES = CommentedRules(
    suffixes=(".java",),
    grammar="tree_sitter_java:language",
    definitions={
        "method_declaration": "function", "constructor_declaration": "function",
        "compact_constructor_declaration": "function",
        "class_declaration": "class", "interface_declaration": "class", "enum_declaration": "class",
        "record_declaration": "class", "annotation_type_declaration": "class",
    },
    comments=("line_comment", "block_comment"),
    signs=tuple(map(re.compile, (rb"class\b", rb"interface\b", rb"enum\b", rb"record\b", rb"new\b"))),
    opening=b"{",  # most often `new` and `class` open no body: new Foo(), Foo.class
    entered=("class_body", "interface_body", "enum_body", "enum_body_declarations", "enum_constant", "annotation_type_body"),
    name_of=named,
    left_out=frozenset({"annotation", "marker_annotation", "line_comment", "block_comment"}),
    left_out_signs=b"@/",
    between=re.compile(rb"\s*"),  # javac: blank lines may stand between; annotations are part of the declaration
    doc_above=last_doc_block,
    clean=tagged_prose,
    code_line=BRACES_CODE_LINE,
    comment_line=SLASHES_COMMENT_LINE,
    module_suffix=re.compile(r"(?:(?<=.)/[^/]*|)\.java$"),  # the package is the folder
    test_function=TEST_FUNCTION,
    test_class=TEST_CLASS,
    constructor_is_class=True,
    standard_methods=frozenset({"toString", "hashCode", "equals", "finalize", "notify", "notifyAll", "clone"}),
)  # fmt: skip

"""Java: methods, and the Javadoc before them."""

from __future__ import annotations

import re

import tree_sitter_java

from pipeline_lib.pairs.languages.comments import last_doc_block, tagged_prose
from pipeline_lib.pairs.languages.rules import (
    BRACES_CODE_LINE,
    SLASHES_COMMENT_LINE,
    TEST_CLASS,
    TEST_FUNCTION,
    QueriedRules,
    named,
)

JAVA = QueriedRules(
    name="java",
    grammar=tree_sitter_java.language,
    query="""
        [(line_comment) (block_comment)] @comment
        [(method_declaration) (constructor_declaration) (compact_constructor_declaration)] @function
        [(class_declaration) (interface_declaration) (enum_declaration) (record_declaration)
         (annotation_type_declaration)] @class
    """,
    name_of=named,
    left_out=frozenset({"annotation", "marker_annotation", "line_comment", "block_comment"}),
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
)

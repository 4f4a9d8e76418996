"""TSX: TypeScript with the elements of JSX, which has a grammar of its own."""

from __future__ import annotations

from dataclasses import replace

from pipeline_lib.languages import typescript

RULES = replace(typescript.RULES, suffixes=(".tsx",), grammar="tree_sitter_typescript:language_tsx")

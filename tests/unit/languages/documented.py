"""Functions of every language with the documentation that a test gives them."""

from __future__ import annotations

from pipeline_lib.languages import rules_of
from pipeline_lib.pairs.code_pairs import Candidate
from pipeline_lib.pairs.definitions import find_definitions

FUNCTIONS = {
    "java": "class A {{\n{doc}\n  int parse(int a) {{\n    int b = a;\n    b++;\n    return b;\n  }}\n}}\n",
    "javascript": "{doc}\nexport function parse(a) {{\n  let b = a;\n  b++;\n  return b;\n}}\n",
    "php": "<?php\n{doc}\nfunction parse($a) {{\n  $b = $a;\n  $b++;\n  return $b;\n}}\n",
    "go": "package a\n\n{doc}\nfunc parse(a int) int {{\n\tb := a\n\tb++\n\treturn b\n}}\n",
    "ruby": "{doc}\ndef parse(a)\n  b = a\n  b += 1\n  b\nend\n",
    "python": 'def parse(a):\n    """{doc}"""\n    b = a\n    b += 1\n    return b\n',
    "c": "{doc}\nint parse(int a)\n{{\n  int b = a;\n  b++;\n  return b;\n}}\n",
    "cpp": "class A {{\n{doc}\n  int parse(int a) {{\n    int b = a;\n    b++;\n    return b;\n  }}\n}};\n",
    "csharp": "class A {{\n{doc}\n  int parse(int a) {{\n    int b = a;\n    b++;\n    return b;\n  }}\n}}\n",
    "kotlin": "class A {{\n{doc}\n  fun parse(a: Int): Int {{\n    val b = a\n    return b\n  }}\n}}\n",
    "rust": "impl A {{\n{doc}\n  pub fn parse(a: i32) -> i32 {{\n    let b = a;\n    b\n  }}\n}}\n",
    "scala": "class A {{\n{doc}\n  def parse(a: Int): Int = {{\n    val b = a\n    b\n  }}\n}}\n",
    "swift": "class A {{\n{doc}\n  func parse(a: Int) -> Int {{\n    let b = a\n    return b\n  }}\n}}\n",
    "typescript": "class A {{\n{doc}\n  parse(a: number): number {{\n    const b = a;\n    return b;\n  }}\n}}\n",
}
WANTED = "Reads a date from text."


def x_of(language: str, doc: str) -> str:
    """What the pair of a function with this documentation has for x."""
    data = FUNCTIONS[language].format(doc=doc).encode()
    rules = rules_of(language)
    [function] = [found for found in find_definitions(data, rules, "module") if found.name == "parse"]
    return Candidate(function, "docstring", data, rules).x


def block(*lines: str, mark: str = "/**") -> str:
    """The lines in a block of documentation."""
    return f"{mark}\n" + "".join(f" * {line}".rstrip() + "\n" for line in lines) + " */"


def slashes(*lines: str, mark: str = "///") -> str:
    """The lines behind slashes."""
    return "\n".join(f"{mark} {line}".rstrip() for line in lines)

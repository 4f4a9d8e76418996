"""CodeSearchNet (.jsonl.gz): one function each, given back as the source file that it was cut from.

A record holds a docstring and the function's source apart. The docstring is put where it stood, as a docstring in Python and
as a comment above in the other languages, so that extraction finds both as it does in any file.
"""

from __future__ import annotations

import hashlib
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from typing import Any

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import Unreadable
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.records import SourceRecord, address, json_of_lines, one_line, refused_record
from pipeline_lib.sources.safe_open import Refusal, decode
from pipeline_lib.sources.source_file import SourceFile

LINE_PER_TEXT = 16  # a line holds the function twice as text and twice as a list of tokens, escaped
_FIELDS = ("repo", "path", "language")
_NAME = re.compile(r"[^\W\d]\w*")


def read_records(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """Every record as a source file: its group is its repository, its path ends in the record's URL.

    Refusals, with the record's line as offset: not_json, not_a_record, unknown_language, file_too_large, and those of
    decoding. Of the file: truncated, damaged, expansion_limit, too_many_members.
    """
    try:
        for number, record in json_of_lines(file, limits, LINE_PER_TEXT):
            yield _function(file, number, record, limits)
    except Unreadable as error:
        yield SourceRecord(file, error.refusal)


def _function(file: SourceFile, number: int, value: Any, limits: ReadLimits) -> SourceRecord:
    record = _checked(value)
    if isinstance(record, Refusal):
        return refused_record(file, str(number), record, number)
    place = record.get("url") or f"{record['repo']}/{record['path']}#{number}"
    data = _source(record).encode("utf-8", "surrogatepass")
    update = {
        "path": f"{file.path}!{address(str(place))}",
        "group": one_line(record["repo"]),
        "form": record["language"],
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    content = decode(data)
    if len(data) > limits.max_text_bytes:
        content = Refusal("file_too_large", f"{len(data)} bytes, at most {limits.max_text_bytes} are read", number)
    return SourceRecord(file.model_copy(update=update), content)


def _checked(record: Any) -> dict[str, Any] | Refusal:
    if isinstance(record, Refusal):
        return record
    if not isinstance(record, dict):
        return Refusal("not_a_record", f"a {type(record).__name__}, expected an object")
    if not isinstance(record.get("code", record.get("original_string")), str):
        return Refusal("not_a_record", "neither `code` nor `original_string` holds a text")
    wrong = [name for name in _FIELDS if not isinstance(record.get(name), str) or not record[name]]
    if wrong:
        return Refusal("not_a_record", f"no text in {', '.join(wrong)}")
    if record["language"] not in _WRITERS:
        return Refusal("unknown_language", f"{ascii(record['language'])[:50]}, expected one of {', '.join(_WRITERS)}")
    return record


def _source(record: dict[str, Any]) -> str:
    code: str = record.get("original_string") or record.get("code") or ""
    doc = record.get("docstring")
    name = str(record.get("func_name") or "")
    return _WRITERS[record["language"]](doc.strip() if isinstance(doc, str) else "", code, name)


def _python(doc: str, code: str, name: str) -> str:
    """The function with its docstring as first statement, unless it has one there."""
    header, indent = _python_body(code)
    if not doc or not header:
        return code + "\n"
    text = doc.replace("\\", "\\\\").replace('"', '\\"').replace("\n", f"\n{indent}")
    lines = code.splitlines(keepends=True)
    return "".join([*lines[:header], f'{indent}"""{text}"""\n', *lines[header:], "\n"])


def _python_body(code: str) -> tuple[int, str]:
    """The last line of a function's header and the indentation of its body; line 0 where it has a docstring or no block.

    By tokens: they are the same in Python 2.
    """
    depth, seen_def, header = 0, False, 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.INDENT:
                indent = token.string
            elif header and token.type not in (tokenize.COMMENT, tokenize.NL):
                return (0, "") if token.type == tokenize.STRING else (header, indent)
            seen_def = seen_def or token.string in ("def", "class")
            depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
            if seen_def and not depth and token.type == tokenize.NEWLINE:
                header, indent = token.end[0], ""
    except (tokenize.TokenError, SyntaxError, IndentationError):
        pass
    return 0, ""


def _ruby(doc: str, code: str, name: str) -> str:
    return _commented("#", doc) + code + "\n"


def _go(doc: str, code: str, name: str) -> str:
    return "package p\n\n" + _commented("//", doc) + code + "\n"


def _java(doc: str, code: str, name: str) -> str:
    return f"class {_owner(name)} {{\n{_block(doc)}{code}\n}}\n"


def _php(doc: str, code: str, name: str) -> str:
    return f"<?php\nclass {_owner(name)} {{\n{_block(doc)}{code}\n}}\n"


def _javascript(doc: str, code: str, name: str) -> str:
    last = name.rpartition(".")[2]
    anonymous = re.match(r"(?:async\s+)?function\s*\*?\s*\(", code) and _NAME.fullmatch(last)
    return _block(doc) + (f"const {last} = {code};\n" if anonymous else f"{code}\n")


_WRITERS: dict[str, Callable[[str, str, str], str]] = {
    "python": _python,
    "javascript": _javascript,
    "java": _java,
    "go": _go,
    "php": _php,
    "ruby": _ruby,
}


def _commented(mark: str, doc: str) -> str:
    return "".join(f"{mark} {line}".rstrip() + "\n" for line in doc.splitlines())


def _block(doc: str) -> str:
    inner = "".join(f" * {line}".rstrip() + "\n" for line in doc.replace("*/", "* /").splitlines())
    return f"/**\n{inner} */\n" if inner else ""


def _owner(name: str) -> str:
    """The class that a method stood in: its grammar knows none outside."""
    found = _NAME.findall(name.rpartition(".")[0])
    return found[-1] if found else "Owner"


READER = Reader(read=read_records)  # known by the fields of its first record

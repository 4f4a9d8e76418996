"""Members of C# files with a body and with their XML documentation, by a scanner of its own over tokens: JSON lines.

It shares nothing with extraction and knows no grammar: a member of a type is what stands before a brace or an arrow at the
depth of a type's body, its name the word before the first parenthesis. Conditional compilation is not looked at, nor are
properties.
"""

import json
import re
import sys
from pathlib import Path

TOKEN = re.compile(
    r"(?P<doc>///(?!/)[^\n]*|/\*\*(?![*/]).*?\*/)|(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<directive>(?m:^[ \t]*\#[^\n]*))"
    r"|(?P<text>\$?@?\$?\"\"\"+.*?\"\"\"+|(?:\$@|@\$|@)\"(?:[^\"]|\"\")*\"|\$?\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])+')"
    r"|(?P<word>@?[^\W\d]\w*)|(?P<sign>=>|[{}()\[\];=,<>.?:~]|\S)",
    re.S,
)
TYPES = {"class", "struct", "interface", "record", "enum"}
NO_MEMBERS = {"if", "for", "foreach", "while", "switch", "using", "lock", "catch", "fixed", "return", "new", "get", "set"}


def members(text: str) -> list[tuple[int, str, str]]:  # noqa: C901, PLR0912 - a scanner in one piece
    """Line, name and documentation of each member with a body."""
    found: list[tuple[int, str, str]] = []
    scopes: list[str] = []
    pending: list[tuple[str, int]] = []
    doc: list[str] = []
    depth = attributes = 0
    for token in TOKEN.finditer(text):
        kind, value = token.lastgroup, token.group()
        if kind == "doc":
            doc = [*doc, value] if not pending else doc
        elif kind in ("comment", "directive"):
            continue
        elif scopes and scopes[-1] == "code":  # of a body nothing is looked at but its end
            depth += (value == "{") - (value == "}") if kind == "sign" else 0
            if depth == 0:
                scopes.pop()
                pending, doc = [], []
        elif attributes or (value == "[" and not pending):
            attributes += (value == "[") - (value == "]") if kind == "sign" else 0
        elif scopes and scopes[-1] == "arrow":
            depth += (value in "{(") - (value in "})") if kind == "sign" else 0
            if value == ";" and depth == 0:
                scopes.pop()
                pending, doc = [], []
        elif value in ("{", "=>"):
            words = [word for word, _ in pending]
            type_word = next((word for word in words if word in TYPES), None)
            before = words.index("(") if "(" in words else len(words)
            if value == "{" and ("namespace" in words or (type_word and words.index(type_word) < before)):
                scopes.append("enum" if type_word == "enum" else "type")
                pending, doc = [], []
            else:
                if "(" in words and "=" not in words[:before] and scopes and scopes[-1] == "type":
                    name, line = _name(words, before), text.count("\n", 0, pending[0][1]) + 1
                    if name and name not in NO_MEMBERS:
                        found.append((line, name, "\n".join(doc)))
                scopes.append("code" if value == "{" else "arrow")
                depth = 1 if value == "{" else 0
        elif value == "}":
            if scopes:
                scopes.pop()
            pending, doc = [], []
        elif value == ";":
            pending, doc = [], []
        else:
            pending.append((value, token.start()))
    return found


def _name(words: list[str], before: int) -> str:
    if "operator" in words[:before]:
        return "operator"
    at = before - 1
    if at >= 0 and words[at] == ">":  # Name<T>(
        depth = 0
        while at >= 0:
            depth += (words[at] == ">") - (words[at] == "<")
            at -= 1
            if depth == 0:
                break
    name = words[at] if at >= 0 else ""
    return f"~{name}" if at > 0 and words[at - 1] == "~" else name


def summary(comment: str) -> str:
    """What `<summary>` says first, else what stands before the first element."""
    text = re.sub(r"(?m)^\s*(?:///|/\*\*|\*(?!/))[ \t]?", "", comment).replace("*/", "")
    found = re.search(r"<summary>(.*?)(?:</summary>|\Z)", text, re.S)
    if found is None:
        found = re.match(r"([^<]*)", text)
    said = re.sub(
        r"<(?:see|seealso|paramref|typeparamref)\s+\w+\s*=\s*\"(?:[A-Z]:)?([^\"]*)\"\s*/>",
        r"\1",
        found.group(1) if found else "",
    )
    said = re.split(r"<(?:para|code|list|br)\b|</para>", said.strip())[0] if said.strip() else ""
    return re.sub(r"`+\d+|\{[^{}]*\}", "", said)


for place in sorted(Path(sys.argv[1]).rglob("*.cs")):
    try:
        source = place.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        continue
    for line, name, doc in members(source):
        print(json.dumps({"path": str(place), "line": line, "name": name, "doc": summary(doc)}))

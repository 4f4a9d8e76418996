"""Agreement of our extraction with an independent tool of the language, over a folder of real source.

    python -m benchmarks.agreement LANGUAGE FOLDER [--show N]

It runs the language's own tool (go, ruby with YARD, php, java, node with typescript, syn for Rust; for C# a scanner of its
own), which prints every function with its documentation, and compares: is each function found by both; is it documented in
both; is the first paragraph of its documentation the same, word by word. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

from pipeline_lib.languages import rules_of
from pipeline_lib.languages.rules import ParseLimit
from pipeline_lib.pairs.code_pairs import first_paragraph
from pipeline_lib.pairs.definitions import Definition, find_definitions
from pipeline_lib.sources.safe_open import SourceText, decode

HERE = Path(__file__).parent
TOOLS = {
    "go": (["go", "run", "functions.go"], ".go"),
    "ruby": (["ruby", "functions.rb"], ".rb"),
    "php": (["php", "functions.php"], ".php"),
    "java": (["java", "Functions.java"], ".java"),
    "javascript": (["node", "functions.js"], ".js"),
    "typescript": (["node", "functions.js"], ".ts"),
    "tsx": (["node", "functions.js"], ".tsx"),
    "rust": (["rust/target/release/functions"], ".rs"),
    "csharp": (["python3", "functions_csharp.py"], ".cs"),
}
BUILT = "rust/target/release/functions"  # by cargo, see rust/Cargo.toml; CPT_RUST_FUNCTIONS: where it is besides
Place = tuple[str, int, str]  # path, line, last name


def theirs(language: str, folder: Path) -> dict[Place, str]:
    """What the language's own tool finds."""
    (program, *words), ending = TOOLS[language]
    if program == BUILT:
        command = [os.environ.get("CPT_RUST_FUNCTIONS") or str(HERE / BUILT)]
    else:
        *words, script = words
        command = [program, *words, str(HERE / script)]
    done = subprocess.run([*command, folder, ending], capture_output=True, text=True, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not rows:
        raise SystemExit(f"{program} found nothing in {folder}: {done.stderr[-500:]}")
    return {(row["path"], row["line"], last_name(row["name"])): row["doc"] for row in rows}


def ours(language: str, folder: Path) -> dict[Place, str]:
    """What extraction finds, before any filter."""
    rules, found = rules_of(language), {}
    for path in sorted(folder.rglob(f"*{TOOLS[language][1]}")):
        source = decode(path.read_bytes()) if path.is_file() else None
        if not isinstance(source, SourceText):
            continue
        try:
            definitions = find_definitions(source.data, rules, "module", 60.0)
        except ParseLimit:
            continue
        for definition in definitions:
            if definition.kind == "function" and _is_told(language, definition, source.data):
                line = definition.line
                found[str(path), line, last_name(definition.name)] = definition.doc.value if definition.doc else ""
    return found


def last_name(name: str) -> str:
    """What a function is called itself: T.Name and Foo.prototype.bar are Name and bar."""
    if name.startswith("operator"):  # of C#, whose sign the scanner does not tell
        return "operator"
    return re.split(r"[.#]", name)[-1].strip("\"'[]")


def _is_told(language: str, definition: Definition, data: bytes) -> bool:
    """False for what the tool of a language does not tell: macros; properties of C#, and what has no body there."""
    if language == "rust":
        return not data.startswith(b"macro_rules!", definition.start)
    return language != "csharp" or (
        definition.body_start < definition.end and b"(" in data[definition.name_start : definition.body_start]
    )


def words_of(doc: str) -> list[str]:
    """The words of the first paragraph, marks and markup aside."""
    doc = re.sub(r"^/\*\*|\*/$", "", doc.strip())
    doc = re.sub(r"(?m)^[ \t]*\*+ ?", "", doc)
    doc = re.split(r"(?m)^\s*@(?!desc|description|summary)", doc)[0]
    doc = re.sub(r"\{@\w+\s*([^}]*)\}|</?\w+[^>]*>|&\w+;|https?://\S+", r" \1 ", doc)
    return re.findall(r"\w+", first_paragraph(doc).lower())


def compare(language: str, folder: Path, show: int) -> dict[str, Any]:
    """The figures; up to `show` differences of each kind are printed."""
    a, b = ours(language, folder), theirs(language, folder)
    files = {place[0] for place in b}
    a = {place: doc for place, doc in a.items() if place[0] in files}
    both = a.keys() & b.keys()
    differing: dict[str, list[Any]] = defaultdict(list)
    differing["only ours"] = sorted(a.keys() - b.keys())
    differing["only theirs"] = sorted(b.keys() - a.keys())
    same = documented = 0
    for place in sorted(both):
        x, y = words_of(a[place]), words_of(b[place])
        if bool(x) != bool(y):
            differing["documented only here" if x else "documented only there"].append((place, x or y))
        elif x:
            documented += 1
            same += x == y
            if x != y:
                differing["other words"].append((place, " ".join(x)[:150], " ".join(y)[:150]))
    for kind, rows in differing.items():
        print(f"\n{kind}: {len(rows)}")
        for row in rows[:: max(1, len(rows) // show)][:show] if show else []:
            print("  ", row)
    counts = {kind: len(rows) for kind, rows in differing.items()}
    either = len(a.keys() | b.keys())
    unlike = counts.get("documented only here", 0) + counts.get("documented only there", 0)
    return {
        "language": language,
        "files": len(files),
        "functions": either,
        "found_by_both": round(len(both) / either, 5),
        "documented_alike": round(1 - unlike / len(both), 5),
        "documented": documented,
        "same_first_paragraph": round(same / max(1, documented), 5),
        **counts,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("language", choices=sorted(TOOLS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--show", type=int, default=5)
    options = parser.parse_args()
    print(json.dumps(compare(options.language, options.folder.absolute(), options.show)))

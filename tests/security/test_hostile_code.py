"""S07 and S08: source of every language that is no text, or was written to be hard to parse. Nothing of it is run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_lib.config.data import CodePairsConfig, ExtractConfig, SourceConfig
from pipeline_lib.languages import USUAL, language_names
from pipeline_lib.pairs.extract import ExtractWork, extract_file
from pipeline_lib.pairs.tables import Rows
from pipeline_lib.sources.folder import list_tree

SUFFIXES = {
    "python": "py", "javascript": "js", "java": "java", "go": "go", "php": "php", "ruby": "rb", "c": "c", "cpp": "cc",
    "csharp": "cs", "kotlin": "kt", "rust": "rs", "scala": "scala", "swift": "swift", "tsx": "tsx", "typescript": "ts",
}  # fmt: skip
LANGUAGES = language_names()
# the longer tests of further languages: their rules are those of the others, their grammars are tried once in a night
OFTEN = [pytest.param(language, marks=() if language in USUAL else pytest.mark.slow) for language in LANGUAGES]
CASES = Path(__file__).parents[1] / "unit" / "pairs" / "cases"

# a documented function, by language; %s is its name's end, its doc's end and a statement
FUNCTIONS = {
    "python": 'def f{n}(a):\n    """Does the work {doc}."""\n    a = {value}\n    return a\n',
    "javascript": "/** Does the work {doc}. */\nfunction f{n}(a) {{\n  a = {value};\n  return a;\n}}\n",
    "java": "class C{n} {{\n/** Does the work {doc}. */\nObject f{n}(Object a) {{\n  a = {value};\n  return a;\n}}}}\n",
    "go": "// F{n} does the work {doc}.\nfunc F{n}(a any) any {{\n\ta = {value}\n\treturn a\n}}\n",
    "php": "/** Does the work {doc}. */\nfunction f{n}($a) {{\n  $a = {value};\n  return $a;\n}}\n",
    "ruby": "# Does the work {doc}.\ndef f{n}(a)\n  a = {value}\n  a\nend\n",
    "c": "/** Does the work {doc}. */\nint f{n}(int a)\n{{\n  a = {value};\n  return a;\n}}\n",
    "cpp": "/// Does the work {doc}.\nauto f{n}(auto a) {{\n  a = {value};\n  return a;\n}}\n",
    "csharp": "/// <summary>Does the work {doc}.</summary>\nobject F{n}(object a)\n{{\n  a = {value};\n  return a;\n}}\n",
    "kotlin": "/** Does the work {doc}. */\nfun f{n}(b: Any): Any {{\n  val a = {value}\n  return a\n}}\n",
    "rust": "/// Does the work {doc}.\nfn f{n}(mut a: X) -> X {{\n  a = {value};\n  a\n}}\n",
    "scala": "/** Does the work {doc}. */\ndef f{n}(b: Any): Any = {{\n  val a = {value}\n  a\n}}\n",
    "swift": "/// Does the work {doc}.\nfunc f{n}(b: Any) -> Any {{\n  let a = {value}\n  return a\n}}\n",
    "tsx": "/** Does the work {doc}. */\nfunction f{n}(a: any): any {{\n  a = {value};\n  return a;\n}}\n",
    "typescript": "/** Does the work {doc}. */\nfunction f{n}(a: any): any {{\n  a = {value};\n  return a;\n}}\n",
}


def source_of(language: str, doc: str = "well", value: str = "1", functions: int = 1) -> str:
    head = "<?php\n" if language == "php" else ""
    return head + "".join(FUNCTIONS[language].format(n=n, doc=doc, value=value) for n in range(functions))


def extract(folder: Path, language: str, content: bytes, **limits: object) -> Rows:
    """The rows of one file of that content; every row is valid UTF-8, and every candidate is accounted for."""
    (folder / f"hostile.{SUFFIXES[language]}").write_bytes(content)
    work = ExtractWork(
        source=SourceConfig.model_validate(limits),
        extract=ExtractConfig(code=CodePairsConfig(min_body_lines=1, languages=LANGUAGES)),
    )
    rows = Rows(0)
    for file in list_tree(str(folder), more=work.extract.more_forms):
        extract_file(file, work, rows)
    counts = rows.counts()
    assert counts.n_in == counts.n_out + sum(counts.dropped.values()) + counts.quarantined
    for row in (*rows.pairs, *rows.documents, *rows.quarantine):
        for value in row:
            if isinstance(value, str):
                value.encode("utf-8")
    return rows


BAD_BYTES = {
    "invalid": (b"\xff\xfe well", "not_utf8"),
    "overlong": (b"\xc0\xaf", "not_utf8"),
    "surrogate": (b"\xed\xa0\x80", "not_utf8"),
    "nul": (b"\0", "nul_byte"),
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", BAD_BYTES)
def test_s07_bytes_that_are_no_text_are_set_aside_with_their_place(language: str, name: str, tmp_path: Path) -> None:
    bad, reason = BAD_BYTES[name]
    content = source_of(language, doc="HERE").encode().replace(b"HERE", bad)
    rows = extract(tmp_path, language, content)
    assert [row[5] for row in rows.quarantine] == [reason]
    assert rows.quarantine[0][3] == content.index(bad)
    assert rows.pairs == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_s07_utf_16_is_set_aside(language: str, tmp_path: Path) -> None:
    rows = extract(tmp_path, language, source_of(language).encode("utf-16"))
    assert len(rows.quarantine) == 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_s07_marks_of_direction_are_kept_as_text(language: str, tmp_path: Path) -> None:
    rows = extract(tmp_path, language, source_of(language, doc="\u202e\u05e8\u05d7\u202c or near").encode())
    assert [row[3].partition("work ")[2] for row in rows.pairs] == ["\u202e\u05e8\u05d7\u202c or near."]


@pytest.mark.parametrize("language", OFTEN)
def test_s07_a_line_of_ten_megabytes_is_too_large_or_read(language: str, tmp_path: Path) -> None:
    content = source_of(language, value='"' + "x" * 10_000_000 + '"').encode()
    rows = extract(tmp_path, language, content)
    assert rows.dropped == {"file_too_large": 1}
    rows = extract(tmp_path, language, content, max_file_bytes=20_000_000)
    assert rows.dropped["too_large"] == 1


DEEP = {
    "brackets": lambda language: source_of(language, value="(" * 50_000 + "1" + ")" * 50_000),
    "open brackets": lambda language: source_of(language, value="[" * 50_000),
    "functions": lambda language: "".join(source_of(language).rpartition("a = 1")[0] for _ in range(1_000)),
    "open comments": lambda language: source_of(language) + "/** " * 4_000,
    "open strings": lambda language: source_of(language) + "\"'`" * 50_000,
    "at signs": lambda language: source_of(language, doc="{@link " * 20_000 + "<p " * 20_000),
}


@pytest.mark.parametrize("language", OFTEN)
@pytest.mark.parametrize("shape", DEEP)
def test_s08_deep_nesting_ends_in_time(language: str, shape: str, tmp_path: Path) -> None:
    rows = extract(tmp_path, language, DEEP[shape](language).encode())
    assert rows.facts["files"] == 1
    assert {row[5] for row in rows.quarantine} <= {"parse_limit"}


def test_s08_source_that_the_grammar_cannot_recover_from_is_set_aside_by_its_steps(tmp_path: Path) -> None:
    content = b"package a\nfunc f() {}\n" + b"/** " * 2_000  # 13 s without a limit
    first, second = (extract(tmp_path, "go", content).quarantine for _ in range(2))
    assert [row[5] for row in first] == ["parse_limit"]
    assert first == second


@pytest.mark.parametrize("language", OFTEN)
def test_s08_a_file_of_a_hundred_thousand_lines_gives_all_its_functions(language: str, tmp_path: Path) -> None:
    functions = 100_000 // FUNCTIONS[language].count("\n") + 1
    content = source_of(language, functions=functions)
    assert content.count("\n") >= 100_000
    rows = extract(tmp_path, language, content.encode(), max_file_bytes=20_000_000)
    assert len(rows.pairs) == functions


@pytest.mark.parametrize("language", LANGUAGES)
def test_s08_source_cut_anywhere_gives_rows_or_reasons(language: str, tmp_path: Path) -> None:
    source = max((CASES / language).iterdir(), key=lambda path: (path.suffix != ".yaml", path.stat().st_size)).read_bytes()
    assert extract(tmp_path, language, source).pairs
    for cut in range(1, len(source), len(source) // 40):
        text = source[:cut].decode(errors="ignore").encode()
        extract(tmp_path, language, text)
        extract(tmp_path, language, source[cut:].decode(errors="ignore").encode())


WATCHED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_hostile_code import extract, source_of
folder, language = Path(sys.argv[1]), sys.argv[2]
content = (folder / "payload").read_bytes()
(folder / "work").mkdir()
extract(folder / "work", language, source_of(language).encode())  # what has to be imported is
events = []
def watch(event, args):
    if event.split(".")[0] in ("exec", "subprocess", "socket", "ctypes", "import", "os"):
        if event not in ("os.scandir", "os.listdir"):
            events.append((event, str(args)[:200]))
    if event == "open" and not isinstance(args[0], int) and "hostile." not in str(args[0]):
        events.append((event, str(args)[:200]))
sys.addaudithook(watch)
rows = extract(folder / "work", language, content)
found = list(events)
assert len(rows.pairs) == 1, rows.dropped
print(found)
"""

PAYLOADS = {
    "python": ('__import__("os").system("touch CANARY")', 'open("CANARY", "w")\n@__import__("os").system("touch CANARY")\n'),
    "javascript": ('require("fs").writeFileSync("CANARY", "")', 'require("child_process").execSync("touch CANARY");\n'),
    "java": ('Runtime.getRuntime().exec("touch CANARY")', "class S { static { new java.io.File(CANARY).createNewFile(); } }\n"),
    "go": ('exec.Command("touch", "CANARY").Run()', '//go:generate touch CANARY\nfunc init() { os.Create("CANARY") }\n\n'),
    "php": ('shell_exec("touch CANARY")', ""),
    "ruby": ("`touch CANARY`", 'BEGIN { File.write("CANARY", "") }\n'),
    "c": (
        'system("touch CANARY")',
        '#include "CANARY"\n__attribute__((constructor)) void s(void) { system("touch CANARY"); }\n',
    ),
    "cpp": ('std::system("touch CANARY")', '#include "CANARY"\nstatic int s = std::system("touch CANARY");\n'),
    "csharp": ('Process.Start("touch", "CANARY")', '#load "CANARY"\n'),
    "kotlin": ('Runtime.getRuntime().exec("touch CANARY")', '@file:Import("CANARY")\n'),
    "rust": ('Command::new("touch").arg("CANARY").status()', 'include!("CANARY");\n'),
    "scala": ('"touch CANARY".!', "import $file.CANARY\n"),
    "swift": ('Process.run("touch CANARY")', "#if canImport(CANARY)\n#endif\n"),
    "tsx": ('require("child_process").execSync("touch CANARY")', '/// <reference path="CANARY" />\n'),
    "typescript": ('require("child_process").execSync("touch CANARY")', '/// <reference path="CANARY" />\n'),
}


@pytest.mark.parametrize("language", OFTEN)
def test_s08_nothing_is_executed(language: str, tmp_path: Path) -> None:
    canary = str(tmp_path / "canary")
    value, head = PAYLOADS[language]
    doc = r"\x41 of __import__('os')" if language == "python" else "of #{`touch CANARY`}"
    payload = (head + source_of(language, doc=doc, value=value)).replace("CANARY", canary)
    (tmp_path / "payload").write_text(payload)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(tmp_path), language, str(Path(__file__).parent)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert not Path(canary).exists()

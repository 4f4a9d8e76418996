"""Source that a grammar knows or does not know: what parses is taken, what does not is counted with its bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline_lib.config.data import ExtractConfig, SourceConfig
from pipeline_lib.languages import rules_of
from pipeline_lib.languages.ruby import without_heredocs
from pipeline_lib.pairs.definitions import Definition, find_definitions
from pipeline_lib.pairs.extract import ExtractWork, extract_file
from pipeline_lib.pairs.filters import SampledDrops
from pipeline_lib.pairs.tables import Rows
from pipeline_lib.sources.source_file import SourceFile

NESTED_HEREDOC = """\
module Post
  # Builds the text of the letter to a reader.
  def self.letter(name)
    text = <<~LETTER
      Dear #{name},
      #{
        <<~GREETING
          we thank you.
        GREETING
      }
    LETTER
    text.strip
  end

  # Splits a name into its parts at spaces.
  def parts(full)
    all = full.split(' ')
    all.map(&:strip)
    all
  end
end
"""
KNOWN = {
    ("ruby", NESTED_HEREDOC): ["Post", "letter", "parts"],
    ("ruby", "def a\n  x = <<~A\n    #{b(<<~B)}\n      in\n    B\n  A\nend\n\ndef z\n 1\nend\n"): ["a", "z"],
    ("ruby", "def a\n  f(<<A, <<B)\n  x\nA\n  y\nB\nend\ndef z\n  1\nend\n"): ["a", "z"],
    ("ruby", "def sq(x) = x * x\n\ndef z\n 1\nend\n"): ["sq", "z"],
    ("ruby", "def m(x)\n  case x\n  in {a: Integer => n, **r} if n > 1\n    n\n  in [b, *]\n    b\n  end\nend\n"): ["m"],
    ("ruby", "def a\n 1\nend\n__END__\ndef b(\n"): ["a"],
    ("javascript", "function a() { return `x ${b ? `y ${`z ${c}`}` : ''} w`; }\nfunction z() { return 1; }\n"): ["a", "z"],
    ("javascript", "const A = () => <b>{xs.map(x => <i key={x}>it's {`a`}</i>)}</b>;\nfunction z() {}\n"): ["A", "z"],
    ("javascript", "#!/usr/bin/env node\nclass A { static #x = 1; static { y(); } get #q() { return 1 } }\n"): ["A", "q"],
    ("php", "<?php\nfunction a() { $x = <<<E\n {$b['c']} ${d} {$e->f()}\n E; return $x; }\nfunction z() {}\n"): ["a", "z"],
    ("php", "<html><?php if ($a): ?><b><?= $x ?></b><?php endif; ?>\n<?php function z() { ?> <p> <?php } ?>"): ["z"],
    ("php", "<?php\nfunction a() { return <<<'X'\n function q() {\nX;\n}\nfunction z() {}\n"): ["a", "z"],
    ("go", "package a\n\nfunc M[T any, U comparable](xs []T) []U { return nil }\n\nfunc (l *L[T]) Z() {}\n"): ["M", "L.Z"],
    ("go", "package a\n\nfunc A() string { return `x\nfunc q() {` }\n\nfunc Z() {}\n"): ["A", "Z"],
    ("java", "record P<T>(int x, T... y) implements I { P { f(); } static int z() { return 1; } }\n"): ["P", "P", "z"],
    ("java", "class A { int a(Object o) { return switch (o) { case P(int x, var y) when x > 0 -> x; }; } }\n"): ["A", "a"],
    ("java", 'class A { String a() { return """\n  "x" \\""" { }\n  """; } int z() { return 1; } }\n'): ["A", "a", "z"],
    ("java", "class A { Object a() { return new B(x[0] /* of */) { int z() { return 1; } }; } }\n"): ["A", "a", "z"],
    ("java", "class A { Object a() { return new B(\";\", ';') { int z() { return 1; } }; } }\n"): ["A", "a", "z"],
    ("java", "class A { Object a() { return new B(() -> { x(); }) { int z() { return 1; } }; } }\n"): ["A", "a", "z"],
    ("java", "class A { int a() { class B { int z() { return 1; } } return new int[] {1}[0]; } }\n"): ["A", "a", "B", "z"],
    ("python", "def a():\n    print 'x' % y, z\n    raise E, 'x'\n\ndef z():\n    return 0777, 10L, `x`\n"): ["a", "z"],
    ("python", "def a():\n    return 1\n\x0c\ndef z():\n\treturn 1\n"): ["a", "z"],
    ("python", "def a(x):\n    match x:\n        case {'a': [b, *_], **r} if b: pass\n"): ["a"],
}
BROKEN = {  # where it is broken, and what is found all the same
    ("ruby", "def a\n  x = <<~A\n    text\nend\n\ndef z\n 1\nend\n"): ("    text", ["a"]),
    ("php", "<?php\nfunction a() { $x = <<<EOT\n foo\n }\nfunction z() { return 1; }\n"): ("function a", []),
    ("javascript", "function a() { return `x ${b; }\nfunction z() { return 1; }\n"): ("`x ${b", ["a", "z"]),
    ("go", "package {{.Name}}\n\nfunc Z() {}\n"): ("package", ["Z"]),
    ("java", "class A { void a() { return; } int % z() { return 1; } int q() { return 1; } }\n"): ("%", ["A", "a", "z", "q"]),
    ("python", "def a():\n    return 1\n<<<<<<< HEAD\n\ndef z():\n    return 1\n"): ("<<<<<<<", ["a", "z"]),
    ("python", "def a():\n    x = (1,\n\ndef z():\n    return 1\n"): ("x = (1", ["a"]),
}


def definitions_of(language: str, source: str) -> list[Definition]:
    return find_definitions(source.encode(), rules_of(language), "module")


@pytest.mark.parametrize(("language", "source"), KNOWN)
def test_what_the_grammar_knows_is_whole(language: str, source: str) -> None:
    module, *found = definitions_of(language, source)
    assert [definition.name for definition in found] == KNOWN[language, source]
    assert module.gaps is None


@pytest.mark.parametrize(("language", "source"), BROKEN)
def test_what_it_does_not_know_is_told(language: str, source: str) -> None:
    where, names = BROKEN[language, source]
    module, *found = definitions_of(language, source)
    assert [definition.name for definition in found] == names
    assert module.gaps is not None
    start = source.index(where)
    assert any(first <= start < stop or start <= first < start + len(where) for first, stop in module.gaps)
    assert sum(stop - first for first, stop in module.gaps) <= len(source.encode())


@pytest.mark.parametrize("language", ["python", "javascript", "java", "go", "php", "ruby"])
def test_a_broken_file_is_counted_with_its_bytes(tmp_path: Path, language: str) -> None:
    source = "<?php\n" * (language == "php") + "%%% ))) {{{ ]]] %%%\n" * 5
    path = tmp_path / "source"
    path.write_text(source, encoding="utf-8")
    sha256 = hashlib.sha256(source.encode()).hexdigest()
    file = SourceFile(
        place=str(path), path="source", source="s", group="g", licence=None, form=language, bytes=len(source), sha256=sha256
    )
    rows = Rows(0)
    rows.dropped = SampledDrops()
    extract_file(file, ExtractWork(source=SourceConfig(), extract=ExtractConfig()), rows)
    assert rows.dropped["broken_parse"] == 1
    assert len(source) / 4 < rows.facts["broken_bytes"] <= len(source)
    [(said, shown)] = rows.dropped.samples["broken_parse"]
    assert said.startswith(f"{rows.facts['broken_bytes']:,} of {len(source):,} bytes (") and "from line" in said
    assert shown in source
    rows.counts().check("here")


def test_blanked_heredocs_keep_the_place_of_all_else() -> None:
    blanked = without_heredocs(NESTED_HEREDOC.encode()).decode()
    assert len(blanked) == len(NESTED_HEREDOC)
    assert all(
        line == new or not new.strip() for line, new in zip(NESTED_HEREDOC.split("\n"), blanked.split("\n"), strict=True)
    )
    assert "LETTER\n    text.strip" in blanked and "GREETING" not in blanked
    assert without_heredocs(b"x << ONE\nclass << self\nONE\n") == b"x << ONE\nclass << self\nONE\n"


def test_blanking_takes_no_square_of_the_lines() -> None:
    source = b"".join(b"<<~A%d\n" % number for number in range(40_000)) + b"A\n" * 40_000
    assert len(without_heredocs(source)) == len(source)

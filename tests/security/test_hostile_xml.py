"""Row S04: XML that expands, reaches out or nests is refused; no file and no socket is opened for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from dump_files import read_dump, reasons

PAGE = "<mediawiki><page><title>A</title><ns>0</ns><revision><text>{}</text></revision></page></mediawiki>"
LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
ATTACKS = {
    "billion laughs": (f'<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]>' + PAGE.format("&l11;"), "xml_forbidden"),
    "quadratic blow-up": (f'<!DOCTYPE x [<!ENTITY a "{"a" * 100_000}">]>' + PAGE.format("&a;" * 10_000), "xml_forbidden"),
    "external entity": ('<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + PAGE.format("&e;"), "xml_forbidden"),
    "external DTD": ('<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">' + PAGE.format("x"), "xml_forbidden"),
    "parameter entity": ('<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]>' + PAGE.format("x"), "xml_forbidden"),
    "a million deep": ("<a>" * 1_000_000, "xml_depth"),
    "giant attribute": (f'<mediawiki><page a="{"x" * 5_000_000}"/></mediawiki>', "xml_forbidden"),
    "giant tag name": ("<mediawiki><" + "x" * 5_000_000, "xml_forbidden"),
    "unknown entity": (PAGE.format("&nbsp;"), "xml_damaged"),
    "no XML": ("not at all", "xml_damaged"),
    "empty": ("", "file_empty"),
}
_opened: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and ((event == "open" and not isinstance(arguments[0], int)) or event.startswith("socket.")):
        _opened.append(f"{event} {arguments[0]}")


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_s04_hostile_xml_is_refused_and_opens_nothing(tmp_path: Path, attack: str) -> None:
    global _watching
    content, reason = ATTACKS[attack]
    path = tmp_path / "a.xml"
    path.write_text(content)
    (tmp_path / "warm.xml").write_text(PAGE.format("x"))
    read_dump(tmp_path / "warm.xml", "mediawiki")  # modules are imported now
    if not _opened:
        sys.addaudithook(_watch)
        _opened.append("watched")
    _opened[1:] = []
    _watching = True
    found = read_dump(path, "mediawiki")
    _watching = False
    assert reasons(found) == [reason]
    assert {line for line in _opened[1:] if not line.endswith(str(path))} == set()

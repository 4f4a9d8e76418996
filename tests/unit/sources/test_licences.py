"""Licences: what headers, manifests and licence files say, and which of them counts for a file."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.folder import describe, list_tree
from pipeline_lib.sources.licences import MAX_STATEMENT_BYTES, Licences, is_allowed, licence_name, licence_of_text, spdx_header
from pipeline_lib.sources.readers.archive import read_archive
from pipeline_lib.sources.safe_open import SourceText

pytest.importorskip("identify", reason="licence texts come with the package identify, of the extra dumps")

MIT = """Copyright 2020-2024 Some Body and others

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
MIT_0 = MIT.replace(
    """, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.""",
    ".",
)


def own_texts() -> dict[str, str]:
    from identify.vendor.licenses import LICENSES

    return dict(LICENSES)


def test_each_known_text_is_told_from_all_others_however_it_is_wrapped() -> None:
    for name, text in own_texts().items():
        assert licence_of_text(text) == name
        assert licence_of_text("# Licence of this\n\n" + " ".join(text.split())) == name


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        (MIT, "MIT"),
        ("The MIT License (MIT)\n\n" + MIT.replace("\n", "\r\n"), "MIT"),
        (MIT_0, None),  # another licence, whose text is most of MIT's
        ("All rights reserved. " * 80, None),
        ("", None),
        ("Apache License 2.0\n", "Apache-2.0"),
        ("This Source Code Form is subject to the terms of the Mozilla Public License, v. 2.0.\n", "MPL-2.0"),
    ],
)
def test_a_licence_file_tells_its_licence_or_nothing(text: str, licence: str | None) -> None:
    assert licence_of_text(text) == licence


def test_a_file_with_two_licences_is_under_both() -> None:
    assert licence_of_text(MIT + own_texts()["Apache-2.0"]) == "Apache-2.0 AND MIT"


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("mit", "MIT"), ("The MIT License", "MIT"), ("Apache License, Version 2.0", "Apache-2.0"), ("Apache 2", "Apache-2.0"),
        ("License :: OSI Approved :: Apache Software License", "Apache-2.0"), ("MIT/Apache-2.0", "MIT OR Apache-2.0"),
        ("GPLv3+", "GPL-3.0-or-later"), ("GNU General Public License v2 (GPLv2)", "GPL-2.0-only"), ("LGPL-3.0", "LGPL-3.0"),
        ("mit OR (apache-2.0 and ISC)", "MIT OR (Apache-2.0 AND ISC)"), ("New BSD License", "BSD-3-Clause"),
        ("BSD", "BSD"), ("UNLICENSED", "UNLICENSED"), ("Proprietary", "Proprietary"), ("The Unlicense", "Unlicense"),
        ("SEE LICENSE IN EULA.md", None), ("UNKNOWN", None), ("", None), ("x" * 200, None),
    ],
)  # fmt: skip
def test_names_are_spelled_as_spdx_does(name: str, licence: str | None) -> None:
    assert licence_name(name) == licence


MANIFESTS = {
    "package.json": json.dumps({"name": "a", "license": "ISC"}),
    "composer.json": json.dumps({"license": ["MIT", "GPL-3.0-only"]}),
    "pyproject.toml": '[project]\nname = "a"\nlicense = {text = "BSD 3-Clause"}\n',
    "setup.cfg": "[metadata]\nname = a\nlicense = Apache 2.0\n",
    "setup.py": "setup(name='a', license='MPL-2.0', url='%s')\n",
    "Cargo.toml": '[package]\nname = "a"\nlicense = "MIT OR Apache-2.0"\n',
    "a.gemspec": 'Gem::Specification.new do |s|\n  s.name = "a"\n  s.licenses = ["Ruby", "BSD-2-Clause"]\nend\n',
    "pom.xml": "<project><licenses><license><name>Apache License, Version 2.0</name></license></licenses></project>",
    "PKG-INFO": "Name: a\nClassifier: License :: OSI Approved :: MIT License\n\nA text.\n",
    "a-1.dist-info/METADATA": "Name: a\nLicense-Expression: EPL-2.0\n\n",
}
STATED = dict(
    zip(
        MANIFESTS,
        ["ISC", "MIT OR GPL-3.0-only", "BSD-3-Clause", "Apache-2.0", "MPL-2.0", "MIT OR Apache-2.0", "Ruby OR BSD-2-Clause",
         "Apache-2.0", "MIT", "EPL-2.0"],
        strict=True,
    )
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(MANIFESTS))
def test_every_kind_of_manifest_tells_the_licence_of_its_folder(name: str) -> None:
    licences = Licences("fallback")
    assert licences.is_statement(f"sub/{name}")
    licences.add(f"sub/{name}", MANIFESTS[name].encode())
    assert licences.of("sub/deep/er/file.py") == STATED[name]
    assert licences.of("file.py") == licences.of("subway/file.py") == "fallback"


@pytest.mark.parametrize("name", sorted(MANIFESTS))
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\0", b"[1, 2]", b"[project]\nlicense = 3\n", b"[" * 100_000])
def test_a_broken_manifest_states_nothing(name: str, content: bytes) -> None:
    licences = Licences("fallback")
    licences.add(name, content)
    assert licences.of("a.py") == "fallback"


def test_the_nearest_statement_counts_and_the_own_header_before_all() -> None:
    licences = Licences()
    licences.add("LICENSE", own_texts()["Apache-2.0"].encode())
    licences.add("vendor/left-pad/package.json", MANIFESTS["package.json"].encode())
    licences.add("vendor/secret/LICENSE", b"You may not do anything. " * 100)
    licences.add("vendor/plain/package.json", b'{"name": "part of the whole"}')
    assert licences.of("src/a.py") == licences.of("vendor/plain/a.js") == "Apache-2.0"
    assert licences.of("vendor/left-pad/lib/a.js") == "ISC"
    assert licences.of("vendor/secret/a.js") == "unknown"
    assert licences.of("src/a.py", b"#!/usr/bin/python\n# SPDX-License-Identifier: BSD-2-Clause\n") == "BSD-2-Clause"
    assert Licences("said of all").of("a.py") == "said of all" and Licences().of("a.py") == "unknown"


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"LICENSE-MIT": MIT, "LICENSE-APACHE": "Apache-2.0"}, "Apache-2.0 OR MIT"),
        ({"LICENSE": "Look into the other two. " * 50, "LICENSE.MIT": MIT, "LICENSE.APACHE2": "Apache-2.0"}, "MIT"),
        ({"COPYING": "GPL-3.0", "COPYING.LESSER": "LGPL-3.0"}, "LGPL-3.0"),
        ({"package.json": '{"license": "BSD"}', "LICENSE.md": MIT}, "MIT"),  # which BSD it does not say
        ({"package.json": '{"license": "SEE LICENSE IN LICENCE"}', "LICENCE": MIT}, "MIT"),
        ({"package.json": '{"license": "Zlib"}', "LICENSE": MIT}, "Zlib"),
        ({"LICENSES/MIT.txt": MIT}, "MIT"),
        ({"a-1.dist-info/METADATA": "License: MIT\n\n", "b-1.dist-info/METADATA": "License: ISC\n\n"}, "fallback"),
        ({"LICENSE": "of nobody's kind. " * 100}, "fallback"),
        ({"LICENSE": "x" * (MAX_STATEMENT_BYTES + 1)}, "fallback"),
    ],
)
def test_statements_of_one_folder_together(files: dict[str, str], licence: str) -> None:
    licences = Licences("fallback")
    for name, text in files.items():
        assert licences.is_statement(name)
        licences.add(name, own_texts().get(text, text).encode())
    expected = "Apache-2.0 OR MIT" if "LICENSE.APACHE2" in files else licence
    assert licences.of("src/a.py") == expected


@pytest.mark.parametrize("name", ["license.py", "LICENSE.java", "licensing.go", "copyist.txt", "METADATA", "my-package.json"])
def test_other_files_state_nothing(name: str) -> None:
    assert not Licences.is_statement(f"src/{name}")


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        (b"/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */\n", "GPL-2.0-only WITH Linux-syscall-note"),
        (b"<!-- SPDX-License-Identifier: cc-by-4.0 -->\n", "CC-BY-4.0"),
        (b"// SPDX-License-Identifier: MIT\r\n// SPDX-License-Identifier: ISC OR 0BSD\r\n", "MIT AND (ISC OR 0BSD)"),
        (b"# SPDX-License-Identifier:\n", None),
        (b" " * 5000 + b"SPDX-License-Identifier: MIT", None),
        (b"", None),
    ],
)
def test_headers(head: bytes, licence: str | None) -> None:
    assert spdx_header(head) == licence


@pytest.mark.parametrize(
    ("expression", "kept"),
    [
        ("MIT", True), ("mit OR GPL-3.0-only", True), ("MIT AND GPL-3.0-only", False), ("GPL-3.0-only", False),
        ("(MIT OR GPL-3.0-only) AND Apache-2.0", True), ("GPL-3.0-only OR (MIT AND Apache-2.0)", True),
        ("GPL-3.0-only OR (MIT AND ISC)", False), ("unknown", False), (None, False), ("((", False), ("", False),
    ],
)  # fmt: skip
def test_a_filter_reads_expressions(expression: str | None, kept: bool) -> None:
    assert is_allowed(expression, frozenset({"mit", "apache-2.0"})) is kept


FILES = {
    "p/LICENSE": MIT.encode(),
    "p/a.py": b"a = 1\n",
    "p/b.py": b"# SPDX-License-Identifier: ISC\nb = 1\n",
    "p/vendor/z/a.js": b"var a;\n",
    "p/vendor/z/package.json": b'{"license": "Apache-2.0"}',
    "p/tools/src/t.rb": b"t = 1\n",
    "p/tools/pyproject.toml": b'[project]\nname = "tools"\nlicense = "Zlib"\n',
}
FOUND = {"p/a.py": "MIT", "p/b.py": "ISC", "p/vendor/z/a.js": "Apache-2.0", "p/tools/src/t.rb": "Zlib"}


def test_a_folder_is_listed_with_its_licences(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "alone.py").write_bytes(b"")
    assert {file.path: file.licence for file in list_tree(str(tmp_path))} == {**FOUND, "alone.py": "unknown"}


def pack(path: Path, files: dict[str, bytes]) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_an_archive_is_read_with_its_licences_wherever_they_stand_in_it(tmp_path: Path, name: str) -> None:
    for files in (FILES, dict(reversed(FILES.items()))):
        pack(tmp_path / name, files)
        listed = describe(str(tmp_path / name), name, "s", "g", "of the spec").model_copy(update={"form": "archive"})
        found = list(read_archive(listed, ReadLimits()))
        texts = [record.file for record in found if isinstance(record.content, SourceText)]
        assert {file.path.partition("!")[2]: file.licence for file in texts} == FOUND


def test_a_repository_is_read_with_its_licences(tmp_path: Path) -> None:
    porcelain = pytest.importorskip("dulwich.porcelain", reason="repositories are read by dulwich, of the extra dumps")
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    with porcelain.init(str(tmp_path)) as repository:
        porcelain.add(repository, [str(tmp_path / name) for name in FILES])
        porcelain.commit(repository, message=b"m", author=b"a <a@b>", committer=b"a <a@b>")
    from pipeline_lib.sources.readers.git import describe_repository, read_repository

    found = list(read_repository(describe_repository(str(tmp_path), "s", "HEAD"), ReadLimits()))
    texts = [record.file for record in found if isinstance(record.content, SourceText)]
    assert {file.path.partition("!")[2]: file.licence for file in texts} == FOUND

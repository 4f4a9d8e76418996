"""Licences of files: their own SPDX header, else what the nearest folder upwards states in its manifest or licence file.

Expressions are SPDX's, in its spelling, where a name can be told (`MIT OR Apache-2.0`); else the name as the manifest has it.
A licence file is compared by its words with the texts that identify carries (choosealicense.com's).
"""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from email.parser import HeaderParser
from functools import cache
from typing import Any, NamedTuple

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from pipeline_lib.sources.source_file import CODE_FORMS, form_of

UNKNOWN = "unknown"
HEAD_BYTES = 4096  # where a file's own header stands
MAX_STATEMENT_BYTES = 256 * 1024  # of a manifest or a licence file; longer ones are not looked at
MAX_NAME_CHARACTERS = 100
NGRAM_WORDS = 3
MIN_COVERED = 0.82  # of a licence's n-grams; its text names other owners, and is wrapped in other places
MAX_SHARED = 0.6  # of a licence's n-grams with one that was found: more is another version of it
SHORT_TEXT_CHARACTERS = 1000  # a licence file that only names the licence

_HEADER = re.compile(rb"SPDX-License-Identifier:[ \t]*([^\r\n]{1,200})")
_CLOSERS = re.compile(r"\s*(?:\*/|-->|\*\)|--}}|\"\"\"|'''|#\}|%>).*$")
_LICENCE_FILE = re.compile(r"(?i)^(?:(?:un)?licen[cs]es?|copying)(?:[-._ ].*)?$")
_MAIN_FILE = re.compile(r"(?i)^(?:(?:un)?licen[cs]e|copying)(?:\.(?:txt|md|rst|markdown))?$")
_TEXT_ENDINGS = re.compile(r"(?i)\.(?:txt|md|rst|markdown)$")


def spdx_header(head: bytes) -> str | None:
    """The expression of a file's SPDX-License-Identifier; of several lines all of them hold."""
    found = (_CLOSERS.sub("", line.decode("utf-8", "replace")).strip() for line in _HEADER.findall(head[:HEAD_BYTES]))
    names = list(dict.fromkeys(name for line in found if line and (name := licence_name(line))))
    return " AND ".join(f"({name})" if " OR " in name and len(names) > 1 else name for name in names) or None


def licence_name(text: str) -> str | None:
    """A licence as a manifest names it: in SPDX's spelling where it can be told, else as it is; None where it says nothing."""
    text = " ".join(text.split()).removeprefix("License :: ").removeprefix("OSI Approved :: ").strip(" \"'.")
    if not text or len(text) > MAX_NAME_CHARACTERS or re.match(r"(?i)see\b|unknown$|none$|noassertion$|other\b", text):
        return None
    return spdx(text) or text


def spdx(text: str) -> str | None:
    """SPDX's spelling of an expression or of a licence's usual name; None where it is neither."""
    for candidate in (text, re.sub(r"\s*(?:/|,|\bor\b)\s*", " OR ", text), re.sub(r"\s*\band\b\s*", " AND ", text)):
        try:
            return canonicalize_license_expression(candidate)
        except InvalidLicenseExpression:
            continue
    folded = text.lower()
    for name, pattern in _NAMES:
        if re.search(pattern, folded):
            is_gnu, is_later = name.startswith(("GPL", "LGPL", "AGPL")), re.search(r"later|\+|\bany\b", folded)
            return f"{name}-{'or-later' if is_later else 'only'}" if is_gnu else name
    return None


_NAMES = (  # the first that a name matches; what names no version of several stays as it is
    ("Apache-2.0", r"apache(?:.*\b(?:2|v2|2\.0)\b|[ -]*(?:software )?(?:licen[cs]e)?$|2)|\basl ?2|\balv2"),
    ("AGPL-3.0", r"(?:affero|agpl).*3"),
    ("LGPL-2.1", r"(?:lesser|library|lgpl).*2\.1"),
    ("LGPL-2.0", r"(?:lesser|library|lgpl).*2"),
    ("LGPL-3.0", r"(?:lesser|library|lgpl).*3"),
    ("GPL-2.0", r"(?:general public|gpl).*2"),
    ("GPL-3.0", r"(?:general public|gpl).*3"),
    ("MPL-2.0", r"(?:mozilla|mpl).*2"),
    ("MPL-1.1", r"(?:mozilla|mpl).*1\.1"),
    ("EPL-2.0", r"(?:eclipse public|epl).*2"),
    ("EPL-1.0", r"(?:eclipse public|epl).*1"),
    ("BSD-3-Clause", r"(?:bsd.*(?:3|three)|(?:new|modified|revised) bsd|3-clause)"),
    ("BSD-2-Clause", r"(?:bsd.*(?:2|two)|(?:simplified|free) ?bsd|2-clause)"),
    ("PSF-2.0", r"python software foundation|\bpsf"),
    ("MIT", r"^(?:the )?(?:mit|expat)(?:[ /-]*(?:x11|licen[cs]ed?|expat))*(?: \(mit\))?$|\bmit licen[cs]e"),
    ("ISC", r"^(?:the )?isc(?: licen[cs]e)?(?: \(iscl?\))?$"),
    ("CC0-1.0", r"^cc0|creative commons zero"),
    ("Unlicense", r"\bunlicense\b"),
    ("BSL-1.0", r"boost software"),
    ("Zlib", r"^zlib(?:/libpng)?(?: licen[cs]e)?$"),
)


# what tells a licence from one that is mostly the same words: without it, it is the other
_MARKS = {
    "MIT": re.compile(r"copyright notice and this permission notice"),
    "ISC": re.compile(r"notice and this permission notice appear"),
    "BSD-3-Clause": re.compile(r"\b(?:name|names) .{0,200}\b(?:endorse|promote)\b"),
    "BSD-3-Clause-Clear": re.compile(r"no express or implied licenses to any party s patent"),
    "AGPL-3.0": re.compile(r"affero general public license version"),
    "ECL-2.0": re.compile(r"educational community license"),
    "MS-RL": re.compile(r"reciprocal grants"),
}

_PYTHON = "python software foundation license version"
_UNDER = re.compile(
    r"(?i)(?:licensed under|subject to) (?:the )?(?:terms of )?(?:the )?([\w -]+(?:, ?v(?:ersion|\.)? ?[\d.]*\d)?)"
)


@cache
def _known_texts() -> dict[str, frozenset[int]]:
    try:
        from identify.vendor.licenses import LICENSES
    except ImportError:  # of the extra `dumps`; without it a licence file tells what its first line names
        return {}

    return {name: _ngrams(re.sub(r"[\[<][^\]>]*[\]>]", " ", text)) for name, text in LICENSES}


def _ngrams(text: str) -> frozenset[int]:
    """Hashes of runs of words. Lines of owners are left out, or no two files would be alike."""
    words = _words(text)
    return frozenset(hash(tuple(words[at : at + NGRAM_WORDS])) for at in range(max(1, len(words) - NGRAM_WORDS + 1)))


def _words(text: str) -> list[str]:
    owned = re.sub(r"(?im)^[\W_]*(?:copyright|\(c\)|©)\s.{0,150}\d{4}.{0,150}$", " ", text)
    return re.findall(r"[a-z]{2,}|\d+\.\d+|\bs\b|\d{2,}", owned.lower())  # numbers of clauses come in all styles


@cache
def licence_of_text(text: str) -> str | None:
    """The licences whose texts a licence file holds, as an expression; None where it holds none that is known."""
    here, words = _ngrams(text), " ".join(_words(text))
    if _PYTHON in words:  # which holds the others that Python had, and one more for its examples
        return "PSF-2.0"
    shared = {name: len(grams & here) for name, grams in _known_texts().items()}
    likely = [name for name, count in shared.items() if count >= MIN_COVERED * len(_known_texts()[name])]
    likely = [name for name in likely if name not in _MARKS or _MARKS[name].search(words)]
    found: list[str] = []
    for name in sorted(likely, key=lambda name: (-shared[name], name)):
        grams = _known_texts()[name]
        if all(len(grams & _known_texts()[other]) < MAX_SHARED * len(grams) for other in found):
            found.append(name)
    if found:
        return " AND ".join(sorted(found))
    return _named(text) if len(text) < SHORT_TEXT_CHARACTERS else None


def _named(text: str) -> str | None:
    """The licence that a short text names, in its first line or as what something is licensed under."""
    first = next((line.strip(" #*=") for line in text.splitlines() if line.strip(" #*=-")), "")
    under = _UNDER.search(" ".join(text.split()))
    return spdx(first) or (spdx(under[1]) if under else None)


class _Stated(NamedTuple):
    """Statement of one file: the licence, or None where its text is no known one; manifests without a licence state nothing."""

    is_manifest: bool
    name: str
    licence: str | None


class Licences:
    """Licences of a tree, an archive or a repository, by the folders that state them.

    Args:
        fallback: of what lies below no statement.
    """

    def __init__(self, fallback: str | None = UNKNOWN) -> None:
        self.fallback = fallback
        self._stated: dict[str, list[_Stated]] = {}
        self._found: dict[str, str | None] = {}

    @staticmethod
    def is_statement(path: str) -> bool:
        """True for the name of a manifest or a licence file."""
        return _manifest_reader(path) is not None or _is_licence_file(path)

    def add(self, path: str, data: bytes) -> None:
        """Note what a manifest or a licence file states, for its folder and those below."""
        folder, name = _folder(path), path.rsplit("/", 1)[-1]
        if len(data) > MAX_STATEMENT_BYTES:
            return
        text = data.decode("utf-8-sig", "replace")
        read = _manifest_reader(path)
        if read is None:
            stated = _Stated(False, name, licence_of_text(text))
        else:
            licence = _quietly(read, text)
            if licence is None:
                return
            stated = _Stated(True, name, licence)
        self._stated.setdefault(folder, []).append(stated)
        self._found.clear()

    def of(self, path: str, head: bytes = b"") -> str | None:
        """The licence of a file: its own header's, else that of the nearest folder upwards, else the fallback."""
        return (spdx_header(head) if head else None) or self._of_folder(_parent(path))

    def _of_folder(self, folder: str) -> str | None:
        if folder not in self._found:
            if folder in self._stated:
                self._found[folder] = _together(self._stated[folder]) or self._of_unknown_text(folder)
            else:
                self._found[folder] = self._of_folder(_parent(folder)) if folder else self.fallback
        return self._found[folder]

    def _of_unknown_text(self, folder: str) -> str | None:
        """What nobody knows is not its parent's, and may be what the caller said of the whole."""
        above = folder
        while above:
            above = _parent(above)
            if above in self._stated:
                return UNKNOWN
        return self.fallback


def _together(stated: Iterable[_Stated]) -> str | None:
    """The licence of a folder: a manifest's, where SPDX knows it, before its licence files' and other names."""
    by_name = sorted(stated, key=lambda each: (each.name, each.licence or ""))
    if len({each.licence for each in by_name if each.name in _OF_A_PACKAGE}) > 1:  # many packages in one folder
        by_name = [each for each in by_name if each.name not in _OF_A_PACKAGE]
    named = list(dict.fromkeys(each.licence for each in by_name if each.is_manifest and each.licence))
    known = [name for name in named if spdx(name)]
    if known:
        return _joined(known, "AND")
    main = [each.licence for each in by_name if not each.is_manifest and _MAIN_FILE.match(each.name)]
    others = [each.licence for each in by_name if not each.is_manifest and not _MAIN_FILE.match(each.name)]
    lesser = [licence for licence in others if licence and licence.startswith("LGPL")]  # its text comes beside the GPL's
    for licences, operator in ((lesser, "AND"), (main, "AND"), (others, "OR")):
        if any(licences):
            return _joined(list(dict.fromkeys(licence for licence in licences if licence)), operator)
    return _joined(named, "AND") if named else None


_OF_A_PACKAGE = ("METADATA", "PKG-INFO")


def _joined(names: list[str], operator: str) -> str:
    return f" {operator} ".join(f"({name})" if " OR " in name and len(names) > 1 else name for name in names)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _folder(path: str) -> str:
    """The folder that a statement is for: what an installer writes beside a package is for the package."""
    folder = _parent(path)
    while re.search(r"(?:^|/)(?:[^/]+\.(?:dist-info|egg-info)|LICENSES|licenses)$", folder):
        folder = _parent(folder)
    return folder


def _is_licence_file(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    in_folder = re.search(r"(?:^|/)LICENSES/[^/]+\.txt$", path) is not None  # REUSE: a file a licence
    if not (in_folder or _LICENCE_FILE.match(name)) or form_of(name) in CODE_FORMS:
        return False
    stem = _TEXT_ENDINGS.sub("", name)
    return in_folder or "." not in stem or re.search(r"(?i)\.[a-z]+[-0-9.]*$", stem) is not None


def _manifest_reader(path: str) -> Callable[[str], str | None] | None:
    name = path.rsplit("/", 1)[-1]
    if name == "METADATA" and not _parent(path).endswith(".dist-info"):
        return None
    return _gemspec if name.endswith(".gemspec") else _MANIFESTS.get(name)


def _quietly(read: Callable[[str], str | None], text: str) -> str | None:
    """What a manifest states; nothing where it is broken, as those of test data are."""
    try:
        return read(text)
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError, configparser.Error):
        return None


def _any_of(names: Any) -> str | None:
    """Names of which one may be chosen, as npm, Composer, RubyGems and Maven mean a list."""
    if isinstance(names, str | dict):
        names = [names]
    words = [str(name.get("type") or name.get("name") or "") if isinstance(name, dict) else str(name) for name in names or ()]
    found = list(dict.fromkeys(name for word in words if (name := licence_name(word))))
    return _joined(found, "OR") if found else None


def _json(text: str) -> str | None:
    content = json.loads(text)
    return _any_of(content.get("license") or content.get("licenses"))


def _pyproject(text: str) -> str | None:
    content = tomllib.loads(text)
    for table in (content.get("project", {}), content.get("tool", {}).get("poetry", {})):
        stated = table.get("license")
        text_of = stated.get("text", "") if isinstance(stated, dict) else stated
        if found := (licence_name(text_of) if text_of else None) or _classifiers(table.get("classifiers", ())):
            return found
    return None


def _classifiers(lines: Iterable[str]) -> str | None:
    return _any_of([line.strip() for line in lines if line.strip().startswith("License ::") and line.count("::") > 1])


def _cargo(text: str) -> str | None:
    content = tomllib.loads(text)
    package = content.get("package") or content.get("workspace", {}).get("package", {})
    stated = package.get("license")
    return licence_name(stated) if isinstance(stated, str) else None  # {workspace = true}: the folder above says it


def _setup_cfg(text: str) -> str | None:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read_string(text)
    metadata = parser["metadata"]
    return licence_name(metadata.get("license", "")) or _classifiers(metadata.get("classifiers", "").splitlines())


def _setup_py(text: str) -> str | None:
    stated = re.search(r"""\blicense\s*=\s*(["'])([^"'\n]+)\1""", text)
    return (licence_name(stated[2]) if stated else None) or _classifiers(re.findall(r"""["'](License :: [^"'\n]+)["']""", text))


def _gemspec(text: str) -> str | None:
    stated = re.search(r"\.licenses?\s*=\s*([^\n]*(?:\[[^\]]*\])?)", text)
    return _any_of([name for _, name in re.findall(r"""(["'])([^"'\n]+)\1""", stated[1])]) if stated else None


def _pom(text: str) -> str | None:
    block = re.search(r"<licenses>(.*?)</licenses>", re.sub(r"(?s)<!--.*?-->", "", text), re.DOTALL)
    return _any_of(re.findall(r"<name>\s*([^<]+?)\s*</name>", block[1])) if block else None


def _package_metadata(text: str) -> str | None:
    headers = HeaderParser().parsestr(text.split("\n\n", 1)[0])
    for field in ("License-Expression", "License"):
        if found := licence_name(headers[field] or ""):
            return found
    return _classifiers(headers.get_all("Classifier", []))


_MANIFESTS: dict[str, Callable[[str], str | None]] = {
    "package.json": _json,
    "composer.json": _json,
    "pyproject.toml": _pyproject,
    "setup.cfg": _setup_cfg,
    "setup.py": _setup_py,
    "Cargo.toml": _cargo,
    "pom.xml": _pom,
    "PKG-INFO": _package_metadata,
    "METADATA": _package_metadata,
}


@cache
def is_allowed(licence: str | None, kept: frozenset[str]) -> bool:
    """True where an expression can be kept by licences of these names, in any case: one of an OR, all of an AND.

    Args:
        kept: in lower case.
    """
    folded = (licence or "").lower()
    if folded in kept:
        return True
    while inner := re.search(r"\(([^()]*)\)", folded):
        folded = folded[: inner.start()] + ("\x01" if _holds(inner[1], kept) else "\x02") + folded[inner.end() :]
    return _holds(folded, kept)


def _holds(terms: str, kept: frozenset[str]) -> bool:
    """One of the terms around OR, each all of those around AND, is kept; AND binds more tightly."""
    return any(
        all(term.strip() == "\x01" or term.strip() in kept for term in re.split(r" and ", alternative))
        for alternative in re.split(r" or ", terms)
    )

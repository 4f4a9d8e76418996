"""First bytes of a file: what it looks like, whatever its name says.

A kind that is named as a reader is read by that one; any other is refused as `looks_like_KIND`, with what can be done.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.codecs import SEVEN_ZIP
from pipeline_lib.sources.decompress import Unreadable, open_expanded
from pipeline_lib.sources.remote import has_wild_card, is_remote, read_heads
from pipeline_lib.sources.safe_open import Refusal, SourceText
from pipeline_lib.sources.source_file import SourceFile

HEAD_BYTES = 64 * 1024
_BZIP2_BYTES = 1 << 20
_HEADS_AT_ONCE = 128

# what a file of each kind is, and what to do with it where no reader of that name was chosen
KINDS = {
    "archive": "an archive: give the reader `archive`",
    "arrow": "Arrow: give the reader `arrow`",
    "avro": "Avro: write it as Parquet or JSON Lines",
    "code_search_net": "CodeSearchNet's records: give the reader `code_search_net`",
    "csv": "a table: give the reader `csv`",
    "feather": "Feather's first version: write it as Parquet",
    "ebook": "an e-book: convert it first (pandoc book.epub -t markdown)",
    "hdf5": "HDF5: write its texts as Parquet or JSON Lines",
    "html": "a page: give the reader `html`",
    "json_lines": "JSON: give the reader `json_lines`",
    "latex": "LaTeX: give the reader `latex`",
    "media": "a picture, sound or film: there is no text in it to read",
    "mediawiki": "a wiki's export: give the reader `mediawiki`",
    "notebook": "a notebook: convert it first (jupyter nbconvert --to markdown)",
    "numbers": "an array of numbers: there is no text in it to read",
    "office": "an office document: convert it first (pandoc letter.docx -t markdown, or save it as text)",
    "orc": "ORC: write it as Parquet",
    "packed": "compressed in a way that is not read here: unpack it first",
    "parquet": "Parquet: give the reader `parquet`",
    "pdf": "a PDF document: convert it first (pdftotext)",
    "pickle": "a pickle: it would run what it says; write its texts as Parquet or JSON Lines",
    "postscript": "PostScript: convert it first (ps2ascii)",
    "program": "a compiled program: there is no text in it to read",
    "rtf": "rich text: convert it first (pandoc letter.rtf -t markdown)",
    "script": "a script: give its file the suffix of its language",
    "sqlite": "a SQLite database: write its texts as CSV (sqlite3 -header -csv FILE 'select ..')",
    "stack_exchange": "a Stack Exchange dump: give the reader `stack_exchange`",
    "warc": "a web archive: give the reader `warc`",
    "xml": "XML of no known dump: convert its texts to JSON Lines",
}
_MAGIC = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow"),  # the stream format, as `datasets` saves it
    (b"FEA1", "feather"),
    (b"Obj\x01", "avro"),
    (b"ORC", "orc"),
    (b"\x89HDF\r\n", "hdf5"),
    (b"SQLite format 3\0", "sqlite"),
    (b"\x93NUMPY", "numbers"),
    (b"GGUF", "numbers"),
    (b"%PDF-", "pdf"),
    (b"%!PS", "postscript"),
    (b"{\\rtf", "rtf"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1", "office"),
    (b"WARC/", "warc"),
    (b"filedesc://", "warc"),
    (b"\x7fELF", "program"),
    (b"\xca\xfe\xba\xbe", "program"),
    (b"\0asm", "program"),
    (b"MZ\x90\0", "program"),
    (b"!<arch>\n", "program"),
    (b"\x89PNG", "media"),
    (b"\xff\xd8\xff", "media"),
    (b"GIF8", "media"),
    (b"RIFF", "media"),
    (b"OggS", "media"),
    (b"fLaC", "media"),
    (b"ID3", "media"),
    (b"\x1f\x8b", "packed"),
    (b"BZh", "packed"),
    (b"\xfd7zXZ\0", "packed"),
    (b"\x28\xb5\x2f\xfd", "packed"),
    (b"\x04\x22\x4d\x18", "packed"),
    (SEVEN_ZIP, "archive"),
    (b"Rar!\x1a\x07", "packed"),
    (b"\x1f\x9d", "packed"),
)
_WRITTEN = (b"%PDF-", b"%!PS", b"{\\rtf", b"WARC/", b"filedesc://", b"!<arch>\n")  # kinds that may hold text alone
_BINARY, _BINARY_BYTES = re.compile(rb"[\0-\x08\x0e-\x1a\x7f-\xff]"), 1024
_ZIP = b"PK\x03\x04"
_PICKLE = re.compile(rb"\x80[\x02-\x05][\x95\]}(cX]")
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_STRING = r'"(?:[^"\\]|\\.)*"'
_JSON = re.compile(rf"\x1e?\s*(?:\[\s*)*(?:\{{\s*(?:{_STRING}\s*:|\}})|(?<=\[)\s*{_STRING}\s*[,\]])")
_XML_PROLOG = re.compile(
    r"(?:\s++|<\?.*?\?>|<!--.*?-->|<!doctype(?:\s[^<>\[]*|[^<>]*\[.*?\]\s*)>)*+", re.DOTALL | re.IGNORECASE
)
_XML_ROOT = re.compile(r"<([A-Za-z_][\w.:-]*)[\s/>]")
_STACK_EXCHANGE = frozenset({"posts", "comments", "posthistory", "users", "votes", "badges", "tags", "postlinks", "row"})
_LATEX = re.compile(
    r"(?:%[^\n]*\n|\s++|\\(?:RequirePackage|PassOptionsToPackage)[^\n]*\n)*+\\(?:document(?:class|style)|NeedsTeXFormat|Provides(?:Package|Class))\b"
)
_FUNCTION = frozenset({"repo", "func_name", "docstring"})  # fields of a record of CodeSearchNet
# what pygments has a lexer for and is prose all the same
_PROSE = frozenset({"Text only", "Markdown", "reStructuredText", "TeX", "HTML", "Org Mode", "Groff", "Wikitext"})
DELIMITERS = ",\t;|"


def heads_of(places: Iterable[str], limits: ReadLimits) -> Iterator[tuple[str, bytes]]:
    """Each place, and the first bytes of the file there, decompressed; remote ones are fetched many at a time.

    Raises:
        TransientError: a server did not answer.
    """
    pending = iter(places)
    while batch := list(islice(pending, _HEADS_AT_ONCE)):
        remote = [place for place in batch if is_remote(place)]
        fetched = dict(zip(remote, read_heads(remote, HEAD_BYTES), strict=True))
        for place in batch:
            yield place, _remote_head(place, fetched[place], limits) if place in fetched else read_head(place, limits)


def _remote_head(place: str, fetched: bytes, limits: ReadLimits) -> bytes:
    if fetched.startswith(b"BZh") and len(fetched) == HEAD_BYTES:  # nothing comes out of less than a block
        (fetched,) = read_heads([place], _BZIP2_BYTES)
    with tempfile.NamedTemporaryFile(prefix="cpt-", suffix=PurePosixPath(place).suffix) as copy:
        copy.write(fetched)
        copy.flush()
        return read_head(copy.name, limits)


def read_head(place: str, limits: ReadLimits, most: int = HEAD_BYTES) -> bytes:
    """The first bytes of a file, decompressed; empty where there are none that can be read.

    Raises:
        TransientError: the file is not on this machine and its server did not answer.
    """
    if is_remote(place):
        return b"" if has_wild_card(place) else next(head for _, head in heads_of([place], limits))
    if not Path(place).is_file():
        return b""
    head = b""
    try:
        with open_expanded(place, limits, read=SEVEN_ZIP) as stream:
            while len(head) < most and (data := stream.read_some()):
                head += data
    except Unreadable:
        pass  # its reader says why
    return head[:most]


def kind_of(head: bytes) -> str:
    """The kind of file that begins like this, one of `KINDS`; empty for prose, code, and what nobody knows."""
    if head.startswith(_ZIP):
        return _zip_kind(head)
    if head[257:262] == b"ustar":
        return "archive"
    kind = next((kind for magic, kind in _MAGIC if head.startswith(magic)), "")
    if kind and not head.startswith(_WRITTEN) and not _BINARY.search(head, 0, _BINARY_BYTES):
        kind = ""  # prose that begins with ORC or PAR1
    return kind or ("pickle" if _PICKLE.match(head) else _text_kind(head_text(head)))


def prose_or_refusal(file: SourceFile, text: SourceText | Refusal, limits: ReadLimits) -> SourceText | Refusal:
    """The content of a file that is read as prose, unless it looks like something else."""
    if isinstance(text, Refusal) and text.reason not in ("nul_byte", "not_utf8", "file_too_large"):
        return text
    head = text.data[:HEAD_BYTES] if isinstance(text, SourceText) else read_head(file.place, limits)
    return _not_prose(file.path, head) or text


def _not_prose(path: str, head: bytes) -> Refusal | None:
    """The refusal of what is no prose: by its first bytes, else as code of a language that is not read."""
    if kind := kind_of(head):
        return Refusal(f"looks_like_{kind}", f"its first bytes are those of {KINDS[kind]}", 0)
    name = path.rsplit("/", 1)[-1]
    language = _language(f"x.{name.rpartition('.')[2]}" if "." in name else name)
    return Refusal("unknown_language", f"its name is that of a file of {language}, which is not read") if language else None


@lru_cache(1_000)
def _language(name: str) -> str:
    """The language of code or settings that files of a name are in; empty where there is none or it is prose."""
    from pygments.lexers import find_lexer_class_for_filename

    lexer = find_lexer_class_for_filename(name)
    return "" if lexer is None or lexer.name in _PROSE else lexer.name


def head_text(head: bytes) -> str:
    """First bytes as text, by their byte order mark or as UTF-8; bytes that are none are replaced."""
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return head[len(mark) :].decode(encoding, "replace")
    return head.decode("utf-8", "replace")


def _zip_kind(head: bytes) -> str:
    first = head[30:100]
    if first.startswith(b"mimetypeapplication/epub"):
        return "ebook"
    return "office" if first.startswith((b"[Content_Types].xml", b"mimetypeapplication/vnd.oasis")) else "archive"


def _text_kind(text: str) -> str:
    if _JSON.match(text):
        return _json_kind(text)
    prolog = _XML_PROLOG.match(text)
    begin = text[prolog.end() if prolog else 0 :]
    if root := _XML_ROOT.match(begin):
        name = root.group(1).lower().rpartition(":")[2]
        if name == "html":
            return "html"
        if name == "mediawiki":
            return "mediawiki"
        if name in _STACK_EXCHANGE and (name == "row" or re.match(r"<\w+[^>]*>\s*<row\s", begin)):
            return "stack_exchange"
        return "xml" if text.lstrip().startswith("<?xml") or name in ("svg", "rss", "feed") else ""
    if text.lstrip()[:9].lower() == "<!doctype" and "html" in text.lstrip()[:30].lower():
        return "html"
    if text.startswith(("#!/", "#! /")):
        return "script"
    if _LATEX.match(text):
        return "latex"
    return "csv" if is_table(text) else ""


def _json_kind(text: str) -> str:
    first = text.lstrip("\x1e \t\r\n")
    if not first.startswith("{"):
        return "json_lines"
    try:
        record, end = json.JSONDecoder().raw_decode(first)
    except (ValueError, RecursionError):  # it goes on, or is damaged
        record, end = {name: "" for name in (*_FUNCTION, "cells", "text") if f'"{name}"' in first}, len(first)
    if record.keys() >= _FUNCTION:
        return "code_search_net"
    if first[end:].strip() or "text" in record or record.keys().isdisjoint({"cells", "worksheets"}):
        return "json_lines"
    return "notebook" if re.search(r'"(?:cell_type|nbformat)"', first) else "json_lines"


def is_table(text: str) -> bool:
    """True for a table with a header: each row has the header's columns, which have names of their own."""
    lines = list(io.StringIO(text))
    for delimiter in DELIMITERS:
        names = [name.strip(' "\r\n') for name in lines[0].split(delimiter)] if lines else []
        named = len(set(names)) == len(names) and all(re.fullmatch(r"[^\W\d][\w .:/#()-]{0,40}", name) for name in names)
        least = 1 if {name.lower() for name in names} & _USUAL else 5
        if not named or len(names) < 2 + (least > 1):
            continue
        try:
            rows = [row for row in csv.reader(lines[1:], delimiter=delimiter) if row]
        except csv.Error:
            continue
        if len(text) >= HEAD_BYTES // 2:
            rows = rows[:-1]  # it may be cut off
        if len(rows) >= least and all(len(row) == len(names) for row in rows):
            return True
    return False


# columns by which a table of few rows is told from prose with commas
_USUAL = frozenset("text content body title id label sentence question answer url article review comment".split())  # noqa: SIM905

"""LaTeX sources (arXiv and the like) as prose: what stands between the document's begin and end, as pylatexenc reads it.

Figures, tables, displayed formulas, listings, references and the preamble are left out, citations too; headings are
Markdown's. A formula in a line of prose stays, as characters where there are such. Macros that a document defines are unknown
here: their arguments stay, as words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import read_whole
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.records import SourceRecord, as_text
from pipeline_lib.sources.safe_open import Refusal, SourceText, decode
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.sources.time_limit import within_time

_BEGIN, _END = "\\begin{document}", "\\end{document}"
# pylatexenc recurses into each group: a document nests a dozen deep
_MOST_DEPTH = 60
_BRACES = re.compile(r"\\begin\b|\\end\b|\\.|[{}]", re.DOTALL)
_HEADINGS = {"part": 1, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4, "paragraph": 5, "subparagraph": 6}
_NO_PROSE = (
    "figure figure* wrapfigure table table* tabular tabular* tabularx longtable equation equation* align align* eqnarray"
    " eqnarray* gather gather* multline multline* displaymath math array verbatim lstlisting minted algorithm algorithmic"
    " tikzpicture picture thebibliography filecontents filecontents* comment CCSXML IEEEkeywords"
)
_LEFT_OUT = (
    "cite citep citet citealp citealt citeauthor citeyear parencite textcite autocite footcite nocite label bibliography"
    " bibliographystyle includegraphics input include usepackage vspace hspace vskip hskip thanks index pagestyle thispagestyle"
    " affiliation email address date author keywords ccsdesc setcounter addtocounter renewcommand newcommand def"
    " ref eqref autoref cref Cref pageref maketitle footnote"
)
_EMPTY_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_INDENT = re.compile(r"(?m)^[ \t]+|[ \t]+$")
_BEFORE_MARK = re.compile(r"[ \t~\u00a0]+(?=[.,;:!?)])")  # where a citation stood
_DISPLAYED = re.compile(r"(?<!\\)\\\[.*?(?<!\\)\\\]|(?<!\\)\$\$.*?\$\$", re.DOTALL)
_MACROS, _HEAD_CHARACTERS = re.compile(r"\\Provides(?:Package|Class)\b"), 4_000
_VERBATIM = re.compile(r"\\begin\{(verbatim|lstlisting|minted|comment|filecontents)(\*?)\}.*?\\end\{\1\2\}", re.DOTALL)
_SPACES = re.compile(r"(?<=\S)[ \t]{2,}")


def read_latex(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """A document in a file of its own, as its prose; a file of macros alone is an empty text.

    Refusals: latex_depth, bad_latex, file_too_large, and those of decoding.
    """
    data = read_whole(file.place, limits, limits.max_text_bytes, file.sha256)
    source = data if isinstance(data, Refusal) else _decoded(data)
    text = source if isinstance(source, Refusal) else within_time("page", lambda: prose_of(source.text))
    yield SourceRecord(
        file.model_copy(update={"form": "markdown"}), text if isinstance(text, Refusal) else as_text(text, limits)
    )


def prose_of(source: str) -> str | Refusal:
    """The prose of a LaTeX source."""
    if _BEGIN not in source and _MACROS.search(source, 0, _HEAD_CHARACTERS):
        return ""
    body = source.partition(_BEGIN)[2].partition(_END)[0] if _BEGIN in source else source
    body = _DISPLAYED.sub("", _VERBATIM.sub("", body))
    if _depth(body) > _MOST_DEPTH:
        return Refusal("latex_depth", f"nested deeper than {_MOST_DEPTH} groups")
    try:
        text: str = _converter().latex_to_text(body)
    except (ValueError, RecursionError, IndexError, KeyError, AttributeError, TypeError) as error:
        return Refusal("bad_latex", ascii(str(error))[:200])
    text = _SPACES.sub(" ", _INDENT.sub("", text))
    return _EMPTY_LINES.sub("\n\n", _BEFORE_MARK.sub("", text)).strip()


@cache
def _converter() -> Any:
    from pylatexenc.latex2text import EnvironmentTextSpec, LatexNodes2Text, MacroTextSpec, get_default_latex_context_db

    context = get_default_latex_context_db()
    macros = [MacroTextSpec(name, discard=True) for name in _LEFT_OUT.split()]
    macros += [MacroTextSpec(name, simplify_repl=_heading) for name in _HEADINGS]
    macros.append(MacroTextSpec("item", simplify_repl="\n- "))
    environments = [EnvironmentTextSpec(name, discard=True) for name in _NO_PROSE.split()]
    context.add_context_category("prose", macros=macros, environments=environments, prepend=True)
    return LatexNodes2Text(latex_context=context, math_mode="text", keep_comments=False, strict_latex_spaces=False)


def _heading(node: Any, l2tobj: Any) -> str:
    title = node.nodeargd.argnlist[-1] if node.nodeargd and node.nodeargd.argnlist else None
    words = l2tobj.nodelist_to_text([title]).strip() if title is not None else ""
    return f"\n\n{'#' * _HEADINGS[node.macroname]} {words}\n\n" if words else ""


def _depth(body: str) -> int:
    depth = most = 0
    for mark in _BRACES.findall(body):
        depth = max(0, depth + (mark in ("{", "\\begin")) - (mark in ("}", "\\end")))
        most = max(most, depth)
    return most


def _decoded(data: bytes) -> SourceText | Refusal:
    """A source as text: UTF-8, else Latin-1, which sources of before 2010 are in."""
    text = decode(data)
    if isinstance(text, Refusal) and text.reason == "not_utf8" and b"utf8" not in data[:20_000]:
        return decode(data.decode("latin-1").encode())
    return text


READER = Reader(read=read_latex, suffixes=(".tex", ".latex", ".ltx"), needs=("pylatexenc",), one_text=True)

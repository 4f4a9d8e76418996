"""LaTeX sources as prose."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from dump_files import read_dump, reasons

from pipeline_lib.sources.readers.latex import prose_of
from pipeline_lib.sources.safe_open import Refusal, SourceText

PAPER = r"""
\documentclass[a4paper]{article}
\usepackage{amsmath} \newcommand{\R}{\mathbb{R}}
\title{Hidden in the preamble}
\begin{document}
\maketitle
\begin{abstract} We study \emph{rain} with great care~\cite{foo,bar}; see \citep[p.~3]{x}. \end{abstract}
\section{Introduction}\label{sec:i}
Let $x \in S$ be as before. ``Quoted'' text --- with dashes and caf\'e, 50\% of it. % a comment
\begin{equation} E = m c^2 \end{equation}
\[ displayed = formula \] and $$ another = one $$ stay out\footnote{As do notes.}.

\subsection*{Results}
\begin{itemize} \item First words. \item Second words. \end{itemize}
\begin{figure}\includegraphics{x.png}\caption{A picture of rain.}\end{figure}
\begin{theorem} Every \textbf{drop} falls. \end{theorem}
\begin{verbatim} code { is not closed \end{verbatim}
\unknown{Words of a macro} stay.
\begin{thebibliography}{9}\bibitem{foo} Foo, 1999.\end{thebibliography}
\end{document}
Behind the end.
"""


def test_a_paper_is_its_prose() -> None:
    text = prose_of(PAPER)
    assert isinstance(text, str)
    for words in ("We study rain with great care; see.", "\n## Introduction\n", "\n### Results\n",
                  "- First words.\n- Second words.", "Let x ∈ S be as before.",
                  "“Quoted” text — with dashes and café, 50% of it.",
                  "Every drop falls.", "Words of a macro stay."):  # fmt: skip
        assert words in text, words
    for words in (
        "Hidden",
        "comment",
        "m c",
        "displayed",
        "another",
        "notes",
        "picture",
        "code",
        "Foo",
        "Behind",
        "\\",
        "{",
        "}",
        "cite",
    ):
        assert words not in text, words
    assert "\n\n\n" not in text


@pytest.mark.parametrize(
    "source",
    ["", "\\", "{", "}", "$x", "$$x", "\\[ x", "\\begin{a} b", "\\end{a}", "\\section", "\\cite{", "\\verb|",
     "\\newcommand", "\\item", "\\begin{document}{", "\\'", "\\char", "\\begin", "\\begin{equation}",
     "\\frac{1}", "\\sqrt[", "^", "_", "&", "#1"],
)  # fmt: skip
def test_broken_markup_is_text_or_refused(source: str) -> None:
    found = prose_of(source)
    assert isinstance(found, str) or found.reason in ("bad_latex", "latex_depth")


def test_a_package_of_macros_has_no_prose() -> None:
    assert prose_of("% mine\n\\ProvidesPackage{mine}\n\\newcommand{\\a}[1]{Words #1}") == ""


def test_depth_is_bounded() -> None:
    found = prose_of("{" * 50_000 + "x" + "}" * 50_000)
    assert isinstance(found, Refusal) and found.reason == "latex_depth"


def test_a_file_of_latex(tmp_path: Path) -> None:
    path = tmp_path / "a.tex.gz"
    path.write_bytes(gzip.compress(PAPER.encode()))
    (found,) = read_dump(path, "latex")
    assert found.file.form == "markdown" and isinstance(found.content, SourceText) and "We study rain" in found.content.text
    old = tmp_path / "old.tex"
    old.write_bytes("\\begin{document}Na\u00efve words.\\end{document}".encode("latin-1"))
    (found,) = read_dump(old, "latex")
    assert isinstance(found.content, SourceText) and found.content.text == "Naïve words."
    old.write_bytes(b"\\begin{document}a\0b\\end{document}")
    assert reasons(read_dump(old, "latex")) == ["nul_byte"]

"""Books of Project Gutenberg lose their frame and keep their lines."""

from __future__ import annotations

import gzip
from pathlib import Path

from pipeline_lib.pairs.prose import book_of

BOOK = """The Project Gutenberg EBook of A Book

*** START OF {} PROJECT GUTENBERG EBOOK A BOOK ***

Chapter 1

It begins.

{}*** END OF {} PROJECT GUTENBERG EBOOK A BOOK ***

You may copy it.
"""


def test_header_and_footer_are_cut_and_the_line_is_kept() -> None:
    for article, last in (("THIS", "End of Project Gutenberg's A Book, by N.N.\n\n"), ("THE", "")):
        text = BOOK.format(article, last, article)
        book, line = book_of(text)
        assert book.split() == "Chapter 1 It begins.".split()
        assert text.split("\n")[line - 1 :][: book.count("\n")] == book.split("\n")[:-1]


def test_other_texts_stay_as_they_are() -> None:
    for text in ("", "A text about Project Gutenberg.\n", "*** START ***\n"):
        assert book_of(text) == (text, 1)


def test_a_real_book(eval_data: Path) -> None:
    text = gzip.decompress((eval_data / "dumps" / "gutenberg" / "1342.txt.gz").read_bytes()).decode().replace("\r\n", "\n")
    book, line = book_of(text)
    assert text.split("\n")[line - 2].startswith("*** START OF") and book.rstrip().endswith(
        "had been the means of uniting them."
    )
    assert 0.96 < len(book) / len(text) < 0.99 and "Gutenberg" not in book

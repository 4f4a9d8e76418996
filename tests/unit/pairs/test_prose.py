from __future__ import annotations

from pipeline_lib.pairs.prose import docstring_paragraphs, paragraphs

MARKDOWN = """\
# The project

[![badge](https://x/y.svg)](https://z)
<p align="center">

It does **one** thing, and [links](https://a.b/c) to
`another` one.

    indented = code

```python
fenced = code

more = code
```

| a | table |
|---|-------|

- an item
- another item
1. first
"""


def test_markdown_without_code_tables_and_badges() -> None:
    assert [(p.text, p.line) for p in paragraphs(MARKDOWN, 1, indented_code=True)] == [
        ("The project", 1),
        ("It does one thing, and links to another one.", 6),
        ("an item", 20),
        ("another item", 21),
        ("first", 22),
    ]


RST = """\
=====
Title
=====

Some :class:`~a.b.Text` and a `link <https://x.y>`_ here::

    literal = code

    still = code

Back again.

.. code-block:: python
   :linenos:

   directive = code

.. note:: Mind this
   and this.

.. _target:

+----+----+
| a  | b  |
+----+----+

>>> example()
output

The end.
"""


def test_restructured_text_without_directives_literals_and_examples() -> None:
    assert [(p.text, p.line) for p in paragraphs(RST)] == [
        ("Title", 2),
        ("Some a.b.Text and a link here:", 5),
        ("Back again.", 11),
        ("Mind this and this.", 18),
        ("The end.", 30),
    ]


def test_a_docstring_without_fields_and_examples_keeps_its_lines() -> None:
    value = """
    Summary line.

    Longer text::

        code = here

    Parameters
    ----------
    x : int
        The x.

    :param y: not prose
    :returns: neither

    >>> f(1)
    2
    """
    assert [(p.text, p.line) for p in docstring_paragraphs(value, 10)] == [
        ("Summary line.", 11),
        ("Longer text:", 13),
        ("Parameters", 17),
        ("x : int The x.", 19),
    ]


def test_words_are_counted() -> None:
    assert [p.words for p in paragraphs("one two\nthree\n\n\n\nfour  five")] == [3, 2]


def test_an_open_fence_or_nothing_at_all_ends_quietly() -> None:
    assert paragraphs("") == []
    assert paragraphs(" \n\t\n") == []
    assert [p.text for p in paragraphs("before\n\n```\nnever closed")] == ["before"]

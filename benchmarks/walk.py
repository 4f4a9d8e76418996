"""Pictures of docs/design/walk.md: one file's way from dump to search, by the library's own functions.

    python -m benchmarks.walk            # writes docs/pictures/walk-*.svg

What is drawn is computed: the pairs of a file, the splits of groups, token ids, and which entries of a batch are left out.
"""

from __future__ import annotations

import re
import tempfile
from html import escape
from pathlib import Path

import numpy as np

from data_contracts.schemas import text_hash
from pipeline_lib.config.data import CurateConfig, TokenizerConfig
from pipeline_lib.curation.split import split_of
from pipeline_lib.pairs.inspect import sample_source
from pipeline_lib.sources.dump_spec import DumpSource
from pipeline_lib.tokens.tokenizer import train_bpe

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
FILE = '''def parse_date(text):
    """Parse an ISO 8601 date such as 2026-11-30."""
    year, month, day = text.split("-")
    numbers = int(year), int(month), int(day)
    return date(*numbers)


def is_leap(year):
    """True for years of 366 days."""
    by_four = year % 4 == 0
    by_century = year % 100 == 0
    return by_four and (not by_century or year % 400 == 0)
'''
GROUPS = ("flask", "numpy", "pandas", "requests", "rich", "scipy", "torch", "pytest")
# a batch of four: two functions of one docstring, and one function that is there twice
BATCH = (
    ("Return the length.", "len(a)"),
    ("Return the length.", "a.size"),
    ("Close the file.", "f.close()"),
    ("Shut it.", "f.close()"),
)
STYLE = """<style>
    .page { fill: #f7f6f2 } .box { fill: #ffffff; stroke: #d3d0c6 }
    .mono { fill: #1c1d22; font: 13px ui-monospace, 'DejaVu Sans Mono', Menlo, monospace; white-space: pre }
    .say { fill: #565a66; font-size: 13px } .name { fill: #1c1d22; font-size: 15px; font-weight: 650 }
    .x { fill: #d9e8f3 } .y { fill: #dcefe3 } .right { fill: #2f7d5b } .out { fill: #c9c6bc }
    .wrong { fill: #ffffff; stroke: #d3d0c6 }
    .in { fill: #ffffff; font-size: 13px } .arrow { stroke: #8b8f99; stroke-width: 1.8; fill: none }
    @media (prefers-color-scheme: dark) {
      .page { fill: #17181c } .box, .wrong { fill: #22242a; stroke: #3d4049 }
      .mono, .name { fill: #f0f0ee } .say { fill: #b9bcc5 }
      .x { fill: #28425a } .y { fill: #24483a } .out { fill: #4b4d55 }
    }
  </style>"""


def drawing(title: str, width: int, height: int, parts: list[str]) -> str:
    """A whole SVG file."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
    head += ' font-family="system-ui, sans-serif">'
    body = "\n  ".join([f"<title>{escape(title)}</title>", STYLE, box(0, 0, width, height, "page"), *parts])
    return f"{head}\n  {body}\n</svg>\n"


def box(left: float, top: float, width: float, height: float, kind: str = "box") -> str:
    """A rectangle."""
    return f'<rect class="{kind}" x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="4"/>'


def text(left: float, top: float, words: str, kind: str = "say") -> str:
    """One line."""
    return f'<text class="{kind}" x="{left:g}" y="{top:g}" xml:space="preserve">{escape(words)}</text>'


def lines(left: float, top: float, width: float, words: list[str], kind: str = "box") -> list[str]:
    """Lines of code in a box."""
    height = 18 * len(words) + 14
    return [
        box(left, top, width, height, kind),
        *(text(left + 10, top + 21 + 18 * k, line, "mono") for k, line in enumerate(words)),
    ]


def arrow(left: float, top: float, right: float) -> str:
    """An arrow to the right."""
    return f'<path class="arrow" d="M{left:g} {top:g}H{right:g}m-7-5l7 5l-7 5"/>'


def pairs_of(file: str) -> list[dict[str, str]]:
    """The pairs that extraction makes of one file, in order."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "dates.py").write_text(file, encoding="utf-8")
        found = sample_source(DumpSource(reader="tree", url=folder, name="walk"), max_texts=10, shown=10)
    return sorted(found.pairs_shown, key=lambda pair: int(pair["line"]))


def draw_pairs() -> str:
    """A file, and the pairs of docstring and function that come of it."""
    parts = [text(20, 30, "dates.py, a file of the dump", "name"), *lines(20, 44, 490, FILE.rstrip().split("\n"))]
    top = 44
    for number, pair in enumerate(pairs_of(FILE), start=1):
        code = pair["y"].split("\n")
        parts += [text(590, top - 14, f"pair {number}", "name")]
        parts += [*lines(590, top, 490, [pair["x"]], "x"), text(1090, top + 21, "x")]
        parts += [*lines(590, top + 38, 490, code, "y"), text(1090, top + 59, "y")]
        top += 38 + 18 * len(code) + 14 + 44
    return drawing("A file becomes pairs of a docstring and its function", 1110, 356, [*parts, arrow(525, 150, 575)])


def draw_splits() -> str:
    """Groups, and the split that the hash of each name gives."""
    parts = [text(20, 30, "sha256 of the group's name decides: all pairs of a package share one split", "name")]
    config = CurateConfig(validation_percent=20, test_percent=20)
    kinds = {"train": "x", "validation": "y", "test": "out"}
    for at, group in enumerate(GROUPS):
        split = split_of(group, config)
        left, top = 20 + 270 * (at % 4), 46 + 60 * (at // 4)
        parts += [
            box(left, top, 255, 46, kinds[split]),
            text(left + 12, top + 28, group, "mono"),
            text(left + 150, top + 28, split),
        ]
    return drawing("The split of a group is a function of its name", 1110, 172, parts)


def draw_tokens() -> str:
    """Both sides of a pair as token ids, the embedding taken at the closing delimiter."""
    first = pairs_of(FILE)[0]
    # a vocabulary of a few hundred: so much of one file is enough to see words grow together
    tokenizer = train_bpe(
        iter([pair[side] for pair in pairs_of(FILE) for side in ("x", "y")] * 8), TokenizerConfig(vocab_size=420)
    )
    parts, top = [], 34
    for side, kind, most in (("x", "x", 16), ("y", "y", 16)):
        (ids,) = tokenizer.encode([first[side]], side, most)  # type: ignore[arg-type]
        names = {ids[0]: "[" if side == "x" else "{", ids[-1]: "]" if side == "x" else "}"}
        words = [names.get(each) or re.sub(r"\s+", "", tokenizer.decode([each])) for each in ids]
        parts.append(text(20, top, f"{side}, cut at {most} tokens", "name"))
        left = 20.0
        for word, each in zip(words, ids, strict=True):
            width = max(44, 9 * len(word) + 16)
            is_end = each == ids[-1]
            parts += [box(left, top + 12, width, 30, "right" if is_end else kind)]
            parts += [text(left + 8, top + 32, word, "in" if is_end else "mono"), text(left + 8, top + 58, str(each))]
            left += width + 4
        top += 92
    parts.append(text(20, top - 4, "The last layer's state at the closing delimiter (green), at length 1, is the embedding."))
    return drawing("Token ids between delimiters", 1110, top + 14, parts)


def left_out() -> np.ndarray:
    """Which entries of the batch are no negatives, by the hashes of texts as the loss compares them (B, B)."""
    x_B, y_B = (np.array([text_hash(pair[side]) for pair in BATCH]) for side in (0, 1))
    mask_BB = (x_B[:, None] == x_B) | (y_B[:, None] == y_B) | (x_B[:, None] == y_B)
    np.fill_diagonal(mask_BB, False)
    return mask_BB


def draw_batch() -> str:
    """The matrix of a batch: what is right, what is a negative, and what is left out."""
    mask_BB, size = left_out(), 54
    parts = [text(20, 30, "cosines of a batch of four, times exp(tau)", "name")]
    for row, (x, _) in enumerate(BATCH):
        parts.append(text(20, 98 + size * row, x, "mono"))
        for column, (_, y) in enumerate(BATCH):
            kind = "right" if row == column else "out" if mask_BB[row, column] else "wrong"
            parts.append(box(190 + 90 * column, 66 + size * row, 86, size - 4, kind))
            if not row:
                parts.append(text(196 + 90 * column, 56, y, "mono"))
    for at, (kind, words) in enumerate((
        ("right", "the pair itself: its logit shall be the largest of its row and of its column"),
        ("wrong", "a negative"),
        ("out", "left out: the same x, or the same y, so that it is no wrong answer"),
    )):  # fmt: skip
        parts += [box(590, 80 + 44 * at, 26, 26, kind), text(628, 98 + 44 * at, words)]
    return drawing("The loss of a batch", 1110, 300, parts)


def pictures() -> dict[str, str]:
    """Name to content of each picture."""
    return {
        "walk-pairs.svg": draw_pairs(),
        "walk-splits.svg": draw_splits(),
        "walk-tokens.svg": draw_tokens(),
        "walk-batch.svg": draw_batch(),
    }


def main(folder: Path = PICTURES) -> None:
    """Draw all."""
    for name, content in pictures().items():
        (folder / name).write_text(content, encoding="utf-8")
        print(folder / name)


if __name__ == "__main__":
    main()

"""Tokenizer of one side of an exported model, read from its tokenizer.json alone: light enough for each search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from pipeline_lib.errors import CorruptArtifact

ENCODE_TEXTS = 1024  # an encoding takes some 100 bytes a token until its ids are read


class SideTokenizer:
    """Plain texts to ids, wrapped in the side's delimiters and cut so that the closing one is always last.

    Args:
        folder: of the side, with tokenizer.json.
        open_id: the delimiter that every row must begin with.
        close_id: the one that it must end with, where it is pooled.
    """

    def __init__(self, folder: Path, open_id: int, close_id: int) -> None:
        self.folder, self.open_id, self.close_id = folder, open_id, close_id
        self._tokenizer = _read(folder / "tokenizer.json")
        self._tokenizer.no_padding()
        # a text that spells a delimiter stays text; the file format cannot say so
        self._tokenizer.encode_special_tokens = True

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, in their order; lone surrogates read as "?".

        Raises:
            CorruptArtifact: a row lacks its delimiters.
        """
        ids: list[list[int]] = []
        for start in range(0, len(texts), ENCODE_TEXTS):
            cleaned = [without_surrogates(text) for text in texts[start : start + ENCODE_TEXTS]]
            ids.extend(encoding.ids for encoding in self._tokenizer.encode_batch_fast(cleaned))
        for row in ids:
            if row[0] != self.open_id or row[-1] != self.close_id:
                raise CorruptArtifact(
                    f"{self.folder}: a text became {row[0]} ... {row[-1]}, expected {self.open_id} ... {self.close_id}"
                )
        return ids


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise CorruptArtifact(f"{path}: no readable tokenizer: {error}") from error


def without_surrogates(text: str) -> str:
    """Replace lone surrogates by "?": a shell makes them of bytes that are not UTF-8, and JSON can spell them."""
    return text.encode("utf-8", "replace").decode("utf-8")

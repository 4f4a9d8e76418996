"""Tokenizer files of given models and of exports: tokenizer.json, and what stands beside it of the ids around a text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from pipeline_lib.errors import CorruptArtifact, UserError

if TYPE_CHECKING:  # search loads a tokenizer without the configuration
    from pipeline_lib.config.data import Bos

TOKENIZER_FILE = "tokenizer.json"
ENCODE_TEXTS = 1024  # an encoding takes some 100 bytes a token until its ids are read
NO_TOKENS = (0,)  # what an empty text becomes where nothing stands around it: an encoder needs a token


def read_tokenizer_json(folder: Path) -> dict[str, Any]:
    """The fields of a folder's tokenizer.json.

    Raises:
        UserError: there is none, or it is no tokenizer.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise UserError(
            f"{folder}: no {TOKENIZER_FILE}; expected the folder of a tokenizer or a causal language model; "
            "where it has another format, AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) writes it"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error}); fetch the model again") from error
    if not isinstance(fields, dict) or "model" not in fields:
        raise UserError(f"{path}: no tokenizer of the `tokenizers` library (no field `model`)")
    return fields


def bare_tokenizer(fields: dict[str, Any]) -> Tokenizer:
    """A tokenizer from the fields of tokenizer.json that neither wraps, cuts nor pads."""
    return Tokenizer.from_str(json.dumps({**fields, "post_processor": None, "truncation": None, "padding": None}))


def single_token(tokenizer: Tokenizer, bracket: str) -> int | None:
    """The id of a bracket that stands alone; None where it takes more than one, or is unknown to the vocabulary."""
    ids = tokenizer.encode(bracket, add_special_tokens=False).ids
    if len(ids) == 1 and bracket in str(tokenizer.id_to_token(ids[0])):
        return int(ids[0])
    found = tokenizer.token_to_id(bracket)  # SentencePiece puts a space of its own before it
    return None if found is None else int(found)


# classes of tokenizers that add a sequence start unless they are told not to
_STARTING = re.compile(r"(Code)?(Llama|Gemma)Tokenizer(Fast)?")


def sequence_start(folder: Path, fields: Mapping[str, Any], bos: Bos = "auto") -> tuple[int, ...]:
    """The ids that a given model's own tokenizer puts before every text; none where it puts none.

    Whether it does stands in tokenizer_config.json (`add_bos_token`); else in the post-processor of tokenizer.json; else the
    class of the tokenizer tells.

    Args:
        folder: of the model.
        fields: of its tokenizer.json.
        bos: "on": its sequence start all the same; "off": none all the same.

    Raises:
        UserError: a file is malformed, or there is no sequence start and `bos` is "on".
    """
    config = read_fields(folder / "tokenizer_config.json")
    if bos == "off" or (bos == "auto" and config.get("add_bos_token") is False):
        return ()
    whole = Tokenizer.from_str(json.dumps({**fields, "truncation": None, "padding": None}))
    encoded = whole.encode("a")
    n_added = [*encoded.special_tokens_mask, 0].index(0)
    if 0 < n_added < len(encoded):
        return tuple(encoded.ids[:n_added])
    by_class = not fields.get("post_processor") and _STARTING.fullmatch(str(config.get("tokenizer_class")))
    named = _named_id(folder, config, "bos_token", whole)
    if bos == "on" and named is None:
        raise UserError(
            f"{folder}: tokenizer.bos is on, and its tokenizer names no sequence start (bos_token); leave it at auto"
        )
    return (named,) if named is not None and (bos == "on" or config.get("add_bos_token") or by_class) else ()


def own_padding(folder: Path, tokenizer: Tokenizer) -> int | None:
    """The id that a given model pads with, else its end of a sequence; None where its files name neither."""
    fields = read_fields(folder / "tokenizer_config.json")
    found = (_named_id(folder, fields, name, tokenizer) for name in ("pad_token", "eos_token"))
    return next((id_ for id_ in found if id_ is not None), None)


def _named_id(folder: Path, config: Mapping[str, Any], name: str, tokenizer: Tokenizer) -> int | None:
    """The id of a special token by its name in tokenizer_config.json, or in the older special_tokens_map.json."""
    token = config.get(name) or read_fields(folder / "special_tokens_map.json").get(name)
    content = token.get("content") if isinstance(token, dict) else token
    found = tokenizer.token_to_id(content) if isinstance(content, str) else None
    return None if found is None else int(found)


def read_fields(path: Path) -> dict[str, Any]:
    """The fields of a JSON file beside a tokenizer; none where it is not there."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error}); fetch the model again") from error
    return fields if isinstance(fields, dict) else {}


def id_count(tokenizer: Tokenizer) -> int:
    """Rows that an embedding of its own ids needs."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


class SideTokenizer:
    """Plain texts to ids, wrapped in the side's delimiters and cut so that the closing one is always last.

    Args:
        folder: of the side, with tokenizer.json.
        open_id: the id that every row must begin with; None: any.
        close_id: the one that it must end with, where it is pooled; None: any.
        prompt: text before every text.
    """

    def __init__(self, folder: Path, open_id: int | None, close_id: int | None, prompt: str = "") -> None:
        self.folder, self.open_id, self.close_id, self.prompt = folder, open_id, close_id, prompt
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
            cleaned = [self.prompt + without_surrogates(text) for text in texts[start : start + ENCODE_TEXTS]]
            ids.extend(encoding.ids or [*NO_TOKENS] for encoding in self._tokenizer.encode_batch_fast(cleaned))
        for row in ids:
            first, last = (row[0], row[-1]) if row else (None, None)
            if self.open_id not in (None, first) or self.close_id not in (None, last):
                raise CorruptArtifact(
                    f"{self.folder}: a text became {first} ... {last}, expected {self.open_id} ... {self.close_id}"
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

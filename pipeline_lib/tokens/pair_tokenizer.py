"""Tokenizer of pairs: a byte-level BPE whose delimiters no text can produce, or a causal LM's tokenizer with the same use.

x is `[` text `]`, y is `{` text `}`; the four, and the padding id, are reserved. A given model may need further ids around a
text, each side its own: a sequence start before the opening delimiter, say. Their names in tokenizer.json hold a space,
which is no letter of the byte-level alphabet, so that no merge can end in one; and none is an added token, which the
library would look for in the text. All that changes text (identifier splitting, case, white space, punctuation) lies in
tokenizer.json itself, so that the export needs no code of ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from pipeline_lib.errors import UserError
from pipeline_lib.tokens.delimiters import DELIMITERS_FILE, SIDES, Delimiters, Side, read_delimiters
from pipeline_lib.tokens.tokenizer_files import (
    ENCODE_TEXTS,
    NO_TOKENS,
    TOKENIZER_FILE,
    bare_tokenizer,
    id_count,
    own_padding,
    read_tokenizer_json,
    sequence_start,
    single_token,
    without_surrogates,
)
from pipeline_lib.tokens.words import WordReader, without_repeat_step, word_pattern

if TYPE_CHECKING:  # search loads a tokenizer without the configuration
    from pipeline_lib.config.data import Bos, Delimiting

RESERVED = ("<x open>", "<x close>", "<y open>", "<y close>", "<batch pad>")  # ids 0 to 4
BRACKETS = ("[", "]", "{", "}")

FOLLOWERS = ("a", "Z", "1", ")", "_", "é", " a")  # beginnings of texts
SHOWN_CHARACTERS = 60  # of a prompt in an error
HEAD_CHARACTERS = 12  # a token of code stands for 5 (punctuation kept) to 8 (dropped) characters of source


class PairTokenizer:
    """Texts to ids, wrapped in their side's delimiters.

    Args:
        tokenizer: without post-processor, truncation and padding.
        delimiters: their ids; they may lie past the tokenizer's own vocabulary.
    """

    def __init__(self, tokenizer: Tokenizer, delimiters: Delimiters) -> None:
        # Without this, text that spells an added token ("<|endoftext|>") becomes that token.
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer
        self.delimiters = delimiters
        self._is_own = delimiters.x_prefix[:1] == (tokenizer.token_to_id(RESERVED[0]),)
        # A limit on repeats makes a word depend on those after it.
        self._reads_heads = self._is_own and without_repeat_step(tokenizer) is None
        pattern = word_pattern(tokenizer) if self._is_own else None
        self._words = WordReader(tokenizer, pattern) if pattern else None

    @classmethod
    def load(cls, folder: Path) -> PairTokenizer:
        """The tokenizer of an artifact's part folder.

        Raises:
            UserError: a file is missing or is no tokenizer.
        """
        delimiters = read_delimiters(folder)
        return cls(bare_tokenizer(read_tokenizer_json(folder)), delimiters)

    @classmethod
    def from_causal_lm(cls, folder: Path, bos: Bos = "auto") -> PairTokenizer:
        """The tokenizer of a given causal language model, its own single-token brackets serving as delimiters.

        Text may hold the same brackets: the pooled position comes from the length, so that this forges nothing. A
        vocabulary without the four as distinct single tokens gets five ids appended past its end (`vocab_size` counts
        them; the model's embedding must be resized to it). Padding is the model's pad or end token, else `y_close`: what
        padding holds is never attended to. A folder that our own pre-training wrote has the delimiters of its tokenizer.
        The sequence start that the tokenizer adds by itself comes before the opening delimiters (`sequence_start`).

        Raises:
            UserError: the folder has no readable tokenizer.json, or no sequence start and `bos` is "on".
        """
        if (folder / DELIMITERS_FILE).is_file():
            return cls.load(folder)
        fields = read_tokenizer_json(folder)
        tokenizer = bare_tokenizer(fields)
        tokenizer.encode_special_tokens = True
        start = sequence_start(folder, fields, bos)
        found = [single_token(tokenizer, bracket) for bracket in BRACKETS]
        own = [id_ for id_ in found if id_ is not None]
        if len(set(own)) == len(BRACKETS):
            x_open, x_close, y_open, y_close = own
            pad = own_padding(folder, tokenizer)
            pad = y_close if pad is None else pad
            return cls(tokenizer, Delimiters.single(x_open, x_close, y_open, y_close, pad).after(start))
        end = id_count(tokenizer)
        return cls(tokenizer, Delimiters.single(*range(end, end + len(RESERVED))).after(start))

    def delimited(self, delimiters: Delimiting) -> PairTokenizer:
        """Itself, or with x's delimiters around y too."""
        if delimiters == "distinct":
            return self
        own = self.delimiters
        return PairTokenizer(self.tokenizer, replace(own, y_prefix=own.x_prefix, y_suffix=own.x_suffix))

    def for_task(self, *names: str) -> PairTokenizer:
        """Itself, or with the prompts of the first of these tasks that has some."""
        delimiters = self.delimiters.for_task(*names)
        return self if delimiters == self.delimiters else PairTokenizer(self.tokenizer, delimiters)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and delimiters.json, byte for byte the same each time."""
        (folder / TOKENIZER_FILE).write_text(self.tokenizer.to_str(), encoding="utf-8")
        (folder / DELIMITERS_FILE).write_text(json.dumps(self.delimiters.fields, indent=1) + "\n", encoding="utf-8")

    @property
    def x_open(self) -> int:
        """Id that opens an x: the last before its text."""
        return self.delimiters.x_prefix[-1]

    @property
    def x_close(self) -> int:
        """Id of `]`, at which an x is pooled."""
        return self.delimiters.x_suffix[-1]

    @property
    def y_open(self) -> int:
        """Id that opens a y: the last before its text."""
        return self.delimiters.y_prefix[-1]

    @property
    def y_close(self) -> int:
        """Id of `}`, at which a y is pooled."""
        return self.delimiters.y_suffix[-1]

    @property
    def pad(self) -> int:
        """Id that fills a padded batch; nothing attends to it."""
        return self.delimiters.pad

    @property
    def pad_token(self) -> str:
        """Name of the padding id, as tokenizer_config.json wants it."""
        return self.name_of(self.pad)

    def ends(self, side: Side) -> dict[str, str]:
        """Names of the special tokens around a text, as tokenizer_config.json wants them."""
        prefix, suffix = self.delimiters.of(side)
        ids = {"cls_token": prefix[:1], "sep_token": suffix[-1:]}
        return {name: self.name_of(found[0]) for name, found in ids.items() if found}

    @cached_property
    def reserved(self) -> tuple[int, ...]:
        """The ids that no text can produce: of our own tokenizer all five, of a given one those past its vocabulary."""
        end = 0 if self._is_own else id_count(self.tokenizer)
        return tuple(id_ for id_ in self.delimiters.all_ids if id_ >= end)

    @cached_property
    def appended(self) -> tuple[int, ...]:
        """The delimiters past a given vocabulary, of which its model has learned nothing."""
        around = self.delimiters.all_ids[:-1]
        return () if self._is_own else tuple(sorted({*around} & {*self.reserved}))

    @cached_property
    def vocab_size(self) -> int:
        """Rows that an embedding needs: one more than the highest id."""
        return max(id_count(self.tokenizer), *(id_ + 1 for id_ in self.delimiters.all_ids))

    def name_of(self, token_id: int) -> str:
        """The name of an id in tokenizer.json; of a reserved one past the vocabulary, its reserved name."""
        name = self.tokenizer.id_to_token(token_id)
        if name is not None:
            return str(name)
        own = self.delimiters
        return RESERVED[[self.x_open, self.x_close, self.y_open, self.y_close, own.pad].index(token_id)]

    def encode(self, texts: Sequence[str], side: Side, max_tokens: int) -> list[list[int]]:
        """Token ids of each text in its side's delimiters, the closing one always last.

        Args:
            texts: any strings; lone surrogates read as "?". An empty one gives the delimiters.
            side: "x" or "y".
            max_tokens: longest row, delimiters included.

        Raises:
            UserError: the delimiters alone are more.
        """
        return self.encode_counting(texts, side, max_tokens)[0]

    def encode_counting(self, texts: Sequence[str], side: Side, max_tokens: int) -> tuple[list[list[int]], int]:
        """Encode as `encode` does, and count the texts that were cut."""
        prefix, suffix = self.delimiters.of(side)
        prompt, max_tokens = self.delimiters.prompt(side), self.delimiters.longest(side, max_tokens)
        room = max_tokens - len(prefix) - len(suffix)
        if room < 0:
            raise UserError(
                f"a row of at most {max_tokens} tokens has no room for the {max_tokens - room} that stand around every {side}; "
                f"raise shards.max_{side}_tokens"
            )
        if prompt:
            self.check_prompt(prompt, side, max_tokens)
        rows, n_cut = [], 0
        for start in range(0, len(texts), ENCODE_TEXTS):
            block = texts[start : start + ENCODE_TEXTS]
            for ids in self._encode_longer_than([prompt + text for text in block] if prompt else block, room):
                rows.append([*prefix, *ids[:room], *suffix] or [*NO_TOKENS])
                n_cut += len(ids) > room
        return rows, n_cut

    def check_prompt(self, prompt: str, side: Side, max_tokens: int) -> None:
        """Refuse a prompt that leaves no room for a text.

        Raises:
            UserError: it has as many tokens as a row has room for, or more.
        """
        (prefix, suffix), max_tokens = self.delimiters.of(side), self.delimiters.longest(side, max_tokens)
        n_tokens, room = len(self._ids([prompt])[0]), max_tokens - len(prefix) - len(suffix)
        if n_tokens >= room:
            shown = prompt if len(prompt) <= SHOWN_CHARACTERS else f"{prompt[:SHOWN_CHARACTERS]}..."
            raise UserError(
                f"the prompt {shown!r} before every {side} has {n_tokens} tokens, a row of at most {max_tokens} has room for"
                f" {max(0, room)} of prompt and text together; shorten it or raise shards.max_{side}_tokens"
            )

    def around(self, *task: str) -> dict[Side, tuple[int, int]]:
        """How many ids stand before and behind a text of a task, by side; a prompt's are among those before it."""
        own = self.delimiters.for_task(*task)
        told = own.around
        prompts = {side: len(self._ids([own.prompt(side)])[0]) if own.prompt(side) else 0 for side in SIDES}
        return {side: (before + prompts[side], behind) for side, (before, behind) in told.items()}

    def prompt_ids(self) -> list[tuple[tuple[int, ...], int]]:
        """Of each prompt, the ids that all rows with it begin with, and the tokens that sentence-transformers counts.

        The last token of a prompt may be another one before a text: it is counted, and no part of what rows begin with.
        """
        found = []
        for side in SIDES:
            prefix, suffix = self.delimiters.of(side)
            for prompt in self.delimiters.prompts(side):
                if ids := (*prefix, *self._ids([prompt])[0]):
                    begins = ids if self._stands_alone(prompt) else ids[:-1] or ids
                    found.append((begins, len(ids) + max(0, len(suffix) - 1)))
        return found

    def _stands_alone(self, prompt: str) -> bool:
        """True of a prompt whose last token no text changes, where rows of several prompts have to be told apart."""
        if not (self._is_own or self.delimiters.tasks):
            return False
        ids = self._ids([prompt])[0]
        return all(row[: len(ids)] == ids for row in self._ids([prompt + text for text in FOLLOWERS]))

    def left_out(self) -> list[tuple[tuple[int, ...], int]]:
        """The same where prompts are set to be left out of the pooling, else none."""
        return [] if self.delimiters.include_prompt in (None, True) else self.prompt_ids()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a row, as the normaliser left it, without reserved ids."""
        return str(self.tokenizer.decode(self._inner(ids))).removeprefix(" ")

    def _inner(self, ids: Sequence[int]) -> list[int]:
        if self._is_own:
            return [id_ for id_ in ids if id_ not in self.reserved]
        for side in SIDES:
            prefix, suffix = self.delimiters.of(side)
            if tuple(ids[: len(prefix)]) == prefix and tuple(ids[len(ids) - len(suffix) :]) == suffix:
                return list(ids[len(prefix) : len(ids) - len(suffix)])
        return list(ids)

    def _encode_longer_than(self, texts: Sequence[str], room: int) -> list[list[int]]:
        """Ids that are right up to `room`, and more than `room` wherever the text has more.

        Where words are independent, as in our own tokenizer without a limit on repeats, the head of a text, cut at white
        space, has the ids that the whole begins with; only if they are too few is the whole text read.
        """
        heads = [_head(text, room * HEAD_CHARACTERS) if self._reads_heads else text for text in texts]
        rows = self._ids(heads)
        short = [i for i, ids in enumerate(rows) if len(ids) <= room and len(heads[i]) < len(texts[i])]
        if short:
            for i, ids in zip(short, self._ids([texts[i] for i in short]), strict=True):
                rows[i] = ids
        return rows

    def _ids(self, texts: list[str]) -> list[list[int]]:
        try:
            return self._ids_of_readable(texts)
        except (TypeError, UnicodeError):  # the library refuses lone surrogates, which a terminal or a file name may hold
            return self._ids_of_readable([without_surrogates(text) for text in texts])

    def _ids_of_readable(self, texts: list[str]) -> list[list[int]]:
        if self._words is not None:
            return list(map(self._words.ids, texts))
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def side_tokenizer_json(folder: Path, side: Side, max_tokens: int) -> str:
    """A plain tokenizer.json that wraps one side's texts by itself, as `PairTokenizer.encode` does.

    The library cuts to `max_tokens` less what the post-processor adds, then adds it, so that the closing delimiter is
    last. No delimiter is an added token; whoever declares `pad_token` in tokenizer_config.json makes that one such, and
    must set `split_special_tokens` there, or text could spell it.

    Args:
        folder: part of a tokenizer artifact.
        side: whose delimiters.
        max_tokens: longest row, delimiters included.
    """
    tokenizer = PairTokenizer.load(folder)
    fields = read_tokenizer_json(folder)
    prefix, suffix = tokenizer.delimiters.of(side)
    max_tokens = tokenizer.delimiters.longest(side, max_tokens)
    ids = {tokenizer.name_of(id_): id_ for id_ in (*prefix, *suffix)}

    def wrapped(sequence: str, type_id: int) -> list[dict[str, Any]]:
        inner = {"Sequence": {"id": sequence, "type_id": type_id}}
        before, behind = (
            [{"SpecialToken": {"id": tokenizer.name_of(id_), "type_id": type_id}} for id_ in part] for part in (prefix, suffix)
        )
        return [*before, inner, *behind]

    fields["truncation"] = {"direction": "Right", "max_length": max_tokens, "strategy": "LongestFirst", "stride": 0}
    fields["padding"] = None
    fields["post_processor"] = {
        "type": "TemplateProcessing",
        "single": wrapped("A", 0),
        "pair": wrapped("A", 0) + wrapped("B", 1),
        "special_tokens": {name: {"id": name, "ids": [id_], "tokens": [name]} for name, id_ in sorted(ids.items())},
    }
    return json.dumps(fields, ensure_ascii=False, indent=1)


def _head(text: str, characters: int) -> str:
    """The text up to the first white space after so many characters."""
    if len(text) <= characters:
        return text
    space = re.compile(r"[ \t\n]").search(text, characters)
    return text if space is None else text[: space.start()]

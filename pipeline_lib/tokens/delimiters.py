"""Delimiters: the ids and the prompts around the texts of each side, as delimiters.json beside a tokenizer has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pipeline_lib.errors import UserError

Side = Literal["x", "y"]
SIDES: tuple[Side, Side] = ("x", "y")
DELIMITERS_FILE = "delimiters.json"


@dataclass(frozen=True)
class Delimiters:
    """Ids around the texts of each side, and what fills a padded batch.

    Attributes:
        x_prefix: before an x, in their order; may be none, as each of the four.
        x_suffix: behind it; the last of a row is where it is pooled.
        y_prefix: before a y.
        y_suffix: behind it.
        pad: nothing attends to it.
        x_prompt: text before every x, tokenized with it; of a given embedding model.
        y_prompt: text before every y.
        x_longest: most tokens of a row that such a model takes; None: no limit of its own.
        y_longest: likewise.
        tasks: task to the prompts of its sides in place of these.
        default_prompt: name of the one that plain `encode` takes in an export; None: a start's own, else none.
        include_prompt: a prompt's tokens are pooled with the text's; None: as a start does, else they are.
    """

    x_prefix: tuple[int, ...]
    x_suffix: tuple[int, ...]
    y_prefix: tuple[int, ...]
    y_suffix: tuple[int, ...]
    pad: int
    x_prompt: str = ""
    y_prompt: str = ""
    x_longest: int | None = None
    y_longest: int | None = None
    tasks: Mapping[str, Mapping[Side, str]] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool | None = None

    @classmethod
    def single(cls, x_open: int, x_close: int, y_open: int, y_close: int, pad: int) -> Delimiters:
        """One opening and one closing id a side."""
        return cls((x_open,), (x_close,), (y_open,), (y_close,), pad)

    @classmethod
    def from_fields(cls, fields: Mapping[str, int | Sequence[int]]) -> Delimiters:
        """What `fields` gave.

        Raises:
            KeyError: a field is missing.
            ValueError: a value is no id.
        """
        x_prefix, x_suffix, y_prefix, y_suffix, (pad,) = (_ids_of_field(fields[name]) for name in (*_FIELDS, "pad"))
        own: dict[str, Any] = {name: fields[name] for name in _OF_A_MODEL if name in fields}
        return cls(x_prefix, x_suffix, y_prefix, y_suffix, pad, **own)

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The fields of delimiters.json: an id where a side is opened or closed by one alone, else the list of its ids."""
        ids = (self.x_prefix, self.x_suffix, self.y_prefix, self.y_suffix)
        lists = {name: found[0] if len(found) == 1 else list(found) for name, found in zip(_FIELDS, ids, strict=True)}
        return (
            lists
            | {"pad": self.pad}
            | {name: value for name in _OF_A_MODEL if (value := getattr(self, name)) not in (None, "", {})}
        )

    def of(self, side: Side) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids before and behind a text of one side."""
        return (self.x_prefix, self.x_suffix) if side == "x" else (self.y_prefix, self.y_suffix)

    def prompt(self, side: Side) -> str:
        """Text before every text of one side."""
        return self.x_prompt if side == "x" else self.y_prompt

    def for_task(self, *names: str) -> Delimiters:
        """These with the prompts of the first of these tasks that has some."""
        prompts = next((self.tasks[name] for name in names if name in self.tasks), {})
        return replace(self, x_prompt=prompts.get("x", self.x_prompt), y_prompt=prompts.get("y", self.y_prompt))

    def prompts(self, side: Side) -> list[str]:
        """Every prompt of a side, those of tasks behind its own."""
        found = [self.prompt(side), *(prompts[side] for prompts in self.tasks.values() if side in prompts)]
        return list(dict.fromkeys(filter(None, found)))

    def longest(self, side: Side, max_tokens: int) -> int:
        """Most tokens of a row of one side, where at most so many are asked for."""
        own = self.x_longest if side == "x" else self.y_longest
        return max_tokens if own is None else min(own, max_tokens)

    @property
    def around(self) -> dict[Side, tuple[int, int]]:
        """How many ids stand before and behind a text, by side."""
        return {"x": (len(self.x_prefix), len(self.x_suffix)), "y": (len(self.y_prefix), len(self.y_suffix))}

    def after(self, ids: tuple[int, ...]) -> Delimiters:
        """These with further ids before all others of both sides."""
        return replace(self, x_prefix=ids + self.x_prefix, y_prefix=ids + self.y_prefix)

    @cached_property
    def all_ids(self) -> tuple[int, ...]:
        """Every id, those of x first, padding last."""
        return (*self.x_prefix, *self.x_suffix, *self.y_prefix, *self.y_suffix, self.pad)


_FIELDS = ("x_open", "x_close", "y_open", "y_close")  # of delimiters.json
# there only where they are set, or a given embedding model has them
_OF_A_MODEL = ("x_prompt", "y_prompt", "x_longest", "y_longest", "tasks", "default_prompt", "include_prompt")


def _ids_of_field(value: int | Sequence[int]) -> tuple[int, ...]:
    ids = (value,) if isinstance(value, int) else tuple(value)
    if not all(type(id_) is int and id_ >= 0 for id_ in ids):
        raise ValueError(f"{value!r} holds what is no token id")
    return ids


def read_delimiters(folder: Path) -> Delimiters:
    """The delimiters and prompts of a tokenizer artifact's part folder.

    Raises:
        UserError: they are missing, or none.
    """
    path = folder / DELIMITERS_FILE
    if not path.is_file():
        raise UserError(f"{folder}: no {DELIMITERS_FILE}; expected the part of a tokenizer artifact")
    try:
        return Delimiters.from_fields(json.loads(path.read_text()))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise UserError(f"{path}: no delimiters ({error!r}); make the tokenizer again") from error

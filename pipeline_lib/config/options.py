"""Options of a configuration by dotted name: what each takes, and the nearest to a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline_lib.errors import UserError

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
ALIKE = 0.6  # least likeness of a name that is offered in place of another, from 0 to 1
MOST_OFFERED = 4


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        path: its names from the top section down: ("train", "learning_rate").
    """

    path: tuple[str, ...]
    field: FieldInfo

    @property
    def name(self) -> str:
        """Its dotted name."""
        return ".".join(self.path)

    @property
    def is_operational(self) -> bool:
        """True if no output depends on it."""
        marks = self.field.json_schema_extra
        return bool(isinstance(marks, dict) and marks.get("operational"))

    @property
    def expected(self) -> str:
        """What it takes: 'a whole number >= 1'."""
        named = " or ".join(map(_kind, _kinds(self.field.annotation))) + _bounds(self.field)
        return f"{named}, or null" if self.may_be_unset else named

    @property
    def may_be_unset(self) -> bool:
        """True if it takes null."""
        return type(None) in get_args(self.field.annotation)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model of a section, be it optional; None for an option."""
    return next((kind for kind in _kinds(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def first_line(section: type[BaseModel]) -> str:
    """What a section is."""
    return (section.__doc__ or "").strip().split("\n")[0]


def takes_text(annotation: Any) -> bool:
    """True if an option takes words alone, and so any as they are typed."""
    return all(
        kind is str or (get_origin(kind) is Literal and all(isinstance(one, str) for one in get_args(kind)))
        for kind in _kinds(annotation)
    )


def options(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[Option]:
    """Every option of a configuration in the order of its fields, those of its sections among them."""
    for name, field in model.model_fields.items():
        path = (*above, name)
        if section := section_of(field.annotation):
            yield from options(section, path)
        else:
            yield Option(path, field)


def find(model: type[BaseModel], path: tuple[str, ...], where: str = "") -> Option | type[BaseModel]:
    """The option of that path, or the section.

    Args:
        where: what an error begins with: a file and a line.

    Raises:
        UserError: there is none; the message names the nearest ones.
    """
    level = model
    for depth, name in enumerate(path, start=1):
        field = level.model_fields.get(name)
        if field is None:
            raise UserError(where + unknown(model, ".".join(path)))
        section = section_of(field.annotation)
        if section is None:
            option = Option(path[:depth], field)
            if depth < len(path):
                raise UserError(f"{where}{'.'.join(path)}: {option.name} has no parts, it takes {option.expected}")
            return option
        level = section
    return level


def unknown(model: type[BaseModel], name: str) -> str:
    """What is told of a name that is none: the nearest ones, or those of its section."""
    if near := nearest(model, name):
        return f"{name}: there is no such option; did you mean {' or '.join(near)}?"
    level, known = model, list[str]()
    for part in name.split("."):
        section = section_of(level.model_fields[part].annotation) if part in level.model_fields else None
        if section is None:
            break
        level, known = section, [*known, part]
    return f"{name}: there is no such option; {'.'.join(known) or 'the configuration'} has {', '.join(level.model_fields)}"


def nearest(model: type[BaseModel], name: str) -> list[str]:
    """The options and sections whose names are most like this one, the likest first; same last words come before all else."""
    above, _, last = name.rpartition(".")
    paths = [option.path for option in options(model)]
    names = dict.fromkeys(path[:depth] for path in paths for depth in range(1, len(path) + 1))
    likeness = {".".join(path): _likeness(above, last, path) for path in names}
    best = max(likeness.values())
    least = best if best == 1 else max(ALIKE, best - 0.25)
    return sorted((one for one, score in likeness.items() if score >= least), key=lambda one: -likeness[one])[:MOST_OFFERED]


def _likeness(above: str, last: str, path: tuple[str, ...]) -> float:
    """How like two names are, the last word counting most; initials are as good as the word: `lr`, `train.wd`."""
    is_short = len(last) > 1 and last == "".join(word[0] for word in path[-1].split("_"))
    alike = 1.0 if is_short else difflib.SequenceMatcher(None, last, path[-1]).ratio()
    return alike if not above else 0.75 * alike + 0.25 * difflib.SequenceMatcher(None, above, ".".join(path[:-1])).ratio()


def _kinds(annotation: Any) -> list[Any]:
    """The types of which a value has one, null aside."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [part for part in parts if part is not type(None)]


def _kind(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation in KINDS:
        return KINDS[annotation]
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is Annotated:  # a registry's names
        extra = next((part.json_schema_extra for part in parts if isinstance(part, FieldInfo)), None)
        names = extra["enum"] if isinstance(extra, dict) else None
        return f"one of {', '.join(map(str, names))}" if isinstance(names, list) else _kind(parts[0])
    if origin is tuple:
        return f"a list of {_kind(parts[0]).removeprefix('one of ').removeprefix('a ')}"
    if origin is dict:
        return f"a mapping of {' to '.join(_kind(part).removeprefix('a ') for part in parts)}"
    return str(annotation)


def _bounds(field: FieldInfo) -> str:
    """The bounds as they follow the kind: ' >= 0 and <= 1', ', at least 1'."""
    signs, others = [], ""
    for limit in field.metadata:
        signs += [f"{SIGNS[one]} {_number(getattr(limit, one))}" for one in SIGNS if getattr(limit, one, None) is not None]
        if getattr(limit, "min_length", None):
            others += f", at least {limit.min_length}"
        if getattr(limit, "pattern", None):
            others += f" of the form `{limit.pattern}`"
    return (f" {' and '.join(signs)}" if signs else "") + others


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"

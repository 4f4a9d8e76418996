"""The options of a command and the words of a command line, both made from the fields of a parameters model."""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

PLAIN = (bool, int, float, str)


@dataclass(frozen=True)
class Option:
    """One field as an option.

    Attributes:
        path: of the field: ("training", "epochs").
        name: of the option, as a Python name: `batch_size` is --batch-size.
    """

    path: tuple[str, ...]
    name: str
    field: FieldInfo
    default: Any

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_operational(self) -> bool:
        """True if no output depends on it."""
        marks = self.field.json_schema_extra
        return bool(isinstance(marks, dict) and marks.get("operational"))

    def parameter(self) -> inspect.Parameter:
        """The argument that typer makes the option of; one that is not given is None, and the field's default holds."""
        kind = _kind(self.field.annotation)
        default = inspect.Parameter.empty if self.field.is_required() else None
        shown = None if self.default in (None, "", (), False) else str(self.default)
        option = typer.Option(self.flag, help=self.field.description, show_default=shown or False)
        annotation = kind if self.field.is_required() else kind | None
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, option]
        )

    def words(self, value: Any) -> list[str]:
        """What is typed to give it this value; nothing where that is the default."""
        if value == self.default:
            return []
        if isinstance(value, bool):
            return [self.flag]
        return [word for one in (value if isinstance(value, tuple) else (value,)) for word in _pair(self.flag, str(one))]


def options_of(model: type[BaseModel], names: Mapping[str, str], without: Sequence[str] = ()) -> list[Option]:
    """The options of a model's fields, those of its nested models among them.

    Args:
        names: field, as `steps` or `mining.margin`, to the option's name where that is another.
        without: fields that are no options.
    """
    return [option for option in _options(model, (), names) if not {".".join(option.path), option.path[0]} & set(without)]


def takes(options: Sequence[Option]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options; its function gets those that were given, by name, in one dictionary.

    What else the function takes are options of its own.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def command(**given: Any) -> None:
            rest = {parameter.name: given.pop(parameter.name) for parameter in own}
            function({name: value for name, value in given.items() if value is not None}, **rest)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        signature = inspect.Signature([*(option.parameter() for option in options), *keyword])
        command.__signature__ = signature  # type: ignore[attr-defined]
        return command

    return decorate


def fields_of(options: Sequence[Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, as the fields of the model."""
    fields: dict[str, Any] = {}
    for option in options:
        if given.get(option.name) is not None:
            *sections, name = option.path
            place = fields
            for section in sections:
                place = place.setdefault(section, {})
            place[name] = given[option.name]
    return fields


def command_words(options: Sequence[Option], params: BaseModel, places: Sequence[str] = ()) -> list[str]:
    """The options that give a model's values, all that an output may depend on.

    Args:
        places: fields that hold a path. A machine's own are no one's business: of an absolute one the last part is said, which
            is all that a source's rows know of it.
    """
    words: list[str] = []
    for option in options:
        if option.is_operational:
            continue
        value: Any = params
        for name in option.path:
            value = getattr(value, name)
        words += option.words(public_place(value) if option.path[0] in places else value)
    return words


def public_place(path: str) -> str:
    """The last part of an absolute path, links resolved as reading it does; anything else as it is."""
    return (PurePath(os.path.realpath(path)).name or path) if path.startswith("/") else path


def join_words(*words: str) -> str:
    """A line for a shell."""
    return shlex.join(words)


def _pair(flag: str, value: str) -> list[str]:
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]


def _options(model: type[BaseModel], path: tuple[str, ...], names: Mapping[str, str]) -> list[Option]:
    found: list[Option] = []
    for name, field in model.model_fields.items():
        place = (*path, name)
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            found += _options(nested, place, names)
        else:
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            found.append(Option(place, names.get(".".join(place), name), field, default))
    return found


def _kind(annotation: Any) -> Any:
    """What typer shall read: a word, a number, or a list of words; the model says which words."""
    if annotation in PLAIN:
        return annotation
    if get_origin(annotation) is tuple:
        return list[str]
    plain = {_kind(part) for part in get_args(annotation) if isinstance(part, type) and part is not type(None)}
    return plain.pop() if len(plain) == 1 else str

"""Overrides of a configuration: YAML files and `--set` words, merged over a preset and checked by the fields' own types."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from pipeline_lib.config.options import Option, find, first_line, options, section_of, takes_text
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError

MAX_FILE_BYTES = 1_000_000
OPERATIONAL = "An operational option changes no output, and so nothing is computed again."
Config = TypeVar("Config", bound=BaseModel)


class Layer(dict[str, Any]):
    """Overrides from a file, which remember the lines that they stand on."""

    file: str = ""
    lines: Mapping[tuple[str, ...], int] = {}

    def where(self, path: tuple[str, ...]) -> str:
        """'my.yaml, line 3: ' of an option's path, or of the nearest section above it."""
        known = (path[:depth] for depth in range(len(path), 0, -1) if path[:depth] in self.lines)
        line = next((f", line {self.lines[one]}" for one in known), "")
        return f"{self.file}{line}: "

    def without(self, names: Sequence[str]) -> Layer:
        """The same but for some of its top names."""
        rest = Layer({name: value for name, value in self.items() if name not in names})
        rest.file, rest.lines = self.file, self.lines
        return rest


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: `off`, `no` and 2026-01-01 are words, 1e-4 is a number.

    No key comes twice, and aliases are refused: a few lines of them can stand for gigabytes.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The next node, which is no alias."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                problem="anchors and aliases are not read; write the values out", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are all different."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            mark = node.value[number][0].start_mark
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise yaml.MarkedYAMLError(problem=f"{key!r} is no name of an option", problem_mark=mark)
            if key in keys[:number]:
                raise yaml.MarkedYAMLError(problem=f"{key} comes twice", problem_mark=mark)
        return super().construct_mapping(node, deep=deep)

    def construct_whole(self, node: Any) -> int:
        """A decimal number, underscores between its digits allowed."""
        return int(self.construct_scalar(node).replace("_", ""))


for tag, pattern, first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)
for tag in ("binary", "timestamp", "omap", "pairs", "set"):  # which make what no option takes, and JSON does not know
    _Loader.add_constructor(f"tag:yaml.org,2002:{tag}", yaml.SafeLoader.construct_undefined)


def read_config(path: str | Path, model: type[BaseModel] = RunConfig, besides: Sequence[str] = ()) -> Layer:
    """The options that a YAML file gives; `apply` checks their values, and tells the line of a wrong one.

    Args:
        model: whose options they are.
        besides: top names that the file may have beside those of the model.

    Raises:
        UserError: the file cannot be read, is no YAML mapping, or names an option twice or an unknown one; on which line.
    """
    place = Path(path).expanduser()
    node, content = _read(place)
    if not isinstance(content, dict):
        got = "nothing" if content is None else in_yaml(content)[:80]
        raise UserError(f"{place}: got {got}, expected options, as `train: {{learning_rate: 1e-4}}`")
    layer = Layer(content)
    layer.file, layer.lines = str(place), dict(_lines(node))
    for _ in _leaves(model, layer, layer.where, besides):
        pass
    return layer


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds, read as configurations are: no alias, and no key twice.

    Raises:
        UserError: it cannot be read, or is no YAML; on which line.
    """
    return _read(Path(path).expanduser())[1]


def _read(place: Path) -> tuple[Any, Any]:
    try:
        if (size := place.stat().st_size) > MAX_FILE_BYTES:
            raise UserError(f"{place}: {size:,} bytes; a configuration has at most {MAX_FILE_BYTES:,}")
        return _parsed(place.read_text(encoding="utf-8"), f"{place}")
    except OSError as error:
        raise UserError(f"{place}: {error.strerror}; give a YAML file of options, as `cpt config show demo` prints") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: no UTF-8 at byte {error.start}; give a YAML file of options") from error


def parse_set(words: Sequence[str], model: type[BaseModel] = RunConfig) -> dict[str, Any]:
    """Options as they are typed, `train.learning_rate=1e-4`, as a layer; the last word for an option holds.

    What takes text gets it as it stands; all else is YAML: 1e-4, true, null, [python, go], {docstring: 0.7, neighbour: 0.3}.

    Raises:
        UserError: a word is not of this form, or names an option that there is not.
    """
    layer: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UserError(f"--set {word}: expected NAME=VALUE, as train.learning_rate=1e-4")
        path = tuple(name.strip().split("."))
        given = find(model, path, "--set ")
        value = text if _is_text(given, text) else _parsed(text, f"--set {name}")[1]
        for option, part in _leaves(model, {name.strip(): value}, lambda _: "--set "):
            _put(layer, option.path, part)
    return layer


def _is_text(given: Option | type[BaseModel], text: str) -> bool:
    """True if a word's value is text as it stands."""
    if not isinstance(given, Option) or not takes_text(given.field.annotation):
        return False
    return text[:1] not in ("'", '"') and not (text == "null" and given.may_be_unset)


def apply(config: Config, *layers: Mapping[str, Any]) -> Config:
    """The configuration with these options in place, later layers over earlier ones.

    Sections are merged; lists and mappings, such as `train.mixture`, are replaced as a whole. A dotted name is a path.

    Raises:
        UserError: a layer names an option that there is not, or gives it what it does not take; or values exclude each other.
    """
    merged = _values(config)
    places: dict[str, str] = {}
    for layer in layers:
        where = layer.where if isinstance(layer, Layer) else _nowhere
        for option, value in _leaves(type(config), layer, where):
            places[option.name] = where(option.path)
            _put(merged, option.path, _typed(option, _plain(value, f"{places[option.name]}{option.name}")))
    try:
        return type(config).model_validate(merged, strict=True)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        raise UserError("; ".join(dict.fromkeys(_told(type(config), dict(one), places) for one in faults))) from error


def overrides_of(config: BaseModel, base: BaseModel) -> dict[str, Any]:
    """The smallest layer that makes the one of the other: `apply(base, overrides_of(config, base)) == config`."""
    layer: dict[str, Any] = {}
    for option in options(type(config)):
        if (value := _value(config, option.path)) != _value(base, option.path):
            _put(layer, option.path, _plain(value, option.name))
    return layer


def diff(a: BaseModel, b: BaseModel) -> str:
    """The options in which two configurations differ, one a line with both values; empty where they are equal."""
    pairs = [(option.name, _value(a, option.path), _value(b, option.path)) for option in options(type(a))]
    return "\n".join(f"{name}: {in_yaml(one)} -> {in_yaml(other)}" for name, one, other in pairs if one != other)


def show(config: BaseModel, heading: str = "") -> str:
    """The whole configuration in YAML, descriptions as comments: read again and applied to any other, it makes this one.

    Args:
        heading: what the first comment says.
    """
    lines = _comment(heading, "") + _comment(OPERATIONAL, "") + [""] if heading else []
    return "\n".join([*lines, *_shown(config, "")]) + "\n"


def _shown(config: BaseModel, margin: str) -> Iterator[str]:
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if section := section_of(field.annotation):
            yield from _comment(first_line(section), margin)
            yield f"{margin}{name}:"
            yield from _shown(value, f"{margin}  ")
        else:
            option = Option((name,), field)
            takes = f"{option.expected}; operational" if option.is_operational else option.expected
            yield from _comment(f"{field.description} [{takes}]", margin)
            yield f"{margin}{name}: {in_yaml(value)}"


def _comment(text: str, margin: str) -> list[str]:
    printable = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return textwrap.wrap(printable, 110, initial_indent=f"{margin}# ", subsequent_indent=f"{margin}# ", break_on_hyphens=False)


def in_yaml(value: Any) -> str:
    """A value in one line of YAML, which any version of it reads as the same."""
    if isinstance(value, str):
        is_plain = re.fullmatch(r"[A-Za-z_][\w./-]*", value, re.ASCII) and not _is_special(value)
        return value if is_plain else yaml.safe_dump(value, default_style='"', width=math.inf, allow_unicode=True).rstrip("\n")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{in_yaml(key)}: {in_yaml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(in_yaml, value)) + "]"
    return repr(value).replace("e", ".0e") if isinstance(value, float) and "." not in repr(value) else json.dumps(value)


@functools.cache
def _is_special(word: str) -> bool:
    """True if a version of YAML reads this word as something else than text."""
    tags = {loader("").resolve(yaml.ScalarNode, word, (True, False)) for loader in (yaml.SafeLoader, _Loader)}
    return tags != {"tag:yaml.org,2002:str"}


def _parsed(text: str, where: str) -> tuple[Any, Any]:
    """A document's node, which knows its lines, and its value."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{where}{line}: {error.problem or 'no valid YAML'}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where}: no valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply") from error


def _lines(node: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*above, *str(key.value).split("."))
            yield path, key.start_mark.line + 1
            yield from _lines(value, path)


def _nowhere(_: tuple[str, ...]) -> str:
    return ""


def _leaves(
    model: type[BaseModel],
    layer: Mapping[str, Any],
    where: Callable[[tuple[str, ...]], str],
    besides: Sequence[str] = (),
    above: tuple[str, ...] = (),
) -> Iterator[tuple[Option, Any]]:
    """The options that a layer gives, each with its value.

    Raises:
        UserError: there is no such option, or a section is given what is no mapping.
    """
    for name, value in layer.items():
        if name in besides:
            continue
        path = (*above, *str(name).split("."))
        given = find(model, path, where(path))
        if isinstance(given, Option):
            yield given, value
        elif isinstance(value, Mapping):
            yield from _leaves(model, value, where, above=path)
        else:
            has = ", ".join([*list(given.model_fields)[:6], "..."])
            raise UserError(f"{where(path)}{'.'.join(path)}: got {in_yaml(value)}, expected a mapping of its options: {has}")


def _put(layer: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for section in path[:-1]:
        layer = layer.setdefault(section, {})
    layer[path[-1]] = value


def _value(config: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config


def _values(config: BaseModel) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in options(type(config)):
        _put(values, option.path, _value(config, option.path))
    return values


def _typed(option: Option, value: Any) -> Any:
    """A list as the tuple that an option takes, and names of JSON as the numbers that a mapping is by."""
    kind = option.field.annotation
    if isinstance(value, list) and get_origin(kind) is tuple:
        return tuple(value)
    if isinstance(value, dict) and get_origin(kind) is dict and get_args(kind)[0] is int:
        return {int(key) if str(key).isdecimal() else key: one for key, one in value.items()}
    return value


def _plain(value: Any, name: str) -> Any:
    """A value of JSON; 1e5 is a whole number.

    Raises:
        UserError: a number is none, or is infinite: no option takes it.
    """
    if isinstance(value, Mapping):
        return {key: _plain(one, name) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, name) for one in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(f"{name}: got {value}, expected a finite number")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return value


def _told(model: type[BaseModel], fault: dict[str, Any], places: Mapping[str, str]) -> str:
    """A fault as one sentence: where, which option, what was got and what was expected."""
    path = tuple(str(part) for part in fault["loc"])
    for depth in range(len(path), 0, -1):
        with contextlib.suppress(UserError):
            given = find(model, path[:depth])
            name = ".".join(path[:depth])
            if isinstance(given, Option):
                return f"{places.get(name, '')}{name}: got {in_yaml(fault['input'])}, expected {given.expected}"
            where = next((place for option, place in places.items() if option.startswith(f"{name}.")), "")
            return f"{where}{name}: {fault['msg'].removeprefix('Value error, ')}"
    return str(fault["msg"]).removeprefix("Value error, ")

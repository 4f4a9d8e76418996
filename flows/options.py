"""Base of the parameter models: their settings, their form, and the command lines that are made from them.

A choice is described once. Each field of a model is an option of its command; so are the model's shortcuts, short names of
single settings of the configuration: `--steps 100` is `--set train.steps=100`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic.fields import FieldInfo

from flows.settings import PLACE, PLACE_SETTINGS, TOLD, Values, find_setting, flat, public_place, word_of, words_of
from pipeline_lib.config.base import StageConfig, operational
from pipeline_lib.config.options import section_of
from pipeline_lib.config.overrides import parse_set, read_config
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError, has_secret


def place(title: str, description: str, kind: str = PLACE, default: Any = None, **options: Any) -> Any:
    """A field that holds a place of this machine: a printed command tells its last part."""
    return Field(default, title=title, description=description, json_schema_extra={"place": kind, **options})


# a text without what `errors.redacted` takes out of a URL: Prefect refuses another before there is a run, and so before its
# database has it; in the words that both Python and a browser take as a pattern
_SECRETS = (
    r"[\w.-]*(?:[Tt]oken|secret|Secret|[Pp]assw(?:or)?d|[Pp]wd|[Ss]ignature|[Cc]redential|[Aa]pi[_-]*[Kk]ey|[Aa]uth"
    r"|[Aa]ccess[_-]*[Kk]ey)[\w.-]*|pass|key|sig|jwt|sas"
)
PUBLIC = (
    r"^(?!.*\b(?!(?:abfss?|wasbs?)://)[A-Za-z][\w+.-]*://(?!git@)[^\s/?#'\"<>]+@)"
    rf"(?!.*[?&;](?:{_SECRETS})=)"
    r"(?!.*https?://(?:[^\s/'\"<>]*hook[^\s/'\"<>]*/|[^\s'\"<>]*/(?:web)?hooks?/)[^\s'\"<>])"
)


PromoteWhen = Literal["always", "gate", "ask", "never"]


def promote_field() -> Any:
    """When the run becomes what searches use."""
    return Field(
        None,
        title="Promote",
        description="always: searches for its name use it from now on; gate: only if it is better than what they use now; ask:"
        " the run pauses until a person says yes or no; never: it is kept back. Unset: gate if a schedule started it, else"
        " always.",
    )


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    (kind,) = [one for one in field.get("anyOf", [{}]) if one.get("type") != "null"]
    default = field.get("default")
    if isinstance(default, dict):  # of a group
        default = {name: value for name, value in default.items() if value is not None}
    rest = {name: value for name, value in field.items() if name not in ("anyOf", "default", "place", "operational")}
    plain = kind | rest | ({} if default is None else {"default": default})
    for text in (plain, plain.get("items", {})):
        if text.get("type") == "string" and not {"enum", "pattern"} & text.keys():
            text["pattern"] = PUBLIC
    return plain


def _plain_form(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """A form that asks plain questions: an optional field is an empty box, and not a choice between a box and nothing."""
    properties = {name: _plain(field) for name, field in schema.get("properties", {}).items()}
    schema["properties"] = {name: properties[name] for name in _in_order(model, properties)}


def _in_order(model: type[BaseModel], names: Iterable[str]) -> list[str]:
    """Fields as a form and a terminal's help show them."""
    first = getattr(model, "FIRST", ())
    rank = {name: place for place, name in enumerate([*first, "", "config", "set", "machine"])}
    return sorted(names, key=lambda name: rank.get(name, rank[""]))


class Group(BaseModel):
    """Fields that a form shows together. An emptied box is an unset field."""

    # a wrong value is not repeated: Prefect would keep it with the run's state
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_plain_form, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for name, value in given.items():
            if any(map(has_secret, _texts(value))):
                raise ValueError(
                    f"{name} holds a secret, and Prefect's database keeps parameters: give it by a variable of the environment,"
                    " or in a dump spec as ${NAME}"
                )
        return {name: value for name, value in given.items() if value is not None and value != ""}


class Machine(Group):
    """What this machine uses. No output depends on it."""

    artifacts: str | None = place(
        "Artifacts",
        "Folder or bucket (s3://bucket/prefix) of the artifacts, for every machine that works on them; unset: store/ below the"
        " artifact root of the machine that runs the flow.",
        operational=True,
    )
    download: bool = operational(
        False, title="Download", description="Fetch the start from the hub if it is not in its cache; off: no network."
    )


class Params(Group):
    """Parameters of one flow.

    Attributes:
        COMMAND: the command of `cpt` that starts the flow.
        ROOT: the configuration that `config` and `set` are about.
        SHORTCUTS: an option's name to the setting that it gives.
        FLAGS: a field to its option's name where that is another.
        ALSO: an option's name to the field that it gives as well.
        FIELDS: a field to the setting that it gives.
        GONE: a name that there was to what is given in its place.
        FIRST: fields that a form asks first.
    """

    COMMAND: ClassVar[str]
    ROOT: ClassVar[type[StageConfig]] = RunConfig
    SHORTCUTS: ClassVar[Mapping[str, str]] = {}
    FLAGS: ClassVar[Mapping[str, str]] = {}
    ALSO: ClassVar[Mapping[str, str]] = {}
    FIELDS: ClassVar[Mapping[str, str]] = {}
    GONE: ClassVar[Mapping[str, str]] = {}
    FIRST: ClassVar[tuple[str, ...]] = ()

    config: str | None = place(
        "Configuration file",
        "YAML file of settings on the machine that runs the flow, in part or whole, as `cpt config show` prints them.",
        operational=True,
    )
    set: tuple[str, ...] = Field(
        (), title="Settings", description="Single settings, as `train.learning_rate=1e-4`; they come last and win."
    )
    machine: Machine = Field(
        Machine(), title="Machine", description="Places of this machine: artifacts, and what may be fetched."
    )

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, given: Any) -> Any:
        for name in given if isinstance(given, dict) else ():
            if name in cls.GONE:
                raise ValueError(f"{name} is gone: give {cls.GONE[name]}")
            if name in cls.SHORTCUTS and name not in cls.model_fields:
                raise ValueError(f"{name} is a setting: give {cls.SHORTCUTS[name]}=... in `set`")
        return given

    @field_validator("set")
    @classmethod
    def _canonical(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        """Each setting once, in the order and spelling of the configuration."""
        return words_of(cls.ROOT, flat(cls.ROOT, parse_set(words, cls.ROOT)))

    def layers(self) -> list[Mapping[str, Any]]:
        """What is asked for, the last first in force: the file's settings, the fields', those of `set`."""
        file = [read_config(self.config, self.ROOT)] if self.config else []
        return [*file, self.own_settings(), parse_set(self.set, self.ROOT)]

    def own_settings(self) -> Values:
        """The settings that fields give."""
        given = {setting: getattr(self, name) for name, setting in self.FIELDS.items()}
        return {setting: value for setting, value in given.items() if value is not None}

    def settings(self) -> Values:
        """All that is asked for, by the dotted name of each setting."""
        return {name: value for layer in self.layers() for name, value in flat(self.ROOT, layer).items()}

    def folded(self) -> Self:
        """The same without a file: its settings stand in `set`."""
        if self.config is None:
            return self
        file, _, words = (flat(self.ROOT, layer) for layer in self.layers())
        given = self.own_settings()
        kept = {name: value for name, value in file.items() if name not in given}
        return self.model_copy(update={"config": None, "set": words_of(self.ROOT, kept | words)})

    def command(self) -> str:
        """What does this again at a terminal: every parameter that an output depends on; of a path the last part."""
        public = type(self).model_validate(with_places(self.folded(), lambda place, _: public_place(place)))
        return join_words("cpt", self.COMMAND, *command_words(public))


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: as a Python name: `batch_size` is --batch-size.
        path: of the field that it gives: ("machine", "artifacts"); of a shortcut that of a setting: ("train", "steps").
    """

    name: str
    path: tuple[str, ...]
    field: FieldInfo
    is_shortcut: bool = False

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def target(self) -> str:
        """Dotted name of the field or setting."""
        return ".".join(self.path)

    def words(self, value: Any) -> list[str]:
        """What is typed to give it this value; nothing where that is the default."""
        if not self.is_shortcut and value == self.field.get_default():
            return []
        if isinstance(value, bool):
            return [self.flag] if value else []
        return [word for one in (value if isinstance(value, list | tuple) else (value,)) for word in _pair(self.flag, str(one))]


def options_of(model: type[Params]) -> list[Option]:
    """The options of a model of parameters: its fields, those of its groups among them, and its shortcuts."""
    found = [Option(model.FLAGS.get(name, name), path, field) for name, path, field in _fields(model)]
    by_name = {option.path[-1]: option for option in found}
    found += [Option(name, by_name[other].path, by_name[other].field) for name, other in model.ALSO.items()]
    for name, setting in model.SHORTCUTS.items():
        given = find_setting(model.ROOT, setting)
        found.append(Option(name, given.path, given.field, is_shortcut=True))
    return found


def fields_of(model: type[Params], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the given options stand for; what a shortcut gives comes before the words of --set.

    Raises:
        UserError: an option is one that there was; the message names what is given in its place.
    """
    for name, instead in model.GONE.items():
        if given.get(name):
            raise UserError(f"--{name.replace('_', '-')} is gone: give {instead}")
    fields: dict[str, Any] = {}
    words: list[str] = []
    for option in options_of(model):
        value = given.get(option.name)
        if value is None or (isinstance(value, list | tuple) and not value):
            continue
        if option.is_shortcut:
            words.append(word_of(model.ROOT, option.target, value))
            continue
        *groups, name = option.path
        group = fields
        for part in groups:
            group = group.setdefault(part, {})
        group[name] = [*group.get(name, ()), *value] if isinstance(value, list | tuple) else value
    return {**fields, "set": [*words, *fields.get("set", ())]} if words else fields


def command_words(params: Params) -> list[str]:
    """The options that give these parameters: all that an output may depend on."""
    words: list[str] = []
    values = flat(params.ROOT, parse_set(params.set, params.ROOT))
    for option in options_of(type(params)):
        if option.target == "set" or option.name in params.ALSO or not _is_told(option):
            continue
        if not option.is_shortcut:
            value = _value(params, option.path)
            words += [] if value is None else option.words(value)
        elif typed := option.words(values.get(option.target, [])):
            words += typed
            del values[option.target]
    rest = {name: value for name, value in values.items() if name in TOLD or not find_setting(params.ROOT, name).is_operational}
    return words + [word for setting in words_of(params.ROOT, rest) for word in ("--set", setting)]


def join_words(*words: str) -> str:
    """A line for a shell."""
    return shlex.join(words)


def with_places(params: Params, change: Callable[[str, str], str]) -> dict[str, Any]:
    """The parameters as fields, each place changed.

    Args:
        change: of a place as it stands and of its kind, PLACE or PLACE_OR_NAME.
    """
    fields = params.model_dump()
    for _, path, field in _fields(type(params)):
        if kind := _marks(field).get("place"):
            *groups, name = path
            holder = fields
            for group in groups:
                holder = holder[group]
            value = holder[name]
            if isinstance(value, str):
                holder[name] = change(value, kind)
            elif value:
                parted = [entry.rpartition("=") for entry in value]  # NAME=PLACE
                holder[name] = tuple(f"{view}{equals}{change(path, kind)}" for view, equals, path in parted)
    values = flat(params.ROOT, parse_set(params.set, params.ROOT))
    for name, kind in PLACE_SETTINGS.items():
        if values.get(name):
            values[name] = change(values[name], kind)
    return {**fields, "set": words_of(params.ROOT, values)}


def places_of(group: Group) -> dict[str, str]:
    """Name and kind of each field of a group that names a place."""
    marked = {name: _marks(field).get("place") for name, field in type(group).model_fields.items()}
    return {name: kind for name, kind in marked.items() if kind}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _fields(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...], FieldInfo]]:
    for name in _in_order(model, model.model_fields):
        field = model.model_fields[name]
        if group := section_of(field.annotation):
            yield from _fields(group, (*above, name))
        else:
            yield name, (*above, name), field


def _marks(field: FieldInfo) -> dict[str, Any]:
    marks = field.json_schema_extra
    return dict(marks) if isinstance(marks, dict) else {}


def _is_told(option: Option) -> bool:
    return option.target in TOLD or not _marks(option.field).get("operational")


def _value(params: Any, path: Sequence[str]) -> Any:
    for name in path:
        params = getattr(params, name)
    return params


def _pair(flag: str, value: str) -> list[str]:
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]

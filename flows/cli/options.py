"""Options of the terminal's commands, made from the parameters of the flows by typer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args, get_origin

import typer

from flows.options import Option, Params, options_of

PLAIN = (bool, int, float, str)
METAVARS = {"set": "NAME=VALUE", "config": "FILE"}


def takes(model: type[Params]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a flow's parameters; its function gets those that were given, by name, in one dictionary.

    What else the function takes are options of its own.
    """
    options = options_of(model)
    gone = [name for name in model.GONE if name not in {option.name for option in options}]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def command(**given: Any) -> None:
            rest = {parameter.name: given.pop(parameter.name) for parameter in own}
            function({name: value for name, value in given.items() if value is not None}, **rest)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        made = [*(parameter(option) for option in options), *(_hidden(name) for name in gone)]
        command.__signature__ = inspect.Signature([*made, *keyword])  # type: ignore[attr-defined]
        return command

    return decorate


def parameter(option: Option, variable: str | None = None) -> inspect.Parameter:
    """The argument that typer makes an option of; one that is not given is None, and the field's default holds.

    Args:
        variable: of the environment, which gives it too.
    """
    default = None if option.is_shortcut else option.field.get_default()
    shown = str(default) if isinstance(default, str | int | float) and not isinstance(default, bool) else False
    about = f"{option.field.description}{f' (--set {option.target})' if option.is_shortcut else ''}"
    made = typer.Option(option.flag, help=about, show_default=shown, metavar=METAVARS.get(option.name), envvar=variable)
    return _keyword(option.name, _kind(option.field.annotation), made)


def _hidden(name: str) -> inspect.Parameter:
    """An option that there was: whoever gives it is told what took its place."""
    return _keyword(name, list[str], typer.Option(f"--{name.replace('_', '-')}", hidden=True))


def _keyword(name: str, kind: Any, made: Any) -> inspect.Parameter:
    annotation = Annotated[kind | None, made]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _kind(annotation: Any) -> Any:
    """What typer shall read: a word, a number, or a list of words; the model says which words."""
    if annotation in PLAIN:
        return annotation
    if get_origin(annotation) is tuple:
        return list[str]
    parts = [part for part in get_args(annotation) if part is not type(None)]
    kinds = {_kind(part) if get_args(part) or isinstance(part, type) else type(part) for part in parts}
    return kinds.pop() if len(kinds) == 1 else str

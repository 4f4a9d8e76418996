"""Commands of `cpt` that start a flow, the search service, and the writer of queries: their options are a model's fields.

`cpt serve`: every field of ServeConfig is an option, a variable of the environment (--max-k is CPT_SERVE_MAX_K) and a line of
a YAML file; the terminal wins over the environment, and that over the file.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError

from flows.cli.store import Told
from flows.cli.terminal import params_of, run_flow
from flows.options import Option, Params, options_of
from flows.params import (
    AblateParams,
    DatasetParams,
    EvaluateParams,
    FinetuneParams,
    NamedParams,
    PretrainParams,
    PublishParams,
    RunParams,
    TrainParams,
)
from flows.runs import open_store
from pipeline_lib.config.overrides import apply, read_config
from pipeline_lib.config.queries import QueryWriterConfig
from pipeline_lib.errors import UserError
from pipeline_lib.serve.config import TOKEN, ServeConfig

runs = typer.Typer()

PLAIN = (bool, int, float, str)
METAVARS = {"set": "NAME=VALUE", "config": "FILE"}
VARIABLES = "CPT_SERVE_"
ServeFile = Annotated[str | None, typer.Option("--config", metavar="FILE", help="YAML file of these options, as max_k: 50.")]

NoPromote = Annotated[
    bool, typer.Option("--no-promote", help="Export and index only: searches keep their current model (--promote never).")
]


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


def kept_back(given: dict[str, Any], no_promote: bool) -> dict[str, Any]:
    """Options with --no-promote as what it stands for.

    Raises:
        UserError: something else is asked for too.
    """
    if no_promote and given.get("promote", "never") != "never":
        raise UserError(f"--no-promote and --promote {given['promote']}: give one of them")
    return {**given, "promote": "never"} if no_promote else given


@runs.command()
@takes(RunParams)
def run(given: dict[str, Any], no_promote: NoPromote = False) -> None:
    """Run the whole pipeline, from raw dump to searchable index. Finished work is not repeated; an interrupted run resumes."""
    from flows.cli.summary import print_night, print_summary

    params = params_of(RunParams, kept_back(given, no_promote))
    _describe(params)
    done = run_flow("flows.retrain:retrain", params)
    if "lineage" in done:
        print_summary(done)
    if "night" in done:
        print_night(done["night"])


@runs.command("build-dataset")
@takes(DatasetParams)
def build_dataset(given: dict[str, Any]) -> None:
    """Make token shards from a raw dump."""
    _print_record(run_flow("flows.build_dataset:build_dataset", params_of(DatasetParams, given)))


@runs.command()
@takes(PretrainParams)
def pretrain(given: dict[str, Any]) -> None:
    """Train a causal language model on the training split, to start from."""
    typer.echo(run_flow("flows.pretrain:pretrain", params_of(PretrainParams, given)))


@runs.command()
@takes(TrainParams)
def train(given: dict[str, Any]) -> None:
    """Train the embedding model: from token shards to checkpoints."""
    params = params_of(TrainParams, given)
    _describe(params)
    _print_record(run_flow("flows.train:train", params))


@runs.command()
@takes(FinetuneParams)
def finetune(given: dict[str, Any]) -> None:
    """Tune a checkpoint on labelled pairs with hard negatives; with --suite, measure it before and after."""
    _print_record(run_flow("flows.finetune:finetune", params_of(FinetuneParams, given)))


@runs.command()
@takes(EvaluateParams)
def evaluate(given: dict[str, Any]) -> None:
    """Measure checkpoints and baselines on held-out pairs, or with --suite on public evaluation sets."""
    params = params_of(EvaluateParams, given)
    found = run_flow("flows.evaluate:evaluate", params)
    from flows.cli.summary import print_evaluations

    print_evaluations(found, params.machine.artifacts or "")


@runs.command()
@takes(PublishParams)
def publish(given: dict[str, Any], no_promote: NoPromote = False) -> None:
    """Select, test, export and index a checkpoint, and promote it so that searches use it."""
    _print_record(run_flow("flows.publish:publish", params_of(PublishParams, kept_back(given, no_promote))))


@runs.command()
@takes(AblateParams)
def ablate(given: dict[str, Any]) -> None:
    """Vary the paper's main options at small scale, with several seeds each: a table and a plot."""
    _print_record(run_flow("flows.ablate:ablate", params_of(AblateParams, given)))


def _describe(params: NamedParams) -> None:
    """Say on standard error what will be run."""
    from pipeline_lib.config.presets import describe

    typer.echo(describe(params.resolve(), params.preset), err=True)


def _print_record(record: BaseModel) -> None:
    typer.echo(record.model_dump_json(indent=1, exclude_none=True))


def _takes_config(function: Callable[[dict[str, Any], str | None], None]) -> Callable[..., None]:
    """Give a command the fields of ServeConfig as options."""

    def command(**given: Any) -> None:
        file = given.pop("config")
        function({name: value for name, value in given.items() if value not in (None, [])}, file)

    made = [
        parameter(Option(name, (name,), field), f"{VARIABLES}{name.upper()}")
        for name, field in ServeConfig.model_fields.items()
    ]
    config = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ServeFile)
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature([*made, config])  # type: ignore[attr-defined]
    return command


@_takes_config
def serve(given: dict[str, Any], file: str | None) -> None:
    """Serve the published index over HTTP: a search page, searches and embeddings, on loopback; Ctrl-C stops it."""
    config = settings(given, file)
    from flows.cli.search import load_weights
    from pipeline_lib.runtime.machine import artifact_home
    from pipeline_lib.serve.server import Service

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    service = Service(config, config.artifacts or artifact_home(), load_weights)
    typer.echo(welcome(service))
    service.serve()
    typer.echo("stopped: every request that was under way is answered")


def settings(given: dict[str, Any], file: str | None) -> ServeConfig:
    """The configuration that a file makes, and over it what the terminal and the environment give.

    Raises:
        UserError: an option is unknown, or has a value that it does not take.
    """
    return apply(ServeConfig(), *([read_config(file, ServeConfig)] if file else []), given)


def welcome(service: Any) -> str:
    """What the terminal says at the start."""
    pair = service.engine.served()
    lines = [
        f"Search:      {service.url}/    (GET and POST {service.url}/search; {service.url}/openapi.json)",
        f"The model:   {service.url}/map    {service.url}/neighbours    {service.url}/compare",
        f"Embeddings:  {service.url}/v1    (OpenAI's clients: base_url, model default)",
        f"Upkeep:      {service.url}/healthz    {service.url}/metrics",
        f"{pair['name']}: {pair['texts']:,} functions and passages, model {pair['model_digest'][:12]}.",
    ]
    if not service.is_on_loopback:
        lines.append(f"Others than this machine reach it: without TLS, {TOKEN} and queries can be read on the way.")
    return "\n".join([*lines, "Ctrl-C stops it."])


@takes(DatasetParams)
def queries(
    given: dict[str, Any],
    endpoint: Annotated[str, typer.Option(metavar="URL", help="OpenAI-compatible endpoint, up to /v1.")],
    model: Annotated[str, typer.Option(help="Model, by the endpoint's name for it.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="JSON Lines file to append to; an interrupted command resumes.")],
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="Setting of the requests, limit=1000: docs/how-to/queries.md."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Begin without asking about the estimate.")] = False,
) -> None:
    """Have a language model behind an endpoint write queries for a dump's texts; train on them by --set queries.file=FILE."""
    from pipeline_lib.pairs.extract import extract
    from pipeline_lib.pairs.query_writer import BAD_SUFFIX, check_out, estimate, key_of, write_queries

    params = params_of(DatasetParams, given)
    config, told = params.resolve(), Told()
    writer = _writer_options(endpoint, model, option or [])
    check_out(out)
    key_of(writer)
    extracted = extract(open_store(params.machine.artifacts), config.source, config.extract, told)
    expected = estimate(extracted, writer, out)
    typer.echo(expected.sentence(), err=True)
    if expected.texts and not yes:
        if not sys.stdin.isatty():
            raise UserError("nothing was asked yet: give --yes to begin without a question")
        typer.confirm("begin?", abort=True, err=True)
    written = write_queries(extracted, writer, out, told)
    typer.echo(f"{out}: {written.queries:,} queries for {written.texts:,} texts")
    if written.bad:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(written.bad.items()))
        typer.echo(f"{out}{BAD_SUFFIX}: {written.bad.total():,} answers set aside: {reasons}", err=True)
    if written.unanswered:
        typer.echo(f"{written.unanswered:,} texts stayed unanswered: the same command asks for them again", err=True)
    typer.echo(f"train on them with --set queries.file={out} and a share of `queries` in train.mixture", err=True)


def _writer_options(endpoint: str, model: str, given: list[str]) -> QueryWriterConfig:
    parted = [word.partition("=") for word in given]
    if wrong := [name for name, equals, _ in parted if not equals]:
        raise UserError(f"--option {wrong[0]}: expected NAME=VALUE")
    fields: dict[str, Any] = {name: value for name, _, value in parted}
    try:
        return QueryWriterConfig(endpoint=endpoint, model=model, **fields)
    except ValidationError as error:
        first = error.errors()[0]
        known = ", ".join(name for name in QueryWriterConfig.model_fields if name not in ("endpoint", "model"))
        raise UserError(f"--option {'.'.join(map(str, first['loc']))}: {first['msg']}; there are {known}") from error


runs.command()(serve)
runs.command()(queries)

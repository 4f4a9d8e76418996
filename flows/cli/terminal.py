"""Start of a flow from a terminal: its parameters from the options, checked; its server; its log kept out of sight."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import typer
from pydantic import ValidationError

from flows.cli.store import Told
from flows.options import Params, fields_of, options_of, with_places
from flows.params import CheckpointParams, EvaluateParams, FinetuneParams, PublishParams, SourceParams
from flows.runs import check_guide_model, find_given_start, is_checkpoint, open_store, split_checkpoint
from flows.settings import absolute_place
from flows.workspace import check_planned, named_checkpoint
from pipeline_lib.config.evaluation import parted_suites
from pipeline_lib.config.overrides import read_config
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import find_start, open_checkpoint
from pipeline_lib.model.starts import check_fits
from pipeline_lib.runtime.machine import artifact_home, writable_home
from pipeline_lib.train.memory import check_lora
from pipeline_lib.train.start import check_tuned

WEBHOOK = "CPT_NOTIFY_WEBHOOK"  # of the environment: a URL that was typed

Given = TypeVar("Given", bound=Params)


def with_server(flow: Callable[[], Any]) -> Any:
    """Run a flow against a server of this artifact root, its log kept out of the terminal."""
    from flows.orchestrator.server import prefect_environment, prefect_server  # imports Prefect: seconds

    home = artifact_home()
    os.environ.update(prefect_environment(home))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer's: a thread that waits must not spin
    importing = threading.Thread(target=_import_libraries, daemon=True)
    importing.start()
    with prefect_server(home) as url:
        typer.echo(f"  Prefect's UI of this run: {url.removesuffix('/api')}", err=True)
        importing.join()  # two threads in the middle of one library's imports find names missing in each other's
        try:
            return flow()
        finally:
            from prefect.logging.handlers import APILogWorker

            APILogWorker.drain_all()


def run_flow(entrypoint: str, params: Params) -> Any:
    """What a flow, MODULE:NAME, returns for these parameters, as `with_server` runs it; it is imported behind the server."""

    def flow() -> Any:
        module, _, name = entrypoint.partition(":")
        return getattr(importlib.import_module(module), name)(params)

    return with_server(flow)


def _import_libraries() -> None:
    """What takes seconds to import and does not ask where Prefect's server is, while that starts."""
    for name in ("pipeline_lib.evaluation.metrics", "pipeline_lib.export.export"):
        importlib.import_module(name)


def params_of(model: type[Given], given: Mapping[str, Any]) -> Given:
    """The parameters that a command's options stand for, with places from the root on.

    Raises:
        UserError: an option is out of its range, or names what is not there; nothing has started.
    """
    hidden = {"set": _without_webhook(given["set"])} if given.get("set") else {}
    params = read_params(model, {**given, **hidden})
    check_params(params)
    return params


def read_params(model: type[Given], given: Mapping[str, Any]) -> Given:
    """Parameters as `params_of` gives them; nothing on this machine is looked for but the file of --config.

    Raises:
        UserError: an option is out of its range, or there is no such option or setting.
    """
    for name in given.get("checkpoint") or () if "checkpoint" in model.ALSO else ():
        if not is_checkpoint(name):
            split_checkpoint(name)  # which says what names a checkpoint
    fields = fields_of(model, given)
    if fields.get("config") and "preset" in model.model_fields and not fields.get("preset"):
        fields["preset"] = read_config(fields["config"], model.ROOT).get("preset")  # of a whole configuration
    try:
        params = model.model_validate(fields)
        return model.model_validate(with_places(params, absolute_place))
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error":
            raise UserError(message) from error
        flags = {option.path: option.flag for option in options_of(model) if not option.is_shortcut}
        place = tuple(str(part) for part in first["loc"])
        flag = next((flags[place[:depth]] for depth in range(len(place), 0, -1) if place[:depth] in flags), ".".join(place))
        if first["type"] == "missing":
            raise UserError(f"give {flag}: {model.model_fields[place[0]].description}") from error
        raise UserError(f"{flag} {first['input']!r}: {message}") from error


def _without_webhook(words: Sequence[str]) -> list[str]:
    """The words of --set with a webhook's URL in the environment of this process: parameters are shown in Prefect's UI."""
    hidden = []
    for word in words:
        name, _, url = word.partition("=")
        is_url = name.strip() == "notify.webhook" and "://" in url
        if is_url:
            os.environ[WEBHOOK] = url.strip("'\"")
        hidden.append(f"notify.webhook=${WEBHOOK}" if is_url else word)
    return hidden


def check_params(params: Params) -> None:
    """Look for all that parameters name, before anything starts.

    Raises:
        UserError: it is not there, or does not fit.
    """
    asked = params.settings()
    named = getattr(params, "suites", ())
    suites = [*asked.get("select.suites", ()), *(parted_suites(named)[1] if isinstance(params, EvaluateParams) else named)]
    if isinstance(params, SourceParams):
        check_source(asked)
    check_folder("--contamination", asked.get("contamination.folder"))
    check_folder("--suite-data", asked.get("select.suite_data") or getattr(params, "suite_data", None))
    if suites:
        from pipeline_lib.evaluation.suites.registry import suite_names

        suite_names(suites)
    check_places(params.machine.artifacts, asked.get("extract.scheduler", ""))
    if isinstance(params, FinetuneParams):
        check_tuning(params)
    elif isinstance(params, EvaluateParams):
        check_models(params)
    elif isinstance(params, PublishParams):
        check_checkpoint(params, params.checkpoint or "")
    elif isinstance(params, SourceParams):
        check_start(params)


def check_start(params: SourceParams) -> None:
    """Look for what training starts from: a finished run, a folder, a GGUF file, a named start, or a model in the hub's cache.

    Raises:
        UserError: it, or the model that guides, is not there, or it has fewer blocks than are to be kept.
    """
    config, store = params.resolve(), open_store(params.machine.artifacts)
    start = find_given_start(store, params.start, params.lengthened)
    folder = str(start.folder) if start else find_start(params.start, params.machine.download, Told())
    if start is None:
        check_fits(folder, config)
    check_lora(config, folder)
    check_guide_model(store, config.train, config.guide)


def check_source(asked: Mapping[str, Any]) -> None:
    """Look for the source.

    Raises:
        UserError: there is no such folder, the dump spec cannot be read, or packages that it names were not fetched.
    """
    if folder := asked.get("source.folder"):
        from pipeline_lib.sources.folder import readable_folder

        readable_folder(folder)
    if dump := asked.get("source.dump"):
        from pipeline_lib.sources.dump_spec import read_spec
        from pipeline_lib.sources.packages import check_fetched

        check_fetched((source.url for source in read_spec(dump)), dump)


def check_models(params: EvaluateParams) -> None:
    """Look for every model.

    Raises:
        UserError: there is none of that name.
    """
    if params.others:
        from pipeline_lib.evaluation.suites.registry import open_model

        for name in params.others:
            open_model(name)
    of_corpus = (params.corpus,) if parted_suites(params.suites)[0] else ()
    for name in params.checkpoints or of_corpus:
        check_checkpoint(params, name)
    if params.preset:
        params.resolve()


def check_checkpoint(params: CheckpointParams, name: str) -> None:
    """Look for a checkpoint: among those that are there, or among those that a run with these parameters leaves.

    Raises:
        UserError: there is none.
    """
    store = open_store(params.machine.artifacts)
    key, label = named_checkpoint(store, name) if name else ("", "")
    if key:  # a run that is named by its key brings its own parameters
        trained = store.open("train", key)
        if label:
            trained.part(label)
        return
    check_planned(params, store, label)
    check_start(params)


def check_tuning(params: FinetuneParams) -> None:
    """Look for the checkpoint, the training sets and the model that guides.

    Raises:
        UserError: one is not there, or a setting is out of its range.
    """
    config = params.resolve()
    for training_set in params.training_sets():
        if not Path(training_set.path).exists():
            raise UserError(f"--training-data {training_set.path}: no such file or folder on this machine")
    store = open_store(params.machine.artifacts)
    key, label = named_checkpoint(store, params.checkpoint)
    check_tuned(open_checkpoint(store, f"{key}/{label}" if key else params.checkpoint), config.training)
    check_guide_model(store, config.training, config.guide)


def check_places(artifacts: str | None, scheduler: str) -> None:
    """Ask whatever a run is to use whether it is there.

    Raises:
        UserError: nothing can be written there, or nobody answers.
    """
    writable_home()
    if scheduler:
        from pipeline_lib.runtime.shared_cluster import check_scheduler  # Dask: half a second

        check_scheduler(scheduler)
    if artifacts:
        open_store(artifacts).check_writable()


def check_folder(flag: str, folder: str | None) -> None:
    """Look for the folder that an option names, if it names one.

    Raises:
        UserError: there is none.
    """
    if folder and not Path(folder).is_dir():
        raise UserError(f"{flag} {folder}: no such folder on this machine")

"""Commands of `cpt` that start a flow, and the search service: their options are made from the fields of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from flows.cli.options import takes
from flows.cli.queries import queries
from flows.cli.serve import serve
from flows.cli.terminal import params_of, with_server
from flows.params import (
    AblateParams,
    DatasetParams,
    EvaluateParams,
    FinetuneParams,
    PretrainParams,
    PublishParams,
    RunParams,
    TrainParams,
)
from pipeline_lib.errors import UserError

runs = typer.Typer()

NoPromote = Annotated[
    bool, typer.Option("--no-promote", help="Export and index only: searches keep their current model (--promote never).")
]


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
    from pipeline_lib.config.presets import describe

    params = params_of(RunParams, kept_back(given, no_promote))
    typer.echo(describe(params.resolve(), params.preset), err=True)

    def flow() -> dict[str, Any]:
        from flows.retrain import retrain

        return retrain(params)

    done = with_server(flow)
    if "lineage" in done:
        print_summary(done)
    if "night" in done:
        print_night(done["night"])


@runs.command("build-dataset")
@takes(DatasetParams)
def build_dataset(given: dict[str, Any]) -> None:
    """Make token shards from a raw dump."""
    params = params_of(DatasetParams, given)

    def flow() -> BaseModel:
        from flows.build_dataset import build_dataset as build

        return build(params)

    _print_record(flow)


@runs.command()
@takes(PretrainParams)
def pretrain(given: dict[str, Any]) -> None:
    """Train a causal language model on the training split, to start from."""
    params = params_of(PretrainParams, given)

    def flow() -> str:
        from flows.pretrain import pretrain as train_language_model

        return train_language_model(params)

    typer.echo(with_server(flow))


@runs.command()
@takes(TrainParams)
def train(given: dict[str, Any]) -> None:
    """Train the embedding model: from token shards to checkpoints."""
    from pipeline_lib.config.presets import describe

    params = params_of(TrainParams, given)
    typer.echo(describe(params.resolve(), params.preset), err=True)

    def flow() -> BaseModel:
        from flows.train import train as train_encoder

        return train_encoder(params)

    _print_record(flow)


@runs.command()
@takes(FinetuneParams)
def finetune(given: dict[str, Any]) -> None:
    """Tune a checkpoint on labelled pairs with hard negatives; with --suite, measure it before and after."""
    params = params_of(FinetuneParams, given)

    def flow() -> BaseModel:
        from flows.finetune import finetune as tune

        return tune(params)

    _print_record(flow)


@runs.command()
@takes(EvaluateParams)
def evaluate(given: dict[str, Any]) -> None:
    """Measure checkpoints and baselines on held-out pairs, or with --suite on public evaluation sets."""
    params = params_of(EvaluateParams, given)

    def flow() -> None:
        from flows.cli.summary import print_evaluations
        from flows.evaluate import evaluate as evaluate_flow

        print_evaluations(evaluate_flow(params), params.machine.artifacts or "")

    with_server(flow)


@runs.command()
@takes(PublishParams)
def publish(given: dict[str, Any], no_promote: NoPromote = False) -> None:
    """Select, test, export and index a checkpoint, and promote it so that searches use it."""
    params = params_of(PublishParams, kept_back(given, no_promote))

    def flow() -> BaseModel:
        from flows.publish import publish as publish_flow

        return publish_flow(params)

    _print_record(flow)


@runs.command()
@takes(AblateParams)
def ablate(given: dict[str, Any]) -> None:
    """Vary the paper's main options at small scale, with several seeds each: a table and a plot."""
    params = params_of(AblateParams, given)

    def flow() -> BaseModel:
        from flows.ablate import ablate as ablate_flow

        return ablate_flow(params)

    _print_record(flow)


def _print_record(flow: Callable[[], BaseModel]) -> None:
    typer.echo(with_server(flow).model_dump_json(indent=1, exclude_none=True))


runs.command()(serve)
runs.command()(queries)

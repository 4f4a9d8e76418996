"""The commands of `cpt` that start a flow: their options are the flow's parameters."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.ablate_parameters import for_terminal
from flows.cli.terminal import check_places, check_suites, params_of, with_server
from flows.finetune_parameters import default_ranks, finetune_options, from_terminal
from flows.options import options_of, takes
from flows.parameters import OPTION_NAMES, EvaluateParams, PublishParams, RunParams, TrainParams, run_options

runs = typer.Typer()

NAMED_BY_KEY = ("dataset", "trained")  # for programs: at a terminal a run is found by its parameters or its checkpoint
RUN = run_options()
DATASET = [option for option in RUN if option.name in (
    "preset", "source", "dump", "name", "contamination", "near_duplicates", "delimiters", "init", "download", "workers",
    "scheduler", "artifacts",
)]  # fmt: skip
PRETRAIN = DATASET + [option for option in RUN if option.name in ("pretrain_steps", "seed", "processes")]
EVALUATE = options_of(EvaluateParams, OPTION_NAMES, (*NAMED_BY_KEY, "select_suites", "suite_data"))
PUBLISH = options_of(PublishParams, OPTION_NAMES, NAMED_BY_KEY)
ABLATE = [option for option in RUN if option.name in ("preset", "source", "dump", "artifacts")]


@runs.command()
@takes(RUN)
def run(given: dict[str, Any]) -> None:
    """The whole pipeline: raw dump to searchable index. What is done already is found done; interrupted, it goes on."""
    from flows.cli.summary import print_summary
    from pipeline_lib.config.presets import describe

    params = params_of(RunParams, RUN, given)
    typer.echo(describe(params.resolve(), params.preset), err=True)

    def flow() -> dict[str, Any]:
        from flows.retrain import retrain

        return retrain(params)

    print_summary(with_server(flow))


@runs.command("build-dataset")
@takes(DATASET)
def build_dataset(given: dict[str, Any]) -> None:
    """Raw dump to token shards."""
    params = params_of(RunParams, DATASET, given)

    def flow() -> Any:
        from flows.build_dataset import build_dataset as build

        return build(params)

    _print_record(with_server(flow))


@runs.command()
@takes(PRETRAIN)
def pretrain(given: dict[str, Any]) -> None:
    """A causal language model on the training split, to start from."""
    params = params_of(TrainParams, PRETRAIN, given)

    def flow() -> str:
        from flows.pretrain import pretrain as train_language_model

        return train_language_model(params)

    typer.echo(with_server(flow))


@runs.command()
@takes(RUN)
def train(given: dict[str, Any]) -> None:
    """Token shards to checkpoints."""
    from pipeline_lib.config.presets import describe

    params = params_of(TrainParams, RUN, given)
    typer.echo(describe(params.resolve(), params.preset), err=True)

    def flow() -> Any:
        from flows.train import train as train_encoder

        return train_encoder(params)

    _print_record(with_server(flow))


@runs.command()
@takes(finetune_options())
def finetune(
    given: dict[str, Any],
    mine_ranks: Annotated[
        str, typer.Option(metavar="FIRST-LAST", help="Ranks that mined ones are taken from.")
    ] = default_ranks(),
) -> None:
    """Tune a checkpoint on training sets with hard negatives; with --suite, compare before with after."""
    params = from_terminal(given | {"mine_ranks": mine_ranks})
    check_suites(params.suites)
    check_places(params.artifacts)

    def flow() -> Any:
        from flows.finetune import finetune as tune

        return tune(params)

    _print_record(with_server(flow))


@runs.command()
@takes(EVALUATE)
def evaluate(given: dict[str, Any]) -> None:
    """Checkpoints and baselines on the held-out splits, or with --suite on public evaluation sets."""
    params = params_of(EvaluateParams, EVALUATE, given)

    def flow() -> Any:
        from flows.cli.summary import print_evaluations
        from flows.evaluate import evaluate as evaluate_flow

        found = evaluate_flow(params)
        print_evaluations(found, params.artifacts)
        return found

    with_server(flow)


@runs.command()
@takes(PUBLISH)
def publish(given: dict[str, Any]) -> None:
    """Select, test, export, index and promote."""
    params = params_of(PublishParams, PUBLISH, given)

    def flow() -> Any:
        from flows.publish import publish as publish_flow

        return publish_flow(params)

    _print_record(with_server(flow))


@runs.command()
@takes(ABLATE)
def ablate(
    given: dict[str, Any],
    lever: Annotated[list[str] | None, typer.Option(metavar="NAME", help="batch, start, delimiters, steps, data.")] = None,
    pairs: Annotated[int, typer.Option(help="Pairs that a run sees.")] = 20_000,
    seeds: Annotated[int, typer.Option(help="Each arm is run so often.", min=1)] = 3,
) -> None:
    """The paper's levers in small: each arm with each seed, as one table and one plot."""
    levers = {"levers": lever} if lever else {}
    params = for_terminal(
        params_of(RunParams, ABLATE, given, init="random"), {"pairs": pairs, "seeds": list(range(1, seeds + 1)), **levers}
    )

    def flow() -> Any:
        from flows.ablate import ablate as ablate_flow

        return ablate_flow(params)

    _print_record(with_server(flow))


def _print_record(record: Any) -> None:
    typer.echo(record.model_dump_json(indent=1))

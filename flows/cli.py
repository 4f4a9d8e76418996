"""`cpt`: every flow from a terminal, and search over what they published.

Prefect, torch and the stages are imported inside the commands that need them: `cpt search` answers in about a second.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.plan import load_weights, plan_app
from flows.prune import prune
from flows.suite_texts import suite_texts
from flows.terminal import run_params, with_server
from pipeline_lib.errors import ContractViolation, CorruptArtifact, TrainingFailed, UserError

if TYPE_CHECKING:
    from flows.parameters import RunParams

DEFAULT_PORT = 4200
WRONG_USE = 2
INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The open factory for text and code embeddings: raw dumps in, a searchable index out.",
)

Preset = Annotated[
    str, typer.Option(help="The named configuration: demo, smoke, or cpt_text_{s,m,l,xl}, cpt_code_{s,m}.", show_default=False)
]
Source = Annotated[str, typer.Option(metavar="DIR", help="A folder of code and prose. Empty: this machine's own Python.")]
Dump = Annotated[str, typer.Option(metavar="SPEC", help="A dump spec: a YAML list of sources, in place of --source.")]
Name = Annotated[str, typer.Option(help="Names the report's folder. Empty: the preset's name, or the folder's or spec's.")]
Steps = Annotated[int, typer.Option(help="Optimizer steps; 0: the preset's.")]
BatchSize = Annotated[int, typer.Option(help="Pairs of one global batch; 0: the preset's.")]
PretrainSteps = Annotated[int, typer.Option(help="Steps of causal language modelling first; -1: the preset's.")]
Init = Annotated[str, typer.Option(metavar="DIR|ID", help="A causal language model to start from: folder, or hub id.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch --init from the hub if it is not in its cache.")]
Seed = Annotated[int, typer.Option(help="Of weights and sample order; -1: the preset's.")]
NearDuplicates = Annotated[
    float, typer.Option(help="Drop texts nearer than this to an earlier one (Jaccard, e.g. 0.8); 0: none, -1: the preset's.")
]
Contamination = Annotated[str, typer.Option(metavar="DIR", help="Texts of evaluation suites, kept out of training.")]
Artifacts = Annotated[str, typer.Option(metavar="URL", help="Where artifacts lie: s3://bucket/prefix, or a folder.")]
Workers = Annotated[int, typer.Option(help="Dask processes for extraction; 0: one a core.")]
Scheduler = Annotated[str, typer.Option(help="An existing Dask scheduler (tcp://HOST:PORT), in place of processes here.")]
Processes = Annotated[int, typer.Option(help="Trainer processes (torchrun), one a GPU.")]
Checkpoint = Annotated[str, typer.Option(help="step-000400 or TRAINKEY/step-000400. Empty: all, or the selected one.")]
Split = Annotated[str, typer.Option(help="validation, or test.")]

Suites = Annotated[list[str] | None, typer.Option(metavar="NAME", help="A suite or group, e.g. sts-b; may be repeated.")]
Data = Annotated[str, typer.Option(metavar="DIR", help="The folder of the suites' downloads.")]
SelectSuites = Annotated[list[str] | None, typer.Option(metavar="NAME", help="A suite that counts in the selection.")]
Models = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Another model: bm25, tfidf, FOLDER, NAME=FOLDER or hub:ORG/MODEL."),
]
Quick = Annotated[bool, typer.Option("--quick", help="Suites cut to samples.")]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Pass over suites whose files are not there.")]


@app.command()
def run(
    preset: Preset,
    source: Source = "",
    dump: Dump = "",
    name: Name = "",
    steps: Steps = 0,
    batch_size: BatchSize = 0,
    pretrain_steps: PretrainSteps = -1,
    init: Init = "",
    download: Download = False,
    seed: Seed = -1,
    near_duplicates: NearDuplicates = -1.0,
    contamination: Contamination = "",
    select_suite: SelectSuites = None,
    data: Data = "",
    workers: Workers = 0,
    scheduler: Scheduler = "",
    processes: Processes = 1,
    artifacts: Artifacts = "",
) -> None:
    """The whole pipeline: raw dump to searchable index. What is done already is found done; interrupted, it goes on."""
    given = {name: value for name, value in locals().items() if name not in ("select_suite", "data")}
    params = run_params(given | {"select_suites": tuple(select_suite or ()), "suite_data": data})
    _announce(params)

    def flow() -> dict[str, Any]:
        from flows.retrain import retrain

        return retrain(params)

    from flows.summary import print_summary

    print_summary(with_server(flow))


@app.command("build-dataset")
def build_dataset(
    preset: Preset,
    source: Source = "",
    dump: Dump = "",
    name: Name = "",
    workers: Workers = 0,
    scheduler: Scheduler = "",
    artifacts: Artifacts = "",
) -> None:
    """Raw dump to token shards."""
    params = run_params(locals())

    def flow() -> Any:
        from flows.build_dataset import build_dataset as build

        return build(params)

    _print_record(with_server(flow))


@app.command()
def pretrain(
    preset: Preset,
    source: Source = "",
    dump: Dump = "",
    name: Name = "",
    pretrain_steps: PretrainSteps = -1,
    seed: Seed = -1,
    artifacts: Artifacts = "",
) -> None:
    """A causal language model on the training split, to start from."""
    params = run_params(locals())

    def flow() -> str:
        from flows.parameters import TrainParams
        from flows.pretrain import pretrain as train_language_model

        return train_language_model(TrainParams(**params.model_dump()))

    typer.echo(with_server(flow))


@app.command()
def train(
    preset: Preset,
    source: Source = "",
    dump: Dump = "",
    name: Name = "",
    steps: Steps = 0,
    batch_size: BatchSize = 0,
    pretrain_steps: PretrainSteps = -1,
    init: Init = "",
    download: Download = False,
    seed: Seed = -1,
    processes: Processes = 1,
    artifacts: Artifacts = "",
) -> None:
    """Token shards to checkpoints."""
    params = run_params(locals())

    def flow() -> Any:
        from flows.parameters import TrainParams
        from flows.train import train as train_encoder

        return train_encoder(TrainParams(**params.model_dump()))

    _print_record(with_server(flow))


@app.command()
def finetune(
    checkpoint: Annotated[str, typer.Option(metavar="TRAINKEY/step-000400", help="What to tune.", show_default=False)],
    data: Annotated[
        list[str], typer.Option(metavar="[NAME=]PATH", help="A training set; may be repeated.", show_default=False)
    ],
    mine: Annotated[int, typer.Option(help="Hard negatives mined for each pair.")] = 0,
    mine_ranks: Annotated[str, typer.Option(metavar="FIRST-LAST", help="Ranks that they are taken from.")] = "5-100",
    margin: Annotated[float, typer.Option(help="How far below the positive they score at least (cosine).")] = 0.05,
    epochs: Annotated[float, typer.Option(help="How often each pair is seen.")] = 3.0,
    batch_size: Annotated[int, typer.Option(help="Pairs of one global batch.")] = 256,
    rate_share: Annotated[float, typer.Option(help="Learning rates, as a share of the run's that the checkpoint is of.")] = 1.0,
    require_negatives: Annotated[bool, typer.Option("--require-negatives", help="Drop pairs without any given one.")] = False,
    seed: Annotated[int, typer.Option(help="Of sample order.")] = 1,
    processes: Processes = 1,
    suite: Suites = None,
    suite_data: Data = "",
    quick: Quick = False,
    artifacts: Artifacts = "",
) -> None:
    """Tune a checkpoint on training sets with hard negatives; with --suite, compare before with after."""
    options = locals()

    def flow() -> Any:
        from flows.finetune import finetune as tune
        from flows.finetune_parameters import from_terminal

        return tune(from_terminal(options))

    _print_record(with_server(flow))


@app.command()
def evaluate(
    preset: Preset,
    checkpoint: Checkpoint = "",
    split: Split = "validation",
    source: Source = "",
    dump: Dump = "",
    name: Name = "",
    suite: Suites = None,
    data: Data = "",
    model: Models = None,
    quick: Quick = False,
    skip_missing: SkipMissing = False,
    artifacts: Artifacts = "",
) -> None:
    """Checkpoints and baselines on held-out packages, or with --suite on public evaluation sets."""
    options = locals()
    params = run_params({key: options[key] for key in ("preset", "source", "dump", "name", "artifacts")})
    _one_of("split", split, ("validation", "test"))
    of_suites = {"suites": tuple(suite or ()), "models": tuple(model or ()), "quick": quick, "skip_missing": skip_missing}
    of_suites["data"] = os.path.abspath(data) if data else ""  # noqa: PTH100 - a string for JSON, links kept

    def flow() -> Any:
        from flows.evaluate import evaluate as evaluate_flow
        from flows.parameters import EvaluateParams
        from flows.summary import print_evaluations

        found = evaluate_flow(EvaluateParams(**params.model_dump(), checkpoint=checkpoint, split=split, **of_suites))
        print_evaluations(found, artifacts)
        return found

    with_server(flow)


@app.command()
def publish(
    preset: Preset,
    checkpoint: Checkpoint = "",
    source: Source = "",
    dump: Dump = "",
    name: Name = "",
    artifacts: Artifacts = "",
) -> None:
    """Select, test, export, index and promote."""
    params = run_params({key: value for key, value in locals().items() if key != "checkpoint"})

    def flow() -> Any:
        from flows.parameters import PublishParams
        from flows.publish import publish as publish_flow

        return publish_flow(PublishParams(**params.model_dump(), checkpoint=checkpoint))

    _print_record(with_server(flow))


@app.command()
def ablate(
    preset: Preset,
    lever: Annotated[list[str] | None, typer.Option(metavar="NAME", help="batch, start, delimiters, steps, data.")] = None,
    pairs: Annotated[int, typer.Option(help="Pairs that a run sees.")] = 20_000,
    seeds: Annotated[int, typer.Option(help="Each arm is run so often.", min=1)] = 3,
    source: Source = "",
    dump: Dump = "",
    artifacts: Artifacts = "",
) -> None:
    """The paper's levers in small: each arm with each seed, as one table and one plot."""
    params = run_params({"preset": preset, "source": source, "dump": dump, "artifacts": artifacts})
    levers = {"levers": lever} if lever else {}

    def flow() -> Any:
        from flows.ablate import ablate as ablate_flow
        from flows.ablate_parameters import for_terminal

        return ablate_flow(for_terminal(params, {"pairs": pairs, "seeds": list(range(1, seeds + 1)), **levers}))

    _print_record(with_server(flow))


app.add_typer(plan_app)
app.command()(prune)
app.command("suite-texts")(suite_texts)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What you look for, in words.")],
    kind: Annotated[str, typer.Option(help="code, text, or empty for both.")] = "",
    k: Annotated[int, typer.Option("-k", help="Hits.", min=1)] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: {query, hits}.")] = False,
) -> None:
    """Ranked functions and passages of the published index."""
    from pipeline_lib.search.query import search as search_index

    _one_of("kind", kind, ("", "code", "text"))
    hits = search_index(_home(), query, kind or None, k, load_weights)
    if as_json:
        typer.echo(json.dumps({"query": query, "hits": [vars(hit) for hit in hits]}, ensure_ascii=False))
        return
    for hit in hits:
        typer.secho(f"{hit.rank:3d}  {hit.score:.3f}  {hit.name}", bold=True)
        typer.echo(f"            {hit.path}:{hit.line}")
        typer.echo(f"            {hit.doc}")


@app.command()
def inspect(
    target: Annotated[str, typer.Argument(metavar="URL|SPEC", help="A path, a glob, a URL, or a dump spec (.yaml).")],
    reader: Annotated[str, typer.Option(help="What reads a path, glob or URL. Empty: guessed by its name.")] = "",
    records: Annotated[int, typer.Option(help="Texts read of each source at most.", min=1)] = 1000,
    samples: Annotated[int, typer.Option(help="Documents and pairs shown of each source.", min=0)] = 10,
    filters: Annotated[bool, typer.Option("--filters", help="Show what each filter drops, with samples, instead.")] = False,
) -> None:
    """What a dump is: its reader, bytes and texts, what would be left out and why, and ten documents and pairs."""
    from flows.inspect_dump import inspect_dump

    inspect_dump(target, reader, records, samples, filters)


@app.command()
def trace(
    pair_id: Annotated[str, typer.Argument(metavar="PAIR_ID", help="The id of a row of pairs.parquet, or its first digits.")],
    artifacts: Artifacts = "",
) -> None:
    """Where a pair came from: source, file or URL, record, line, and the hash of the dump's file."""
    from flows.trace_pair import print_trace

    print_trace(pair_id, artifacts)


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port of Prefect's UI and API, on loopback.")] = DEFAULT_PORT,
    schedules: Annotated[bool, typer.Option("--schedules", help="Switch every schedule on; else none is changed.")] = False,
) -> None:
    """Prefect's server and UI, all deployments of prefect.yaml, and a worker; Ctrl-C stops all."""
    from flows.up import serve_platform

    serve_platform(_home(), port, schedules)


def main() -> None:
    """The console script: known failures are one line and an exit code, never a traceback."""
    try:
        app(standalone_mode=False)
    except (UserError, ContractViolation, CorruptArtifact, TrainingFailed) as error:
        _fail(str(error))
    except typer.Abort:
        _interrupted()
    except KeyboardInterrupt:
        _interrupted()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        _fail(f"{error.filename or 'writing'}: {os.strerror(error.errno)}; free some space or mend the rights, and run again")
    except Exception as error:
        if hasattr(error, "format_message"):  # a wrong option, in typer's words
            _fail(error.format_message())
        raise


def _fail(message: str) -> None:
    typer.echo(f"cpt: {message}", err=True)
    sys.exit(WRONG_USE)


def _interrupted() -> None:
    typer.echo("cpt: interrupted; the same command goes on from here", err=True)
    sys.exit(INTERRUPTED)


def _home() -> Any:
    from pipeline_lib.home import artifact_home

    return artifact_home()


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"--{option} {value!r}: choose one of {', '.join(word for word in allowed if word)}")


def _announce(params: RunParams) -> None:
    from pipeline_lib.presets import describe

    typer.echo(describe(params.resolve(), params.preset), err=True)


def _print_record(record: Any) -> None:
    typer.echo(record.model_dump_json(indent=1))


if __name__ == "__main__":
    main()

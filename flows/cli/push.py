"""Push of a model to the Hugging Face hub, `cpt push`: which model is meant, and whether it may go."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline_lib.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline_lib.search.registry_log import Home
    from pipeline_lib.store.artifact import Artifact
    from pipeline_lib.store.store import Store

TRIAL = "a trial: its sizes only show that everything works"
HELD_BACK = ("rejected", "kept back")


@dataclass(frozen=True)
class Model:
    """An exported model with its card.

    Attributes:
        checkpoint: TRAINKEY/step-000240.
        not_promoted: why no name of the registry has it as its champion; empty: one does.
    """

    exported: Artifact
    card: Artifact
    checkpoint: str
    not_promoted: str


def push(
    model: Annotated[
        str, typer.Argument(metavar="RUN|NAME", help="A name that is searched, a run, or RUN/step-000240 (see `cpt runs`).")
    ],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="NAMESPACE/NAME on the hub; created if missing.")],
    revision: Annotated[str, typer.Option(metavar="BRANCH", help="Branch to push to; created if missing.")] = "main",
    public: Annotated[
        bool, typer.Option("--public", help="Create a repository that everybody can see, or push to one that is public.")
    ] = False,
    not_promoted: Annotated[
        bool, typer.Option("--not-promoted", help="Push a model too that was held back, or that is a trial.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files and their bytes; nothing is asked or sent.")
    ] = False,
    artifacts: Annotated[
        str, typer.Option(metavar="URL", help="The artifact store: s3://bucket/prefix, or a folder; empty: this machine's.")
    ] = "",
) -> None:
    """Push a model, its card included, to the Hugging Face hub; private unless asked otherwise. HF_TOKEN, HF_ENDPOINT."""
    from pipeline_lib.export import push as hub

    to = hub.Destination(repo, revision, public)
    found = find_model(model, artifacts)
    if found.not_promoted and not not_promoted:
        raise UserError(f"{found.checkpoint} is not promoted ({found.not_promoted}); --not-promoted pushes it all the same")
    files = {file.name: file.bytes for made in (found.exported, found.card) for file in made.manifest.parts[0].files}
    size = f"{len(files)} files, {sum(files.values()):,} bytes"
    where = f"{repo}, {'public' if public else 'private'}, branch {revision}"
    if dry_run:
        for name, n_bytes in sorted(files.items()):
            typer.echo(f"{n_bytes:>15,}  {name}")
        typer.echo(f"{found.checkpoint}: {size}, for {where}; nothing was sent")
        typer.echo("push it with the same command without --dry-run")
        return
    from flows.cli.store import Told

    places: dict[str, Path] = {}
    for made in (found.exported, found.card):
        made.verify()
        places |= {file.name: made.part_folder() / file.name for file in made.manifest.parts[0].files}
    # in a thread of its own: the hub's client lets no Ctrl-C through before the files on their way are there
    pushed = ThreadPoolExecutor(1).submit(hub.push, places, to, f"{model}: {found.checkpoint}", Told()).result()
    for name in pushed.removed:
        typer.echo(f"removed {name}, of an earlier model")
    done = f"pushed {found.checkpoint}: {size}" if pushed.is_new else f"{found.checkpoint} was there already: no new commit"
    typer.echo(f"{done}; {pushed.address}")
    at = "" if revision == hub.MAIN else f', revision="{revision}"'
    typer.echo(f'load it with SentenceTransformer("{pushed.repo}"{at})')


def find_model(model: str, artifacts: str = "") -> Model:
    """The exported model of a name in the registry, of a run or of a checkpoint.

    Raises:
        UserError: there is none, it is not exported, it has no card, or several are meant.
    """
    from flows.runs import open_store, registry_of
    from pipeline_lib.search import registry
    from pipeline_lib.search.registry_log import NAME

    store = open_store(artifacts)
    home = registry_of(store)
    if NAME.fullmatch(model) and (pair := registry.pair_of(home, model)):
        if "://" in str(pair.home):
            home, store = pair.home, open_store(str(pair.home))
        digest = pair.model_digest
        exports = _exports(store, lambda made: made.digest == digest)
        if not exports:
            raise UserError(f"{model}: its export is not under {store.place}; run `cpt run` again")
    else:
        exports = _exports_of_run(store, home, model)
    exported = exports[-1]
    checkpoint = _checkpoint_of(store, exported)
    cards = _newest_last([made for made in store.artifacts("card") if made.manifest.inputs["exported"] == exported.digest])
    if not cards:
        raise UserError(f"{checkpoint} has no model card; `cpt publish --checkpoint {checkpoint}` writes it")
    return Model(
        store.open("export", exported.manifest.key),
        store.open("card", cards[-1].manifest.key),
        checkpoint,
        why_not_promoted(home, exported, checkpoint),
    )


def why_not_promoted(home: Home, exported: Artifact, checkpoint: str) -> str:
    """Why no name of a registry has a model as its champion; empty: one does."""
    from pipeline_lib.search import registry

    why = "no name of the registry has it as its champion"
    for name in registry.names(home):
        pair = registry.pair_of(home, name)
        if pair and pair.model_digest == exported.digest:
            if not pair.is_trial:
                return ""
            why = TRIAL
        for event in reversed(registry.history(home, name)):
            if event.get("candidate") == checkpoint:
                why = f"held back: {event.get('why', '')}" if event.get("event") in HELD_BACK else why
                break
    return why


def _exports_of_run(store: Store, home: Home, model: str) -> list[Artifact]:
    """The exports of a run, or of one of its checkpoints; the one to push comes last."""
    from flows.runs import RUN, key_of

    named = RUN.fullmatch(model)
    key = key_of(store, named["run"]) if named else ""
    if named is None or not key:
        raise UserError(f"{model!r} is no name that is searched and no finished run; `cpt runs` lists them")
    run, label = store.open("train", key), named["label"] or ""
    if label:
        run.part(label)  # or an error that lists those that there are
    exports = _exports(
        store,
        lambda made: made.manifest.inputs["trained"] == run.digest and label in ("", made.manifest.config["label"]),
    )
    if not exports:
        name = f"{key}/{label}".rstrip("/")
        raise UserError(f"{name} is not exported; `cpt publish --checkpoint {name}` does that")
    promoted = [made for made in exports if not why_not_promoted(home, made, "")]
    labels = sorted({str(made.manifest.config["label"]) for made in exports})
    if len(labels) > 1 and not promoted:
        names = ", ".join(f"{run.manifest.key}/{label}" for label in labels)
        raise UserError(f"{model}: several checkpoints are exported and none is promoted; name one: {names}")
    return promoted or exports


def _exports(store: Store, is_meant: Callable[[Artifact], bool]) -> list[Artifact]:
    return _newest_last([made for made in store.artifacts("export") if is_meant(made)])


def _newest_last(artifacts: list[Artifact]) -> list[Artifact]:
    return sorted(artifacts, key=lambda made: (made.started_at, made.manifest.key))


def _checkpoint_of(store: Store, exported: Artifact) -> str:
    trained = next((run for run in store.artifacts("train") if run.digest == exported.manifest.inputs["trained"]), None)
    label = exported.manifest.config["label"]
    return f"{trained.manifest.key if trained else exported.manifest.key}/{label}"

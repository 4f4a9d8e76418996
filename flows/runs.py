"""Finished runs by name: a key, which may be cut short, a report's name, or the published one; and starts from them."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path, PurePath
from typing import Any

from flows.settings import name_of
from pipeline_lib.config.built_in import PRESETS
from pipeline_lib.config.data import ShardConfig
from pipeline_lib.config.finetuning import FinetuneConfig
from pipeline_lib.config.model import PromptsConfig
from pipeline_lib.config.run import RunConfig
from pipeline_lib.config.training import FIRST_ROUND, GuideConfig, TrainConfig, reads_guide
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import ORIGIN, Checkpoint, Companion, Lineage, lineage_of
from pipeline_lib.model.starts import check_positions
from pipeline_lib.runtime.machine import artifact_home
from pipeline_lib.search.registry import in_use, names, pair_of
from pipeline_lib.search.registry_log import Champion, Home
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of, sign_in
from pipeline_lib.store.store import LEAST_DIGITS, Store
from pipeline_lib.train.start import checkpoint_of

ON_GROWTH = {name: TrainConfig.model_fields[name].default for name in ("when_grown", "grown_steps_share")}  # at their defaults
RESERVED = ("nightly",)  # beside the presets: names of deployments
PUBLISHED = "published"  # the model that `cpt search` uses, where a checkpoint is asked for
RUN = re.compile(r"(?P<run>[A-Za-z0-9_][\w.-]*?)(?:/(?P<label>step-\d+))?")
CHECKPOINT = re.compile(r"(?:(?P<of>\w+)/)?(?P<label>step-\d+)|(?P<key>[0-9a-f]{4,64})")
KEY = re.compile(rf"[0-9a-f]{{{LEAST_DIGITS},64}}")


def open_store(artifacts: str | None = None) -> Store:
    """The store at a URL or path; below the artifact root where none is given."""
    return Store.at(artifacts or str(artifact_home() / "store"))


def working_store(artifacts: str | None = None) -> Store:
    """The same for a run, which signs in before it finds anything there that `cpt prune` could remove."""
    store = open_store(artifacts)
    with contextlib.suppress(OSError):  # of a store that can only be read
        sign_in(store.root)
    return store


def published_checkpoint(store: Store) -> str:
    """The checkpoint behind the model that search uses, as TRAINKEY/step-000240.

    Raises:
        UserError: nothing is published, or what it was made from is not in this store.
    """
    return checkpoint_behind(store, in_use(registry_of(store)))


def registry_of(store: Store) -> Home:
    """Where a store's models are registered: its bucket, if it has names, else this artifact root."""
    return store.remote if store.remote and names(store.remote) else artifact_home()


def checkpoint_behind(store: Store, found: Champion) -> str:
    """The checkpoint behind a pair of the registry, as TRAINKEY/step-000240.

    Raises:
        UserError: what it was made from is not in this store.
    """
    if found.trained:
        return f"{found.trained}/{found.checkpoint}"
    exported = find_content(store, "export", found.model_digest)  # of an earlier version, which did not write down the run
    run = find_content(store, "train", exported.manifest.inputs["trained"]) if exported else None
    if exported is None or run is None:
        raise UserError(f"{store.place}: the training run of the published model is not here; name a checkpoint")
    return f"{run.manifest.key}/{exported.manifest.config['label']}"


@dataclass(frozen=True)
class ChampionRun:
    """The champion of a name, and what it was made from.

    Attributes:
        checkpoint: as RUN/step-000240.
        lineage: of its run, with the pairs that it was trained on.
        index: None where this store does not have it.
    """

    model_digest: str
    index_digest: str
    exported: Artifact
    checkpoint: str
    lineage: Lineage
    index: Artifact | None

    @property
    def indexed(self) -> str:
        """Digest of the pairs that its index holds; empty: not known."""
        return self.index.manifest.inputs["curated"] if self.index else ""


def champion_run(store: Store, home: Home, name: str) -> ChampionRun | None:
    """The champion of a name; None where there is none, or where this store has not what it was made from."""
    pair = pair_of(home, name)
    exported = pair and find_content(store, "export", pair.model_digest, pair.keys.get("export", ""))
    trained = pair and exported and find_content(store, "train", exported.manifest.inputs["trained"], pair.trained)
    if not pair or not exported or not trained:
        return None
    try:
        lineage = lineage_of(store, trained)
    except UserError:
        return None
    index = find_content(store, "index", pair.index_digest, pair.keys.get("index", ""))
    return ChampionRun(
        model_digest=pair.model_digest,
        index_digest=pair.index_digest,
        exported=exported,
        checkpoint=f"{trained.manifest.key}/{exported.manifest.config['label']}",
        lineage=lineage,
        index=index,
    )


def champions_checkpoint(store: Store, found: Champion) -> Checkpoint:
    """The checkpoint behind a pair of the registry, with the lengths that its export reads.

    Raises:
        UserError: what it was made from is not in this store.
    """
    checkpoint = checkpoint_of(store, checkpoint_behind(store, found))
    exported = find_content(store, "export", found.model_digest, found.keys.get("export", ""))
    return as_exported(store, checkpoint, exported) if exported else checkpoint


def as_exported(store: Store, checkpoint: Checkpoint, exported: Artifact) -> Checkpoint:
    """The checkpoint with the lengths that an export of it reads, and the model that stands beside it there.

    Raises:
        UserError: that one is not in this store.
    """
    config = exported.manifest.config
    checkpoint = checkpoint.reading(config["max_x_tokens"], config["max_y_tokens"])
    if not (beside := config.get("beside")):
        return checkpoint
    trained = input_of(store, exported, "train", "beside")
    tokenizer = input_of(store, exported, "tokenizer", "beside_tokenizer")
    if trained is None or tokenizer is None:
        raise UserError(f"export {exported.manifest.key}: the model beside it is not in this store; publish it again")
    other = Checkpoint(trained, beside["label"], tokenizer, ShardConfig())
    other = other.reading(beside["max_x_tokens"], beside["max_y_tokens"])
    return replace(checkpoint, companion=Companion(other, beside["share"]))


def find_content(store: Store, stage: str, digest: str, key: str = "") -> Artifact | None:
    """The artifact of that content, looked for under a key first: to read all manifests of a bucket takes minutes."""
    likely = store.find(stage, key) if key else None
    if likely is not None and likely.digest == digest:
        return likely
    return next((found for found in store.artifacts(stage) if found.digest == digest), None)


def input_of(store: Store, made: Artifact, stage: str, name: str) -> Artifact | None:
    """An artifact that another was made from, under that name; None where it is gone."""
    return find_content(store, stage, made.manifest.inputs.get(name, ""))


def given_source(config: RunConfig) -> str:
    """Digest of the place that a run's data come from; names that were not given are kept apart by it."""
    return digest_of([config.source.folder, config.source.dump])[:16]


def name_in_registry(config: RunConfig, given: Mapping[str, Any] | None, home: Home) -> tuple[str, str]:
    """The name that a run is published under, and why it is not the run's own; that is empty where it is.

    A name that was made of a folder's never takes the place of another source's, nor of a preset's.

    Args:
        given: the settings that were asked for; None: not known.
        home: of the registry.
    """
    name, place = config.name, config.source.folder or config.source.dump or ""
    if not place or "name" in (given or {}) or name not in (name_of(place), name_of(PurePath(place).stem)):
        return name, ""
    found = pair_of(home, name)
    is_of_others = bool(found and found.source and found.source != given_source(config))
    if name not in (*PRESETS, *RESERVED) and not is_of_others:
        return name, ""
    own = f"{name}-{given_source(config)[:4]}"
    why = "the name of another source's model" if is_of_others else "kept for a preset"
    return own, f"as {own}: {name} is {why}; --name {name} takes it"


def find_checkpoint(store: Store, name: str) -> Checkpoint | None:
    """The checkpoint that RUN/step-000240 names, or the last one of RUN; None where it is no name of a run.

    Args:
        name: RUN is the key of a finished run, its first digits, or the name of a report, whose newest run is meant; or
            `published`, the checkpoint that search uses. A folder or file of that name comes first.

    Raises:
        UserError: it can be nothing else, and there is no such run or checkpoint; or several keys begin so.
    """
    if name == PUBLISHED:
        return checkpoint_of(store, published_checkpoint(store))
    found = RUN.fullmatch(name)
    if found is None or Path(name).expanduser().exists():
        return None
    key = key_of(store, found["run"])
    if key:
        return checkpoint_of(store, f"{key}/{found['label']}" if found["label"] else key)
    if found["label"] or KEY.fullmatch(name):
        runs = ", ".join(store.keys("train")) or "none"
        raise UserError(f"{name}: no finished run of that key or name under {store.place}; there are: {runs}")
    return None


def find_given_start(store: Store, init: str, lengthened: str) -> Checkpoint | None:
    """The finished run's checkpoint that training starts from, or goes on from; None where `init` is no run's or empty.

    Args:
        init: of the lengthened run what is asked for beside it, and not what a preset names.
        lengthened: `train.continue_from`; empty: none.

    Raises:
        UserError: there is no such run, or both are given.
    """
    if not lengthened:
        return find_checkpoint(store, init) if init else None
    if init:
        raise UserError(f"train.continue_from is {lengthened}, and a start is given too ({init}); choose one of them")
    start = find_checkpoint(store, lengthened)
    if start is None:
        raise UserError(f"train.continue_from {lengthened!r}: no finished run of that key or name; `cpt runs` lists them")
    return start


def check_guide_model(store: Store, rules: TrainConfig | FinetuneConfig, guide: GuideConfig) -> None:
    """Look whether the model that guides is there, before anything is made for it; one on the hub is fetched when it is needed.

    Args:
        rules: where nothing goes by a guide's scores, none is looked for.

    Raises:
        UserError: there is no such run, and no model in such a folder.
    """
    is_wanted = guide.keep_top is not None or reads_guide(rules.false_negatives, rules.teacher)
    if not is_wanted or guide.model is None or guide.model == FIRST_ROUND:
        return
    from pipeline_lib.evaluation.suites.outside import HUB, open_outside

    if HUB not in guide.model and find_checkpoint(store, guide.model) is None:
        open_outside(guide.model)


def check_start(start: Checkpoint, config: RunConfig) -> None:
    """Look whether a run can start from a checkpoint.

    Raises:
        UserError: pre-training is asked for too, texts are longer than the model's positions, or a run that is gone on with had
            other prompts.
    """
    if config.train.continue_from and config.prompts.are_set:
        _check_prompts(start, config.prompts)
    if config.pretrain.steps and not config.train.continue_from:
        raise UserError(f"{start.name} is no language model that could be pre-trained: set pretrain.steps to 0")
    check_positions(str(start.folder), config, start.name)


def _check_prompts(start: Checkpoint, prompts: PromptsConfig) -> None:
    from pipeline_lib.tokens.delimiters import read_delimiters
    from pipeline_lib.tokens.tokenizer import prompted

    own = read_delimiters(start.tokenizer.part_folder())
    if prompted(own, prompts) != own:
        raise UserError(
            f"train.continue_from goes on with {start.name} as it was trained, and `prompts` asks for others than it has: leave"
            " `prompts` out, or start anew from it (--init)"
        )


def with_settings(config: RunConfig, section: str, **settings: Any) -> RunConfig:
    """The configuration with settings of one section in place."""
    return config.model_copy(update={section: getattr(config, section).model_copy(update=settings)})


def as_tuned(config: RunConfig, lineage: Lineage) -> RunConfig:
    """The configuration of the run that a tuned one began as, with the prefixes that its own loss was summed over."""
    if lineage.base is None:
        return config
    tuned = TrainConfig.model_validate(lineage.trained.manifest.config["config"])
    return with_settings(config, "train", matryoshka=tuned.matryoshka)


def asked_digest(config: RunConfig, start: Checkpoint | None = None) -> str:
    """Digest of a run's name and configuration, whatever the growth of its data and what it asks of that, and however its
    start was named.
    """
    if start is not None:
        config = with_settings(config, "model", init=start.name)
    config = with_settings(config, "train", **ON_GROWTH)
    return digest_of([config.name, with_settings(config, "extract", generation=0).key_fields()])


def key_of(store: Store, run: str) -> str:
    """The key of the run of that key or name; empty where there is none."""
    if KEY.fullmatch(run) and any(key.startswith(run) for key in store.keys("train")):
        return store.find_key("train", run)
    report = artifact_home() / "reports" / run / "report.json"
    reported = json.loads(report.read_bytes()).get("lineage", {}).get("train", {}).get("key") if report.is_file() else ""
    if reported and store.find("train", reported):
        return str(reported)
    named = [found for found in store.artifacts("train") if _given_name(found) == run]
    return max(named, key=attrgetter("started_at")).manifest.key if named else ""


def _given_name(trained: Artifact) -> str:
    """The name that a run was asked for under, which it has before it has a report."""
    return str(json.loads(trained.note(ORIGIN) or b"{}").get("params", {}).get("name") or "")


def is_checkpoint(model: str) -> bool:
    """True of what names a checkpoint of ours, or a run; no folder is looked for under such a name."""
    return model == PUBLISHED or bool(CHECKPOINT.fullmatch(model))


def split_checkpoint(name: str) -> tuple[str, str]:
    """'KEY/step-000240' to (KEY, label), 'step-000240' to ('', label), 'KEY' to (KEY, '').

    Raises:
        UserError: it is none of these.
    """
    found = CHECKPOINT.fullmatch(name)
    if not found:
        raise UserError(f"checkpoint {name!r} is not of the form step-000240, TRAINKEY/step-000240 or TRAINKEY")
    return found["of"] or found["key"] or "", found["label"] or ""

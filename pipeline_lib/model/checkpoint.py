"""Checkpoints of a training run with what belongs to them: tokenizer, lengths and corpus, found by what the run records.

Weights are checked before a model is built from them: safetensors alone, whole and consistent. A starting point is the folder
of a causal language model, here already or fetched from the hub on demand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open

from pipeline_lib.config.data import ShardConfig
from pipeline_lib.config.model import depth_and_width
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.model.gguf_file import read_header
from pipeline_lib.model.starts import gguf_of, local_start
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Record, to_json
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.sentence_transformer import is_sentence_transformer, read_sentence_transformer

ORIGIN = "origin.json"


@dataclass(frozen=True)
class Companion:
    """A second model beside a checkpoint: their vectors are one, and `share` is its part in the cosine."""

    checkpoint: Checkpoint
    share: float


@dataclass(frozen=True)
class Checkpoint:
    """A part of a `train` artifact, its tokenizer, and the lengths that it reads: those of its training, or others.

    Attributes:
        companion: the model beside it, wherever its vectors are read; training knows nothing of it.
    """

    trained: Artifact
    label: str
    tokenizer: Artifact
    shards: ShardConfig
    companion: Companion | None = None

    @property
    def step(self) -> int:
        """The optimizer step in the label; 0 for a model without one."""
        found = re.fullmatch(r"step-(\d+)", self.label)
        return int(found[1]) if found else 0

    @property
    def folder(self) -> Path:
        """Folder of its weights, with every file there."""
        return self.trained.part_folder(self.label)

    def max_tokens(self, side: str) -> int:
        """Longest row of side "x" or "y", delimiters included."""
        return {"x": self.shards.max_x_tokens, "y": self.shards.max_y_tokens}[side]

    def reading(self, max_x_tokens: int | None, max_y_tokens: int | None) -> Checkpoint:
        """The same with other lengths to read; None: as it is."""
        asked = {"max_x_tokens": max_x_tokens, "max_y_tokens": max_y_tokens}
        lengths = {name: n_tokens for name, n_tokens in asked.items() if n_tokens is not None}
        return replace(self, shards=self.shards.model_copy(update=lengths))

    @property
    def name(self) -> str:
        """TRAINKEY/step-000240."""
        return f"{self.trained.manifest.key}/{self.label}"


class Origin(Record):
    """Origin of a training run: facts that its manifest, which holds content alone, cannot know."""

    params: dict[str, Any] = Field(default_factory=dict)  # of the flow "train"
    tuning: dict[str, Any] = Field(default_factory=dict)  # of the flow "finetune", in their place
    keys: dict[str, str] = Field(default_factory=dict)  # stage to key: which of the artifacts of equal content were used
    base: str = ""  # the model that it started from, in words
    data: str = ""  # what it was trained on, in a sentence
    parent: str = ""  # the checkpoint of another run that it started or went on from, as TRAINKEY/step-000240


@dataclass(frozen=True)
class Lineage:
    """A training run and what it was made from.

    Attributes:
        curated: the pairs of its corpus, on whose held-out splits it is measured; of a tuned run its base's.
        base: the run whose checkpoint was tuned; None where training began otherwise.
    """

    trained: Artifact
    shards: Artifact
    tokenizer: Artifact
    curated: Artifact
    origin: Origin
    base: Lineage | None = None

    @property
    def labels(self) -> list[str]:
        """The checkpoints, earliest first."""
        return labels_of_run(self.trained)

    def checkpoint(self, label: str) -> Checkpoint:
        """One checkpoint.

        Raises:
            UserError: there is none of that label; the message lists those that there are.
        """
        return _checkpoint(self.trained, label, self.tokenizer, self.shards)


def labels_of_run(trained: Artifact) -> list[str]:
    """The labels of a run's checkpoints, earliest first."""
    return sorted(part.label for part in trained.manifest.parts if part.label.startswith("step-"))


def record_origin(trained: Artifact, origin: Origin) -> None:
    """Keep beside a training run how it came about; the first record stays."""
    if trained.note(ORIGIN) is None:
        trained.add_note(ORIGIN, to_json(origin))


def open_checkpoint(store: Store, name: str) -> Checkpoint:
    """The checkpoint TRAINKEY/step-000240 with the tokenizer and the lengths of its run, which the run's inputs name.

    Raises:
        UserError: there is no such run or checkpoint, or what it was made from is gone.
    """
    key, _, label = name.rpartition("/")
    if not key:
        raise UserError(f"checkpoint {name!r}: expected TRAINKEY/step-000240, as `cpt train` prints its key")
    trained = store.open("train", key)
    trained.part(label)
    origin = recorded_origin(trained)
    shards, tokenizer = (_input(store, trained, stage, origin) for stage in ("shards", "tokenizer"))
    return _checkpoint(trained, label, tokenizer, shards)


def lineage_of(store: Store, trained: Artifact) -> Lineage:
    """A training run with all that belongs to it.

    Raises:
        UserError: what it was made from is gone, does not fit, or cannot be told from others of the same content.
    """
    origin = recorded_origin(trained)
    tokenizer = _input(store, trained, "tokenizer", origin)
    shards = _input(store, trained, "shards", origin, one_corpus=True)
    base = None
    curated = next(_of_digest(store, "curate", shards.manifest.inputs["curated"], origin), None)
    if curated is None:  # training sets have no held-out splits
        base = _base_of(store, trained, origin)
        curated = base.curated
    lineage = Lineage(trained, shards, tokenizer, curated, origin, base)
    check_fit(lineage)
    return lineage


def check_fit(lineage: Lineage) -> None:
    """Compare content digests along the way from the corpus to the weights.

    Raises:
        UserError: an artifact is not the one that the next was made from.
    """
    trained, shards, tokenizer = lineage.trained, lineage.shards, lineage.tokenizer
    root = lineage
    while root.base is not None:
        root = root.base
    ways = [
        (trained, "shards", shards),
        (trained, "tokenizer", tokenizer),
        (shards, "tokenizer", tokenizer),
        (root.shards, "curated", lineage.curated),
    ]
    for made, name, given in ways:
        require_input(made, name, given)


def require_input(made: Artifact, name: str, given: Artifact) -> None:
    """Compare an artifact with what another was made from, under that name.

    Raises:
        UserError: it is another one, with got against expected.
    """
    expected = made.manifest.inputs[name]
    if given.digest != expected:
        raise UserError(
            f"{given.manifest.stage} {given.manifest.key} (content {given.digest[:12]}) does not belong to"
            f" {made.manifest.stage} {made.manifest.key}, which was made from content {expected[:12]};"
            " leave it out: what belongs to it is found"
        )


def _checkpoint(trained: Artifact, label: str, tokenizer: Artifact, shards: Artifact) -> Checkpoint:
    trained.part(label)
    return Checkpoint(trained, label, tokenizer, ShardConfig.model_validate(shards.manifest.config))


def recorded_origin(trained: Artifact) -> Origin:
    """The recorded origin; nothing of a run that an earlier version trained, or a later one recorded in another way."""
    try:
        return Origin.model_validate_json(trained.note(ORIGIN) or b"{}")
    except ValidationError:
        return Origin()


def _of_digest(store: Store, stage: str, digest: str, origin: Origin) -> Iterator[Artifact]:
    """The artifacts of that content, the one whose key was recorded first."""
    recorded = store.find(stage, origin.keys[stage]) if stage in origin.keys else None
    if recorded is not None and recorded.digest == digest:
        yield recorded
    yield from (found for found in store.artifacts(stage) if found.digest == digest)


def _input(store: Store, made: Artifact, stage: str, origin: Origin, one_corpus: bool = False) -> Artifact:
    """The artifact of a stage that another was made from.

    Args:
        one_corpus: equal shards may come from corpora whose held-out splits differ; refuse where nothing tells which was meant.
    """
    digest = made.manifest.inputs[stage]
    candidates = _of_digest(store, stage, digest, origin)
    found = next(candidates, None)
    if found is None:
        raise UserError(
            f"{store.place}: no artifact {stage} of content {digest[:12]}, which train {made.manifest.key} was made from"
        )
    if one_corpus and found.manifest.key != origin.keys.get(stage):
        others = [other for other in candidates if other.manifest.inputs["curated"] != found.manifest.inputs["curated"]]
        if others:
            keys = ", ".join(artifact.manifest.key for artifact in (found, *others))
            raise UserError(
                f"train {made.manifest.key} was made from shards that come from several corpora ({stage} {keys}), and it is not"
                " recorded which; run `cpt train` with the parameters of the one that you mean: it is found done, and recorded"
            )
    return found


def _base_of(store: Store, trained: Artifact, origin: Origin) -> Lineage:
    """The run of the checkpoint that a tuned run began as: the one with that part's content."""
    init = trained.manifest.config["model"]["init"]
    key = str(origin.tuning.get("checkpoint", "")).rpartition("/")[0]
    named = store.find("train", key) if key else None
    for found in (*([named] if named else []), *store.artifacts("train")):
        if any(part.digest == init for part in found.manifest.parts):
            return lineage_of(store, found)
    raise UserError(
        f"{store.place}: train {trained.manifest.key} was tuned from a checkpoint of content {init[:12]}, which is gone,"
        " and with it the corpus that it is to be measured on; train that run again"
    )


def check_weights(folder: Path) -> None:
    """Read the header of every safetensors file: its size, and each tensor's dtype, shape and place among the others.

    Nothing in such a file is executed; a pickle under that name is refused by its first eight bytes.

    Raises:
        CorruptArtifact: a file is cut short, or its header contradicts itself or its bytes.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            raise CorruptArtifact(f"{path}: no readable safetensors file: {error}; fetch or export it again") from error


_BLOCK = re.compile(r"\b(?:layers|h|blocks|block|blk)\.(\d+)\.")


def _weights_of(shapes: Mapping[str, Sequence[int]], keep_layers: int | None) -> int:
    blocks = {name: int(found[1]) for name in shapes if (found := _BLOCK.search(name))}
    return sum(math.prod(shape) for name, shape in shapes.items() if keep_layers is None or blocks.get(name, -1) < keep_layers)


def count_weights(folder: Path, keep_layers: int | None = None) -> int:
    """Numbers in all safetensors files of a folder, by their headers; of its first blocks alone where that is asked.

    Raises:
        CorruptArtifact: a file is malformed, as above.
    """
    check_weights(folder)
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as tensors:
            shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - no mapping
            total += _weights_of(shapes, keep_layers)
    return total


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
WANTED = ("*.json", "*.safetensors")  # no pickled weights, no code


def find_start(init: str, download: bool = False, progress: Progress = silent) -> str:
    """The folder that `init` means: itself, a converted GGUF file, a named start, or a hub id's snapshot in the hub's cache.

    Args:
        init: a folder, a GGUF file, a name that `cpt get-start` lists, or the id of a model on the hub, as
            EleutherAI/pythia-70m. Empty: no start, and an empty answer.
        download: fetch what is not in the cache; without it nothing is asked of the network.
        progress: of a GGUF file's conversion, at its first use.

    Raises:
        UserError: there is no such folder, and no such model in the cache (or on the hub), or the hub does not answer.
    """
    if not init:
        return init
    if found := local_start(init, progress):
        return found
    if not HUB_ID.fullmatch(init):
        raise UserError(f"init {init!r}: no such folder; expected that of a causal language model (config.json, *.safetensors)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        return snapshot_download(init, allow_patterns=list(WANTED), local_files_only=not download)
    except (RepositoryNotFoundError, OfflineModeIsEnabled) as error:
        raise UserError(f"init {init!r}: not on the hub, or the hub is switched off: {_first_line(error)}") from error
    except LocalEntryNotFoundError as error:
        if download:
            raise UserError(f"init {init!r}: the hub does not answer ({_first_line(error)}); run it again") from error
        raise UserError(
            f"init {init!r}: no such folder, and no such model in the hub's cache; nothing is fetched unasked: give --download "
            f"(`download` in a flow's form), or run `hf download {init}` on this machine; for random weights instead give "
            "--init random"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise UserError(f"init {init!r}: the hub does not answer ({_first_line(error)}); run it again") from error


def start_weights(init: str, keep_layers: int | None = None) -> int | None:
    """Weights of a start that is on this machine already, its head for words included; None: none is given, or not here.

    Args:
        keep_layers: of its blocks; unset: all.

    Raises:
        CorruptArtifact: a file of weights is malformed.
    """
    try:
        if file := gguf_of(Path(init).expanduser()):  # which is not converted for this
            return _weights_of(read_header(file).tensors, keep_layers)
        folder = find_start(init)
    except UserError:
        return None  # whoever needs the folder itself is told why it is not there
    return (count_weights(Path(folder), keep_layers) or None) if folder else None


def start_embeds(init: str) -> bool:
    """True of a start that is on this machine already and is an embedding model, of sentence-transformers."""
    try:
        folder = find_start(init)
    except UserError:
        return False
    return bool(folder) and is_sentence_transformer(Path(folder))


def start_width(init: str) -> int | None:
    """Dimensions of the vectors of a start that is on this machine already and is an embedding model, by the configs of its
    modules; None of any other, and where they do not tell.
    """
    try:
        folder = find_start(init)
        if not folder or not is_sentence_transformer(Path(folder)):
            return None
        model = read_sentence_transformer(Path(folder))
    except UserError:
        return None
    width = depth_and_width(model.transformer)[1] * len(model.modes)
    for out in (module.config.get("out_features") for module in model.head):
        width = out if type(out) is int else width
    return width or None


def start_name(folder: str) -> str:
    """Name of a starting point in cards and reports: the hub's id and revision, or the folder's own name."""
    parts = Path(folder).parts
    if len(parts) > 3 and parts[-2] == "snapshots":
        return f"{parts[-3].removeprefix('models--').replace('--', '/')} at {parts[-1][:8]}"
    return Path(folder).name


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

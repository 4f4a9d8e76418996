"""LoRA on our encoders: adapters are attached to a frozen start, saved alone, and merged into it for whoever reads the model.

A checkpoint of such a run holds what was trained:

    adapters.safetensors     adapters, trained rows of the token table, what stands behind the transformer, the logit scale
    adapters.json            the options, and the digest of the start that they belong to
    config.json              of the whole model

Its whole weights are the start's with the adapters' products added. They are made on the first machine that asks for them, from
the start as it lies there, and kept below the store's root as a cache that may be removed at any time:

    root/merged/DIGEST/      config.json, model.safetensors, merged.json; DIGEST is the checkpoint's
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline_lib.config.lora import LoraConfig, chosen_matrices
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.overrides import parse_set
from pipeline_lib.config.presets import start_of
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.model.checkpoint import Checkpoint, find_start, open_checkpoint, recorded_origin
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of, replace_file, sha256_file
from pipeline_lib.store.store import Store

if TYPE_CHECKING:
    from pipeline_lib.model.encoder import Encoder
    from pipeline_lib.model.outline import Weights

ADAPTERS_FILE, OPTIONS_FILE = "adapters.safetensors", "adapters.json"
MERGED, MERGED_FILE = "merged", "merged.json"
READ = (".json", ".safetensors")  # files of a start that anything reads: no pickles, no other formats' copies
HASHES = "starts"  # folder of the hashes of starts, so that a large one is not read whole to find a run done


def attach(encoder: Encoder, config: LoraConfig, appended: tuple[int, ...], seed: int) -> None:
    """Freeze an encoder's transformer and train adapters in it; the logit scale and what stands behind it stay as they are.

    Args:
        encoder: built, in main memory, or an outline.
        config: with a rank.
        appended: ids of delimiters that the start's vocabulary lacks, whose rows are trained.
        seed: of the adapters' first matrices.

    Raises:
        UserError: a target is no matrix of the model's, or the rank is above one's.
    """
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from pipeline_lib.model.adapter import Adapter, TrainedRows, adapter_of, add_adapter, add_rows
    from pipeline_lib.model.outline import blocks_of

    backbone, generator = encoder.backbone, torch.Generator().manual_seed(seed)
    backbone.requires_grad_(False)
    for block in blocks_of(backbone) or [nn.Module()]:
        layers = {name: layer for name, layer in block.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
        # a Conv1D's weights stand the other way round
        shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
        sizes = {name: size if isinstance(layers[name], Conv1D) else size[::-1] for name, size in shapes.items()}
        for name, size in chosen_matrices(config, cast("dict[str, tuple[int, int]]", sizes)).items():
            if adapter_of(layers[name]):
                continue  # of a model whose blocks share their layers
            add_adapter(layers[name], Adapter(size, config.rank or 1, config.alpha, config.dropout, generator))
    if appended:
        table = cast(nn.Embedding, backbone.get_input_embeddings())
        begin = torch.zeros(len(appended), table.embedding_dim)  # of an outline; `with_adapters` reads them
        add_rows(table, TrainedRows(appended, begin if table.weight.is_meta else table.weight.detach()[list(appended)].clone()))
    encoder.fused = encoder.fused and not config.dropout  # it reads one layer's weights past the dropout


def with_adapters(encoder: Encoder, weights: Weights) -> Weights:
    """The weights of an outline that adapters were attached to, with theirs behind them."""
    import torch

    from pipeline_lib.model.adapter import ROWS, rows_of

    backbone = encoder.backbone
    own = {name: weight.detach().clone() for name, weight in backbone.named_parameters() if not weight.is_meta}
    table = backbone.get_input_embeddings()
    stem = next(name for name, module in backbone.named_modules() if module is table)
    rows = rows_of(table)
    ids = rows.ids_R.tolist() if rows else []

    def chained() -> Weights:
        for name, weight in weights:
            if ids and name == f"{stem}.weight":
                own[f"{stem}.{ROWS}.weight"] = torch.cat([weight[i : i + 1] for i in ids])
            yield name, weight
        yield from own.items()

    return chained()


def write_options(encoder: Encoder, config: LoraConfig, start: str, folder: Path) -> None:
    """What stands beside saved adapters: config.json of the whole model, the options, and the digest of the start."""
    encoder.backbone.config.save_pretrained(folder)
    encoder.save_beside(folder)
    fields = {"start": start, **config.model_dump(mode="json")}
    (folder / OPTIONS_FILE).write_text(json.dumps(fields, sort_keys=True, indent=1) + "\n")


def adapted_encoder(checkpoint: Checkpoint) -> Encoder:
    """The encoder of a checkpoint that holds adapters, as it was trained: its start with the adapters attached.

    Raises:
        UserError: the start is not on this machine.
        CorruptArtifact: the saved tensors are not those of the model.
    """
    import torch
    from safetensors.torch import load_file

    from pipeline_lib.model.encoder import Encoder
    from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

    choices = checkpoint.trained.manifest.config
    config = ModelConfig.model_validate({**choices["model"], "init": str(start_folder(checkpoint.trained))})
    tokenizer, seed = PairTokenizer.load(checkpoint.tokenizer.part_folder()), choices["config"]["seed"]
    encoder = Encoder.build(config, tokenizer, seed)
    encoder.leave_out_prompts(tokenizer)
    encoder.take_token_weights(checkpoint.folder)
    attach(encoder, config.lora, tokenizer.appended, seed)
    path = checkpoint.folder / ADAPTERS_FILE
    saved, live = load_file(path), dict(encoder.named_parameters())
    if wrong := [name for name, tensor in saved.items() if name not in live or live[name].shape != tensor.shape]:
        raise CorruptArtifact(f"{path}: {wrong[0]} is no weight of this model; train it again")
    # whose temperature may have stood still
    trained = {name for name, weight in live.items() if weight.requires_grad and weight is not encoder.log_scale}
    if missing := sorted(trained - saved.keys()):
        raise CorruptArtifact(f"{path}: no {missing[0]}, and {len(missing) - 1} more of {len(trained)} lack; train it again")
    with torch.no_grad():
        for name, tensor in saved.items():
            live[name].copy_(tensor)
    return encoder.eval()


def weights_folder(checkpoint: Checkpoint) -> Path:
    """The folder of a checkpoint's whole weights: its own, or where it holds adapters, that of their sum with the start.

    Raises:
        UserError: the start that the adapters belong to is not on this machine.
    """
    folder = checkpoint.folder
    if not (folder / ADAPTERS_FILE).is_file():
        return folder
    root, digest = checkpoint.trained.root, checkpoint.trained.part(checkpoint.label).digest
    place = root / MERGED / digest[:32]
    if content_digest(place, root / HASHES) != digest:
        _merge_into(place, checkpoint, digest)
    return place


def _merge_into(place: Path, checkpoint: Checkpoint, digest: str) -> None:
    from pipeline_lib.model.adapter import merge

    encoder = adapted_encoder(checkpoint)
    merge(encoder.backbone)
    scratch = Store(checkpoint.trained.root).scratch(MERGED)  # where `prune` finds what a killed process left
    try:
        encoder.save(scratch)
        shutil.copyfile(checkpoint.folder / "state.json", scratch / "state.json")
        (scratch / MERGED_FILE).write_text(json.dumps({"checkpoint": digest, "content": content_digest(scratch)}))
        shutil.rmtree(place, ignore_errors=True)  # a damaged one
        os.rename(scratch, place)
    except OSError:
        if content_digest(place) != digest:  # else another process was faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def content_digest(folder: Path, cache: Path | None = None) -> str:
    """Digest of the files of a start that anything reads; of merged weights, where they are whole, their checkpoint's.

    Args:
        cache: folder that keeps the hash of each file by its size and time; None: every byte is read.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in READ)
    checkpoint, content = "", ""
    if (said := folder / MERGED_FILE) in files:
        files.remove(said)
        checkpoint, content = (str(json.loads(said.read_text()).get(name, "")) for name in ("checkpoint", "content"))
    place = cache / f"{digest_of(str(folder))[:24]}.json" if cache else None
    known = json.loads(place.read_text()) if place and place.is_file() else {}
    hashes: dict[str, list[Any]] = {}
    for path in files:
        name, stat = path.relative_to(folder).as_posix(), path.stat()
        before = known.get(name, ["", 0, 0])
        is_same = before[1:] == [stat.st_size, stat.st_mtime_ns]
        hashes[name] = [before[0] if is_same else sha256_file(path), stat.st_size, stat.st_mtime_ns]
    if place and hashes and hashes != known:
        replace_file(place, json.dumps(hashes, indent=1).encode())
    found = digest_of([(name, kept[0]) for name, kept in hashes.items()])
    return checkpoint if content == found else found


def start_folder(trained: Artifact) -> Path:
    """The folder of the start that a run's adapters belong to, by its digest.

    Raises:
        UserError: it is not on this machine.
    """
    digest, hashes = str(trained.manifest.config["model"]["init"]), trained.root / HASHES
    for folder in _places(trained, digest):
        if folder.is_dir() and (trained.root in folder.parents or content_digest(folder, hashes) == digest):
            return folder
    base = recorded_origin(trained).base
    raise UserError(
        f"train {trained.manifest.key} holds adapters (model.lora) of a start of content {digest[:12]}, which is not on this "
        f"machine{f': {base}' if base else ''}; fetch it again (cpt get-start, or hf download), or put it where it was"
    )


def _places(trained: Artifact, digest: str) -> Iterator[Path]:
    """Where a start may lie: what the store has of that content, where it was when the run began, and where its name leads."""
    store = Store(trained.root, trained.bucket.url if trained.bucket else "")
    for stage in ("pretrain", "lexical_start"):
        yield from (found.part_folder("model") for found in store.artifacts(stage) if found.digest == digest)
    for run in store.artifacts("train"):
        for part in run.manifest.parts:
            if part.digest == digest:
                yield weights_folder(open_checkpoint(store, f"{run.manifest.key}/{part.label}"))
    job = trained.folder / "job.json"
    if job.is_file() and (start := json.loads(job.read_text()).get("start")):
        yield Path(start)
    asked = recorded_origin(trained).params
    try:
        layers = [parse_set(asked.get("set", ()), RunConfig)]
        if name := asked.get("init") or start_of(asked.get("preset", ""), layers):
            yield Path(find_start(name))
    except UserError:
        return  # the caller says what was looked for

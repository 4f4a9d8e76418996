"""Export: a checkpoint as a folder that sentence-transformers, transformers, tokenizers and onnxruntime load.

    modules.json, router_config.json, config_sentence_transformers.json
    1_Dense/                         where fewer dimensions are published than the weights give: the first ones
    query/, document/                a side's tokenizer, with a transformer of no layers and width 1 beside it
    encoder/                         the weights, stored once; a plain AutoModel folder
    token_weights/                   where the mean weighs tokens: their weights, by their words
    pooling/, 1_Normalize/           of a start of sentence-transformers in their place its own modules, 1_Pooling/ and so on
    model.onnx, search.json          the same for onnxruntime, and what a reader without transformers must know
    model.int8.onnx                  where it was asked for: its weights in 8 bits, for queries
    self_test.json                   texts, their ids and vectors, which our own loaders check
    beside/, beside.json             where a second model's vectors stand beside these: its own export (beside.py)

sentence-transformers can wrap a side's texts in its own opening and closing token only with a tokenizer a side, and a
tokenizer only comes with a transformer; two of the real one would be loaded as two copies. So each side has an empty one, whose
output the shared encoder overwrites. A start of sentence-transformers keeps its own modules and prompts in place of delimiters:
there is one transformer, and a side's folder holds its tokenizer alone, for our own loaders. The files are written by hand:
the library is no runtime dependency, and its own `save` puts versions and unordered keys into them. Checked against
sentence-transformers 6.2.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict, Field
from safetensors.numpy import save as save_tensors

from pipeline_lib.config.base import StageConfig, added
from pipeline_lib.config.model import check_dims
from pipeline_lib.config.run import ExportConfig
from pipeline_lib.errors import UserError
from pipeline_lib.export.beside import FOLDER as BESIDE
from pipeline_lib.export.beside import Beside
from pipeline_lib.export.empty_transformer import TRANSFORMER_MODULE, write_empty_transformer
from pipeline_lib.export.onnx import NO_PROMPTS, pad, run_onnx, write_onnx
from pipeline_lib.export.quantized import FILE as INT8_FILE
from pipeline_lib.export.quantized import measure_int8, write_int8
from pipeline_lib.export.self_test import TEXTS as SELF_TEST_TEXTS
from pipeline_lib.export.self_test import weights_digest, write_self_test
from pipeline_lib.model.checkpoint import Checkpoint, Companion
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.given import EmbeddingHead, longest_input, truncated_head, truncating_dense
from pipeline_lib.model.lora import weights_folder
from pipeline_lib.model.pooling import DIM_FIELD, write_json
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import sha256_file
from pipeline_lib.store.records import Counts, Outcome, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.delimiters import Side
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer, side_tokenizer_json
from pipeline_lib.tokens.sentence_transformer import DOCUMENT_PROMPTS, SETTINGS_FILE, prompt_name

STAGE = Stage(name="export", version=5)
SIDES: dict[str, Side] = {"query": "x", "document": "y"}
ONNX_TOLERANCE = 1e-4
IDF_FOLDER = "token_weights"


class ExportKey(StageConfig):
    """All that an export depends on beside its input artifacts; what a card says of it is an artifact of its own (card.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    export: ExportConfig
    label: str = Field(description="The checkpoint's part label.")
    max_x_tokens: int = Field(description="Longest query (tokens).")
    max_y_tokens: int = Field(description="Longest document (tokens).")
    beside: dict[str, Any] = added({}, description="The second model's label, lengths and share; empty: there is none.")


def export(store: Store, checkpoint: Checkpoint, config: ExportConfig, progress: Progress = silent) -> Artifact:
    """Write the checkpoint as one self-contained folder: stage "export", part "model".

    Facts: dim, parameters, layers, vocab_size, pooling, distinct (delimiters of x and y), onnx (whether there is a model.onnx),
    int8 (see `measure_int8`) and, where one was asked for and could not be written, no_onnx or no_int8: why.

    Raises:
        UserError: there is no such checkpoint, or model and lengths do not fit; a prefix is asked of two models side by side.
    """
    other = checkpoint.companion
    if other and config.truncate_dim:
        raise UserError("export.truncate_dim keeps a prefix, and beside puts two models side by side: set one to null")
    key_config = ExportKey(
        export=config,
        label=checkpoint.label,
        **_lengths(checkpoint),
        beside={"label": other.checkpoint.label, "share": other.share, **_lengths(other.checkpoint)} if other else {},
    )
    inputs = {"trained": checkpoint.trained, "tokenizer": checkpoint.tokenizer}
    if other:
        inputs |= {BESIDE: other.checkpoint.trained, f"{BESIDE}_tokenizer": other.checkpoint.tokenizer}

    def make(key: str) -> Outcome:
        part = store.find_part(STAGE.name, key)
        if part is None:
            scratch = store.scratch(STAGE.name)
            facts = _Folder(scratch, weights_folder(checkpoint), checkpoint, progress, config.truncate_dim).write(key_config)
            if other:
                facts |= _write_beside(scratch, other, key_config, facts, progress)
            part = store.commit_part(draft_part(STAGE, key, "model", Counts(n_in=1, n_out=1), facts=facts), scratch)
        return Outcome(parts=(part,), counts=part.counts, facts=part.facts)

    return store.build(STAGE, key_config, inputs, make)


def _lengths(checkpoint: Checkpoint) -> dict[str, int]:
    return {f"max_{side}_tokens": checkpoint.max_tokens(side) for side in SIDES.values()}


def _write_beside(
    place: Path, companion: Companion, config: ExportKey, facts: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Write the second model's export into the first's; returns the facts of both that differ from the first's."""
    folder = place / BESIDE
    folder.mkdir()
    own = _Folder(folder, weights_folder(companion.checkpoint), companion.checkpoint, progress).write(config)
    both = {name: facts[name] + own[name] for name in ("dim", "parameters")}
    Beside(folder, companion.share).write(both["dim"])
    told = {"share": companion.share, "own_dim": facts["dim"], **{name: own[name] for name in ("dim", "parameters", "layers")}}
    missing: dict[str, Any] = {name: own[name] for name in ("no_onnx", "no_int8") if name in own}
    told["checkpoint"] = companion.checkpoint.name
    return {**both, "onnx": facts["onnx"] and own["onnx"], **missing, "beside": told}


class _Folder:
    """The export in the making: each method writes one of its files or folders."""

    STEPS = 4

    def __init__(
        self, place: Path, source: Path, checkpoint: Checkpoint, progress: Progress, truncate_dim: int | None = None
    ) -> None:
        self.place, self.source, self.checkpoint, self.progress = place, source, checkpoint, progress
        self.encoder = Encoder.load(source)
        self.tokenizer = PairTokenizer.load(checkpoint.tokenizer.part_folder())
        self.whole_width = self.encoder.width
        self.truncated = {"truncate_dim": truncate_dim} if truncate_dim else {}
        if truncate_dim:
            check_dims([truncate_dim], self.encoder.width, "export.truncate_dim")
            if self.encoder.head:
                self.encoder.head = truncated_head(self.encoder.head, truncate_dim)
            else:
                setattr(self.encoder.backbone.config, DIM_FIELD, truncate_dim)
        self.width = self.encoder.width
        self.max_tokens = {
            name: self.tokenizer.delimiters.longest(side, checkpoint.max_tokens(side)) for name, side in SIDES.items()
        }
        longest = max(self.max_tokens.values())
        positions = longest_input(self.encoder.backbone)
        if positions is not None and positions < longest:
            raise UserError(
                f"{source}: {positions} positions, but texts of {longest} tokens; lower shards.max_*_tokens or raise "
                "model.positions"
            )

    def write(self, config: ExportKey) -> dict[str, Any]:
        """Write everything; returns the part's facts."""
        self._step(0, "weights")
        _copy(self.source / "model.safetensors", self.place / "encoder" / "model.safetensors")
        own = {DIM_FIELD: self.width} if self.truncated and not self.encoder.head else {}
        write_json(self.place / "encoder" / "config.json", _read_json(self.source / "config.json") | own)
        if not self.encoder.head:
            self.encoder.save_beside(self.place / "encoder")
        write_json(self.place / "encoder" / "sentence_bert_config.json", TRANSFORMER_MODULE | self._own_lengths())
        # sentence-transformers asks every transformer for a tokenizer; where each side has its own, this one is never called
        self._write_tokenizer("encoder", max(self.max_tokens, key=lambda name: self.max_tokens[name]))
        self._step(1, "tokenizers and modules")
        if self.encoder.head:
            for name in SIDES:
                self._write_tokenizer(name, name)
            self.encoder.head.save(self.place, transformer="encoder")
            settings = self.place / SETTINGS_FILE
            write_json(settings, self._with_prompts(_read_json(settings)) | self.truncated)
        else:
            for name in SIDES:
                self._write_side(name)
            self._write_modules()
        self._step(2, "self-test")
        vectors = self._write_self_test()
        self._step(3, "ONNX")
        facts: dict[str, Any] = {
            "dim": self.width,
            "parameters": sum(
                p.numel() for part in (self.encoder.backbone, self.encoder.head) if part for p in part.parameters()
            ),
            "layers": self.encoder.backbone.config.num_hidden_layers,
            "vocab_size": self.tokenizer.vocab_size,
            "pooling": self.encoder.pooling,
            "distinct": self.tokenizer.delimiters.of("x") != self.tokenizer.delimiters.of("y"),
            "onnx": config.export.onnx,
            **({"whole_dim": self.whole_width} if self.truncated else {}),
            **({"before": before} if (before := self._before()) and not self.encoder.head else {}),
            **({"prompts_left_out": True} if self.encoder.prompts else {}),
        }
        if self.encoder.head:
            facts |= self._facts_of_head(self.encoder.head)
        if config.export.onnx:
            try:
                self._write_onnx(vectors)
            except UserError as error:  # the weights are good all the same: the card says so, and search takes torch
                facts |= {"onnx": False, "no_onnx": str(error)}
        if config.export.quantize == "int8" and facts["onnx"]:
            facts |= self._write_int8(vectors)
        self._step(4, "done")
        return facts

    def _write_int8(self, vectors: dict[str, np.ndarray]) -> dict[str, Any]:
        """The graph of 8-bit weights, named in search.json; returns its facts, or why there is none."""
        path = self.place / INT8_FILE
        try:
            write_int8(self.place / "model.onnx", path)
            measured = measure_int8(path, {name: self._token_ids(name) for name in SIDES}, vectors)
        except UserError as error:
            path.unlink(missing_ok=True)
            return {"no_int8": str(error)}
        search = _read_json(self.place / "search.json")
        told = {"model_sha256": sha256_file(path), "least_cosine": measured["least_cosine"]}
        write_json(self.place / "search.json", search | {"int8": told})
        return {"int8": measured}

    def _before(self) -> dict[str, str]:
        """The prompts of the sides, where there are some."""
        prompts = {name: self.tokenizer.delimiters.prompt(side) for name, side in SIDES.items()}
        return {name: prompt for name, prompt in prompts.items() if prompt}

    def _facts_of_head(self, head: EmbeddingHead) -> dict[str, Any]:
        """What the card must say of a start of sentence-transformers: its pooling, its other modules and its prompts."""
        prompts = self._before()
        return {
            "pooling": "+".join(head.poolings),
            "modules": [module.kind for module in head.model.head],
            "prompts": prompts,
            "distinct": prompts.get("query") != prompts.get("document"),
            "include_prompt": head.model.include_prompt,
            "architecture": type(self.encoder.backbone).__name__,
            **{f"max_{side}_tokens": self.max_tokens[name] for name, side in SIDES.items()},
        }

    def _own_lengths(self) -> dict[str, int]:
        """Lengths of both sides, where one tokenizer is for both."""
        if not self.encoder.head:
            return {}
        sides = {f"{name}_length": length for name, length in self.max_tokens.items()}
        return sides | {"max_seq_length": max(self.max_tokens.values())}

    def _step(self, done: int, note: str) -> None:
        self.progress(done, self.STEPS, note)

    def _write_side(self, name: str) -> None:
        """A transformer without layers, which only carries the side's tokenizer through the loader."""
        vocab_size = self.encoder.backbone.config.vocab_size
        write_empty_transformer(self.place / name, vocab_size, self.max_tokens[name])
        self._write_tokenizer(name, name)

    def _write_tokenizer(self, folder: str, name: str) -> None:
        max_tokens = self.max_tokens[name]
        text = side_tokenizer_json(self.checkpoint.tokenizer.part_folder(), SIDES[name], max_tokens)
        (self.place / folder).mkdir(exist_ok=True)
        (self.place / folder / "tokenizer.json").write_text(text, encoding="utf-8")
        # the library counts a prompt's tokens up to the special one behind them
        own = self.tokenizer.ends(SIDES[name]) if self.encoder.head or self.encoder.prompts else {}
        write_json(
            self.place / folder / "tokenizer_config.json",
            {
                **own,
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": max_tokens,
                "pad_token": self.tokenizer.pad_token,
                "padding_side": "right",
                "truncation_side": "right",
                # a text that spells a reserved token stays text
                "split_special_tokens": True,
                "clean_up_tokenization_spaces": False,
                # without this, GPT-2 would be given token types, and add the embedding of token 0 everywhere
                "model_input_names": ["input_ids", "attention_mask"],
            },
        )

    def _write_modules(self) -> None:
        base, dense = "sentence_transformers.base.modules", "sentence_transformers.sentence_transformer.modules"
        weights = self._write_token_weights()
        router = {
            "types": {
                "query": f"{base}.transformer.Transformer",
                "encoder": f"{base}.transformer.Transformer",
                "pooling": f"{dense}.pooling.Pooling",
                "document": f"{base}.transformer.Transformer",
                **dict.fromkeys(weights, f"{dense}.word_weights.WordWeights"),
            },
            "structure": {name: [name, "encoder", *weights, "pooling"] for name in SIDES},
            # plain encode() is for symmetric tasks, which use the x side as the evaluation does
            "parameters": {"default_route": "query", "allow_empty_key": True, "route_mappings": {}},
        }
        kinds = [("", "router.Router"), *([("1_Dense", "dense.Dense")] if self.truncated else [])]
        kinds.append((f"{len(kinds)}_Normalize", "normalize.Normalize"))
        modules = [
            {"idx": at, "name": str(at), "path": path, "type": f"{base}.{kind}"} for at, (path, kind) in enumerate(kinds)
        ]
        mode = {"last": "lasttoken", "mean": "mean", "idf_mean": "mean"}[self.encoder.pooling]
        width = int(self.encoder.backbone.config.hidden_size)
        pooling = {"embedding_dimension": width, "pooling_mode": mode, "include_prompt": not self.encoder.prompts}
        embedding = "sentence_embedding"
        write_json(self.place / "modules.json", modules)
        write_json(self.place / "router_config.json", router)
        write_json(self.place / "pooling" / "config.json", pooling)
        normalize = {"module_input_name": embedding, "module_output_name": embedding}
        write_json(self.place / kinds[-1][0] / "config.json", normalize)
        if self.truncated:
            cut = self.place / kinds[1][0]
            write_json(cut / "config.json", truncating_dense(width, self.width) | normalize)
            unit = {"linear.weight": np.eye(self.width, width, dtype=np.float32)}
            (cut / "model.safetensors").write_bytes(save_tensors(unit, metadata={"format": "pt"}))
        said: dict[str, Any] = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
        said |= {"prompts": {}, "default_prompt_name": None}
        write_json(self.place / SETTINGS_FILE, self._with_prompts(said) | self.truncated)

    def _write_token_weights(self) -> list[str]:
        """The library's module that weighs tokens before the mean, which reads them by their words; [] where none are."""
        weights_V = self.encoder.token_weights_V
        if weights_V is None:
            return []
        words = {id_: word for word, id_ in self.tokenizer.tokenizer.get_vocab().items()}
        names = [words.get(id_, f"[{id_}]") for id_ in range(len(weights_V))]  # a table may have rows that no word has
        config = {"vocab": names, "word_weights": dict(zip(names, weights_V.tolist(), strict=True)), "unknown_word_weight": 1.0}
        write_json(self.place / IDF_FOLDER / "config.json", config)
        return [IDF_FOLDER]

    def _with_prompts(self, said: dict[str, Any]) -> dict[str, Any]:
        """The library's settings with the prompts that the model was trained with; a start's other ones stay beside them."""
        own = self.tokenizer.delimiters
        prompts = {name: own.prompt(side) for name, side in SIDES.items()}
        others = said["prompts"]
        # a document's prompt has other names too, which would have their say
        if any(others.get(name) != prompt for name, prompt in prompts.items()):
            others = {name: text for name, text in others.items() if name not in DOCUMENT_PROMPTS}
        for task, of_sides in own.tasks.items():
            prompts |= {prompt_name(task, name): of_sides[side] for name, side in SIDES.items() if side in of_sides}
        default = own.default_prompt or said["default_prompt_name"]
        return said | {"prompts": others | prompts, "default_prompt_name": default}

    def _token_ids(self, name: str) -> list[list[int]]:
        return self.tokenizer.encode(SELF_TEST_TEXTS, SIDES[name], self.max_tokens[name])

    def _write_self_test(self) -> dict[str, np.ndarray]:
        """Vectors of the self-test texts by side, from our own encoder."""
        vectors = {}
        for name in SIDES:
            ids_BL, lengths_B = map(torch.from_numpy, pad(self._token_ids(name)))
            with torch.no_grad():
                vectors[name] = self.encoder(ids_BL, lengths_B).numpy()
        write_self_test(self.place, {name: self._token_ids(name) for name in SIDES}, vectors, weights_digest(self.place))
        return vectors

    def _write_onnx(self, vectors: dict[str, np.ndarray]) -> None:
        path = self.place / "model.onnx"
        if self.encoder.prompts:
            raise UserError(NO_PROMPTS)
        write_onnx(self.encoder.backbone, path, self.encoder.head, self.encoder.token_weights_V)
        for name, expected in vectors.items():
            gap = float(np.abs(run_onnx(path, self._token_ids(name)) - expected).max())
            if not gap <= ONNX_TOLERANCE:
                path.unlink()
                raise UserError(f"its ONNX graph's {name} vectors differ from the encoder's by {gap:.1e}")
        sides: dict[str, dict[str, Any]] = {}
        for name, side in SIDES.items():
            prefix, suffix = self.tokenizer.delimiters.of(side)
            ends = {"open_id": prefix[0] if prefix else None, "close_id": suffix[-1] if suffix else None}
            sides[name] = {"max_tokens": self.max_tokens[name], **ends}
            if prompt := self.tokenizer.delimiters.prompt(side):
                sides[name]["prompt"] = prompt
        write_json(
            self.place / "search.json",
            {
                "version": 1,
                "dim": self.width,
                **sides,
                "model_sha256": sha256_file(path),
                "weights_sha256": weights_digest(self.place),
            },
        )


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))

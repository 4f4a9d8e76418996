"""Folder of a sentence-transformers model: modules, prompts, lengths, and the ids that its tokenizer puts around a text.

Everything is read from JSON; nothing in the folder is executed, and no path in it may lead outside. What a model does beyond
Transformer, Pooling, Dense, LayerNorm, Dropout and Normalize is refused by its name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, cast

from tokenizers import Tokenizer

from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.tokens.delimiters import Delimiters, Side
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.tokenizer_files import bare_tokenizer, own_padding, read_tokenizer_json

MODULES_FILE = "modules.json"
SETTINGS_FILE = "config_sentence_transformers.json"
LIBRARY = "sentence_transformers."
HEAD_KINDS = ("Dense", "LayerNorm", "Dropout", "Normalize")

Mode = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
LEGACY_MODES: dict[str, Mode] = {  # in the order in which several are joined
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
MODES = tuple(LEGACY_MODES.values())
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
SENTENCE = "sentence_embedding"
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
NO_LENGTH = 1_000_000  # and beyond: "no limit" in a tokenizer's config


@dataclass(frozen=True)
class HeadModule:
    """A module behind the pooling: its kind, the folder of its files, and its config."""

    kind: str
    folder: Path
    config: dict[str, Any]


@dataclass(frozen=True)
class SentenceTransformer:
    """A sentence-transformers model as its folder describes it.

    Attributes:
        transformer: folder of config.json, weights and tokenizer.
        modes: of the pooling; several are laid end to end.
        include_prompt: a prompt's tokens are pooled with the text's.
        head: modules behind the pooling, in their order.
        prompts: text before every x, and before every y.
        prompt_names: all prompts of the model by name.
        default_prompt: name of the one that plain `encode` takes; None: none.
        longest: tokens of a row by side; None: no limit but the model's positions.
        lower_case: text is lower-cased before anything else.
    """

    folder: Path
    transformer: Path
    modes: tuple[Mode, ...]
    include_prompt: bool
    head: tuple[HeadModule, ...]
    prompts: dict[Side, str]
    prompt_names: dict[str, str]
    default_prompt: str | None
    longest: dict[Side, int | None]
    lower_case: bool


def prompt_name(task: str, side: str) -> str:
    """The name of a task's prompt in an export's settings, as MTEB looks for it too."""
    return f"{task}-{side}"


def task_prompts(folder: Path, tasks: Sequence[str]) -> dict[Side, str]:
    """Prompts in an export's settings of the first of these tasks that has some."""
    prompts = _optional(folder / SETTINGS_FILE).get("prompts") or {}
    names: dict[Side, str] = {"x": "query", "y": "document"}
    found = (
        {side: prompts[prompt_name(task, names[side])] for side in names if prompt_name(task, names[side]) in prompts}
        for task in tasks
    )
    return next(filter(None, found), {})


def is_sentence_transformer(folder: Path) -> bool:
    """True if the folder lists modules of sentence-transformers."""
    return (folder / MODULES_FILE).is_file()


def read_sentence_transformer(folder: Path) -> SentenceTransformer:
    """The model of a folder, as it was saved by any version of the library, or as one of our checkpoints.

    Raises:
        UserError: a module cannot be kept, or a path leads outside; the message names it.
    """
    entries = _read(folder / MODULES_FILE)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{folder / MODULES_FILE}: expected a list of modules")
    kinds = [_kind(folder, entry) for entry in entries]
    places = [_inside(folder, entry.get("path", "")) for entry in entries]
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= set(HEAD_KINDS):
        odd = next((kind for kind in kinds if kind not in ("Transformer", "Pooling", *HEAD_KINDS)), "")
        what = f"its module {odd} cannot be kept" if odd else f"its modules are {', '.join(kinds) or 'none'}"
        raise UserError(f"{folder}: {what}; expected Transformer, Pooling, and then any of {', '.join(HEAD_KINDS)}")
    settings = _optional(folder / SETTINGS_FILE)
    if settings.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise UserError(f"{folder}: a model of type {settings['model_type']}, which gives no one vector a text")
    prompts = {name: text or "" for name, text in (settings.get("prompts") or {}).items()}
    default = settings.get("default_prompt_name")
    transformer, config = places[0], _transformer_config(places[0])
    pooling = _read(places[1] / "config.json")
    return SentenceTransformer(
        folder=folder,
        transformer=transformer,
        modes=_modes(places[1], pooling),
        include_prompt=bool(pooling.get("include_prompt", True)),
        head=tuple(_head_module(kind, place) for kind, place in zip(kinds[2:], places[2:], strict=True)),
        prompts=_prompts(folder, prompts, default),
        prompt_names=prompts,
        default_prompt=default,
        longest=_longest(transformer, config),
        lower_case=bool(config.get("do_lower_case")),
    )


def sentence_transformer_tokenizer(folder: Path) -> PairTokenizer:
    """The tokenizer of such a folder: its own, with the ids of its post-processor and its prompts around each side's texts.

    Text that spells a special token stays text, which is where its ids may differ from the library's.

    Raises:
        UserError: the folder has no readable tokenizer.json, or what it does around a text cannot be kept.
    """
    model = read_sentence_transformer(folder)
    fields = read_tokenizer_json(model.transformer)
    if model.lower_case:
        fields["normalizer"] = _lower_casing(fields.get("normalizer"))
    prefix, suffix = _ids_around(model.transformer, fields)
    tokenizer = bare_tokenizer(fields)
    pad = own_padding(model.transformer, tokenizer)
    pairs = PairTokenizer(
        tokenizer,
        Delimiters(
            x_prefix=prefix,
            x_suffix=suffix,
            y_prefix=prefix,
            y_suffix=suffix,
            pad=0 if pad is None else pad,
            x_prompt=model.prompts["x"],
            y_prompt=model.prompts["y"],
            x_longest=model.longest["x"],
            y_longest=model.longest["y"],
        ),
    )
    _check_prompts(folder, model, tokenizer)
    return pairs


def _kind(folder: Path, entry: dict[str, Any]) -> str:
    """The class of a module; old and new layouts of the library differ in what stands before its name."""
    kind = str(entry.get("type", ""))
    if not kind.startswith(LIBRARY):
        raise UserError(
            f"{folder}: its module {kind!r} is code of its own, which is not run; a start has modules of the library"
        )
    return kind.rpartition(".")[2]


def _inside(folder: Path, path: Any) -> Path:
    """The folder of a module.

    Raises:
        UserError: it lies outside.
    """
    windows = PureWindowsPath(path) if isinstance(path, str) else None
    if windows is None or windows.anchor or ".." in windows.parts or "\0" in path:
        raise UserError(f"{folder / MODULES_FILE}: the path {path!r} leads outside the folder")
    place = folder / path
    if not place.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{folder / MODULES_FILE}: the path {path!r} leads outside the folder")
    return place


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; fetch the model again") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no readable JSON ({error}); fetch the model again") from error


def _optional(path: Path) -> dict[str, Any]:
    fields = _read(path) if path.is_file() else {}
    if not isinstance(fields, dict):
        raise UserError(f"{path}: expected an object")
    return fields


def _transformer_config(folder: Path) -> dict[str, Any]:
    """What the library reads beside config.json.

    Raises:
        UserError: it asks for what is not done here.
    """
    config: dict[str, Any] = next((found for name in TRANSFORMER_CONFIGS if (found := _optional(folder / name))), {})
    modalities = config.get("modality_config") or {}
    text = modalities.get("text", {"method": "forward", "method_output_name": "last_hidden_state"})
    output = text.get("method_output_name")
    task = config.get("transformer_task", "feature-extraction")
    settings = {**(config.get("config_args") or {}), **(config.get("config_kwargs") or {})}
    odd = {
        "an adapter (adapter_config.json), merge it into the model first": (folder / "adapter_config.json").is_file(),
        "query_expansion": config.get("query_expansion"),
        "processing_kwargs": config.get("processing_kwargs"),
        f"the task {task}": task != "feature-extraction",
        f"settings of config.json ({', '.join(settings)})": set(settings) - {"trust_remote_code", "use_cache"},
        "a chat template around each text": "message" in modalities,
        f"the output {output}": text.get("method") != "forward" or output not in ("last_hidden_state", ["last_hidden_state"]),
        "truncation on the left": _optional(folder / "tokenizer_config.json").get("truncation_side") == "left",
    }  # fmt: skip
    if asked := [what for what, is_asked in odd.items() if is_asked]:
        raise UserError(f"{folder}: its Transformer has {asked[0]}, which cannot be kept")
    return config


def _modes(folder: Path, config: dict[str, Any]) -> tuple[Mode, ...]:
    named = config.get("pooling_mode")
    if named is None:
        named = [mode for key, mode in LEGACY_MODES.items() if config.get(key)] or ["mean"]
    modes = [named] if isinstance(named, str) else list(named)
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise UserError(f"{folder}: its Pooling has the mode {unknown[:1] or 'none'}; known are {', '.join(MODES)}")
    return cast(tuple[Mode, ...], tuple(modes))


def _head_module(kind: str, folder: Path) -> HeadModule:
    config = _optional(folder / "config.json")
    for end in ("module_input_name", "module_output_name"):
        if config.get(end) not in (None, SENTENCE):
            raise UserError(f"{folder}: its {kind} has the {end} {config[end]}, which cannot be kept; expected {SENTENCE}")
    return HeadModule(kind, folder, config)


def _prompts(folder: Path, prompts: dict[str, str], default: str | None) -> dict[Side, str]:
    """Prompts of x and y: those of queries and documents; where a model names neither, its default one for both."""
    if default is not None and default not in prompts:
        raise UserError(f"{folder / SETTINGS_FILE}: default_prompt_name is {default!r}, of which there is no prompt")
    query = prompts.get("query", "")
    # the library writes an empty prompt for documents beside one that is called "passage"
    document = next((prompts[name] for name in DOCUMENT_PROMPTS if prompts.get(name)), "")
    plain = prompts[default] if default and not query and not document else ""
    return {"x": query or plain, "y": document or plain}


def _longest(folder: Path, config: dict[str, Any]) -> dict[Side, int | None]:
    """The longest row of each side (tokens): the library's limit, else the tokenizer's, and no more than the model's."""
    limits = [config.get("max_seq_length") or _optional(folder / "tokenizer_config.json").get("model_max_length")]
    limits.append(_optional(folder / "config.json").get("max_position_embeddings"))
    own = min((int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit < NO_LENGTH), default=None)
    names: dict[Side, str] = {"x": "query_length", "y": "document_length"}
    return {side: min(filter(None, (config.get(name), own)), default=None) for side, name in names.items()}


def _lower_casing(normalizer: dict[str, Any] | None) -> dict[str, Any]:
    steps = normalizer["normalizers"] if normalizer and normalizer["type"] == "Sequence" else [normalizer] if normalizer else []
    if any(step["type"] == "Lowercase" for step in steps):
        return {"type": "Sequence", "normalizers": steps}
    return {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}


def _ids_around(folder: Path, fields: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the post-processor puts before and behind a text.

    Raises:
        UserError: it does something else to it.
    """
    try:
        tokenizer = Tokenizer.from_str(json.dumps({**fields, "truncation": None, "padding": None}))
    except Exception as error:  # the library raises bare exceptions
        raise CorruptArtifact(f"{folder}: no readable tokenizer: {error}") from error
    found = set()
    for text in ("a b", "a", "b c d"):
        whole, bare = tokenizer.encode(text), tokenizer.encode(text, add_special_tokens=False).ids
        starts = [at for at in range(len(whole.ids) - len(bare) + 1) if whole.ids[at : at + len(bare)] == bare]
        if not starts or any(whole.type_ids):
            what = "token types" if any(whole.type_ids) else "a post-processor that changes a text's ids"
            raise UserError(f"{folder}: its tokenizer has {what}, which cannot be kept")
        found.add((tuple(whole.ids[: starts[0]]), tuple(whole.ids[starts[0] + len(bare) :])))
    if len(found) > 1:
        raise UserError(f"{folder}: its tokenizer puts other ids around one text than around another, which cannot be kept")
    return found.pop()


def _check_prompts(folder: Path, model: SentenceTransformer, tokenizer: Tokenizer) -> None:
    """Refuse a prompt that spells a special token: in a text it would be text."""
    for prompt in filter(None, model.prompts.values()):
        as_text = tokenizer.encode(prompt, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        as_written = tokenizer.encode(prompt, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = True
        if as_text != as_written:
            raise UserError(f"{folder}: its prompt {prompt!r} spells a special token, which cannot be kept")

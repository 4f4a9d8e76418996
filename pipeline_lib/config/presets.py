"""Named runs: a built-in preset is a function that returns a whole configuration, a user's is a YAML file in CPT_HOME/presets.

The paper's models as runs: sizes and batch sizes as remembered, each with its source.

A width of D over N layers has 12 N D^2 weights besides the embeddings: 0.30, 1.21, 6.4 and 174 billion for the four.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline_lib.config.data import (
    CodePairsConfig,
    CurateConfig,
    ExtractConfig,
    ShardConfig,
    TextPairsConfig,
    TokenizerConfig,
)
from pipeline_lib.config.evaluation import EvaluateConfig
from pipeline_lib.config.filters import CodeFilterConfig, FilterConfig
from pipeline_lib.config.model import ModelConfig, depth_and_width, hub_weights
from pipeline_lib.config.overrides import Layer, apply, in_yaml, read_config
from pipeline_lib.config.run import RunConfig
from pipeline_lib.config.training import PretrainConfig, TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import PrecisionChoice, artifact_home, has_fast_bfloat16, resolve_precision

SOURCE = (
    "arXiv 2201.10005: parameters, embedding width and batch size as remembered of table 1, check against the paper; layers, "
    "heads and learning rate: GPT-3's of the same width (arXiv 2005.14165, table 2.1, as remembered); lengths, steps and "
    "temperature: this project's choice"
)
# The paper begins from GPT-3 and Codex, which are not open: the open language models nearest to each size. Pythia has the
# paper's widths and depths; Qwen3 has seen much code.
STARTS = {
    ("text", "s"): "EleutherAI/pythia-410m",
    ("text", "m"): "EleutherAI/pythia-1.4b",
    ("text", "l"): "EleutherAI/pythia-6.9b",
    ("code", "s"): "Qwen/Qwen3-0.6B-Base",
    ("code", "m"): "Qwen/Qwen3-1.7B-Base",
}
LM_START, ADAPT_START = "smollm2-135m-instruct-q4", "all-minilm-l6-v2"  # names of `cpt get-start`
NO_START = "; no open language model of this size is known here: random weights, for plans alone"
VOCABULARY = 50_257  # GPT-2's, as GPT-3's


@dataclass(frozen=True)
class Size:
    """One row of the tables."""

    layers: int
    width: int
    heads: int
    batch_size: int
    learning_rate: float


SIZES = {
    "s": Size(layers=24, width=1024, heads=16, batch_size=12_288, learning_rate=3e-4),  # 300M
    "m": Size(layers=24, width=2048, heads=16, batch_size=6_912, learning_rate=2e-4),  # 1.2B; 24 heads do not divide 2048
    "l": Size(layers=32, width=4096, heads=32, batch_size=5_896, learning_rate=1.2e-4),  # 6B
    "xl": Size(layers=96, width=12_288, heads=96, batch_size=4_976, learning_rate=0.6e-4),  # 175B
}
MIXTURES = {"text": {"neighbour": 1.0}, "code": {"docstring": 1.0}}


def paper_run(kind: str, size: str) -> RunConfig:
    """cpt-text or cpt-code in one of the sizes: neighbouring pieces of text, or docstrings and their functions.

    Sizes of the model, vocabulary and rates are a new GPT-2's, for whoever asks for random weights in place of the start.

    Args:
        kind: "text" or "code".
        size: "s", "m", "l" or "xl".
    """
    row = SIZES[size]
    return RunConfig(
        name=f"cpt_{kind}_{size}",
        reference=SOURCE + ("" if (kind, size) in STARTS else NO_START),
        extract=ExtractConfig(code=CodePairsConfig(), text=TextPairsConfig(target_words=200, max_words=400)),
        tokenizer=TokenizerConfig(vocab_size=VOCABULARY, lower_case=False, split_identifiers=False, punctuation="keep"),
        shards=ShardConfig(max_x_tokens=256, max_y_tokens=512, splits=("train",)),
        model=ModelConfig(
            init=STARTS.get((kind, size), ""),
            layers=row.layers,
            width=row.width,
            heads=row.heads,
            inner=4 * row.width,
            positions=2048,
        ),
        train=TrainConfig(
            steps=20_000,
            batch_size=row.batch_size,
            mixture=MIXTURES[kind],
            mask_same_document=("neighbour",) if kind == "text" else (),
            learning_rate=row.learning_rate,
            warmup_steps=400,
            precision="bfloat16",
            temperature=0.07,
            checkpoints=10,
        ),
    )


def demo() -> RunConfig:
    """The machine's own Python to a searchable index in about 8 minutes on 2 cores, in float32 on any machine.

    One block, wide, over word-like tokens: in this budget what counts is which words two texts share, how rare those are,
    and which others mean the same. The lexical start brings the first two, training the rest.
    """
    run = RunConfig(
        name="demo",
        # of the salts tried, the one with 1,000 capped functions in both held-out splits and the most left for training
        curate=CurateConfig(validation_percent=12, test_percent=16, split_salt="cpt-58"),
        extract=ExtractConfig(
            code=CodePairsConfig(views=("docstring", "name", "class")),
            # transformers writes 1,300 of the 16,700 files from others of its own; the recipe was made with them
            filters=FilterConfig(code=CodeFilterConfig(generated_headers=False)),
        ),
        tokenizer=TokenizerConfig(vocab_size=24_576, max_repeats=2, max_training_texts=60_000),
        shards=ShardConfig(max_x_tokens=96, max_y_tokens=128, order="path", splits=("train",)),
        model=ModelConfig(start="lexical", layers=1, width=512, heads=4, inner=128, positions=160),
        train=TrainConfig(
            steps=240,
            batch_size=1024,
            mixture={"docstring": 0.65, "name": 0.15, "class": 0.08, "neighbour": 0.12},
            mask_same_document=("neighbour",),
            block_rows=16,
            window_blocks=1,
            token_dropout=0.3,
            learning_rate=5e-4,
            embedding_learning_rate=5e-2,
            embedding_epsilon=2e-4,  # four times the root mean square of their first gradient
            clip_norm=10.0,
            scale_learning_rate=5e-3,
            warmup_steps=20,
            weight_decay=0.0,
            weight_average=0.98,
            temperature=0.05,
            checkpoints=6,
        ),
    )
    return _in_precision(run, "float32")  # the figures that are shown of it are then those of any machine


def lm() -> RunConfig:
    """The paper's method from a language model, the first blocks of SmolLM2: `make demo-lm`, an hour and a half on 2 cores.

    Muon in place of AdamW for the hidden matrices: after 10,240 pairs it has an MRR of 0.509 where AdamW has 0.419.
    """
    train = TrainConfig(
        steps=300,
        batch_size=256,
        mixture={"docstring": 0.65, "name": 0.1, "class": 0.05, "neighbour": 0.2},
        mask_same_document=("neighbour",),
        block_rows=16,
        window_blocks=1,
        optimizer="muon",
        muon_learning_rate=1e-2,
        learning_rate=8e-4,
        scale_learning_rate=5e-3,
        warmup_steps=15,
        clip_norm=10.0,
        weight_decay=0.0,
        temperature=0.05,
        checkpoints=6,
        micro_batch_tokens=8192,
        activation_bytes=6 * 1024**3,  # on 2 cores: caching would cost a third more time
    )
    return demo().model_copy(
        update={
            "name": "lm",
            "tokenizer": TokenizerConfig(),
            "shards": ShardConfig(max_x_tokens=48, max_y_tokens=96, order="path", splits=("train",)),
            "pretrain": PretrainConfig(),
            "model": ModelConfig(init=LM_START, keep_layers=6),
            "train": train,
            "evaluate": EvaluateConfig(),
            "suites": RunConfig().suites,
            "index": RunConfig().index,
        }
    )


def smoke() -> RunConfig:
    """The same code in the smallest sizes that exercise every stage: minutes, no claim to quality."""
    run = RunConfig(
        name="smoke",
        tests_plumbing=True,
        tokenizer=TokenizerConfig(vocab_size=2_048, max_training_texts=20_000),
        shards=ShardConfig(max_x_tokens=24, max_y_tokens=48),
        model=ModelConfig(layers=2, width=64, heads=2, inner=128, positions=64),
        pretrain=PretrainConfig(sequence_tokens=64),  # no more than positions
        train=TrainConfig(steps=30, batch_size=64, checkpoints=5, warmup_steps=3),
        evaluate=EvaluateConfig(candidates=100, max_queries=200, bootstrap=100),
    )
    return _in_precision(run, "float32")


def _in_precision(config: RunConfig, precision: PrecisionChoice) -> RunConfig:
    """The same with all its matrix products in that precision."""
    sections = {name: getattr(config, name) for name in ("pretrain", "train", "evaluate", "suites", "index")}
    update = {name: section.model_copy(update={"precision": precision}) for name, section in sections.items()}
    return config.model_copy(update=update)


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "demo": demo,
    "lm": lm,
    "smoke": smoke,
    "cpt_text_s": partial(paper_run, "text", "s"),
    "cpt_text_m": partial(paper_run, "text", "m"),
    "cpt_text_l": partial(paper_run, "text", "l"),
    "cpt_text_xl": partial(paper_run, "text", "xl"),
    "cpt_code_s": partial(paper_run, "code", "s"),
    "cpt_code_m": partial(paper_run, "code", "m"),
}
OF_OWN_START = {"lm": LM_START, "adapt": ADAPT_START}  # presets whose rates were measured with the start that they name
RANDOM = "random"  # in place of a start's folder or id
FOLDER = "presets"  # of a user's own, below the artifact root: NAME.yaml
OF_A_PRESET = ("base", "description")  # what such a file may say beside its options


def users_presets() -> dict[str, Path]:
    """The user's own presets by name, each a YAML file in CPT_HOME/presets."""
    return {path.stem: path for path in sorted((artifact_home() / FOLDER).glob("*.yaml"))}


def preset_names() -> tuple[str, ...]:
    """The names that `preset` knows: the built-in ones, then the user's own."""
    return (*PRESETS, *(name for name in users_presets() if name not in PRESETS))


def preset(
    name: str,
    init: str = "",
    n_weights: int | None = None,
    layers: Sequence[Mapping[str, Any]] = (),
    embeds: bool = False,
    recipe: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The configuration of that name, with what is to be otherwise in place.

    A start, be it the preset's own or another one, brings a language model's rates; what a user's preset or a layer says of
    rates wins over them.

    Args:
        name: a built-in preset, or a user's.
        init: folder or hub id of a causal language model, in place of the preset's start; "random": random weights and the
            preset's own rates, even where it names a start; empty: what the layers say, or the preset.
        n_weights: weights of the given start, where known: the learning rate goes by it.
        layers: overrides, as `read_config` and `parse_set` give them; later ones win.
        embeds: the given start is an embedding model already; of a folder that is here it is found out.
        recipe: overrides below all of these, of the finished run whose checkpoint is the start; a language model's rates are
            not brought then.

    Raises:
        UserError: there is no such preset, or its file or a layer is wrong; the message says what there is.
    """
    _check_free(name)
    built_in, own = _chain(name)
    given = [{"name": name}, *own, *layers] if own else list(layers)
    if recipe is not None:
        return _warm(name, built_in, [recipe, *given])
    return _made(name, built_in, given, init, n_weights, embeds)


def preset_of_file(path: Path) -> RunConfig:
    """The configuration that a file makes wherever it lies: over its own `base`, or over the defaults of all options.

    Raises:
        UserError: the file is wrong.
    """
    content = _read(path)
    built_in, own = _chain(content["base"]) if content.get("base") else ("", [])
    return _made(str(content.get("preset", "")), built_in, [*own, content.without(OF_A_PRESET)])


def start_of(name: str, layers: Sequence[Mapping[str, Any]] = ()) -> str:
    """The causal language model that a preset with these layers starts from: a folder or a hub id; empty: none.

    Raises:
        UserError: as `preset`.
    """
    return preset(name, layers=layers).model.init


def description(name: str) -> str:
    """What a preset says of itself, in one line.

    Raises:
        UserError: there is none of that name, or its file is wrong.
    """
    if name not in PRESETS:
        return str(_own(name, ()).get("description", ""))
    maker = PRESETS[name]
    if isinstance(maker, partial):
        kind, size = maker.args
        row, start = SIZES[size], STARTS.get((kind, size), "random weights")
        sizes = f"{row.layers} layers of {row.width}, {row.batch_size:,} pairs a batch"
        return f"The paper's cpt-{kind} {size.upper()}: {sizes}; from {start}."
    return str(maker.__doc__).split("\n")[0]


def _made(
    name: str,
    built_in: str,
    given: Sequence[Mapping[str, Any]],
    init: str = "",
    n_weights: int | None = None,
    embeds: bool = False,
) -> RunConfig:
    """What these layers make of a built-in preset, or of the defaults, with the rates that its start asks for."""
    config = apply(PRESETS[built_in]() if built_in else RunConfig(), *given)
    start = init or config.model.init
    if start == RANDOM:
        return _named(config, name, init="", start="random")
    if start and start != OF_OWN_START.get(built_in):
        n_weights = hub_weights(start) or n_weights
        if config.train.precision == "float32":  # fixed for a small new model's figures, which these will not be
            config = _in_precision(config, "auto")
        update = {
            "pretrain": config.pretrain.for_language_model(n_weights),
            "train": config.train.for_language_model(n_weights, embeds or _embeds(start)),
        }
        config = apply(config.model_copy(update=update), *given)
    return _named(config, name, init=start)


def _embeds(start: str) -> bool:
    """True of a folder of sentence-transformers."""
    return bool(start) and (Path(start) / "modules.json").is_file()


def _warm(name: str, built_in: str, given: Sequence[Mapping[str, Any]]) -> RunConfig:
    """What these layers make, the start being a checkpoint that brought the first of them."""
    return _named(apply(PRESETS[built_in]() if built_in else RunConfig(), *given), name)


def _named(config: RunConfig, name: str, **model: str) -> RunConfig:
    return config.model_copy(update={"preset": name, "model": config.model.model_copy(update=model)})


def _chain(name: str) -> tuple[str, list[dict[str, Any]]]:
    """The built-in preset that a preset is built on, empty where there is none, and the layers over it, the lowest first."""
    names: list[str] = []
    layers: list[dict[str, Any]] = []
    while name not in PRESETS:
        if name in names:
            raise UserError(f"preset {names[0]}: its bases go in a circle: {' -> '.join([*names, name])}")
        content = _own(name, names)
        names.append(name)
        layers.insert(0, content.without(OF_A_PRESET))
        if not content.get("base"):
            return "", layers
        name = content["base"]
    return name, layers


def _own(name: str, asked: Sequence[str]) -> Layer:
    """The file of a user's preset.

    Args:
        asked: the presets whose bases led to it, from the one that was asked for on.

    Raises:
        UserError: there is no such file, or it is wrong.
    """
    files = users_presets()
    if name not in files:
        led = f"preset {asked[0]!r}: its base" if asked else "preset"
        own = f"; your own in {artifact_home() / FOLDER}: {', '.join(files) or 'none'}"
        raise UserError(f"{led} {name!r} is unknown; choose one of: {', '.join(sorted(PRESETS))}{own}")
    return _read(files[name])


def _read(path: Path) -> Layer:
    content = read_config(path, besides=OF_A_PRESET)
    for word in OF_A_PRESET:
        if not isinstance(content.get(word, ""), str):
            raise UserError(f"{content.where((word,))}{word}: got {in_yaml(content[word])}, expected text")
    return content


def _check_free(name: str) -> None:
    """Refuse a user's preset that stands in the place of a built-in one.

    Raises:
        UserError: there is such a file.
    """
    if name in PRESETS and (file := users_presets().get(name)):
        raise UserError(f"{file}: {name} is a built-in preset; give yours another name, and `base: {name}` to build on it")


def describe(config: RunConfig, name: str) -> str:
    """What a run is about to do, in a few lines for the terminal."""
    train, model = config.train, config.model
    given = config.source.folder or config.source.dump
    source = given or "this machine's own Python: its standard library and a tracked list of packages"
    precision: str = train.precision
    if train.precision == "auto":
        depth = depth_and_width(Path(model.init)) if model.init else (model.layers, model.width)
        precision = f"{resolve_precision(train.precision, *depth)} (auto)"
    elif train.precision == "float32" and not has_fast_bfloat16():
        precision = "float32 (this processor has no fast bfloat16; the preset is sized for that)"
    new = f"{model.layers} layers of {model.width}, vocabulary {config.tokenizer.vocab_size:,}"
    sizes = f"from {model.init}, with its tokenizer" if model.init else new
    whose = "an embedding model's" if _embeds(model.init) else "a language model's" if model.init else "the preset's"
    lines = [
        f"preset {name}: {source}",
        f"  model     {sizes}, {precision}",
        f"  training  {train.steps:,} steps of {train.batch_size:,} pairs: {train.batch_size - 1:,} negatives a pair",
        f"  rates     {whose}: {train.rates()}",
    ]
    if config.tests_plumbing:
        lines.append("  purpose   tests the plumbing; its figures mean nothing")
    return "\n".join(lines)

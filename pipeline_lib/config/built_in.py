"""Built-in presets, each a function that returns a whole configuration: what runs on a laptop, and the paper's models.

The paper's: widths and batch sizes of its table 1 (docs/results/paper.md). A width of D over N layers has 12 N D^2 weights
besides the embeddings: 0.30, 1.21, 6.4 and 174 billion for the four.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeline_lib.config.data import (
    CodePairsConfig,
    CurateConfig,
    ExtractConfig,
    ShardConfig,
    TextPairsConfig,
    TokenizerConfig,
)
from pipeline_lib.config.evaluation import BesideConfig, EvaluateConfig, ReadConfig
from pipeline_lib.config.filters import CodeFilterConfig, FilterConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.run import RunConfig
from pipeline_lib.config.training import PretrainConfig, TrainConfig
from pipeline_lib.runtime.machine import PrecisionChoice

SOURCE = (
    "arXiv 2201.10005, table 1: parameters, embedding width and batch size; arXiv 2005.14165 (GPT-3), table 2.1: layers, heads"
    " (M: 16, for 24 do not divide its width) and learning rate of the same width; lengths, steps and temperature: this"
    " project's choice"
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
    """The machine's own Python to a searchable index in 5 to 9 minutes on 2 cores, in float32 on any machine.

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
    return in_precision(run, "float32")  # the figures that are shown of it are then those of any machine


def lm() -> RunConfig:
    """The paper's method from a language model, SmolLM2, beside counted words: `make demo-lm`, 3.5 hours on 2 cores.

    After 10,240 pairs the mean over all tokens has an MRR of 0.589 where the state at the closing delimiter has 0.515; Muon for
    the hidden matrices has 0.509 where AdamW has 0.419. Three blocks are ahead of six for an hour, and end behind them.
    Trained on short texts and read at longer ones, with few neighbours in a batch; the demo's model, which counts words, makes
    other mistakes, and stands beside it: docs/results/lm.md has what each is worth.
    """
    train = TrainConfig(
        steps=400,
        batch_size=256,
        mixture={"docstring": 0.65, "name": 0.1, "class": 0.05, "neighbour": 0.2},
        mask_same_document=("neighbour",),
        block_rows=4,
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
    )
    return demo().model_copy(
        update={
            "name": "lm",
            "tokenizer": TokenizerConfig(),
            "shards": ShardConfig(max_x_tokens=64, max_y_tokens=96, order="path", splits=("train",)),
            "read": ReadConfig(max_x_tokens=128, max_y_tokens=256),
            "beside": BesideConfig(preset="demo", share=0.3),
            "pretrain": PretrainConfig(),
            "model": ModelConfig(init=LM_START, keep_layers=6, pooling="mean"),
            "train": train,
            "evaluate": EvaluateConfig(),
            "suites": RunConfig().suites,
            "index": RunConfig().index,
        }
    )


def adapt() -> RunConfig:
    """An embedding model that exists, all-MiniLM-L6-v2, on pairs of the source: its training takes 20 minutes on one core.

    `cpt get-start all-minilm-l6-v2` fetches it. It keeps its own pooling, tokenizer and special tokens.
    """
    run, blocks = lm(), {name: TrainConfig.model_fields[name].default for name in ("block_rows", "window_blocks")}
    rates = {"optimizer": "adamw", "muon_learning_rate": None, "learning_rate": 2e-4, "warmup_steps": 6}
    train = run.train.model_copy(update={"steps": 64, **rates, **blocks})
    return run.model_copy(
        update={
            "name": "adapt",
            "shards": run.shards.model_copy(update={"max_x_tokens": 128, "max_y_tokens": 128, "order": "hash"}),
            "read": RunConfig().read,
            "beside": BesideConfig(),
            "model": ModelConfig(init=ADAPT_START),
            "train": train,
        }
    )


def smoke() -> RunConfig:
    """The same code in the smallest sizes that exercise every stage: a minute, no claim to quality."""
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
    return in_precision(run, "float32")


def in_precision(config: RunConfig, precision: PrecisionChoice) -> RunConfig:
    """The same with all its matrix products in that precision."""
    sections = {name: getattr(config, name) for name in ("pretrain", "train", "evaluate", "suites", "index")}
    update = {name: section.model_copy(update={"precision": precision}) for name, section in sections.items()}
    return config.model_copy(update=update)


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "demo": demo,
    "lm": lm,
    "adapt": adapt,
    "smoke": smoke,
    "cpt_text_s": partial(paper_run, "text", "s"),
    "cpt_text_m": partial(paper_run, "text", "m"),
    "cpt_text_l": partial(paper_run, "text", "l"),
    "cpt_text_xl": partial(paper_run, "text", "xl"),
    "cpt_code_s": partial(paper_run, "code", "s"),
    "cpt_code_m": partial(paper_run, "code", "m"),
}
OF_OWN_START = {"lm": LM_START, "adapt": ADAPT_START}  # presets whose rates were measured with the start that they name

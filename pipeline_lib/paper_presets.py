"""The paper's models as runs: sizes and batch sizes as remembered, each with its source.

A width of D over N layers has 12 N D^2 weights besides the embeddings: 0.30, 1.21, 6.4 and 174 billion for the four.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_lib.config import CodePairsConfig, ExtractConfig, RunConfig, ShardConfig, TextPairsConfig, TokenizerConfig
from pipeline_lib.train_config import ModelConfig, TrainConfig

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

"""What is trained and how: the sizes of the model, AdamW and its schedule, the contrastive stage, language modelling.

What a contrastive checkpoint is tuned on: training sets with explicit hard negatives, given or mined.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import StageConfig, added, operational
from pipeline_lib.errors import UserError

MIXTURE = {"docstring": 0.7, "neighbour": 0.3}
# (weights up to, peak rate): what language models of that size are tuned to embed with, all of their weights at once
LANGUAGE_MODEL_RATES = ((200_000_000, 3e-4), (500_000_000, 1e-4), (2_000_000_000, 5e-5), (float("inf"), 2e-5))
UNKNOWN_SIZE_RATE = 1e-4
WARMUP_SHARE = 0.1  # of the steps


class ReadingConfig(StageConfig):
    """How training reads its token files: from a disk by memory map, from a bucket file by file before they are needed."""

    batches_ahead: int = operational(2, description="Batches read before their step: a slow read hides behind them.", ge=1)
    steps_ahead: int = operational(64, description="Steps whose files are fetched, or asked of a disk, before them.", ge=1)
    fetched_bytes: int = operational(
        16 * 1024**3,
        description="Room for a bucket's files on this machine (bytes); what a step needs now is fetched even beyond it.",
        gt=0,
    )


class OptimizerConfig(StageConfig):
    """What contrastive training and causal language modelling share: AdamW, its schedule, and the trainer processes."""

    steps: int = Field(0, description="Optimizer steps.", ge=0)
    reading: ReadingConfig = operational(ReadingConfig(), description="How far ahead token files are read.")
    learning_rate: float = Field(1e-3, description="Peak of the cosine schedule.", gt=0)
    embedding_learning_rate: float = Field(0.0, description="Peak for the token embeddings; 0: as all others.", ge=0)
    embedding_epsilon: float = Field(
        1e-8,
        description="AdamW's epsilon for the token embeddings. About the size of their gradients or above: rare tokens move "
        "little and keep the identity that they began with.",
        gt=0,
    )
    scale_learning_rate: float = Field(0.0, description="Peak for the logit scale; 0: as all others.", ge=0)
    warmup_steps: int = Field(20, description="Linear warm-up (steps).", ge=0)
    final_learning_rate_share: float = Field(0.05, description="Where the cosine ends, as a share of the peak.", ge=0, le=1)
    weight_decay: float = Field(0.05, description="AdamW weight decay, on matrices only.", ge=0)
    second_moment_decay: float = Field(0.98, description="AdamW's beta 2.", gt=0, lt=1)
    clip_norm: float = Field(1.0, description="Gradients are scaled to at most this norm.", gt=0)
    weight_average: float = Field(
        0.0,
        description="Decay a step of the averaged weights that checkpoints hold; 0: the weights themselves.",
        ge=0,
        lt=1,
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Precision of matrix products; weights and the loss stay float32."
    )
    seed: int = Field(1, description="Of initial weights, sample order and dropout.", ge=0)
    micro_batch_tokens: int = operational(
        16_384,
        description="Padded tokens of one forward pass; the loss is over the whole batch anyway. 0: what fits the memory of "
        "the device, or activation_bytes on a CPU.",
        ge=0,
    )
    checkpoint_activations: bool = operational(
        False,
        description="Each layer keeps its input alone until backward and is computed again there: the memory of deep models"
        " for up to one more forward pass. Gradients are the same.",
    )
    processes: int = operational(1, description="Trainer processes (torchrun), one a GPU or CPU socket.", ge=1)
    nodes: int = operational(1, description="Machines that train together, each with `processes`; they share the store.", ge=1)
    node_rank: int = operational(0, description="This machine among them, from 0, which writes the artifact.", ge=0)
    rendezvous: str = operational(
        "", description="HOST:PORT where machines meet, of node 0; needed for more than one.", pattern=r"^$|^[\w.\-]+:\d+$"
    )
    rendezvous_id: str = operational("cpt", description="Of this run: the same on all machines.", pattern=r"^[\w.\-]+$")
    parallel: Literal["ddp", "fsdp"] = operational(
        "ddp",
        description="Over several processes. ddp: each holds all weights, gradients are summed once a step. fsdp: weights, "
        "gradients and moments are cut over them (FSDP2), for models that one device does not hold.",
    )
    synchronise: Literal["step", "micro_batch"] = operational(
        "step",
        description="Under fsdp. step: gathered weights and full gradients are held through a step and summed once; "
        "micro_batch: neither is, at a collective a block and micro-batch.",
    )
    threads: int = operational(0, description="Threads of a CPU trainer process; 0: cores / processes.", ge=0)
    resume_every_seconds: float = operational(
        60.0, description="How often the full state is saved for a restart (seconds).", gt=0
    )
    save_beside: bool = operational(
        True, description="The full state is written by a thread beside the next steps; no: steps wait for it."
    )
    keep_states: int = operational(2, description="Full states that are kept: the newest whole one is gone on from.", ge=1)
    max_restarts: int = operational(
        2, description="Restarts of a dead trainer from its last complete state, without a step gained between.", ge=0
    )

    def lasting(self, steps: int) -> Self:
        """The same for so many steps, at least one; the warm-up keeps its share of them (a tenth where there were none)."""
        share = self.warmup_steps / self.steps if self.steps else WARMUP_SHARE
        return self.model_copy(update={"steps": max(1, steps), "warmup_steps": round(share * steps)})

    def for_language_model(self, n_weights: int | None = None) -> Self:
        """The same with what a given language model is trained with: one rate by its size for all weights, clip 1, a warm-up
        of a tenth of the steps, no averaging.

        A rate and an epsilon of the table's own are for tables that begin as counted words or at random: a given model's table
        holds what it knows, and they overwrite it. Steps, batches, temperature, precision and all else stay.

        Args:
            n_weights: of the model; None: not known, a rate that suits from a hundred million to a billion.
        """
        known = (rate for most, rate in LANGUAGE_MODEL_RATES if n_weights is not None and n_weights <= most)
        update = {
            "learning_rate": next(known, UNKNOWN_SIZE_RATE),
            "embedding_learning_rate": 0.0,
            "embedding_epsilon": OptimizerConfig.model_fields["embedding_epsilon"].default,
            "scale_learning_rate": 0.0,
            "warmup_steps": round(WARMUP_SHARE * self.steps),
            "clip_norm": 1.0,
            "weight_average": 0.0,
        }
        return self.model_copy(update=update)

    def rates(self) -> str:
        """The learning rates and what goes with them, for a line that people read."""
        own = {"the token table": self.embedding_learning_rate, "the logit scale": self.scale_learning_rate}
        apart = "".join(f", {rate:g} for {what}" for what, rate in own.items() if rate)
        averaging = f"averaging {self.weight_average:g}" if self.weight_average else "no averaging"
        all_weights = f"{self.learning_rate:g} for {'all other' if apart else 'all'} weights{apart}"
        return f"{all_weights}, warm-up {self.warmup_steps:,} steps, clip {self.clip_norm:g}, {averaging}"


class TrainConfig(OptimizerConfig):
    """Contrastive training: symmetric cross entropy over in-batch negatives (paper, section 3)."""

    steps: int = Field(300, description="Optimizer steps.", ge=1)
    batch_size: int = Field(
        512, description="Pairs of one global batch, over all processes: each has batch_size - 1 negatives.", ge=2
    )
    mixture: dict[str, float] = Field(
        MIXTURE, description="Share of each view of pairs (of each training set, in fine-tuning): see batches_from."
    )
    batches_from: Literal["mixed", "one_dataset"] = added(
        "mixed",
        description="mixed: every batch holds each view in the mixture's shares; the default, as every step then follows the"
        " gradient of the whole mixture and losses of two steps compare. one_dataset: every batch is of one view, and the"
        " mixture is the shares of batches; no negative can be told by its dataset's style.",
    )
    temperature: float = Field(0.07, description="Starting temperature; exp(tau) is its inverse.", gt=0)
    min_temperature: float = Field(0.01, description="The temperature is clamped from below here (CLIP: 1/100).", gt=0)
    train_temperature: bool = added(
        True, description="Whether the temperature is trained (the paper's); off: it stays where it starts."
    )
    directions: Literal["both", "x_to_y", "y_to_x"] = added(
        "both",
        description="Whose cross entropies the loss is the mean of. both: of rows and columns (the paper's); x_to_y: each x"
        " among all y only; y_to_x: each y among all x only.",
    )
    max_temperature: float = operational(
        1.0,
        description="A trained temperature above this stops the run after the warm-up: logits of at most 1 tell a thousand "
        "candidates hardly apart, and CLIP's ends at 0.01.",
        gt=0,
    )
    min_effective_rank: float = operational(
        1.2,
        description="A batch whose x or whose y fill fewer dimensions (exp of the entropy of singular values' shares) stops "
        "the run after the warm-up. 1 is all texts at one point; at 1.2 their cosines pass 0.99999; 0: never.",
        ge=0,
    )
    token_dropout: float = Field(
        0.0,
        description="Mean share of a text's tokens left out at random, never a delimiter; a text's own share is drawn evenly"
        " from 0 to twice this.",
        ge=0,
        le=0.5,
    )
    block_rows: int = Field(256, description="Consecutive rows of the shards that stay together in the order.", ge=1)
    window_blocks: int = Field(4096, description="Blocks that are shuffled row by row; of all: a full shuffle.", ge=1)
    mask_same_document: tuple[str, ...] = Field(
        (),
        description="Views of which other pairs of the same document are no negatives: pieces of one text are all near each"
        " other. Functions of one file are the hardest negatives that there are.",
    )
    checkpoints: int = Field(6, description="Checkpoints, evenly spaced, the last step included.", ge=1)
    keep_checkpoints: int = added(
        0, description="The newest so many are kept, and the best by evaluation_pairs' loss; 0: all of them.", ge=0
    )
    evaluation_pairs: int = added(
        0,
        description="Held-out pairs (shards.splits with validation) whose loss and in-batch MRR are measured at each "
        "checkpoint, the work shared by all processes; 0: none.",
        ge=0,
    )
    compile: Literal["off", "on", "auto"] = operational(
        "off",
        description="torch.compile of the layers. It costs a minute or more at the start and was not measured to pay on a CPU,"
        " so that it is off. auto: on a GPU, in runs of 1,000 steps and more, where the model can be compiled. Losses agree to"
        " rounding.",
    )
    attention: Literal["padded", "packed", "auto"] = operational(
        "auto",
        description="packed: a micro-batch's texts lie end to end and none is padded. auto: so on a GPU in bfloat16 where"
        " PyTorch's kernel of variable length runs, which a small probe finds out, for models of two layers and more; else"
        " padded. Losses agree to rounding.",
    )
    activation_bytes: int = operational(
        2 * 1024**3,
        description="A batch whose activations take more a process is computed by gradient caching: a third more work (bytes).",
        gt=0,
    )

    def at_batch_size(self, batch_size: int) -> Self:
        """The same pairs seen in batches of another size: steps and warm-up change in proportion."""
        return self.model_copy(update={"batch_size": batch_size}).lasting(round(self.steps * self.batch_size / batch_size))

    def for_language_model(self, n_weights: int | None = None) -> Self:
        """The same with what a given language model is tuned with: as the others train, and no token dropout."""
        return super().for_language_model(n_weights).model_copy(update={"token_dropout": 0.0})

    def rates(self) -> str:
        """The learning rates and what goes with them, for a line that people read."""
        dropout = f"token dropout {self.token_dropout:g}" if self.token_dropout else "no token dropout"
        return f"{super().rates()}, {dropout}"


def check_divides(batch_size: int, processes: int) -> None:
    """Every trainer process takes equally many pairs.

    Raises:
        UserError: the batch does not divide; the message names the nearest sizes that do.
    """
    if batch_size % processes:
        below = batch_size - batch_size % processes
        sizes = f"{below} or {below + processes}" if below else f"{processes}"
        raise UserError(
            f"a batch of {batch_size} pairs does not divide among {processes} processes: batch_size {sizes} would, "
            "or another number of processes"
        )


class PretrainConfig(OptimizerConfig):
    """Causal language modelling on the training split, before the contrastive stage."""

    steps: int = Field(
        0, description="Optimizer steps; 0: no pre-training, the contrastive stage starts from random weights.", ge=0
    )
    batch_tokens: int = Field(16_384, description="Tokens of one step, on average.", ge=64)
    sequence_tokens: int = Field(128, description="Length of a packed sequence (tokens).", ge=8)
    mixture: dict[str, float] = Field(MIXTURE, description="Share of each view of pairs among those that are packed.")
    micro_batch_tokens: int = operational(
        2_048, description="Tokens of one forward pass: its logits take 4 x this x vocabulary bytes.", ge=64
    )


Layout = Literal["auto", "records", "triples", "beir", "msmarco"]


class TrainingSetConfig(StageConfig):
    """One training set in the layout of its publisher."""

    path: str = operational("", description="A file or a folder. Its content, not its place, names the work.")
    layout: Layout = Field(
        "auto",
        description="`records`: JSON Lines, each record known by its fields (SNLI, MNLI, ANLI, anchor/positive/negative,"
        " Tevatron, FlagEmbedding); `triples`: tables, as lines of query, positive and negative parted by tabs; `beir`: a"
        " folder with corpus.jsonl; `msmarco`: a folder with collection.tsv; `auto`: by the names of the files.",
    )
    columns: str = Field(
        "",
        description="Columns of a table (.tsv, .txt, .csv) that hold query, positive and hard negatives, in this order, parted"
        " by commas: numbers from 1, or names in its first row. Empty: the layout is known, or the file is refused.",
    )
    view: str = Field("pairs", description="Names the set's rows in shards and in `mixture`.", pattern=r"^[a-z0-9][a-z0-9_]*$")
    split: str = Field("train", description="Which judgements of a retrieval set are read: qrels/SPLIT.tsv, qrels.SPLIT.tsv.")
    licence: str = Field("", description="Licence of the texts; it stands beside each row.")
    language: str = Field("en", description="Language of the texts.")
    min_relevance: int = Field(1, description="Least grade of a judgement that makes a positive.", ge=1)
    max_negatives: int = Field(8, description="Hard negatives of one pair at most, the first ones of the set.", ge=0)
    require_negatives: bool = Field(False, description="Drop pairs for which the set holds no hard negative.")
    max_dropped_share: float = Field(
        0.5,
        description="A set of which more items give no pair (share of items) is refused: what cannot be read, names no known"
        " text, has no label, is a pair of equals or comes again. Neutral pairs, negatives and grades below `min_relevance`"
        " do not count; of a set of fewer than 40 items, 40 are reckoned with.",
        ge=0,
        le=1,
    )
    max_text_bytes: int = Field(100_000, description="Records with a longer text go to quarantine (bytes).", gt=0)


class MiningConfig(StageConfig):
    """Hard negatives from an index over the training set's own passages, embedded by the checkpoint that is tuned."""

    per_pair: int = Field(0, description="Mined negatives of one pair at most; 0: nothing is mined.", ge=0)
    first_rank: int = Field(
        5,
        description="Rank of the nearest passage that is taken, known positives not counted: what ranks above is often a"
        " positive that nobody judged.",
        ge=1,
    )
    last_rank: int = Field(100, description="Rank of the farthest passage that is taken.", ge=1)
    margin: float = Field(
        0.05,
        description="A passage that scores above the positive less this much (cosine) is taken for a false negative.",
        ge=0,
        le=2,
    )
    spread: Literal["top", "even"] = Field(
        "even", description="Which of the passages that are left: the nearest ones, or evenly over their ranks."
    )
    factory: str = Field("Flat", description="FAISS index factory string; inner product of vectors of length 1.")
    batch_tokens: int = operational(16_384, description="Padded tokens of one forward pass.", ge=64)
    rows_per_slice: int = operational(8_192, description="Texts embedded and queries searched at a time (rows).", ge=1)

    @model_validator(mode="after")
    def _ranks_in_order(self) -> Self:
        if self.first_rank > self.last_rank:
            raise ValueError(f"first_rank {self.first_rank} is beyond last_rank {self.last_rank}")
        return self


class FinetuneConfig(StageConfig):
    """How a checkpoint is tuned. What is not named here is as in the run that it comes from."""

    epochs: float = Field(3.0, description="How often each pair is seen; `steps` follow from it.", gt=0)
    batch_size: int = Field(
        256, description="Pairs of one global batch; fewer where the sets have fewer. All their hard negatives join.", ge=2
    )
    rate_share: float = Field(1.0, description="Peak learning rates, as a share of those of the run it comes from.", gt=0)
    temperature: float = Field(0.0, description="Starting temperature; 0: the checkpoint's own.", ge=0)
    token_dropout: float = Field(0.0, description="See the field of the same name in training.", ge=0, le=0.5)
    warmup_share: float = Field(0.1, description="Linear warm-up, as a share of the steps.", ge=0, le=1)
    checkpoints: int = Field(1, description="Checkpoints, evenly spaced, the last step included.", ge=1)
    seed: int = Field(1, description="Of sample order and dropout.", ge=0)
    processes: int = operational(1, description="Trainer processes (torchrun), one a GPU or CPU socket.", ge=1)

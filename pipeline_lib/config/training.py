"""Training: the contrastive stage, and language modelling before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import StageConfig, added, operational, unset
from pipeline_lib.config.model import check_dims
from pipeline_lib.config.optimizer import OptimizerConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import PrecisionChoice

MIXTURE = {"docstring": 0.7, "neighbour": 0.3}
CPU_ACTIVATION_BYTES = 2 * 1024**3
CPU_ACTIVATION_SHARE = 3  # of its memory, where that is more
CPU_TOKENS = 16_384  # of the largest micro-batch there: beyond, caches lose more than fewer passes gain


class EarlyStoppingConfig(StageConfig):
    """Early stopping by the held-out pairs that are measured at each checkpoint; off unless `patience` is given."""

    patience: int | None = Field(
        None, description="Checkpoints in a row without a better figure, after which the run is done; null: never.", ge=1
    )
    metric: Literal["loss", "mrr"] = Field(
        "loss", description="Held-out figure that has to become better: a lower loss, or a higher MRR."
    )
    min_delta: float = Field(0.0, description="Least difference from the best figure so far that counts as better.", ge=0)


class FalseNegativesConfig(StageConfig):
    """False negatives by score: in-batch candidates that are too near to be negatives are left out of the loss."""

    by: Literal["off", "own", "guide"] = Field(
        "off",
        description="Scores that decide. off: none, equal texts alone are no negatives; own: those of the model in training, at"
        " each step; guide: those of `guide.model`.",
    )
    margin: float = Field(
        0.0,
        description="Distance above the positive's score beyond which a candidate is no negative, on rows and on columns;"
        " negative: below it, which leaves more out (cosine, or a share of the positive's score).",
        ge=-2,
        le=2,
    )
    kind: Literal["absolute", "relative"] = Field(
        "absolute", description="Unit of the margin. absolute: a cosine; relative: a share of the positive's score."
    )
    unmasked_steps: int = Field(
        0, description="Steps from the first one that leave nothing out: scores of weights that know nothing say little.", ge=0
    )
    vectors: Literal["whole", "prefix"] = added(
        "whole",
        before="prefix",
        description="Vectors whose cosines decide, where the model's own do and `train.matryoshka` has dims. whole: the whole"
        " ones, for every prefix; prefix: each prefix's own, which forgives it the errors that the whole vector does not make.",
    )

    @property
    def is_off(self) -> bool:
        """True where scores leave nothing out."""
        return self.by == "off"

    def idle_in(self, steps: int) -> str:
        """What is said of a run of so many steps in which the rule never begins; empty where it does, or is off."""
        if self.is_off or self.unmasked_steps < steps:
            return ""
        asked = f"false_negatives.unmasked_steps is {self.unmasked_steps:,} and the run has {steps:,} steps"
        return f"{asked}: scores leave nothing out"


class TeacherConfig(StageConfig):
    """Teacher: terms of the loss that draw the model's scores to those of `guide.model`; at weight 0 there are none."""

    kl_weight: float = Field(
        0.0, description="Weight of the KL divergence of the distribution over the batch's candidates from the guide's.", ge=0
    )
    temperature: float = Field(0.05, description="Temperature of the guide's distribution.", gt=0)
    margin_mse_weight: float = Field(
        0.0,
        description="Weight of the squared error of cos(x, y) - cos(x, hard negative) against the guide's (MarginMSE).",
        ge=0,
    )

    @property
    def is_off(self) -> bool:
        """True where the loss has no term of a guide."""
        return not self.kl_weight and not self.margin_mse_weight


def reads_guide(false_negatives: FalseNegativesConfig, teacher: TeacherConfig) -> bool:
    """True if a loss with these rules and terms reads a guide's scores."""
    return false_negatives.by == "guide" or not teacher.is_off


FIRST_ROUND = "first_round"


class GuideConfig(StageConfig):
    """Guide: a model whose scores judge training pairs and their candidates; it embeds each training text once."""

    model: str | None = operational(
        None,
        description="Model that guides: folder of an export or of sentence-transformers, RUN/step-000240, the last checkpoint"
        " of RUN, `published`, or `first_round`: a first training on the same data without guidance, whose last checkpoint"
        " guides the second; null: none. Keys hold its content.",
    )
    first_round_share: float = Field(
        0.5, description="Steps of the first round, as a share of `train.steps`, where `model` is first_round.", gt=0, le=1
    )
    keep_top: int | None = Field(
        None,
        description="Largest rank that the guide may give a training pair's y for its x in its block; pairs behind it are"
        " dropped as `inconsistent`; null: all stay. Held-out pairs always stay.",
        ge=1,
    )
    block_pairs: int = Field(
        1024, description="Pairs of a block, whose y are the candidates of its x (pairs).", ge=2, le=65_536
    )
    batch_tokens: int | None = operational(
        None,
        description="Padded tokens of one forward pass of the guide (tokens); null: 4,096 on a CPU, whose caches hold"
        " them, 16,384 on a GPU.",
        ge=64,
    )
    precision: PrecisionChoice = operational(
        "auto", description="Precision of the guide's products, as `train.precision`; what it came to names the table."
    )


class MatryoshkaConfig(StageConfig):
    """Matryoshka: the loss summed over prefixes of the vector, each of length 1 again (arXiv 2205.13147); off without dims."""

    dims: tuple[int, ...] = Field(
        (),
        description="Prefixes of the vector that the loss is summed over, e.g. [64, 128, 256]; name the whole width among them,"
        " for dimensions behind the longest prefix are not trained. Empty: the loss of the whole vector alone (dimensions).",
    )
    weights: tuple[float, ...] = Field((), description="Weight of each prefix's loss, in the order of `dims`; empty: 1 each.")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        check_dims(self.dims, None, "dims")
        if self.weights and len(self.weights) != len(self.dims):
            raise ValueError(f"weights has {len(self.weights)} values for {len(self.dims)} dims: give one each")
        if any(not 0 < weight < float("inf") for weight in self.weights):
            raise ValueError(f"weights {list(self.weights)}: each has to be above 0")
        return self

    @property
    def is_off(self) -> bool:
        """True where the loss is of the whole vector."""
        return not self.dims

    @property
    def weighted(self) -> tuple[tuple[int, float], ...]:
        """Each prefix with its weight."""
        return tuple(zip(self.dims, self.weights or (1.0,) * len(self.dims), strict=True))


class TrainConfig(OptimizerConfig):
    """Contrastive training: symmetric cross entropy over in-batch negatives (paper, section 3)."""

    steps: int = Field(300, description="Optimizer steps.", ge=1)
    batch_size: int = Field(
        512, description="Pairs of one global batch over all processes; each pair has `batch_size` - 1 negatives.", ge=2
    )
    mixture: dict[str, float] = Field(
        MIXTURE, description="Share of each view of pairs, or of each training set in fine-tuning, as `batches_from` says."
    )
    batches_from: Literal["mixed", "one_dataset"] = added(
        "mixed",
        description="Composition of batches. mixed: every batch holds each view in the mixture's shares, so that every step"
        " follows the gradient of the whole mixture and the losses of two steps compare; one_dataset: every batch is of one"
        " view, in the mixture's shares of batches, so that no negative is told by its dataset's style.",
    )
    temperature: float = Field(0.07, description="Starting temperature, the inverse of the logit scale exp(tau).", gt=0)
    min_temperature: float = Field(
        0.01, description="Lowest temperature, which a trained one is clamped at (CLIP: 1/100).", gt=0
    )
    train_temperature: bool = added(
        True, description="Train the temperature (the paper's), in place of keeping it where it starts."
    )
    directions: Literal["both", "x_to_y", "y_to_x"] = added(
        "both",
        description="Directions of the loss. both: the mean of the cross entropies over rows and columns (the paper's); x_to_y:"
        " each x among all y only; y_to_x: each y among all x only.",
    )
    false_negatives: FalseNegativesConfig = added(FalseNegativesConfig())
    teacher: TeacherConfig = added(TeacherConfig())
    matryoshka: MatryoshkaConfig = added(MatryoshkaConfig())
    max_temperature: float = operational(
        1.0,
        description="Highest trained temperature, above which the run stops after the warm-up: logits of at most 1 tell a"
        " thousand candidates hardly apart, and CLIP's ends at 0.01.",
        gt=0,
    )
    min_effective_rank: float = operational(
        1.2,
        description="Lowest effective rank of a batch's x or y (exp of the entropy of the singular values' shares), below which"
        " the run stops after the warm-up. 1 is all texts at one point; at 1.2 their cosines pass 0.99999; 0 never stops.",
        ge=0,
    )
    token_dropout: float = Field(
        0.0,
        description="Mean share of a text's tokens left out at random, delimiters never; each text's share is drawn evenly from"
        " 0 to twice this.",
        ge=0,
        le=0.5,
    )
    block_rows: int = Field(
        256, description="Consecutive rows of the shards that stay together in the order of samples (rows).", ge=1
    )
    window_blocks: int = Field(
        4096, description="Blocks whose rows are shuffled together; as many as there are make a full shuffle.", ge=1
    )
    mask_same_document: tuple[str, ...] = Field(
        (),
        description="Views whose pairs of one document are no negatives of each other: pieces of one text are all near, while"
        " functions of one file are the hardest negatives that there are.",
    )
    checkpoints: int = Field(6, description="Checkpoints, evenly spaced, the last step included.", ge=1)
    keep_checkpoints: int | None = unset(
        was=0,
        added=True,
        description="Newest checkpoints that are kept, beside the best by `early_stopping.metric` of `evaluation_pairs`; null:"
        " all.",
        ge=1,
    )
    evaluation_pairs: int = added(
        0,
        description="Held-out pairs whose loss and in-batch MRR are measured at each checkpoint, the work shared by all"
        " processes; `shards.splits` has to name `validation`.",
        ge=0,
    )
    early_stopping: EarlyStoppingConfig = added(EarlyStoppingConfig())
    continue_from: str | None = added(
        None,
        description="Finished run that this one lengthens, as RUN or RUN/step-000240; null: none. Weights and temperature are"
        " its checkpoint's, AdamW's moments begin at zero, the order of samples goes on behind its step, and the schedule"
        " covers the steps that are added. `steps` counts those of both.",
    )
    when_grown: Literal["restart", "continue"] = added(
        "restart",
        description="Training on a dataset that has grown since this configuration was trained last. restart: as if there had"
        " been no such run; continue: from the last checkpoint of the newest one, for `grown_steps_share` of the steps.",
    )
    grown_steps_share: float = added(
        0.25, description="Steps on a grown dataset under `when_grown: continue`, as a share of `steps`.", gt=0, le=1
    )
    compile: Literal["off", "on", "auto"] = operational(
        "off",
        description="Compiled layers (torch.compile), at the price of a minute or more at the start. auto: in runs of 1,000"
        " steps and more, on a GPU, and on a CPU for other families than GPT-2 in bfloat16. Losses agree to rounding.",
    )
    attention: Literal["padded", "packed", "auto"] = operational(
        "auto",
        description="Layout of micro-batches. packed: texts lie end to end and none is padded; auto: packed, but for a GPT-2"
        " only on a GPU in bfloat16, of two layers and more, where a probe finds that PyTorch's kernel of variable length runs."
        " Losses agree to rounding.",
    )
    activation_bytes: int | None = unset(
        was=0,
        operational=True,
        description="Most memory of a batch's activations in a process; beyond it gradient caching, a third more work; null:"
        " what the memory of a GPU leaves; of a CPU machine a third, and 2 GiB at least (bytes).",
        gt=0,
    )

    @property
    def kept_bytes(self) -> int:
        """Room for a batch's activations; a CPU's where that was not settled."""
        return self.activation_bytes or CPU_ACTIVATION_BYTES

    @property
    def needs_guide(self) -> bool:
        """True if the loss reads a guide's scores."""
        return reads_guide(self.false_negatives, self.teacher)

    def unguided(self) -> Self:
        """The same by the model's own lights: no score leaves a candidate out, and nobody teaches."""
        return self.model_copy(update={"false_negatives": FalseNegativesConfig(), "teacher": TeacherConfig()})

    def at_batch_size(self, batch_size: int) -> Self:
        """The same pairs seen in batches of another size: steps and warm-up change in proportion."""
        return self.model_copy(update={"batch_size": batch_size}).lasting(round(self.steps * self.batch_size / batch_size))

    def for_language_model(self, n_weights: int | None = None, embeds: bool = False) -> Self:
        """The same with what a given language model is tuned with: as the others train, and no token dropout."""
        return super().for_language_model(n_weights, embeds).model_copy(update={"token_dropout": 0.0})

    def rates(self) -> str:
        """The learning rates and what goes with them, for a line that people read."""
        dropout = f"token dropout {self.token_dropout:g}" if self.token_dropout else "no token dropout"
        return f"{super().rates()}, {dropout}"


def wants_guide(config: TrainConfig, guide: GuideConfig) -> bool:
    """True if a training on a dump goes by a guide: its loss, or the choice of its pairs."""
    return config.needs_guide or guide.keep_top is not None


def check_guide(config: TrainConfig, guide: GuideConfig) -> None:
    """What a training on a dump asks of a guide can be had; whether there is such a model is for whoever opens it to say.

    Raises:
        UserError: none is named, the pairs have nothing for a term to go by, or a first round cannot be.
    """
    if not wants_guide(config, guide):
        return
    if config.teacher.margin_mse_weight:
        raise UserError(
            "train.teacher.margin_mse_weight wants hard negatives, and the pairs of a dump have none: leave it at 0 here, and"
            " give `cpt finetune` training.teacher.margin_mse_weight"
        )
    if guide.model is None:
        raise UserError(
            "train.false_negatives.by: guide, train.teacher and guide.keep_top go by a guide's scores, and guide.model names"
            " none: give a folder, RUN/step-000240 or first_round"
        )
    if guide.model == FIRST_ROUND and config.continue_from:
        raise UserError(
            "guide.model first_round trains anew, and train.continue_from goes on from a run: name that run instead"
        )


def check_early_stopping(config: TrainConfig, splits: Sequence[str] = ("validation",)) -> None:
    """Early stopping has figures to go by, of one of these tokenized splits.

    Raises:
        UserError: no held-out pairs are measured, or none are tokenized.
    """
    missing = [] if config.evaluation_pairs else ["train.evaluation_pairs to 1,000, for instance"]
    missing += [] if "validation" in splits else ["shards.splits to [train, validation]"]
    if config.early_stopping.patience and missing:
        raise UserError(f"train.early_stopping goes by held-out pairs, of which there are none: set {' and '.join(missing)}")


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
    """Pre-training: causal language modelling on the training split, before the contrastive stage."""

    steps: int = Field(
        0, description="Optimizer steps of language modelling; at 0 there is none, and training starts as `model` says.", ge=0
    )
    batch_tokens: int = Field(16_384, description="Mean tokens of one step (tokens).", ge=64)
    sequence_tokens: int = Field(128, description="Length of a packed sequence (tokens).", ge=8)
    text: Literal["documents", "pairs"] = added(
        "documents",
        description="Text that is read. documents: whole files and whole prose documents, each ended by an end-of-text id, as"
        " the paper's starts were made: the model sees how a function stands in its file, and what curation made no pair of;"
        " pairs: x and y in their delimiters, cut at `shards.max_x_tokens` and `shards.max_y_tokens`.",
    )
    mixture: dict[str, float] = Field(
        MIXTURE, description="Share of each view of pairs in the packed text, where `text` is pairs."
    )
    evaluation_tokens: int = added(
        200_000,
        description="Tokens of the validation split that the finished model's loss is measured on, in whole documents or pairs;"
        " the unigram entropy beside it is that of the same (tokens).",
        ge=1,
    )
    micro_batch_tokens: int | None = unset(
        was=0,
        operational=True,
        description="Tokens of one forward pass; null: 2,048 on a CPU, 16,384 on a GPU.",
        ge=64,
    )

"""Evaluation: the held-out splits, public suites, and the selection of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import StageConfig, added, operational, unset
from pipeline_lib.config.model import check_dims
from pipeline_lib.runtime.machine import PrecisionChoice

PRECISION = "Precision of the model's matrix products, as `train.precision`; vectors, and so figures, are named by it."
HELD_OUT = "held-out"  # the group of these suites
HELD_OUT_SUITES = ("code_search_held_out", "text_search_held_out", "classification_held_out", "similarity_held_out")


def parted_suites(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The suites over held-out pairs among these names, all four where there is no name, and the public ones."""
    is_all = not names or HELD_OUT in names
    held_out = tuple(name for name in HELD_OUT_SUITES if is_all or name in names)
    return held_out, tuple(name for name in names if name != HELD_OUT and name not in HELD_OUT_SUITES)


class ReadConfig(StageConfig):
    """Reading: the longest texts that a trained model takes, wherever it is measured, exported, indexed or searched.

    Training on short texts is fast, and a model with rotary positions reads longer ones: docs/results/lm.md has figures.
    """

    max_x_tokens: int | None = added(
        None,
        description="Longest query that is read, delimiters included; null: as in training, `shards.max_x_tokens` (tokens).",
        ge=4,
    )
    max_y_tokens: int | None = added(
        None,
        description="Longest document that is read, delimiters included; null: as in training, `shards.max_y_tokens` (tokens).",
        ge=4,
    )

    @property
    def lengths(self) -> tuple[int | None, int | None]:
        """Of queries and documents."""
        return self.max_x_tokens, self.max_y_tokens


class BesideConfig(StageConfig):
    """Beside: a second model whose vectors stand beside this one's, wherever it is measured, exported, indexed or searched.

    A cosine is then the mean of both models' cosines; training knows nothing of it. docs/results/lm.md has figures.
    """

    preset: str | None = Field(
        None,
        description="Preset of the second model, which is trained before this one, on the same pairs; null: none.",
    )
    model: str | None = Field(
        None,
        description="A finished model in place of that preset's: RUN/step-000240, or the last checkpoint of RUN, which is a"
        " run's key or name; null: none. It reads texts as its own run does.",
    )
    share: float = Field(0.3, description="The second model's share in the cosine.", gt=0, lt=1)

    @property
    def trained(self) -> str | None:
        """The preset whose model is to be trained; None where there is no second model, or where it is a finished one."""
        return None if self.model else self.preset

    @property
    def is_wanted(self) -> bool:
        """True where there is to be a second model."""
        return bool(self.preset or self.model)


class EvaluateConfig(StageConfig):
    """Held-out evaluation of every checkpoint, on tasks drawn from the curated pairs of one split."""

    candidates: int = Field(
        1000, description="Candidates of one ranking, the right one among them; fewer in a smaller split.", ge=2
    )
    max_per_group: int = Field(
        50,
        description="Most functions or passages of one group, so that large groups do not rule; raised until there are"
        " `candidates` of a corpus that is split by document, or of a split's only group.",
        ge=1,
    )
    max_queries: int = Field(1000, description="Most queries of one search task on validation; the test split takes all.", ge=2)
    min_class_texts: int = Field(20, description="Fewest pieces of prose of a group that is a class of the linear probe.", ge=4)
    max_class_texts: int = Field(50, description="Most pieces of prose of one class.", ge=4)
    max_classes: int = Field(20, description="Most classes of the linear probe, in the order of their hash.", ge=2)
    similarity_pairs: int = Field(200, description="Most pairs of each of the four grades of similarity.", ge=10)
    bootstrap: int = Field(1000, description="Resamples behind each 95 % interval.", ge=10)
    seed: int = Field(1, description="Seed of bootstrap and sampling.", ge=0)
    dims: tuple[int, ...] = operational(
        (),
        description="Prefixes of the vector, each of length 1 again, that a model is measured at beside the whole one, e.g."
        " [32, 64, 128]: quality and index bytes by dimension stand in the report; empty: those of `train.matryoshka`"
        " (dimensions).",
    )
    batch_tokens: int | None = operational(
        None,
        description="Padded tokens of one forward pass (tokens); null: 4,096 on a CPU, whose caches hold them, 16,384 on a"
        " GPU.",
        ge=64,
    )
    against: str | None = operational(
        None,
        description="Name of the model whose champion an evaluation measures too and compares with, or `none`; null: the run's"
        " own name.",
    )
    precision: PrecisionChoice = operational("auto", description=PRECISION)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        check_dims(self.dims, None, "dims")
        return self


class SuiteConfig(StageConfig):
    """Public suites: protocol numbers and sample sizes; without limits, whole sets, as figures are published for."""

    quick: bool = Field(False, description="Mark of sets cut to samples: tasks are named NAME-quick.")
    max_train_texts: int | None = unset(was=0, description="Most labelled training texts of a probe; null: all.", ge=1)
    max_test_texts: int | None = unset(was=0, description="Most texts or pairs that are judged; null: all.", ge=1)
    max_queries: int | None = unset(was=0, description="Most queries of a search; null: all.", ge=1)
    max_documents: int | None = unset(
        was=0, description="Most documents of a corpus, but all judged ones are among them; null: all.", ge=1
    )
    folds: int = Field(10, description="Folds of cross-validation of a set without splits (SentEval: 10).", ge=2)
    inverse_regularisation: tuple[float, ...] = Field(
        (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0, 128.0),
        description="Values of C of the logistic regression, of which validation chooses: SentEval's six, and two for"
        " vectors of length 1.",
        min_length=1,
    )
    neighbours: int = Field(256, description="Neighbours of k-nearest-neighbour classification (paper: 256).", ge=1)
    depth: int = Field(1000, description="Documents ranked for a query (BEIR: 1,000).", ge=100)
    faiss_from_rows: int = Field(
        200_000,
        description="Smallest corpus that is searched through FAISS in place of one matrix product (documents).",
        ge=1,
    )
    faiss_factory: str = Field(
        "Flat",
        description="FAISS index factory string for such corpora. Flat: exact, in blocks of bounded memory; any other is"
        " approximate, its codes held in memory, and the artifact says so.",
    )
    faiss_probes: int = Field(64, description="Inverted lists that an approximate index of the IVF kind visits.", ge=1)
    bootstrap: int = Field(1000, description="Resamples behind each 95 % interval.", ge=10)
    seed: int = Field(1, description="Seed of bootstrap, folds and samples.", ge=0)
    block_texts: int = operational(8192, description="Texts embedded and cached at a time.", ge=1)
    precision: PrecisionChoice = operational("auto", description=PRECISION)
    processes: int | None = operational(
        None, description="Processes that embed, each with the model's weights; null: one per GPU, and one without any.", ge=1
    )

    def quick_variant(self) -> Self:
        """The same on samples, to run beside training: under two minutes for the demo's model on two cores."""
        samples = {
            "quick": True,
            "max_train_texts": 2000,
            "max_test_texts": 1000,
            "max_queries": 300,
            "max_documents": 5000,
            "folds": 3,
            "inverse_regularisation": (1.0, 8.0, 64.0),
            "bootstrap": 300,
        }
        return self.model_copy(update=samples)


class SelectConfig(StageConfig):
    """Selection of a checkpoint by declared weights: search and classification above similarity (paper, section 4.2).

    With longer training search and classification rise while similarity falls, so that a heavy similarity would choose models
    that are worse at what they are used for. 0.04 beside one other kind of 0.4 is still less than a tenth.
    """

    weights: dict[Literal["code_search", "text_search", "classification", "similarity"], float] = Field(
        {"code_search": 0.4, "text_search": 0.4, "classification": 0.4, "similarity": 0.04},
        description="Weight of each kind, shared by its tasks; normalised over the kinds that could be measured.",
    )
    task_weights: dict[str, float] = Field(
        {},
        description="Weight of a task among those of its kind, 1 unless given; 0 leaves the task out.",
    )
    suites: tuple[str, ...] = Field(
        (), description="Public suites or groups whose validation splits count beside the held-out part of the corpus."
    )
    suite_data: str | None = unset(
        was="", operational=True, description="Folder of the suites' downloads, if `suites` names any."
    )
    quick_suites: bool = Field(True, description="Cut these suites to samples.")
    bootstrap: int = Field(1000, description="Resamples behind each paired 95 % interval.", ge=10)
    seed: int = Field(1, description="Seed of the bootstrap.", ge=0)

    @model_validator(mode="after")
    def _suites_have_data(self) -> Self:
        if self.suites and not self.suite_data:
            raise ValueError(
                f"select.suites names {', '.join(self.suites)}: give the folder of their files as select.suite_data"
            )
        return self

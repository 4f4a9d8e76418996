"""How checkpoints are measured and one of them is chosen: the held-out splits, public suites, and selection."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline_lib.config.base import StageConfig, operational


class EvaluateConfig(StageConfig):
    """What every checkpoint is measured on; the tasks are drawn from the curated pairs of one split."""

    candidates: int = Field(
        1000, description="Candidates of one ranking, the right one among them; fewer where the split has fewer.", ge=2
    )
    max_per_group: int = Field(
        50,
        description="Functions or passages of one group at most, so that large groups do not rule; raised until there are"
        " `candidates` of a corpus that is split by document, or of a split's only group.",
        ge=1,
    )
    max_queries: int = Field(1000, description="Queries of one search task on validation; the test takes all.", ge=2)
    min_class_texts: int = Field(20, description="Pieces of prose that a group needs to be a class of the linear probe.", ge=4)
    max_class_texts: int = Field(50, description="Pieces of prose of one class at most.", ge=4)
    max_classes: int = Field(20, description="Classes of the linear probe at most, in the order of their hash.", ge=2)
    similarity_pairs: int = Field(200, description="Pairs of each of the four grades of similarity at most.", ge=10)
    bootstrap: int = Field(1000, description="Resamples behind each 95 % interval.", ge=10)
    seed: int = Field(1, description="Of bootstrap and sampling.", ge=0)
    batch_tokens: int = operational(16_384, description="Padded tokens of one forward pass.", ge=64)


class SuiteConfig(StageConfig):
    """The choices of a suite run. Zero limits mean the whole set, which is what figures are published for."""

    quick: bool = Field(False, description="Whether sets are cut to the limits below; tasks are then named NAME-quick.")
    max_train_texts: int = Field(0, description="Labelled training texts of a probe at most; 0: all.", ge=0)
    max_test_texts: int = Field(0, description="Texts or pairs that are judged at most; 0: all.", ge=0)
    max_queries: int = Field(0, description="Queries of a search at most; 0: all.", ge=0)
    max_documents: int = Field(
        0, description="Documents of a corpus at most, all judged ones among them, so perhaps more; 0: all.", ge=0
    )
    folds: int = Field(10, description="Folds of cross-validation where a set has no split (SentEval: 10).", ge=2)
    inverse_regularisation: tuple[float, ...] = Field(
        (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 32.0, 128.0),
        description="C of the logistic regression, chosen by validation: SentEval's six, and two for vectors of length 1.",
        min_length=1,
    )
    neighbours: int = Field(256, description="k of k-nearest-neighbour classification (paper: 256).", ge=1)
    depth: int = Field(1000, description="Documents ranked for a query (BEIR: 1,000).", ge=100)
    faiss_from_rows: int = Field(
        200_000,
        description="Corpora of so many documents or more are searched through FAISS instead of one matrix product.",
        ge=1,
    )
    faiss_factory: str = Field(
        "Flat",
        description="FAISS index factory string of such corpora. Flat: exact, in blocks of bounded memory; any other is"
        " approximate, its codes held in memory, and the artifact says so.",
    )
    faiss_probes: int = Field(64, description="Inverted lists that an approximate index of the IVF kind visits.", ge=1)
    bootstrap: int = Field(1000, description="Resamples behind each 95 % interval.", ge=10)
    seed: int = Field(1, description="Of bootstrap, folds and samples.", ge=0)
    block_texts: int = operational(8192, description="Texts embedded and cached at a time.", ge=1)
    processes: int = operational(
        1, description="Processes that embed, each with the model's weights; on a machine with GPUs one each.", ge=1
    )

    @classmethod
    def quick_variant(cls) -> Self:
        """Small enough to run beside training: under two minutes for the demo's model on two cores."""
        return cls(
            quick=True,
            max_train_texts=2000,
            max_test_texts=1000,
            max_queries=300,
            max_documents=5000,
            folds=3,
            inverse_regularisation=(1.0, 8.0, 64.0),
            bootstrap=300,
        )


class SelectConfig(StageConfig):
    """The declared weights: search and classification above similarity (paper, section 4.2).

    With longer training search and classification rise while similarity falls, so that a heavy similarity would choose models
    that are worse at what they are used for. 0.04 beside one other kind of 0.4 is still less than a tenth.
    """

    weights: dict[Literal["code_search", "text_search", "classification", "similarity"], float] = Field(
        {"code_search": 0.4, "text_search": 0.4, "classification": 0.4, "similarity": 0.04},
        description="Weight of each kind, shared by its tasks; normalised to sum to 1 over the kinds that could be measured.",
    )
    task_weights: dict[str, float] = Field(
        {},
        description="Weight of a task among those of its kind; 1 where none is given, 0 leaves the task out.",
    )
    suites: tuple[str, ...] = Field(
        (), description="Public suites or groups of them whose validation splits count beside the held-out part of the corpus."
    )
    suite_data: str = operational("", description="The folder of the suites' downloads, where `suites` names any.")
    quick_suites: bool = Field(True, description="Suites cut to samples, as for use beside training; false: whole.")
    bootstrap: int = Field(1000, description="Resamples behind each paired 95 % interval.", ge=10)
    seed: int = Field(1, description="Of the bootstrap.", ge=0)

    @model_validator(mode="after")
    def _suites_have_data(self) -> Self:
        if self.suites and not self.suite_data:
            raise ValueError(
                f"select.suites names {', '.join(self.suites)}: give the folder of their files as select.suite_data"
            )
        return self

"""How suites are run: sample sizes, protocol numbers, and the bounds of the quick variant."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from pipeline_lib.config.base import StageConfig, operational


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

"""Optimizers and trainer processes: what contrastive training and causal language modelling set alike."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator

from pipeline_lib.config.base import StageConfig, added, operational, unset
from pipeline_lib.config.data import ReadingConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import PrecisionChoice

# (weights up to, peak rate): what language models of that size are tuned to embed with, all of their weights at once
LANGUAGE_MODEL_RATES = ((200_000_000, 3e-4), (500_000_000, 1e-4), (2_000_000_000, 5e-5), (float("inf"), 2e-5))
UNKNOWN_SIZE_RATE = 1e-4
EMBEDDING_MODEL_RATE = 5e-5  # of 22 to 110 million weights that embed already; higher ones forget what they know
WARMUP_SHARE = 0.1  # of the steps


class OptimizerConfig(StageConfig):
    """Optimizer and trainer processes, the same for contrastive training and causal language modelling."""

    steps: int = Field(0, description="Optimizer steps.", ge=0)
    reading: ReadingConfig = operational(ReadingConfig(), description="Reading ahead of token files.")
    optimizer: Literal["adamw", "muon"] = added(
        "adamw",
        description="Optimizer of the hidden matrices. muon: their momentum made orthogonal (arXiv 2502.16982), which learns"
        " more from as many pairs; all else stays AdamW's, and weights cut over processes are refused.",
    )
    muon_learning_rate: float | None = added(
        None, description="Peak learning rate of Muon's matrices; null: `learning_rate`.", gt=0
    )
    learning_rate: float = Field(1e-3, description="Peak learning rate of the schedule.", gt=0)
    embedding_learning_rate: float | None = unset(
        was=0.0, description="Peak learning rate of the token embeddings; null: `learning_rate`.", gt=0
    )
    embedding_epsilon: float = Field(
        1e-8,
        description="AdamW's epsilon for the token embeddings. At the size of their gradients or above, rare tokens move little"
        " and keep the identity that they began with.",
        gt=0,
    )
    scale_learning_rate: float | None = unset(
        was=0.0, description="Peak learning rate of the logit scale; null: `learning_rate`.", gt=0
    )
    warmup_steps: int = Field(20, description="Linear warm-up (steps).", ge=0)
    final_learning_rate_share: float = Field(
        0.05, description="Learning rate at the end of the schedule, as a share of the peak.", ge=0, le=1
    )
    schedule: Literal["cosine", "warmup-stable-decay"] = added(
        "cosine",
        description="Learning rate after the warm-up. cosine: it falls over all steps; warmup-stable-decay: it stays at its"
        " peak and falls in the last `decay_share` of the steps, so that a run can be lengthened exactly: the training state"
        " before the decay is kept with the run.",
    )
    decay_share: float = added(
        0.2, description="Share of the steps in which the rate of warmup-stable-decay falls, along a line.", ge=0, le=1
    )
    weight_decay: float = Field(0.05, description="AdamW weight decay, on matrices only.", ge=0)
    first_moment_decay: float = added(0.9, description="AdamW's beta 1.", ge=0, lt=1)
    second_moment_decay: float = Field(0.98, description="AdamW's beta 2.", gt=0, lt=1)
    epsilon: float = added(1e-8, description="AdamW's epsilon for all weights but the token embeddings.", gt=0)
    clip_norm: float = Field(1.0, description="Largest norm of all gradients together, which are scaled down to it.", gt=0)
    weight_average: float = Field(
        0.0,
        description="Decay per step of the averaged weights that checkpoints hold; at 0 they hold the last weights.",
        ge=0,
        lt=1,
    )
    precision: PrecisionChoice = Field(
        "auto",
        description="Precision of matrix products; weights and loss stay in float32. auto: bfloat16 on GPUs that have it (from"
        " Ampere on), and on CPUs that have it for models of two layers and 256 dimensions or more, else float32; what it came"
        " to names the run.",
    )
    tf32: bool = added(
        True,
        description="TF32 for what float32 products remain on a GPU that has it: ten bits of mantissa, up to ten times the"
        " speed. false: full float32.",
    )
    deterministic: bool = added(
        True,
        description="Only deterministic algorithms, so that two equal runs agree to the bit. false: a GPU may use faster"
        " ones, and a run that was interrupted ends slightly differently.",
    )
    seed: int = Field(1, description="Seed of initial weights, sample order and dropout.", ge=0)
    micro_batch_tokens: int | None = unset(
        was=0,
        operational=True,
        description="Padded tokens of one forward pass; null: as many as fit the memory of the device, on a CPU 16,384 at"
        " most. The loss is over the whole batch in any case.",
        ge=1,
    )
    checkpoint_activations: bool = operational(
        False,
        description="Activation checkpointing: layers keep their inputs alone and are computed again in the backward pass,"
        " which saves memory for up to one more forward pass. Gradients are the same.",
    )
    processes: int | None = unset(
        was=0,
        operational=True,
        description="Trainer processes of this machine (torchrun); null: one per GPU, at most as many as divide the batch; one"
        " on a CPU.",
        ge=1,
    )
    gpus: int | None = unset(
        was=0, operational=True, description="GPUs of this machine that train; null: all that it has.", ge=1
    )
    memory_bytes: int | None = unset(
        was=0,
        operational=True,
        description="Memory of a GPU, or of a CPU machine, that a run is planned in, and beyond which it is refused before it"
        " starts; null: all that there is (bytes).",
        gt=0,
    )
    nodes: int = operational(
        1, description="Machines that train together, each with `processes` trainers, over a shared store.", ge=1
    )
    node_rank: int = operational(
        0, description="Number of this machine among `nodes`, from 0, which writes the artifact.", ge=0
    )
    rendezvous: str | None = unset(
        was="",
        operational=True,
        description="Rendezvous of several machines, as HOST:PORT of node 0; one machine needs none.",
        pattern=r"^[\w.\-]+:\d+$",
    )
    rendezvous_id: str = operational("cpt", description="Rendezvous name, the same on all machines.", pattern=r"^[\w.\-]+$")
    parallel: Literal["auto", "ddp", "fsdp"] = operational(
        "auto",
        description="Parallelism of several processes. ddp: each holds all weights, and gradients are summed once a step; fsdp:"
        " weights, gradients and moments are sharded over them (FSDP2), for models that one device does not hold; auto: ddp"
        " where it fits the devices' memory.",
    )
    synchronise: Literal["auto", "step", "micro_batch"] = operational(
        "auto",
        description="Synchronisation under fsdp. step: gathered weights and full gradients are held through a step and summed"
        " once; micro_batch: neither is held, at the price of a collective per block and micro-batch; auto: step where it"
        " fits.",
    )
    threads: int | None = unset(
        was=0, operational=True, description="Threads of a CPU trainer process; null: cores / `processes`.", ge=1
    )
    resume_every_seconds: float = operational(
        60.0,
        description="Least time between two saves of the full training state, for a restart (seconds); `resume_time_share` may"
        " make it longer.",
        gt=0,
    )
    resume_time_share: float | None = unset(
        was=0.0,
        default=0.02,
        operational=True,
        description="Largest share of a run's time that saving its states may cost: the time between two saves grows with what"
        " the last one cost; null: no bound.",
        gt=0,
        le=1,
    )
    async_checkpointing: bool = operational(
        True, description="Asynchronous checkpointing: a thread writes the training state beside the next steps."
    )
    keep_states: int = operational(
        2, description="Training states that are kept; a restart goes on from the newest whole one.", ge=1
    )
    tracking: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = operational(
        (),
        description="Trackers that are shown the run while it trains, beside its own records: tensorboard (event files in the"
        " run's folder), mlflow and wandb, where their packages are installed; who and where is of the environment.",
    )
    max_restarts: int = operational(
        2, description="Most restarts of a dead trainer from its last complete state without a step of progress.", ge=0
    )

    @field_validator("tracking", mode="before")
    @classmethod
    def _one_alone(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @property
    def n_processes(self) -> int:
        """Trainer processes of one machine; 1 where that was not settled."""
        return self.processes or 1

    def stable_steps(self, steps: int) -> int | None:
        """Steps of so many before warmup-stable-decay's decay, which are the same in a longer run; None under cosine."""
        if self.schedule == "cosine":
            return None
        return max(min(self.warmup_steps, steps), steps - round(self.decay_share * steps))

    def lasting(self, steps: int) -> Self:
        """The same for so many steps, at least one; the warm-up keeps its share of them (a tenth where there were none).

        It stays as it is where a longer run begins as a shorter one (warmup-stable-decay), or goes on from one.
        """
        if self.schedule != "cosine" or getattr(self, "continue_from", None):
            return self.model_copy(update={"steps": max(1, steps)})
        share = self.warmup_steps / self.steps if self.steps else WARMUP_SHARE
        return self.model_copy(update={"steps": max(1, steps), "warmup_steps": round(share * steps)})

    def for_language_model(self, n_weights: int | None = None, embeds: bool = False) -> Self:
        """The same with what a given language model is trained with: one rate by its size for all weights, clip 1, a warm-up
        of a tenth of the steps, no averaging.

        A rate and an epsilon of the table's own are for tables that begin as counted words or at random: a given model's table
        holds what it knows, and they overwrite it. Steps, batches, temperature, precision and all else stay.

        Args:
            n_weights: of the model; None: not known, a rate that suits from a hundred million to a billion.
            embeds: it is an embedding model already, which wants lower rates than one that has yet to learn it.
        """
        known = (rate for most, rate in LANGUAGE_MODEL_RATES if n_weights is not None and n_weights <= most)
        rate = next(known, UNKNOWN_SIZE_RATE)
        update = {
            **dict.fromkeys(RATES),
            "learning_rate": min(rate, EMBEDDING_MODEL_RATE) if embeds else rate,
            "embedding_epsilon": OptimizerConfig.model_fields["embedding_epsilon"].default,
            "warmup_steps": round(WARMUP_SHARE * self.steps),
            "clip_norm": 1.0,
            "weight_average": 0.0,
        }
        return self.model_copy(update=update)

    def rates(self) -> str:
        """The learning rates and what goes with them, for a line that people read."""
        own = {"the token table": self.embedding_learning_rate, "the logit scale": self.scale_learning_rate}
        if self.optimizer == "muon":
            own["the hidden matrices by Muon"] = self.muon_learning_rate or self.learning_rate
        apart = "".join(f", {rate:g} for {what}" for what, rate in own.items() if rate)
        averaging = f"averaging {self.weight_average:g}" if self.weight_average else "no averaging"
        all_weights = f"{self.learning_rate:g} for {'all other' if apart else 'all'} weights{apart}"
        return f"{all_weights}, warm-up {self.warmup_steps:,} steps, clip {self.clip_norm:g}, {averaging}"


RATES = tuple(name for name in OptimizerConfig.model_fields if name.endswith("learning_rate"))  # peaks; others follow the first


def check_optimizer(config: OptimizerConfig) -> None:
    """Muon has whole matrices.

    Raises:
        UserError: they are to be cut over processes.
    """
    if config.optimizer == "muon" and config.parallel == "fsdp":
        raise UserError("optimizer is muon, which needs whole matrices, and parallel fsdp cuts them; take ddp, or adamw")

"""LoRA: the options of low-rank adapters, and which matrices of a transformer's blocks they stand beside. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import Field, field_validator

from pipeline_lib.config.base import StageConfig, unset
from pipeline_lib.errors import UserError

ATTENTION, MLP = "attention", "mlp"  # groups of matrices; any other target is a name


class LoraConfig(StageConfig):
    """LoRA (arXiv 2106.09685): a low-rank adapter beside each chosen matrix is trained, and the given weights stay frozen."""

    rank: int | None = unset(
        was=0,
        description="Rank of the adapters; null: none, all weights are trained. Training states and checkpoints then hold the"
        " adapters alone; the start is read again, and the export holds their sum.",
        ge=1,
    )
    alpha: float = Field(16.0, description="Scale of an adapter's product, divided by `rank`.", gt=0)
    dropout: float = Field(
        0.0,
        description="Dropout rate on what an adapter reads. Above 0 a batch is computed by the model's own forward, padded.",
        ge=0,
        lt=1,
    )
    targets: tuple[str, ...] = Field(
        (ATTENTION, MLP),
        description="Matrices that get an adapter, in each block: attention, mlp (the feed-forward part), or names of linear"
        " layers or their ends, such as q_proj.",
        min_length=1,
    )

    @property
    def is_off(self) -> bool:
        """True where all weights are trained."""
        return self.rank is None

    @field_validator("targets", mode="before")
    @classmethod
    def _one_alone(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


def chosen_matrices(config: LoraConfig, sizes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The matrices that get an adapter, of all those of a block.

    Args:
        config: with a rank.
        sizes: inputs and outputs of each linear layer by its name below the block.

    Raises:
        UserError: a target names none of them, or the rank is above what a matrix can have.
    """
    found: set[str] = set()
    for target in config.targets:
        matching = {name for name in sizes if _is_meant(target, name)}
        if not matching:
            raise UserError(
                f"model.lora.targets: {target!r} names no matrix of this model's blocks; choose {ATTENTION}, {MLP}, or of "
                f"{', '.join(sizes) or 'none at all'}"
            )
        found |= matching
    chosen = {name: size for name, size in sizes.items() if name in found}
    narrow = min(chosen, key=lambda name: min(chosen[name]))
    if (config.rank or 0) > min(chosen[narrow]):
        raise UserError(
            f"model.lora.rank is {config.rank}, above the full rank of {narrow}, {min(chosen[narrow])}; lower it, or leave "
            "model.lora out and train all weights"
        )
    return chosen


def _is_meant(target: str, name: str) -> bool:
    if target in (ATTENTION, MLP):
        return is_attention(name) == (target == ATTENTION)
    return name == target or name.endswith(f".{target}")


def is_attention(name: str) -> bool:
    """True of a layer of a block's attention, whatever its family calls it: attn, self_attn, SelfAttention."""
    return any("attn" in part or "attention" in part for part in name.lower().split("."))


def adapter_weights(config: LoraConfig, sizes: Iterable[tuple[int, int]]) -> int:
    """Weights of the adapters beside matrices of so many inputs and outputs."""
    return sum((config.rank or 0) * (n_in + n_out) for n_in, n_out in sizes)

"""The parameters of ablations, whose descriptions are the form in Prefect's UI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.parameters import RunParams
from pipeline_lib.config.ablations import AblateConfig
from pipeline_lib.errors import UserError


class AblateParams(RunParams):
    """Which preset's data and sizes, and which levers."""

    ablation: AblateConfig = Field(
        AblateConfig(), title="Ablation", description="Levers, pairs a run, seeds; they take the place of steps and batch size."
    )


def for_terminal(params: RunParams, ablation: Mapping[str, Any]) -> AblateParams:
    """The parameters that the options of `cpt ablate` stand for.

    Raises:
        UserError: an option is out of its range.
    """
    try:
        return AblateParams(**params.model_dump(), ablation=AblateConfig.model_validate(ablation))
    except ValidationError as error:
        found = error.errors()[0]
        raise UserError(f"cpt ablate: {found['loc'][0]}: {found['msg']}, got {found['input']!r}") from error


class AblatedRef(BaseModel):
    """A finished table of ablations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ablation: str = Field(description="Key of the `ablate` artifact.")
    folder: str = Field(description="Where ablation.json, ablation.md and ablation.svg lie.")
    runs: int = Field(description="Arms times seeds.")

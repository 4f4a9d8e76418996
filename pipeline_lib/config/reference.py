"""Reference page: every option of a run in Markdown, made from the fields that the options are."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from pydantic import BaseModel

from pipeline_lib.config.ablations import AblateConfig
from pipeline_lib.config.finetuning import FinetuneConfig, MiningConfig, TrainingSetConfig
from pipeline_lib.config.options import Option, first_line, section_of
from pipeline_lib.config.overrides import OPERATIONAL, in_yaml
from pipeline_lib.config.run import RunConfig

UNIT = re.compile(r" \(([a-z]+|%)\)\.$")  # what a description ends with
INTRODUCTION = f"""# Configuration

Every option of a run, with the defaults that presets start from. This page is made from the options themselves:
`cpt config reference` prints it.

An option is set by its dotted name, later ones over earlier ones:

    cpt run --preset demo --config mine.yaml             # a YAML file of some options, or of all
    cpt run --preset demo --set train.learning_rate=1e-4 --set "train.mixture={{docstring: 0.7, neighbour: 0.3}}"
    cpt run --preset mine                                # CPT_HOME/presets/mine.yaml: `base: demo`, and options over it
    cpt config show demo --set train.steps=500           # what comes out: YAML with comments, which --config reads
    cpt config diff demo mine                            # what differs

Sections are merged; lists and mappings are replaced as a whole. null is unset. Where a start is given, as `model.init` or by a
preset, rates are those of a language model of its size, unless the file or `--set` gives them.

{OPERATIONAL}
"""
BESIDE = """## Beside a run

These are parameters of other flows: fine-tuning and ablation.
"""


def reference() -> str:
    """The whole page."""
    run = _section(RunConfig, (), "## The run")
    beside = [
        *_section(FinetuneConfig, ("training",), "### `training` of a fine-tuning"),
        *_section(MiningConfig, ("mining",), "### `mining` of a fine-tuning"),
        *_section(TrainingSetConfig, (), "### A training set of a fine-tuning"),
        *_section(AblateConfig, ("ablation",), "### `ablation` of an ablation"),
    ]
    return "\n".join([INTRODUCTION, *run, BESIDE, *beside])


def _section(model: type[BaseModel], path: tuple[str, ...], heading: str) -> Iterator[str]:
    """Heading, first sentence and table of a section, and then its own sections."""
    fields = model.model_fields.items()
    rows = [_row(Option((*path, name), field)) for name, field in fields if not section_of(field.annotation)]
    yield f"{heading}\n\n{first_line(model)}\n"
    if rows:
        yield "\n".join(["| option | default | takes | meaning |", "|---|---|---|---|", *rows]) + "\n"
    for name, field in fields:
        if section := section_of(field.annotation):
            place = (*path, name)
            yield from _section(section, place, f"{'#' * min(4, len(place) + 1)} `{'.'.join(place)}`")


def _row(option: Option) -> str:
    description = option.field.description or ""
    unit = UNIT.search(description)
    takes = f"{option.expected} ({unit[1]})" if unit else option.expected
    takes += "; operational" if option.is_operational else ""
    default = in_yaml(option.field.get_default(call_default_factory=True))
    cells = (f"`{option.path[-1]}`", f"`{default}`", takes, UNIT.sub(".", description))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    sys.stdout.write(reference())

"""Model card: what the model is, how to use it in three ways, what it was trained on and how well it does.

It is an artifact beside the export and no part of it. Two runs may come to the same weights by other commands and with other
figures, and a sentence must not give the model, or its vectors, another name. `model_folder` lays both into one folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline_lib.config.base import StageConfig, added
from pipeline_lib.config.lora import LoraConfig
from pipeline_lib.export.int8_loss import Int8Loss, int8_section
from pipeline_lib.export.usage import usage, use_of_both
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import link_file
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store

STAGE = Stage(name="card", version=2)
FILE = "README.md"

WATTS_A_CORE, WATTS_A_GPU = 10, 500  # a server's processor with its memory, shared by its cores; an accelerator under load

MOST_LICENCES = 20  # rows of the card


class Metric(StageConfig):
    """One figure of an evaluation."""

    task: str = Field(description="What was measured, e.g. code_search_1k.")
    metric: str = Field(description="The field's name of the figure, e.g. MRR.")
    value: float
    low: float | None = Field(None, description="Lower end of the 95 % interval.")
    high: float | None = Field(None, description="Upper end of the 95 % interval.")
    n: int | None = Field(None, description="Queries, texts or pairs behind the figure.")
    baselines: dict[str, float] = Field({}, description="The same figure of others on the same input.")


class CardFacts(StageConfig):
    """Statements of the card that the manifests cannot know."""

    title: str = Field("cpt embedding model", description="The card's heading.")
    base: str = Field("none: trained from random weights", description="What training started from.")
    method: str = added("", description="What of the run is the paper's method and what is not, in a sentence.")
    data: str = Field("", description="A sentence on the training data.")
    counts: dict[str, int] = Field({}, description="Documents, pairs and the like that it was trained on.")
    metrics: tuple[Metric, ...] = Field((), description="Figures of the evaluation.")
    licence: str = Field(
        "", description="What is known of the licences of the training data and of the weights; one paragraph."
    )
    licences: dict[str, int] = Field({}, description="Training pairs by the licence that each came with.")
    decontamination: str = Field("", description="What was done that training holds no text of an evaluation.")
    bias: tuple[Metric, ...] = Field((), description="Figures of the bias suites.")
    notes: tuple[str, ...] = added((), description="What must be known before the figures, a sentence or two each.")
    int8: Int8Loss | None = added(None, description="What queries lose by 8-bit weights, where there are such.")
    command: str = Field("", description="What makes the model again at a terminal.")


class CardKey(StageConfig):
    """All that a card says."""

    facts: CardFacts
    figures: dict[str, Any] = Field(description="What the manifests of model and training say; see `model_card`.")


def write_card(store: Store, exported: Artifact, checkpoint: Checkpoint, facts: CardFacts) -> Artifact:
    """The card of an export as README.md: stage "card", part "card"."""
    said = CardKey(facts=facts, figures=_figures_of(exported, checkpoint))

    def make(key: str) -> Outcome:
        scratch = store.scratch(STAGE.name)
        (scratch / FILE).write_text(model_card(said.facts, said.figures), encoding="utf-8")
        return Outcome(parts=(store.commit_part(draft_part(STAGE, key, "card"), scratch),))

    return store.build(STAGE, said, {"exported": exported}, make)


def model_folder(exported: Artifact, card: Artifact) -> Path:
    """The folder that people load, copy and upload: the card beside the export's files, which are linked and not copied."""
    source, folder = exported.part_folder(), card.part_folder()
    for file in exported.manifest.parts[0].files:
        link_file(source / file.name, folder / file.name)
    return folder


def _figures_of(exported: Artifact, checkpoint: Checkpoint) -> dict[str, Any]:
    trained, tokenizer, (model,) = checkpoint.trained, checkpoint.tokenizer, exported.manifest.parts
    places = {"weights": "encoder/model.safetensors", "weights of the model beside it": "beside/encoder/model.safetensors"}
    weights = {name: file for name, place in places.items() for file in model.files if file.name == place}
    lengths = {name: exported.manifest.config[name] for name in ("label", "max_x_tokens", "max_y_tokens")}
    return {
        **lengths,
        **model.facts,
        "training": trained.manifest.config,
        **_seen(trained),
        "lineage": {
            **{name: file.sha256 for name, file in weights.items()},
            "training": trained.digest,
            **{f"training's {name}": digest for name, digest in trained.manifest.inputs.items()},
            "tokenizer": tokenizer.digest,
            **{f"tokenizer's {name}": digest for name, digest in tokenizer.manifest.inputs.items()},
        },
    }


_ONNX = """
From a terminal, over the index that belongs to it: `cpt search "parse an ISO 8601 date"`. It runs `model.onnx`
(inputs `input_ids` (B, L) and `lengths` (B,), int64; output `sentence_embedding` (B, D)) and needs no torch.
"""


def model_card(facts: CardFacts, figures: Mapping[str, Any]) -> str:
    """The card as Markdown, the same bytes for the same facts.

    Args:
        facts: what the caller says.
        figures: dim, parameters, layers, pooling, distinct (delimiters), vocab_size, max_x_tokens, max_y_tokens, label, onnx,
            training (the config of the training's manifest), lineage (name to digest).
    """
    sections = [
        _FRONT_MATTER,
        f"# {facts.title}\n\n{_ADAPTED if 'prompts' in figures else _INTRODUCTION}\n",
        *([f"{facts.method}\n"] if facts.method else []),
        _table(("", ""), _properties(facts, figures)),
        usage(figures) + use_of_both(figures) + (_ONNX if figures["onnx"] else "") + _without_onnx(figures),
        "## Training\n\n" + _training(facts, figures),
        *([_evaluation(facts)] if facts.metrics else []),
        *([int8_section(figures, facts.int8)] if facts.int8 else []),
        _LIMITS,
        "## Bias\n\n" + _bias(facts),
        f"## Cost\n\n{_cost(figures)}\n",
        *([f"## Again\n\n```\n{facts.command}\n```\n"] if facts.command else []),
        "## Licence\n\n" + _licence(facts),
        "## Lineage\n\nContent digests (sha256) of what it was made from.\n\n"
        + _table(("what", "digest"), [(name, f"`{digest}`") for name, digest in figures["lineage"].items()]),
    ]
    return "\n".join(sections)


def _without_onnx(figures: Mapping[str, Any]) -> str:
    missing = {"model.onnx": figures.get("no_onnx"), "model.int8.onnx": figures.get("no_int8")}
    return "".join(f"\nThere is no {file}: {why}.\n" for file, why in missing.items() if why)


_FRONT_MATTER = """\
---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
- code-search
---
"""

_LIMITS = """\
## Intended use and limits

For finding code by what it does, finding passages by what they say, and as features of texts of the kind it was trained on.
It knows little of other languages and subjects, and nothing of a text past the longest that it takes (table above). A high
similarity is no proof: two texts that say opposite things of one matter are near to each other. Do not decide about people by
it. Held-out figures are of the same corpus: expect less on another.
"""

MEASURED_ELSEWHERE = (
    "Hours and energy depend on the machine, and so are not part of these reproducible files: `model_card.md` beside the "
    "run's report says them."
)

_ADAPTED = (
    "A text and code embedding model: a given one, trained on to tell the right partner of a text among all others of its "
    "batch, after *Text and Code Embeddings by Contrastive Pre-Training* ([arXiv 2201.10005](https://arxiv.org/abs/2201.10005))."
)

_INTRODUCTION = (
    "A text and code embedding model, made after *Text and Code Embeddings by Contrastive Pre-Training* "
    "([arXiv 2201.10005](https://arxiv.org/abs/2201.10005)): a causal transformer, trained to tell the right partner of a text "
    "among all others of its batch."
)


def _properties(facts: CardFacts, figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    around = "prompt and special tokens" if "prompts" in figures else "delimiters"
    return [
        ("checkpoint", figures["label"]),
        ("start of training", facts.base),
        *_adapters(figures),
        ("dimensions", _dimensions(figures)),
        ("parameters", f"{figures['parameters']:,}"),
        ("layers", str(figures["layers"])),
        ("vocabulary", f"{figures['vocab_size']:,}"),
        ("longest query", f"{figures['max_x_tokens']} tokens, {around} included; longer ones are cut"),
        ("longest document", f"{figures['max_y_tokens']} tokens, {around} included; longer ones are cut"),
        ("similarity", "cosine"),
    ]


def _dimensions(figures: Mapping[str, Any]) -> str:
    if beside := figures.get("beside"):
        parts = f"{beside['own_dim']} of this model, {beside['dim']} of the one beside it ({beside['checkpoint']})"
        return f"{figures['dim']}: {parts}"
    return f"{figures['dim']}" + (f", the first of {figures['whole_dim']}" if "whole_dim" in figures else "")


def _adapters(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was trained of the start, where that is not all."""
    lora = LoraConfig.model_validate(figures["training"].get("model", {}).get("lora", {}))
    if not lora.rank:
        return []
    targets = " and ".join(lora.targets)
    return [
        ("trained", f"LoRA adapters of rank {lora.rank} (alpha {lora.alpha:g}) on {targets}, merged into the start's weights")
    ]


def _bias(facts: CardFacts) -> str:
    if not facts.bias:
        return "Not measured. `cpt evaluate --suite bias` measures associations with groups of people.\n"
    return (
        "Effect sizes (0: none) of associations with groups of people, and the p-value of a permutation test; the tests are "
        "few, in English, and a small effect is no proof of harmlessness. Never used to choose the model.\n\n"
        + _figures(facts.bias)
    )


def _licence(facts: CardFacts) -> str:
    text = f"{facts.licence or 'Nothing was recorded of the licences of the training data.'}\n"
    if not facts.licences:
        return text
    named = sorted(facts.licences.items(), key=lambda item: (-item[1], item[0]))
    rows = [(name.replace("|", "/"), f"{count:,}") for name, count in named[:MOST_LICENCES]]
    if len(named) > MOST_LICENCES:
        rest = named[MOST_LICENCES:]
        rows.append((f"{len(rest):,} others", f"{sum(count for _, count in rest):,}"))
    return f"{text}\n{_table(('licence, as the source says it', 'training pairs'), rows)}"


def _cost(figures: Mapping[str, Any]) -> str:
    """The cost as far as it is no machine's; `with_measured_cost` adds the rest."""
    config = figures["training"].get("config", {})
    steps, batch_size = config.get("steps"), config.get("batch_size")
    pairs = steps * batch_size if steps and batch_size else 0
    pairs, steps = figures.get("seen", (pairs, steps))
    seen = f"{pairs:,} pairs in {steps:,} steps were seen. " if pairs else ""
    return seen + MEASURED_ELSEWHERE


def _seen(trained: Artifact) -> dict[str, Any]:
    """Pairs and steps of a run that its configuration alone does not tell: one that stopped early, or goes on from another."""
    facts = trained.manifest.facts
    is_told = "stopped_early" in facts or trained.manifest.config.get("config", {}).get("continue_from")
    return {"seen": (facts["pairs_seen"], facts["step"])} if is_told else {}


@dataclass(frozen=True)
class Cost:
    """Costs of making a model.

    Attributes:
        training_cpu_seconds, gpu_seconds: of the last attempt at training.
        attempts: how often the run was started until it was done.
    """

    cpu_seconds: float
    training_cpu_seconds: float
    gpu_seconds: float
    attempts: int = 1


def with_measured_cost(card: str, cost: Cost) -> str:
    """The card of one run: what the making cost on its machine in place of where to find that."""
    assert MEASURED_ELSEWHERE in card, "this card's section on cost is another one"
    cpu_hours, training_hours, gpu_hours = (
        seconds / 3600 for seconds in (cost.cpu_seconds, cost.training_cpu_seconds, cost.gpu_seconds)
    )
    energy = (cpu_hours * WATTS_A_CORE + gpu_hours * WATTS_A_GPU) / 1000
    interrupted = (
        f" The run was started {cost.attempts} times; training counts from its last start." if cost.attempts > 1 else ""
    )
    return card.replace(
        MEASURED_ELSEWHERE,
        f"The run took {cpu_hours:.3g} CPU-hours ({training_hours:.3g} of them training) and {gpu_hours:.3g} GPU-hours: "
        f"about {energy:.2g} kWh, estimated at {WATTS_A_CORE} W a busy core and {WATTS_A_GPU} W a GPU, which was not measured. "
        f"Stages that were there already count as when they were made.{interrupted}",
    )


def _decontamination(facts: CardFacts) -> str:
    return facts.decontamination or "The training texts were not compared with those of any evaluation suite."


def _training(facts: CardFacts, figures: Mapping[str, Any]) -> str:
    lines = [facts.data + "\n"] if facts.data else []
    if facts.counts:
        lines.append(_table(("data", "count"), [(name, f"{count:,}") for name, count in facts.counts.items()]))
    lines.append(f"Decontamination: {_decontamination(facts)}\n")
    settings = [(name, f"`{json.dumps(value, sort_keys=True)}`") for name, value in figures["training"].items()]
    lines.append(f"{_objective(figures['training'].get('config', {}))}. Settings:\n")
    lines.append(_table(("setting", "value"), settings))
    return "\n".join(lines)


def _objective(config: Mapping[str, Any]) -> str:
    loss = {"x_to_y": "Cross entropy of each x", "y_to_x": "Cross entropy of each y"}.get(config.get("directions", ""))
    temperature = "trainable" if config.get("train_temperature", True) else "fixed"
    precision = ", matrix products in bfloat16" if config.get("precision") == "bfloat16" else ""
    return f"{loss or 'Symmetric cross entropy'} over in-batch negatives, {temperature} temperature{precision}"


def _evaluation(facts: CardFacts) -> str:
    return "\n\n".join(["## Evaluation", *facts.notes, _figures(facts.metrics)])


def _figures(metrics: Sequence[Metric]) -> str:
    others = sorted({name for row in metrics for name in row.baselines})
    rows = [
        (
            row.task,
            row.metric,
            f"{row.value:.3f}",
            "" if row.low is None or row.high is None else f"{row.low:.3f} to {row.high:.3f}",
            "" if row.n is None else f"{row.n:,}",
            *(f"{row.baselines[name]:.3f}" if name in row.baselines else "" for name in others),
        )
        for row in metrics
    ]
    return _table(("task", "metric", "value", "95 % interval", "n", *others), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), line(("---",) * len(head)), *map(line, rows)]) + "\n"

"""Names of flow runs: as a person typed it, else the flow, the preset and the source."""

from __future__ import annotations

import re
from functools import cache
from pathlib import PurePath
from typing import Any

from flows.options import Group
from flows.params import EvaluateParams, Params
from flows.runs import PUBLISHED, is_checkpoint
from flows.settings import name_of
from pipeline_lib.errors import UserError

# What Prefect's UI fills in: a star of a constellation, with a number or a kind of region
_GREEK = (
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|iota|kappa|lambda|mu"
    "|nu|xi|omicron|pi|rho|sigma|tau|upsilon|phi|chi|psi|omega"
)
_REGIONS = (
    "[a-z]|adjunct|anomaly|band|boundary|cloud|cluster|collapse|conflux|expanse|field|fringe|instability|manifold|mass|nebula|point"
    "|quadrant|reach|ring|sector|shift|tensor|terminus|vector|void|warp"
)
_STAR = re.compile(rf"(?:{_GREEK})(?:\d+-[a-z]+(?:-[a-z]+){{0,2}}|-[a-z]+(?:-[a-z]+)?-(?:{_REGIONS}))")


def run_name() -> str:
    """The name of the flow run that begins: the one that it has, where that was typed; else what is run, on what."""
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    assert context is not None and context.flow is not None, "asked for outside a flow run"
    assert context.flow_run is not None, "asked for before the run is known"
    given = context.flow_run.name
    if not is_generated(given):
        return given
    return f"{context.flow.name}-{subject_of((context.parameters or {})['params'])}"


def is_generated(name: str) -> bool:
    """True of a name that Prefect makes up: two words of its generator, or a star of its UI."""
    first, _, second = name.partition("-")
    if (first in _words() and second in _words()) or _STAR.fullmatch(name):
        return True
    return bool(re.fullmatch(_GREEK, first)) and second in _stars()


def subject_of(params: Group) -> str:
    """What a run is called after: its models or checkpoint, else the preset with the run's name or that of its source.

    Of a flow that trains and measures nothing: the name in the registry that it is about.
    """
    if not isinstance(params, Params):
        return str(getattr(params, "name", None) or "default")
    if isinstance(params, EvaluateParams):
        models = [model if is_checkpoint(model) else PurePath(model.partition("=")[0]).name for model in params.models]
        return "-".join([", ".join(models) or _source(params) or PUBLISHED, *params.suites, params.split])
    return str(getattr(params, "checkpoint", None) or _source(params))


def _source(params: Params) -> str:
    preset = getattr(params, "preset", None)
    try:
        values = params.settings()
    except UserError:  # a file of settings is not there: the flow itself says so
        return str(preset or "")
    place = str(values.get("source.dump") or values.get("source.folder") or "")
    name = values.get("name") or name_of(PurePath(place).stem if values.get("source.dump") else place)
    return "-".join(dict.fromkeys(str(word) for word in (preset, name) if word))


@cache
def _words() -> frozenset[str]:
    """The words that Prefect's names are made of."""
    from coolname import data

    lists: Any = data.config  # a literal that its package gives no type

    def of(name: str) -> set[str]:
        entry = lists[name]
        if entry["type"] == "words":
            return set(entry["words"])
        return set().union(*(of(below) for below in entry.get("lists", ())))

    return frozenset(of("an"))


@cache
def _stars() -> frozenset[str]:
    """The stars, people and places that Prefect's UI names runs after; none where its pages do not hold the list."""
    import prefect

    for page in (prefect.__ui_static_path__ / "assets").glob("index-*.js"):
        if found := re.search(r"`andromedae\.[a-z.-]+`", page.read_text(errors="replace")):
            return frozenset(found[0].strip("`").split(".")) - {""}
    return frozenset()

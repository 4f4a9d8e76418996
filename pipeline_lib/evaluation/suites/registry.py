"""Suites by name and by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites import similarity
from pipeline_lib.evaluation.suites.beir import BEIR_11, Beir
from pipeline_lib.evaluation.suites.bias import AssociationBias, CoreferenceBias
from pipeline_lib.evaluation.suites.code_challenge import CHALLENGES, CodeChallenge
from pipeline_lib.evaluation.suites.code_search_net import LANGUAGES, CodeSearchNet
from pipeline_lib.evaluation.suites.codexglue import AdvTest, Codebase, CoSqa
from pipeline_lib.evaluation.suites.config import SuiteConfig
from pipeline_lib.evaluation.suites.label_search import Neighbours, ZeroShot, given_set
from pipeline_lib.evaluation.suites.labelled_sets import SENTEVAL_SETS, SST2
from pipeline_lib.evaluation.suites.linear_probe import LinearProbe
from pipeline_lib.evaluation.suites.passages import MsMarco, OpenQuestions
from pipeline_lib.evaluation.suites.smart import COLLECTIONS, Smart
from pipeline_lib.evaluation.suites.suite import Suite

Maker = Callable[[Path, SuiteConfig], Suite]

STS = ("sts12", "sts13", "sts14", "sts15", "sts16")

SUITES: dict[str, Maker] = {
    **{name: partial(similarity.SemEval, name) for name in STS},
    "sts-b": similarity.StsBenchmark,
    "sick-r": similarity.Sick,
    "sick-r-all": similarity.SickAll,
    **{labelled.name: partial(LinearProbe, labelled) for labelled in SENTEVAL_SETS},
    "sst2-zero-shot": partial(ZeroShot, SST2),
    "sst2-knn": partial(Neighbours, SST2),
    **{name: partial(Smart, name) for name in COLLECTIONS},
    **{f"codesearchnet/{language}": partial(CodeSearchNet, language) for language in LANGUAGES},
    **{name: partial(CodeChallenge, name.partition("/")[2]) for name in CHALLENGES},
    "ms-marco": MsMarco,
    "nq": partial(OpenQuestions, "nq"),
    "trivia-qa": partial(OpenQuestions, "trivia-qa"),
    "cosqa": CoSqa,
    "codexglue-advtest": AdvTest,
    "bias-association": AssociationBias,
    "bias-coreference": CoreferenceBias,
}

# families whose members are folders of the data: "FAMILY/FOLDER"
FAMILIES: dict[str, Callable[[str, Path, SuiteConfig], Suite]] = {
    "beir": Beir,
    "codexglue": Codebase,
    "probe": lambda folder, data, config: LinearProbe(given_set(folder), data, config),
    "zero-shot": lambda folder, data, config: ZeroShot(given_set(folder), data, config),
    "knn": lambda folder, data, config: Neighbours(given_set(folder), data, config),
}

GROUPS: dict[str, tuple[str, ...]] = {
    "similarity": (*STS, "sts-b", "sick-r"),
    "senteval": tuple(labelled.name for labelled in SENTEVAL_SETS),
    "beir-11": tuple(f"beir/{folder}" for folder in BEIR_11),
    "codesearchnet": tuple(f"codesearchnet/{language}" for language in LANGUAGES),
    "codesearchnet-99": CHALLENGES,
    "smart": tuple(COLLECTIONS),
    "sst2-all": ("sst2", "sst2-zero-shot", "sst2-knn"),
    "bias": ("bias-association", "bias-coreference"),
}

GROUPS["all"] = (*SUITES, *GROUPS["beir-11"])


def suite_names(wanted: Iterable[str]) -> list[str]:
    """The suites that these names and groups stand for, each once, in order.

    Raises:
        UserError: a name is neither; the message lists those that there are.
    """
    found: dict[str, None] = {}
    for name in wanted:
        for member in GROUPS.get(name, (name,)):
            family, _, folder = member.partition("/")
            if member not in SUITES and not (family in FAMILIES and folder):
                families = [f"{family}/FOLDER" for family in FAMILIES]
                raise UserError(f"no suite {name!r}; there are: {', '.join([*SUITES, *families])}; groups: {', '.join(GROUPS)}")
            found[member] = None
    return list(found)


def open_suite(name: str, data: Path, config: SuiteConfig) -> Suite:
    """The suite of that name, its files looked for below `data`.

    Raises:
        UserError: there is no such suite.
    """
    (name,) = suite_names([name]) if name not in GROUPS else (name,)
    family, _, folder = name.partition("/")
    if family in FAMILIES and folder:
        return FAMILIES[family](folder, data, config)
    if name not in SUITES:
        raise UserError(f"{name!r} is a group of suites; name one of {', '.join(GROUPS.get(name, ()))}")
    return SUITES[name](data, config)

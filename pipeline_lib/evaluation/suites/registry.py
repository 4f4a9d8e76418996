"""Suites by name and by group.

The judged texts of suites, written out for decontamination: curation reads files, and knows no suite.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites import similarity
from pipeline_lib.evaluation.suites.bias import AssociationBias, CoreferenceBias
from pipeline_lib.evaluation.suites.code_challenge import CHALLENGES, CodeChallenge
from pipeline_lib.evaluation.suites.code_search import LANGUAGES, AdvTest, Codebase, CodeSearchNet, CoSqa
from pipeline_lib.evaluation.suites.label_search import Neighbours, ZeroShot, given_set
from pipeline_lib.evaluation.suites.labelled_sets import SENTEVAL_SETS, SST2
from pipeline_lib.evaluation.suites.linear_probe import LinearProbe
from pipeline_lib.evaluation.suites.official_files import MissingData
from pipeline_lib.evaluation.suites.passages import MsMarco, OpenQuestions
from pipeline_lib.evaluation.suites.suite import Suite, SuiteText
from pipeline_lib.evaluation.suites.text_search import BEIR_11, COLLECTIONS, Beir, Smart
from pipeline_lib.store.files import replace_file

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


JUDGED_SPLITS = ("validation", "test")


def write_judged_texts(suite: Suite, folder: Path, skip_missing: bool = False) -> int:
    """Write `NAME.jsonl.gz`, its records as the stage "contamination" takes them; returns how many texts it holds.

    Both judged splits are written, each distinct text once: equal downloads give equal bytes.

    Args:
        skip_missing: a split whose files are not there is passed over; where none is there, nothing is written.

    Raises:
        MissingData: what is missing, and where to get it.
    """
    texts: dict[str, SuiteText] = {}
    for split in suite.splits:
        if split in JUDGED_SPLITS:
            try:
                for text in suite.texts(split):
                    texts.setdefault(text.text, text)
            except MissingData:
                if not skip_missing:
                    raise
    texts.pop("", None)
    if texts:
        content = io.BytesIO()
        with gzip.GzipFile(fileobj=content, mode="wb", mtime=0) as stream:
            for text in texts.values():
                kind = "code" if text.is_code else "text"
                record = {"suite": suite.name, "id": text.id, "text": text.text, "kind": kind}
                stream.write(json.dumps(record).encode() + b"\n")
        replace_file(folder / f"{suite.name.replace('/', '-')}.jsonl.gz", content.getvalue())
    return len(texts)

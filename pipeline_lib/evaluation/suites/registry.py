"""Registry of suites and of models by name, and the judged texts of suites, written out for decontamination.

A suite registers itself: any file of this folder that has SUITES is found. Curation reads the judged texts from files and knows
no suite.
"""

from __future__ import annotations

import difflib
import gzip
import io
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites import suite_modules
from pipeline_lib.evaluation.suites.lexical import Bm25Model, TfidfModel
from pipeline_lib.evaluation.suites.models import Model
from pipeline_lib.evaluation.suites.official_files import MissingData
from pipeline_lib.evaluation.suites.outside import open_outside
from pipeline_lib.evaluation.suites.suite import Families, Groups, Suite, Suites, SuiteText
from pipeline_lib.store.files import replace_file

OPENERS: dict[str, Callable[[], Model]] = {"bm25": Bm25Model, "tfidf": TfidfModel}


def find_suites() -> tuple[Suites, Families, Groups]:
    """Suites, families and groups of all files; the group "all" is every suite, and BEIR's eleven."""
    modules = list(suite_modules())
    suites, families, groups = (
        {name: entry for module in modules for name, entry in getattr(module, table, {}).items()}
        for table in ("SUITES", "FAMILIES", "GROUPS")
    )
    return suites, families, groups | {"all": (*suites, *groups["beir-11"])}


SUITES, FAMILIES, GROUPS = find_suites()


def open_model(name: str) -> Model:
    """A lexical baseline by its name, else the model in a folder or on the hub (see `models.open_outside`).

    Raises:
        UserError: there is none.
    """
    if name in OPENERS:
        return OPENERS[name]()
    if "/" not in name and not Path(name).is_dir():
        raise UserError(f"no model {name!r}; there are: {', '.join(OPENERS)}, FOLDER, NAME=FOLDER and hub:ORGANISATION/MODEL")
    return open_outside(name)


def suite_names(wanted: Iterable[str]) -> list[str]:
    """The suites that these names and groups stand for, each once, in order.

    Raises:
        UserError: a name is neither; the message has the nearest ones.
    """
    found: dict[str, None] = {}
    for name in wanted:
        for member in GROUPS.get(name, (name,)):
            family, _, folder = member.partition("/")
            if member not in SUITES and not (family in FAMILIES and folder):
                raise UserError(_no_suite(name))
            found[member] = None
    return list(found)


def _no_suite(name: str) -> str:
    """The nearest names, by letters, and where all of them stand."""
    families = [f"{family}/FOLDER" for family in FAMILIES]
    members = [member for group in GROUPS.values() for member in group]
    names = {folded(member.rpartition("/")[2]): member for member in members if "/" in member}  # scifact is beir/scifact
    names |= {folded(each): each for each in (*members, *SUITES, *GROUPS, *FAMILIES)}
    near = [names[each] for each in difflib.get_close_matches(folded(name), names, n=3, cutoff=0.5)]
    near += [each for each in names.values() if len(folded(name)) > 1 and folded(name) in folded(each)][:3]
    near = list(dict.fromkeys(near))
    shown = [f"{each}/FOLDER" if each in FAMILIES else each for each in near] or list(GROUPS)
    what = "the nearest are" if near else "groups are"
    return (
        f"no suite {name!r}; {what} {', '.join(shown)} (of {len(SUITES)}, and {', '.join(families)}: docs/how-to/evaluation.md)"
    )


def folded(name: str) -> str:
    """Letters and digits alone: `STS-B`, `stsb` and `sts_b` are alike."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


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

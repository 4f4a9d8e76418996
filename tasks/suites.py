"""Suite tasks: public evaluation suites on checkpoints and other models, with the table in the UI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.metrics import read_evaluations
from pipeline_lib.evaluation.suites.cached import embedding_processes
from pipeline_lib.evaluation.suites.evaluate import check_split, evaluate_suite
from pipeline_lib.evaluation.suites.models import HybridModel, Model, WordModel
from pipeline_lib.evaluation.suites.official_files import MissingData
from pipeline_lib.evaluation.suites.registry import GROUPS, open_suite, suite_names
from pipeline_lib.evaluation.suites.report import Compared, write_comparison, write_suite_report
from pipeline_lib.evaluation.suites.suite import Suite
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from tasks.ui import StageProgress, say, show_link, show_table, stage_task

OpenSuites = tuple[list[Suite], dict[str, str]]


@stage_task("open-suites")
def open_suites_task(
    names: Sequence[str], data: str, split: str, quick: bool, skip_missing: bool, config: SuiteConfig | None = None
) -> OpenSuites:
    """The suites with their files found, before anything is embedded; and those passed over, with the reason.

    A member of a group that has no such split is passed over; one that was named is an error.

    Raises:
        MissingData: a suite's files are not there, and they may not be skipped.
        UserError: an unknown suite, a split that a suite has not, no data folder, or no suite is left.
    """
    if not data:
        raise UserError("suites read official downloads: give the folder that holds them, as --suite-data DIR")
    config = config or SuiteConfig()
    config = config.quick_variant() if quick else config
    config = config.model_copy(update={"processes": config.processes or embedding_processes()})
    suites: list[Suite] = []
    skipped: dict[str, str] = {}
    for name in suite_names(names):
        suite = open_suite(name, Path(data), config)
        if split not in suite.splits and name not in names:
            skipped[name] = f"it has no split {split}"
            continue
        check_split(suite, split)
        try:
            suite.paths(split)
        except MissingData as error:
            if not skip_missing:
                raise
            skipped[name] = str(error)
            continue
        suites.append(suite)
    if not suites:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise UserError(f"no suite is left to run ({reasons}); groups are: {', '.join(GROUPS)}")
    return suites, skipped


@stage_task("evaluate-suite")
def suite_task(store: Store, model: Model, suite: Suite, split: str) -> Artifact:
    """One model on one suite."""
    progress = StageProgress(f"{model.id.name}, {suite.task}")
    artifact = evaluate_suite(store, model, suite, split, progress)
    progress.finish(suite_headline(artifact))
    return artifact


@stage_task("show-suites")
def show_suites_task(folder: Path, found: Sequence[Artifact], split: str, skipped: dict[str, str]) -> None:
    """The table of all figures with their intervals in the UI, and the report beside the run's own."""
    page = write_suite_report(folder, found, split, skipped)
    say(f"  report: {page}")
    show_table(f"suites-{split}", read_evaluations(found), f"Public suites on {split}, 95 % intervals")


@stage_task("compare")
def compare_task(folder: Path, compared: Compared) -> Path:
    """The page of this evaluation, its table in the UI with the differences from the champion, and a link to the page."""
    progress = StageProgress("compare")
    page = write_comparison(folder, compared)
    told = f"the champion is {compared.champion_name}" if compared.champion_name else "there is no champion to compare with"
    for line in compared.sentences():
        progress.note(line)
    key, split = f"evaluation-{compared.split}-{folder.name}", compared.split
    show_table(f"compared-{split}-{folder.name}", compared.table(), f"Figures on {split}, 95 % intervals; {told}")
    show_link(key, page, "Evaluation", f"The page of this evaluation of {folder.name} on {split}")
    progress.finish(f"{told}; {page}")
    return page


def fits(model: Model, suite: Suite) -> bool:
    """True if a model can be put through a suite: BM25 has no symmetric similarity, nor has what fuses it with vectors."""
    return not isinstance(model, WordModel | HybridModel) or (suite.kind in model.kinds and not suite.needs_encoder)


def suite_headline(artifact: Artifact) -> str:
    """The headline task's figures in one line."""
    task = artifact.manifest.facts["headline"]
    rows = [row for row in read_evaluations([artifact]) if row["task"] == task]
    figures = ", ".join(f"{row['metric']} {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in rows)
    left_out = artifact.manifest.facts.get("left_out", {})
    told = ", ".join(f"{reason.replace('_', ' ')} {n:,}" for reason, n in left_out.items())
    return f"{figures}; left out: {told}" if told else figures

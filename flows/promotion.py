"""Promotion: what becomes of a published run in the registry, by gate or by a person; and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prefect import flow
from prefect.context import FlowRunContext
from pydantic import BaseModel, ConfigDict, Field

from flows.approval import NOBODY, AskedAlready, Question, ask, starter_of
from flows.candidate import Published
from flows.evaluate import measured_on_validation
from flows.hooks import FLOW_OPTIONS, in_subflow
from flows.notices import tell_waiting
from flows.options import Group, place
from flows.pools import FiguredSplit
from flows.roots import admit
from flows.runs import champions_checkpoint, given_source, name_in_registry
from pipeline_lib.evaluation.gate import Check
from pipeline_lib.runtime.machine import artifact_home
from pipeline_lib.search import registry
from pipeline_lib.search.registry import Candidate, ChampionChanged
from pipeline_lib.search.registry_log import Champion
from tasks.promotion import Rivals, compare_task, comparison_markdown, contracts_check, promote_task
from tasks.ui import say

Row = dict[str, Any]
TRIAL = "its sizes only show that everything works: it is searched by its name, and is no champion"


def promoted(published: Published, more: Row | None = None) -> Published:
    """Promote a run whose export and index are done, or hold it back; the same with its figures, and what became of it and why.

    The decision is made on validation. Only then are the figures measured that the card shows: on test, or of a candidate that
    is held back on validation. The registry's event comes last. Call it from a flow's own body: the run itself may pause.

    A champion that changes while it is compared with is compared with again; a candidate that loses to the new one has been
    measured on test, and its event says so.

    Args:
        more: what the caller needs to go on, as JSON, where the run suspends itself until a person answers.
    """
    step = _Promotion(published, more or {})
    while True:
        try:
            row = step.decide()
        except ChampionChanged as error:
            say(f"  {error}")
            continue
        say(f"  {'promotion':<18} {row['name']}: {row['sentence']}")
        return replace(step.published, promotion=row)


class _Promotion:
    """One candidate on its way into the registry; see `promoted`."""

    def __init__(self, published: Published, more: Row) -> None:
        run, label = published.run, published.checkpoint
        self.published, self.more = published, more
        self.run, self.label, self.config, self.store = run, label, run.work.config, run.work.store
        self.place = run.work.registry
        self.name, self.renamed = self._name()
        self.by = started_by()
        self.when = self.config.promote.when or ("gate" if self.by == "schedule" else "always")
        self.told: Row = {"by": self.by, "candidate": f"{run.key}/{label}"}
        self._stand_in()

    @property
    def candidate(self) -> Candidate:
        """The pair with all that was made for it so far."""
        stages, validation = self.published.stages, self.published.validation
        made = {**self.run.stages, **stages}
        return Candidate(
            stages["export"],
            stages["index"],
            self.run.key,
            self.label,
            {stage: artifact.manifest.key for stage, artifact in made.items() if stage != "train"},
            [artifact.manifest.key for artifact in (validation.checkpoints[self.label] if validation else ())],
            given_source(self.config),
        )

    def decide(self) -> Row:
        """One event of the registry, or none where the pair is in use already."""
        self.told.pop("comparison", None)  # with a champion that is none any more
        self.name, self.renamed = self._name()  # another source may have taken the first one meanwhile
        if self.when == "never":
            return self._kept_back(["--no-promote (promote: never) was asked for"], "kept back")
        if self.config.tests_plumbing:
            self._measure("test")
            registry.try_out(self.place, self.name, self.candidate, TRIAL, self.told)
            self._choose()
            return self._row("tried", f"not promoted: {TRIAL}")
        found = registry.champion(self.place, self.name)
        if found and found.model_digest == self.candidate.exported.digest:
            is_same = found.index_digest == self.candidate.indexed.digest
            return self._promote("in use already" if is_same else "its index is of other documents", found)
        if found is None:
            return self._promote("the first of its name", found)
        if self.when == "always":
            return self._promote(f"started by a {self.by}" if self.by == "person" else "promote: always", found)
        if self.when == "gate" and self.candidate.exported.digest in found.taken_back:
            return self._kept_back(["it was rolled back, and no gate brings back what a person took out of use"])
        checks = self._compared(found)
        reasons = [check.reason for check in checks if check.reason]
        self.told["comparison"] = self._comparison(found, checks)
        if self.when == "ask":
            return self._asked(found, checks, reasons)
        return self._kept_back(reasons) if reasons else self._promote("better than the champion", found)

    def _name(self) -> tuple[str, str]:
        params = self.run.params
        return name_in_registry(self.config, params.settings() if params else None, self.place)

    def _asked(self, found: Champion, checks: Sequence[Check], reasons: Sequence[str]) -> Row:
        """The answer of a person, for whom the run pauses with the comparison on show."""
        hours = self.config.promote.ask_hours

        def tell() -> None:
            say(f"  {'promotion':<18} {self.name}: paused in Prefect's UI until somebody answers, {hours:g} h at most")
            doubts = "; ".join(reasons) or "better than the champion"
            reason = f"{self.told['candidate']}: {doubts}; {hours:g} h at most"
            tell_waiting(artifact_home(), self.config.notify, self.name, reason)

        about = [self.candidate.exported.digest, self.candidate.indexed.digest, found.model_digest]
        page, kept = comparison_markdown(self.name, checks), {**self.published.kept, "more": self.more}
        try:
            answer = ask(Question(page, about, kept, hours), tell)
        except AskedAlready as other:
            return self._kept_back([f"the run {other} asks about it already", *reasons])
        if answer is None:
            return self._kept_back([f"{NOBODY} within {hours:g} h", *reasons])
        self.by = self.told["by"] = "person"
        said = f": {answer.reason}" if answer.reason else ""
        if not answer.promote:
            return self._kept_back([f"a person said no{said}", *reasons])
        return self._promote(f"a person said yes{said}", found)

    def _promote(self, why: str, found: Champion | None) -> Row:
        self._measure("test")
        against = found.event if found else 0
        now = promote_task(self.place, self.name, self.candidate, why, self.told, against)
        self._stand_in()
        self._choose()
        if found and (now.event, now.index_digest) == (found.event, found.index_digest):
            return self._row("in use", why)
        return self._row("promoted", f"promoted: {why}")

    def _kept_back(self, reasons: Sequence[str], event: str = "rejected") -> Row:
        self._measure("validation" if event == "rejected" else "test")
        told = {**self.told, "reasons": list(reasons), "why": "; ".join(reasons), "event": event}
        registry.record(self.place, self.name, told)
        command = f"cpt publish --checkpoint {self.run.key}/{self.label}"
        return self._row(event, f"not promoted: {'; '.join(reasons)}. `{command}` promotes it", reasons)

    def _measure(self, split: FiguredSplit) -> None:
        """The figures that are shown of it; an event tells whose test split was opened for it."""
        if split == "test" or self.published.test is None:
            self.published = self.published.figured(split)
        if self.published.test is not None:
            self.told["tested_on"] = self.run.lineage.curated.manifest.key

    def _stand_in(self) -> None:
        if self.store.remote:
            registry.stand_in(self.run.work.home, self.name, self.store.remote)

    def _choose(self) -> None:
        """Searches without a name use the last that a person published; schedules and gates never change that."""
        if self.by == "person" and self.when in ("always", "ask"):
            for home in {self.place, self.run.work.home}:  # with a bucket, here and there
                registry.choose(home, self.name)

    def _row(self, event: str, sentence: str, reasons: Sequence[str] = ()) -> Row:
        renamed = f" ({self.renamed})" if self.renamed else ""
        row = {"name": self.name, "event": event, "sentence": sentence + renamed, "reasons": list(reasons)}
        return {**row, "comparison": self.told.get("comparison", {}), "by": self.by}

    def _compared(self, found: Champion) -> list[Check]:
        """The checks of the gate, on validation of the candidate's corpus."""
        mine, theirs = self.run.checkpoint(self.label), champions_checkpoint(self.store, found)
        subject = f"{self.config.name}-gate"
        (candidate, champion), checked = in_subflow("evaluate", subject, measured_on_validation, self.run, [mine, theirs])
        contracts = {stage: made for stage, made in self.run.stages.items() if stage in ("validate", "check_shards")}
        checks = contracts_check({**contracts, "check validation": checked})
        rivals = Rivals(found, champion, candidate, self.candidate, mine)
        return compare_task(self.store, self.run.lineage.curated, rivals, checks, self.config)

    def _comparison(self, found: Champion, checks: Sequence[Check]) -> Row:
        events = registry.history(self.place, self.name)
        used = 1 + sum(1 for event in events if event.get("comparison"))
        return {
            "champion": f"{found.trained}/{found.checkpoint}",
            "checks": [check.row() for check in checks],
            "confidence": self.config.promote.confidence,
            "validation": self.run.lineage.curated.manifest.key,
            "validation_used": used,
        }


def started_by() -> str:
    """Who started the run that this belongs to: "schedule" or "person"."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return "person"
    from prefect import get_client
    from prefect.runtime import flow_run

    with get_client(sync_client=True) as client:
        return starter_of(client.read_flow_run(flow_run.root_flow_run_id))


class RollbackParams(Group):
    """Which name goes back, and how far."""

    name: str | None = Field(None, title="Name", description="Of the model; unset: the one that searches use without a name.")
    to: int | None = Field(
        None,
        title="To",
        description="Number of the event whose pair is wanted; unset: the pair before the last promotion.",
        ge=1,
    )
    reason: str | None = Field(None, title="Reason", description="A word for the history.")
    artifacts: str | None = place("Artifacts", "Bucket (s3://bucket/prefix) whose registry is meant; unset: this machine's.")


class RolledBackRef(BaseModel):
    """The pair that is in use again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    checkpoint: str
    since: str
    event: int


@flow(name="rollback", **FLOW_OPTIONS)
def rollback(params: RollbackParams) -> RolledBackRef:
    """Bring the pair back that a name had before its last promotion, or that of an earlier event.

    Args:
        params: which name, and how far.
    """
    admit(params)
    home = params.artifacts or artifact_home()
    name = params.name or registry.default_name(home)
    now = registry.rollback(home, name, params.to, params.reason or "")
    say(f"  {name} is {now.trained}/{now.checkpoint} again")
    return RolledBackRef(name=name, checkpoint=f"{now.trained}/{now.checkpoint}", since=now.since, event=now.event)

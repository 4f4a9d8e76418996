"""What each filter drops, with samples: for people who choose the bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline_lib.config import TextPairsConfig
from pipeline_lib.filter_config import CodeFilterConfig, FilterConfig, QualityConfig, RepetitionConfig
from pipeline_lib.pairs.document_filters import Document, active_filters
from pipeline_lib.pairs.filters import TEXT_RULES

SAMPLE_CHARACTERS = 200


@dataclass
class FilterReport:
    """Counts by the filter's name.

    Attributes:
        seen: documents or pairs looked at.
        dropped: by the first filter that applies, as extraction counts them.
        alone: what each filter would drop if it were the only one.
        reasons: why each filter drops.
        samples: heads of texts that each filter applies to, the first ones.
    """

    seen: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    alone: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def kept(self) -> int:
        """What no filter drops."""
        return self.seen - self.dropped.total()

    def add(self, other: FilterReport, n_samples: int) -> None:
        """Take in what another report saw."""
        self.seen += other.seen
        self.dropped += other.dropped
        self.alone += other.alone
        self.reasons |= other.reasons
        for name, samples in other.samples.items():
            kept = self.samples.setdefault(name, [])
            kept += samples[: n_samples - len(kept)]

    def note(self, applying: Iterable[str], text: str, n_samples: int) -> None:
        """Count one text and the filters that apply to it, in their order."""
        names = list(applying)
        self.seen += 1
        self.dropped.update(names[:1])
        self.alone.update(names)
        for name in names:
            kept = self.samples.setdefault(name, [])
            if len(kept) < n_samples:
                kept.append(" ".join(text[: 2 * SAMPLE_CHARACTERS].split())[:SAMPLE_CHARACTERS])


PUBLISHED = FilterConfig(
    quality=QualityConfig(enabled=True), repetition=RepetitionConfig(enabled=True), code=CodeFilterConfig(enabled=True)
)  # every family of rules that has bounds of its own, those of Gopher and The Stack


def report_on_documents(documents: Iterable[Document], config: FilterConfig, n_samples: int = 3) -> FilterReport:
    """Try every active filter on every document."""
    rules = list(active_filters(config))
    report = FilterReport(reasons={rule.name: rule.reason for rule in rules})
    for document in documents:
        applying = [rule.name for rule in rules if document.kind in rule.kinds and rule.drops(document, config)]
        report.note(applying, document.text, n_samples)
    return report


def report_on_text_pairs(pairs: Iterable[tuple[str, str]], config: TextPairsConfig, n_samples: int = 3) -> FilterReport:
    """Try every rule for neighbouring pieces on every (x, y)."""
    report = FilterReport(reasons={rule.name: rule.reason for rule in TEXT_RULES})
    for x, y in pairs:
        report.note([rule.name for rule in TEXT_RULES if rule.drops(x, y, config)], f"{x} | {y}", n_samples)
    return report

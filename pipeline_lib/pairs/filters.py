"""Drop rules of text pairs as data: a name to count by, and when it applies; and reports of what rules drop, with samples.

The first rule that applies names the reason. The reports are for people who choose the bounds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline_lib.config.data import TextPairsConfig
from pipeline_lib.config.filters import CodeFilterConfig, FilterConfig, QualityConfig, RepetitionConfig
from pipeline_lib.languages import scripts
from pipeline_lib.pairs.document_filters import DocumentText, active_filters


class TextRule(NamedTuple):
    """A rule for two neighbouring segments."""

    name: str
    drops: Callable[[str, str, TextPairsConfig], bool]
    reason: str


_TEST_PATH = re.compile(
    r"(?:^|/)(?:tests?|testing|conftest\.py|test_[^/]*\.(?:py|rb)|[^/]*_test\.(?:py|rb|go)|__tests__|__mocks__)(?:/|$)"
    r"|[^/]\.(?:test|spec)\.[cm]?js$|[^/](?:Tests?|TestCase)\.(?:java|php)$|_spec\.rb$|(?:^|/)spec/[^\n]*\.rb$"
    r"|[^/]\.(?:test|spec)(?:-d)?\.[cm]?tsx?$|[^/](?:Tests?|TestCase|Spec|Suite)\.(?:cs|kts?|swift|scala)$"
    r"|(?:[^/]_(?:unit)?tests?|(?:^|/)(?:unit)?test_[^/]*|(?:^|/)(?:unit)?tests?)\.(?:c|h|cc|cpp|cxx|hh|hpp|hxx|rs)$"
    r"|(?:^|/)(?:[A-Za-z]*Tests?|(?:unit|integration)[-_]?tests?|src/[a-z]+Test|[\w.-]+\.(?:Unit|Integration)?Tests?)/[^\n]*"
    r"\.(?:cs|kts?|swift|scala)$"
)
_TEST_WORDS = ("est", "spec", "__mocks__", "Spec", "Suite")


def is_test_path(path: str) -> bool:
    """True where a file holds tests, by its path inside its source: such a file is not even parsed."""
    # what every test's path holds: a tenth of the expression's time
    return any(map(path.__contains__, _TEST_WORDS)) and _TEST_PATH.search(path) is not None


TEXT_RULES: tuple[TextRule, ...] = (
    TextRule("not_text", lambda x, y, _: has_control_bytes(x) or has_control_bytes(y), "control characters"),
    TextRule(
        "not_prose",
        lambda x, y, config: min(letter_share(x), letter_share(y)) < config.min_letter_share,
        "tables and listings of numbers",
    ),
    TextRule("same_text", lambda x, y, _: x == y, "nothing to tell apart"),
    TextRule(
        "similar",
        lambda x, y, config: config.max_word_overlap < 1 and word_overlap(x, y) > config.max_word_overlap,
        "the same words again: boilerplate, or a template filled in twice",
    ),
)


class SampledDrops(Counter[str]):
    """Counts of drops that also keep the first pairs of each reason, for people who choose the bounds."""

    def __init__(self, n_samples: int = 3) -> None:
        super().__init__()
        self.n_samples = n_samples
        self.samples: dict[str, list[tuple[str, str]]] = {}

    def keep(self, reason: str, x: str, y: str) -> None:
        """Remember a dropped pair, if it is among the first of its reason."""
        kept = self.samples.setdefault(reason, [])
        if len(kept) < self.n_samples:
            kept.append((x, y))


def note_drop(dropped: Counter[str], reason: str, pair: Callable[[], tuple[str, str]]) -> None:
    """Count a pair that is dropped; its texts are asked for only where samples are kept."""
    dropped[reason] += 1
    if isinstance(dropped, SampledDrops):
        dropped.keep(reason, *pair())


def text_drop(x: str, y: str, config: TextPairsConfig) -> str | None:
    """The reason to drop a pair of segments, or None to keep it."""
    for rule in TEXT_RULES:
        if rule.drops(x, y, config):
            return rule.name
    return None


_SPACES = bytes(b for b in range(128) if chr(b).isspace())
_NO_LETTERS = bytes(b for b in range(128) if not chr(b).isalpha())
_CONTROL = bytes(b for b in range(128) if not chr(b).isprintable() and not chr(b).isspace())

# Both measure the bytes of a text by deleting some: 20 times as fast as a regular expression over its characters.


def letter_share(text: str) -> float:
    """Letters, with the marks that belong to them, among all characters but spaces.

    About 0.95 in prose, below 0.6 in tables and listings of numbers.
    """
    data = text.encode("ascii", "ignore")
    letters, solid = len(data.translate(None, _NO_LETTERS)), len(data.translate(None, _SPACES))
    if len(data) < len(text):
        other_letters, other_solid = scripts.letters_beyond_ascii(text)
        letters, solid = letters + other_letters, solid + other_solid
    return letters / solid if solid else 0.0


def word_overlap(x: str, y: str) -> float:
    """Jaccard similarity of the sets of words of two texts, whatever their case; without spaces, of neighbouring letters."""
    x_words, y_words = scripts.elements(x.lower()), scripts.elements(y.lower())
    either = len(x_words | y_words)
    return len(x_words & y_words) / either if either else 1.0


def has_control_bytes(text: str) -> bool:
    """True where a text holds control characters or unpaired surrogates, as escapes in a docstring can make them."""
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return len(data.translate(None, _CONTROL)) < len(data)


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
        """Number of texts that no filter drops."""
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


def report_on_documents(documents: Iterable[DocumentText], config: FilterConfig, n_samples: int = 3) -> FilterReport:
    """Try every active filter on every document."""
    rules = list(active_filters(config))
    report = FilterReport(reasons={rule.name: rule.reason for rule in rules})
    for document in documents:
        applying = [rule.name for rule in rules if document.kind in rule.kinds and rule.drops(document, config)]
        report.note(applying, document.text, n_samples)
    return report

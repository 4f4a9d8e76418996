"""Held-out splits: whole groups, by the hash of their name, unless their source is kept out of a split or wholly in one."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal

from pipeline_lib.config.data import CurateConfig, HoldOut
from pipeline_lib.errors import UserError

Split = Literal["train", "validation", "test"]

MIN_DOCUMENTS = 3  # one for each split


def split_of(group: str, config: CurateConfig) -> Split:
    """The split of a group (a package, repository or document): a pure function of its name and the config.

    sha256(salt, group) mod 100 below `test_percent` is test, the next `validation_percent` are validation, the rest is
    train: more data never moves a group.
    """
    bucket = _hash(group, config) % 100
    if bucket < config.test_percent:
        return "test"
    if bucket < config.test_percent + config.validation_percent:
        return "validation"
    return "train"


def split_groups(groups: Iterable[str], config: CurateConfig) -> dict[str, Split]:
    """The split of each group by `split_of`."""
    return {group: split_of(group, config) for group in sorted(set(groups))}


_PINNED: dict[HoldOut, Split] = {"never": "train", "validation": "validation", "test": "test"}


def pinned_units(sources: Mapping[str, frozenset[str]], hold_out: Mapping[str, HoldOut]) -> dict[str, Split]:
    """The split of each group (or document) that a source with a `hold_out` has a share in; no split cuts through it.

    Args:
        sources: group -> the sources of its pairs.
        hold_out: source -> where its texts go.

    Raises:
        UserError: two sources of one group go to different splits.
    """
    pinned: dict[str, Split] = {}
    for unit in sorted(sources):
        asked = {hold_out[source]: source for source in sorted(sources[unit]) if hold_out.get(source, "auto") != "auto"}
        if len(asked) > 1:
            said = " and ".join(f"{source} {where}" for where, source in sorted(asked.items()))
            raise UserError(
                f"curate: the sources {said} share the group {unit!r}, which no split cuts through; give them one `hold_out`,"
                " or each a `group`"
            )
        if asked:
            pinned[unit] = _PINNED[min(asked)]
    return pinned


def split_documents(kinds: Mapping[str, frozenset[str]], config: CurateConfig) -> dict[str, Split]:
    """The split of each document of a set too small to be split by group: by rank in hash order, so that none is empty.

    Documents are ranked apart by the kinds of pairs that they hold, so that each kind that three documents hold is in every
    split. The first `test_percent` (one at least) are test, the next `validation_percent` (one at least) validation.

    Args:
        kinds: document id -> the kinds of its pairs.
    """
    ranks: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for document in sorted(kinds, key=lambda name: (_hash(name, config), name)):
        ranks[tuple(sorted(kinds[document]))].append(document)
    if all(len(documents) < MIN_DOCUMENTS for documents in ranks.values()):
        ranks = {(): [document for documents in ranks.values() for document in documents]}
    splits: dict[str, Split] = {}
    for documents in ranks.values():
        test, validation = _sizes(len(documents), config)
        for rank, document in enumerate(documents):
            splits[document] = "test" if rank < test else "validation" if rank < test + validation else "train"
    return splits


def _sizes(documents: int, config: CurateConfig) -> tuple[int, int]:
    if documents < MIN_DOCUMENTS:
        return 0, 0
    return (
        max(1, documents * config.test_percent // 100),
        max(1, documents * config.validation_percent // 100),
    )


def _hash(name: str, config: CurateConfig) -> int:
    return int.from_bytes(hashlib.sha256(f"{config.split_salt}\x1f{name}".encode()).digest()[:8], "big")

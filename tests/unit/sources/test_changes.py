"""Changes of a dump: by content, whatever the time of a file."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.sources.changes import Files, changes_between, files_of, listed_files
from pipeline_lib.sources.dump_files import list_bundles, listing_key, write_listing
from pipeline_lib.store.store import Store


def listed(folder: Path) -> Files:
    return listed_files(file for bundle in list_bundles(SourceConfig(folder=str(folder))) for file in bundle.files)


def test_new_changed_and_removed_files_by_content_alone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("same", "touched", "changed", "removed"):
        (source / f"{name}.md").write_text(f"# {name}\n\nSome prose.\n")
    before, times = listed(source), (source / "changed.md").stat()
    os.utime(source / "touched.md", (1, 1))
    (source / "changed.md").write_text("# changed\n\nSome verse.\n")  # of the same length
    os.utime(source / "changed.md", ns=(times.st_atime_ns, times.st_mtime_ns))
    (source / "removed.md").unlink()
    (source / "new.md").write_text("# new\n")
    found = changes_between(before, listed(source))
    assert (found.new, found.changed, found.removed) == (
        ("source: new.md",), ("source: changed.md",), ("source: removed.md",),
    )  # fmt: skip
    assert found.bytes == sum((source / name).stat().st_size for name in ("new.md", "changed.md"))
    assert found.total_bytes == sum(path.stat().st_size for path in source.iterdir()) and 0 < found.share < 1
    assert found.sentence == "1 new, 1 changed, 1 removed files"
    assert changes_between(before, before).sentence == "no file is new, changed or removed"


def test_a_listing_that_was_written_is_compared_with_one_that_was_not(tmp_path: Path) -> None:
    source, store = tmp_path / "source", Store(tmp_path / "store")
    source.mkdir()
    for number in range(9):
        (source / f"{number}.md").write_text(f"# {number}\n")
    config = SourceConfig(folder=str(source))
    key = listing_key(store, config, list_bundles(config))
    assert store.keys("source") == [], "to name it writes nothing"
    listing = write_listing(store, config, list_bundles(config))
    assert listing.manifest.key == key and files_of(listing) == listed(source)
    (source / "9.md").write_text("# 9\n")
    assert listing_key(store, config, list_bundles(config)) != key
    found = changes_between(files_of(listing), listed(source))
    assert found.new == ("source: 9.md",) and found.lines() == ["new      source: 9.md"]
    many = changes_between({}, listed(source))
    assert len(many.lines()) == 6 and many.lines()[-1] == "new      and 5 more"


def test_a_dump_has_shrunk_by_what_it_lost_and_not_by_what_moved() -> None:
    before = {("tree", f"{name}.py"): (name, 9) for name in "abcd"}
    moved = {("tree", f"new/{name}.py"): (name, 9) for name in "abcd"}
    another = {("tree", "of-today.jsonl"): ("z", 36)}
    for now in (before, moved, another):
        assert changes_between(before, now).shrunk == 0
    kept = {name: file for name, file in before.items() if name[1] == "a.py"}
    assert changes_between(before, kept).shrunk == 0.75 and changes_between(kept, before).shrunk == 0
    assert changes_between({}, kept).shrunk == 0 and changes_between(before, {}).shrunk == 1

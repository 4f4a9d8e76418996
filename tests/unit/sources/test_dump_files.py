from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.sources.dump_files import bundles_of
from pipeline_lib.sources.source_file import SourceFile


def a_file(path: str, size: int, source: str = "numpy 2") -> SourceFile:
    return SourceFile(
        place=f"/{path}", path=path, source=source, group="numpy", licence=None, form="python", bytes=size,
        sha256=hashlib.sha256(path.encode()).hexdigest(),
    )  # fmt: skip


FILES = st.lists(
    st.builds(a_file, st.text("abc/", min_size=1, max_size=6), st.integers(0, 120), st.sampled_from(["a 1", "b 2", "c 3"])),
    unique_by=lambda file: (file.source, file.path),
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(FILES, st.randoms(use_true_random=False))
def test_every_file_is_in_one_bundle_whatever_the_order(files: list[SourceFile], random) -> None:
    bundles = bundles_of(files, 100)
    shuffled = files[:]
    random.shuffle(shuffled)
    assert bundles_of(shuffled, 100) == bundles
    assert [f for b in bundles for f in b.files] == sorted(files, key=lambda f: (f.source, f.path))
    assert all(bundle.bytes <= 100 or len(bundle.files) == 1 for bundle in bundles)
    assert len({bundle.label for bundle in bundles}) == len(bundles)
    assert len({bundle.digest for bundle in bundles}) == len(bundles)


def test_a_new_file_changes_few_bundles() -> None:
    files = [a_file(f"p/{i:05}.py", 100) for i in range(4000)]
    before = {bundle.digest for bundle in bundles_of(files, 20_000)}
    after = {bundle.digest for bundle in bundles_of([*files, a_file("p/01000x.py", 100)], 20_000)}
    assert len(before) > 20
    assert len(after - before) <= 2


def test_a_changed_file_changes_its_bundle_alone() -> None:
    files = [a_file(f"p/{i:05}.py", 100) for i in range(1000)]
    changed = [f.model_copy(update={"sha256": "0" * 64}) if f.path == "p/00500.py" else f for f in files]
    before, after = bundles_of(files, 20_000), bundles_of(changed, 20_000)
    assert sum(a.digest != b.digest for a, b in zip(before, after, strict=True)) == 1
    assert [b.label for b in before] == [b.label for b in after]

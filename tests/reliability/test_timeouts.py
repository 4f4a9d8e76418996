"""R14: a text that hangs its reader or parser, in C and with Python's lock held, costs that text and its time alone."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import dask
import pyarrow.parquet as pq
import pytest
from dump_files import page, response

from pipeline_lib.config.data import ExtractConfig, SourceConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.pairs.extract import ExtractWork, extract, extract_bundle
from pipeline_lib.sources.dump_files import list_bundles
from pipeline_lib.sources.time_limit import TimeLimit, hung_steps
from pipeline_lib.store.records import Part
from pipeline_lib.store.store import Store

SECONDS = 1.0
START_SECONDS = 15.0  # that a worker may take to start on a machine with other work

# Dask loads this in every worker. The regular expression takes years, and neither a signal nor another thread stops it there.
HANGS = textwrap.dedent("""
    import re
    from pipeline_lib.pairs import documents as bundle
    from pipeline_lib.sources import readers
    from pipeline_lib.sources.readers import warc

    def hang_on(text):
        if "HANG" in str(text):
            re.match("(a+)+$", "a" * 60 + "b")

    def hanging(function, take=lambda *args, **options: args[0]):
        def wrapped(*args, **options):
            hang_on(take(*args, **options))
            return function(*args, **options)
        wrapped.hangs = True
        return wrapped

    if not hasattr(warc.main_text, "hangs"):  # Dask loads this file twice
        warc.main_text = hanging(warc.main_text)
        bundle.find_definitions = hanging(bundle.find_definitions)
        readers.read_source = hanging(readers.read_source)
""")

FUNCTION = 'def f{n}(a):\n    """Do the work of number {n} {word}."""\n    b = a + {n}\n    c = b * b\n    return c\n'


def plant(root: Path, hang: bool) -> SourceConfig:
    """A dump with a WARC file of six pages and four modules; one page, one parse and one read hang, or are absent."""
    code = root / "code"
    code.mkdir(parents=True)
    for n in range(3):
        (code / f"m{n}.py").write_text(FUNCTION.format(n=n, word="well"))
    pages = [response(f"http://site/{n}", page(f"the number {n} of things")) for n in range(5)]
    if hang:
        (code / "parse.py").write_text(FUNCTION.format(n=9, word="HANG"))
        (code / "read-HANG.py").write_text(FUNCTION.format(n=8, word="never"))
        pages.insert(2, response("http://site/slow", page("a HANG in the page")))
    (root / "pages.warc.gz").write_bytes(b"".join(pages))
    spec = root / "dump.yaml"
    spec.write_text("- {reader: tree, url: code, licence: MIT}\n- {reader: warc, url: pages.warc.gz, licence: unknown}\n")
    return SourceConfig(dump=str(spec), limits=ReadLimits(seconds_per_text=SECONDS))


def test_r14_a_hanging_text_is_set_aside_as_timeout_and_its_neighbours_are_kept(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    calm = plant(tmp_path / "a", hang=False)
    work = ExtractWork(source=calm, extract=ExtractConfig())
    parts = [Part.model_validate_json(extract_bundle(str(tmp_path), bundle, work)) for bundle in list_bundles(calm)]
    with dask.config.set({"distributed.worker.preload": [str(tmp_path / "hangs.py")]}):
        begun = time.monotonic()
        hurt = extract(Store(tmp_path / "hurt"), plant(tmp_path / "b", hang=True), ExtractConfig(workers=1))
        took = time.monotonic() - begun
    refused = {
        row["path"]: row["reason"] for path in hurt.paths("quarantine.parquet") for row in pq.read_table(path).to_pylist()
    }
    assert refused == dict.fromkeys(["pages.warc.gz!http://site/slow", "parse.py", "read-HANG.py"], "timeout")
    for name in ("documents.parquet", "pairs.parquet"):
        calm_paths = [tmp_path / part.folder / name for part in parts]
        wanted, got = ([row for path in p for row in pq.read_table(path).to_pylist()] for p in (calm_paths, hurt.paths(name)))
        assert got == wanted
    assert hurt.manifest.counts.quarantined == 3
    assert took < 3 * SECONDS + 5 * START_SECONDS
    assert not list((tmp_path / "hurt" / "extract" / "timeouts").iterdir())


CHILD = """
import re, sys
from pathlib import Path
from pipeline_lib.sources.time_limit import TimeLimit, within_time

def work(n):
    if n == 2:
        re.match("(a+)+$", "a" * 60 + "b")
    return n

with TimeLimit(Path(sys.argv[1]), 0.3) as limit:
    limit.begin(0)
    print([within_time("page", lambda: work(n)) for n in range(4)])
"""


def test_the_process_ends_and_the_next_one_passes_the_step_over(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    begun = time.monotonic()
    first = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (first.returncode, first.stdout) == (1, "")
    assert time.monotonic() - begun < START_SECONDS
    assert hung_steps(tmp_path) == {"0 page 3"}
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert second.stdout.startswith("[0, 1, Refusal(reason='timeout', detail='took more than 0.3 s")
    assert second.stdout.endswith(", 3]\n")


def test_a_process_that_was_killed_leaves_no_blame(tmp_path: Path) -> None:
    killed = CHILD.replace('re.match("(a+)+$", "a" * 60 + "b")', "import os; os._exit(9)")
    assert subprocess.run([sys.executable, "-c", killed, str(tmp_path)], check=False).returncode == 9
    assert list(tmp_path.iterdir())
    assert hung_steps(tmp_path) == frozenset()


def test_a_file_of_nothing_but_hanging_texts_is_given_up_as_a_whole(tmp_path: Path) -> None:
    for number in range(ReadLimits().max_timeouts):
        (tmp_path / str(number)).write_bytes(f"1 page {number}".encode().ljust(64) + b"Timeout (0:00:01)!\n")
    with TimeLimit(tmp_path, 60.0) as limit:
        assert limit.begin(0) is None
        refusal = limit.begin(1)
        assert refusal is not None
        assert refusal.reason == "timeout"


@pytest.mark.parametrize("step", ["1", "11"])
def test_a_file_that_hung_outside_its_texts_is_given_up_and_no_other(tmp_path: Path, step: str) -> None:
    (tmp_path / "log").write_bytes(step.encode().ljust(64) + b"Timeout (0:00:01)!\n")
    with TimeLimit(tmp_path, 60.0) as limit:
        assert [number for number in range(20) if limit.begin(number)] == [int(step)]

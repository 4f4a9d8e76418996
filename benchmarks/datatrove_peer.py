"""datatrove as a peer: one process, words between white space, and stand-ins for modules that are not installed.

datatrove takes English words from spaCy, which is no dependency of ours: it gets `str.split` here, as ours does, and is the
faster for it. Its WARC reader asks `magic` for the type of records that do not name one, and `cchardet` for the charset of
pages that are no UTF-8; where these are missing the first takes what says so for HTML, and resiliparse is the second.
"""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stderr
from functools import cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


@cache
def plug() -> None:
    """Give datatrove what it lacks; call it before its steps are made."""
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.filters import gopher_quality_filter, gopher_repetition_filter

    gopher_quality_filter.split_into_words = gopher_repetition_filter.split_into_words = _words
    minhash.create_hash_func = lambda _: _xxhash64  # its own gives text to xxhash, which takes bytes since release 4
    minhash.load_word_tokenizer = lambda _: SimpleNamespace(word_tokenize=str.split)
    if find_spec("cchardet") is None:
        _stand_in("cchardet", detect=_charset)
    if find_spec("magic") is None:
        _stand_in("magic", from_buffer=_media_type)


def run(steps: list[Any], logs: Path, tasks: int = 1) -> None:
    """Run a pipeline in this process."""
    from datatrove.executor.local import LocalPipelineExecutor

    for step in steps:
        step._requires_dependencies = []  # what is missing was plugged
    with redirect_stderr(StringIO()):  # its log: a screen for each step
        LocalPipelineExecutor(steps, tasks=tasks, workers=1, logging_dir=str(logs)).run()


def cpu_seconds() -> float:
    """Processor time of this process and of its finished children."""
    return sum(os.times()[:4])


def _stand_in(name: str, **functions: Any) -> None:
    module = ModuleType(name)
    vars(module).update(functions)
    sys.modules[name] = module


def _words(text: str, _: str) -> list[str]:
    return text.split()


def _xxhash64(text: str) -> int:
    import xxhash

    return int(xxhash.xxh64_intdigest(text.encode()))


def _charset(page: bytes) -> dict[str, str | None]:
    from resiliparse.parse.encoding import detect_encoding

    return {"encoding": detect_encoding(page)}


def _media_type(page: bytes, mime: bool) -> str:
    assert mime
    head = page[:1024].lower()
    return "text/html" if b"<html" in head or b"<!doctype html" in head else "text/plain"

"""The judged texts of suites, written out for decontamination: curation reads files, and knows no suite."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

from pipeline_lib.evaluation.suites.official_files import MissingData
from pipeline_lib.evaluation.suites.suite import Suite, SuiteText
from pipeline_lib.files import replace_file

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

"""The page docs/results/gpu.md: what was measured on a GPU, and what would be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline_lib.store.files import replace_file

PAGE = Path(__file__).parents[2] / "docs" / "results" / "gpu.md"
HEAD = """\
# On a GPU

`python -m benchmarks.gpu --page` writes this page from what `python -m benchmarks.gpu --part all` leaves in `bench-gpu/`.

```sh
python -m benchmarks.gpu --list                    # the parts, what each answers, and what is there
python -m benchmarks.gpu --part steps              # one part: a process of its own, at most 8 minutes
python -m benchmarks.gpu --part all --page         # what is missing, then this page
python -m benchmarks.gpu --part all --tiny --device cpu --out /tmp/tiny   # every part's path; shows no speed
```

A part writes its file after each row; started again, it goes on with the rows that are missing. It needs nothing from a
network: models have random weights (the 300M of `cpt_text_s`: 24 layers of 1,024), texts are made up and go through the
library's own tokenizer and shards. MFU counts the three passes of a step, without recomputation, over the data sheet's
dense bfloat16 peak. Memory is the most that tensors held.

Beside a checkout the parts import torch, transformers, tokenizers, pyarrow, pydantic, duckdb and psutil; `tests` also
pytest, the peers sentence-transformers. Where nothing can be installed beside CUDA's torch and transformers, the wheels of
pydantic, pydantic-core, annotated-types, typing-inspection and duckdb (25 MB) are what is commonly missing: carry them,
unpacked into a folder on `PYTHONPATH`.
"""


def write(results: Mapping[str, tuple[str, Mapping[str, Any]]], path: Path = PAGE) -> None:
    """Write the page.

    Args:
        results: part to what it answers and its file's content, empty where there is none.
        path: of the page.
    """
    replace_file(path, ("\n".join([HEAD, *_machines(results), *_parts(results)]).rstrip() + "\n").encode())


def _machines(results: Mapping[str, tuple[str, Mapping[str, Any]]]) -> list[str]:
    found = {tuple(sorted(told["machine"].items())) for _, told in results.values() if told.get("machine")}
    if not found:
        return ["**Nothing of this was measured yet**: no GPU was at hand. The parts below say what will be.\n"]
    return [", ".join(f"{name} {value}" for name, value in machine) + ".\n" for machine in sorted(found)]


def _parts(results: Mapping[str, tuple[str, Mapping[str, Any]]]) -> list[str]:
    lines = []
    for part, (answers, told) in results.items():
        lines += [f"## {part}\n", f"{answers}\n"]
        if told.get("rows"):
            lines.append(_table(told["rows"]))
        if told.get("state") != "done":
            reason = str(told.get("error", "")).strip().splitlines()[-1:] or [""]
            lines.append(f"*{told.get('state', 'Not measured')}{': ' if reason[0] else ''}{reason[0]}.*\n")
    return lines


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row if any(row.get(name) not in (None, "") for row in rows)))
    lines = [" | ".join(column.replace("_", " ") for column in columns), "|".join("---" for _ in columns)]
    lines += [" | ".join(_cell(row.get(column)) for column in columns) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float) and abs(value) >= 100:
        return f"{value:,.0f}"
    return str(value).replace("|", "/")

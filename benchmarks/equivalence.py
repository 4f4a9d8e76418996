"""Every way to compute a step's gradients against a float64 oracle: `python -m benchmarks.equivalence [--quick]`.

The oracle is one process, transformers' own forward over one padded batch, and torch's cross entropy over the whole matrix of
logits. Each row computes the same loss another way, on one or more gloo processes, in float64 and float32; bfloat16 and the
controls, which are broken on purpose and have to fail, stand beside. An error is that of the worst parameter: the norm of the
difference over the norm of the oracle's gradient; the temperature's own is given too. The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.equivalence_rows import Errors, Row

LIMITS = {"float64": 1e-10, "float32": 1e-5}
COSINE_LIMIT = 0.999


def main() -> int:
    """Print the table and the JSON line; 1 where a row is outside its limit, or a control inside."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the same rows but those of four processes, under 50 s on 2 cores")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    started = time.monotonic()
    results = measure(sizes=(1, 2) if options.quick else (1, 2, 4))
    print(json.dumps(results | {"seconds": round(time.monotonic() - started, 1)}))
    return 0 if results["failed"] == 0 else 1


def measure(sizes: tuple[int, ...], device: str = "cpu") -> dict[str, Any]:
    """All figures by their keys: ROW_PRECISION, ROW_PRECISION_temperature; "rows", "failed".

    Args:
        sizes: the numbers of processes.
        device: "cuda": a GPU each, over NCCL.
    """
    from benchmarks.equivalence_rows import ROWS, ErrorsOf
    from benchmarks.gloo import run_ranks

    results: dict[str, Any] = {}
    failed = 0
    print("| row | precision | every parameter | temperature | limit | |\n|---|---|---|---|---|---|", file=sys.stderr)
    for size in sizes:
        rows = [row for row in ROWS if row.ranks == size]
        (found, *_) = run_ranks(size, ErrorsOf(rows), device)
        for row, errors in zip(rows, found, strict=True):
            for precision, error in errors.items():
                good = _is_good(row, precision, error)
                failed += not good
                key = f"{row.name}_{precision}"
                results |= {key: error["worst"], f"{key}_temperature": error["temperature"]}
                print(_line(row, precision, error, good), file=sys.stderr)
    return {"rows": len(results) // 2, "failed": failed, **results}


def _is_good(row: Row, precision: str, error: Errors) -> bool:
    """True for a row inside its limit, and for a control outside."""
    if precision == "bfloat16":
        return error["worst"] >= COSINE_LIMIT
    inside = max(error["worst"], error["temperature"]) <= LIMITS[precision]
    return inside != bool(row.broken)


def _line(row: Row, precision: str, error: Errors, good: bool) -> str:
    limit = f"cosine >= {COSINE_LIMIT}" if precision == "bfloat16" else f"{LIMITS[precision]:.0e}"
    verdict = ("fails, as it must" if row.broken else "holds") if good else "WRONG"
    figures = f"{error['worst']:.2e} | {error['temperature']:.2e}"
    if precision == "bfloat16":
        figures = f"{error['worst']:.6f} | {error['temperature']:.2e}"
    return f"| {row.name} | {precision} | {figures} | {limit} | {verdict} |"


if __name__ == "__main__":
    raise SystemExit(main())

"""Benchmarks: the project beside its peers, both in one run on one machine.

Each prints its figures as one flat JSON object on its last line; `--quick` takes less than a minute.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

# public data sets and real dumps, which a clone does not bring: a folder of yours, or one beside the checkout
EVAL_DATA = Path(os.environ.get("CPT_EVAL_DATA") or Path(__file__).parents[2] / "shared" / "data")


def skip(reason: str) -> None:
    """Say in a benchmark's last line why it measured nothing; it is no failure."""
    print(json.dumps({"skipped": f"{reason}; set CPT_EVAL_DATA to the folder that holds it"}))

"""`cpt suite-texts`: the judged texts of evaluation suites as files that keep them out of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def suite_texts(
    suite: Annotated[list[str], typer.Option(metavar="NAME", help="A suite or group, e.g. beir/scifact; may be repeated.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the suites' downloads.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the texts go: what --contamination takes.")],
    skip_missing: Annotated[bool, typer.Option("--skip-missing", help="Pass over splits whose files are not there.")] = False,
) -> None:
    """Write the judged texts of evaluation suites, for `cpt run --contamination DIR`."""
    from pipeline_lib.evaluation.suites.config import SuiteConfig
    from pipeline_lib.evaluation.suites.judged_texts import write_judged_texts
    from pipeline_lib.evaluation.suites.registry import open_suite, suite_names

    for name in suite_names(suite):
        written = write_judged_texts(open_suite(name, data, SuiteConfig()), out, skip_missing)
        typer.echo(f"{name}: {written:,} texts" if written else f"passed over {name}: none of its files is there")

"""The audit script's verdicts, with stand-ins for the tools that it asks: a database of vulnerabilities is not within reach."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
# reports what stands in `known` of each pin that it is given, as pip-audit does
PIP_AUDIT = """#!/bin/bash
for file; do :; done
found=$(grep -F -f "$(dirname "$0")/known" "$file") || exit 0
echo "$found has PYSEC-2021-66"
exit 1
"""


def audit(project: Path, known: str, ruff: str = "exit 0") -> subprocess.CompletedProcess[str]:
    """The script in a project whose pins are one, and a database that knows these."""
    bin_ = project / ".venv" / "audit" / "bin"
    bin_.mkdir(parents=True)
    (project / ".venv" / "bin").mkdir()
    for path, text in {
        bin_ / "pip-audit": PIP_AUDIT,
        project / ".venv" / "bin" / "ruff": f"#!/bin/bash\n{ruff}\n",
        project / ".venv" / "bin" / "python": "#!/bin/bash\nexit 0\n",
    }.items():
        path.write_text(text)
        path.chmod(0o755)
    (bin_ / "known").write_text(known)
    (project / "constraints.txt").write_text("oldlib==1.0\n")
    (project / ".ci").mkdir()
    shutil.copy(PROJECT / ".ci" / "audit", project / ".ci" / "audit")
    return subprocess.run([project / ".ci" / "audit"], capture_output=True, text=True, check=False)


def test_a_vulnerable_pin_is_named_and_fails_the_audit(tmp_path: Path) -> None:
    answer = audit(tmp_path, "jinja2==2.11.2\noldlib==1.0\n")
    assert (answer.returncode, answer.stdout) == (1, "oldlib==1.0 has PYSEC-2021-66\n")


def test_clean_pins_pass(tmp_path: Path) -> None:
    assert audit(tmp_path, "jinja2==2.11.2\n").returncode == 0


@pytest.mark.parametrize(("known", "ruff", "code"), [("oldlib==9\n", "exit 0", 3), ("jinja2==2.11.2\n", "exit 1", 1)])
def test_a_database_that_knows_nothing_and_a_rule_that_is_broken_are_no_pass(
    tmp_path: Path, known: str, ruff: str, code: int
) -> None:
    answer = audit(tmp_path, known, ruff)
    assert answer.returncode == code and ("NOT DONE" in answer.stderr) is (code == 3)

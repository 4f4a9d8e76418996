"""Pictures of Prefect's UI for the documentation, taken by headless Chromium of a platform that this starts.

    python -m benchmarks.pictures [--out docs/pictures] [--home HOME --look FOLDER]

Takes form-evaluate.png, the form of the deployment evaluate/evaluate, of a platform without any run; and of the pages of a
home's evaluations pictures that are only looked at. Needs Chromium and the test extra.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT, PORT = 1100, 1500, 4380
WAIT_SECONDS, FADE_SECONDS = 180.0, 3.0
# the page has its form once its first and its last field are there
IS_DRAWN = "['Models', 'Machine', 'Submit'].every(title => document.body.innerText.includes(title))"


def take_form(page: Any, url: str, deployment: str, out: Path) -> None:
    """The form of a deployment, as a person finds it."""
    page.open(f"{url}/deployments/deployment/{deployment}/run", WIDTH, HEIGHT, scheme="dark")
    until = time.monotonic() + WAIT_SECONDS
    while not page.value(IS_DRAWN):
        assert time.monotonic() < until, f"the form is not drawn: {page.value('document.body.innerText')}"
        time.sleep(0.5)
    time.sleep(FADE_SECONDS)
    page.picture(out)


def main() -> None:
    """Take the pictures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", type=Path, default=PROJECT / "docs" / "pictures")
    words.add_argument("--home", type=Path, default=None, help="artifact root whose evaluations are looked at")
    words.add_argument("--look", type=Path, default=Path(), help="folder for their pictures")
    given = words.parse_args()
    sys.path.insert(0, str(PROJECT / "tests"))
    from browser import browser
    from served import Platform, deployment_named

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty, browser() as page:
        platform = Platform(Path(empty), PORT)
        platform.start()
        try:
            deployment = deployment_named(platform, "evaluate")["id"]
            take_form(page, platform.url.removesuffix("/api"), deployment, given.out / "form-evaluate.png")
        finally:
            platform.process.terminate()
            platform.process.wait(WAIT_SECONDS)
        for path in sorted(given.home.glob("reports/*/evaluations/*.html")) if given.home else ():
            page.open(path.as_uri(), WIDTH, HEIGHT)
            page.picture(given.look / f"{path.stem}.png", whole=True)


if __name__ == "__main__":
    main()

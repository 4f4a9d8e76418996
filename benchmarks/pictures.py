"""Pictures of Prefect's UI for the documentation, taken by headless Chromium of a platform that this starts.

    python -m benchmarks.pictures [--out docs/pictures] [--home HOME --look FOLDER]

Takes form-evaluate.png, the form of the deployment evaluate/evaluate, of a platform without any run; and of the pages of a
home's evaluations pictures that are only looked at. Needs Chromium and the test extra.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.cli.server import prefect_environment, prefect_server

PROJECT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1100, 1500
WAIT_SECONDS, FADE_SECONDS = 180.0, 3.0
# the page has its form once its first and its last field are there
IS_DRAWN = "['Models', 'Machine', 'Submit'].every(title => document.body.innerText.includes(title))"


@contextmanager
def deployed(home: Path) -> Iterator[tuple[str, str]]:
    """The URL of a Prefect with the deployments of `cpt up`, and the id of evaluate/evaluate."""
    os.environ.update(prefect_environment(home))
    os.environ.update({"CPT_HOME": str(home), "PIPELINE_HOME": str(PROJECT)})
    with prefect_server(home) as url:
        os.environ["PREFECT_API_URL"] = url
        from prefect.client.orchestration import get_client

        from flows.cli.deployments import deploy_all, ensure_work_pool

        with get_client(sync_client=True) as client:
            ensure_work_pool(client)
            deploy_all(client, home)
            yield url.removesuffix("/api"), str(client.read_deployment_by_name("evaluate/evaluate").id)


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

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty, browser() as page:
        with deployed(Path(empty)) as (url, deployment):
            take_form(page, url, deployment, given.out / "form-evaluate.png")
        for path in sorted(given.home.glob("reports/*/evaluations/*.html")) if given.home else ():
            page.open(path.as_uri(), WIDTH, HEIGHT)
            page.picture(given.look / f"{path.stem}.png", whole=True)


if __name__ == "__main__":
    main()

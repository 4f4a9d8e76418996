"""Pictures for the documentation, taken by headless Chromium of a platform and a search service that this starts.

    python -m benchmarks.pictures [--out docs/pictures] [--home HOME --look FOLDER]
    python -m benchmarks.pictures --map HOME [--out docs/pictures]

Takes form-evaluate.png, the form of the deployment evaluate/evaluate, of a platform without any run; and of the pages of a
home's evaluations pictures that are only looked at. With --map, map.png alone: the map of the index that a home has published,
which is written nowhere else. Needs Chromium and the test extra.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT, PORT = 1100, 1500, 4380
MAP_WIDTH, MAP_HEIGHT, CHOSEN = 1280, 760, 2600  # the number of a text that is shown
WAIT_SECONDS, FADE_SECONDS = 180.0, 3.0
# the page has its form once its first and its last field are there
IS_DRAWN = "['Models', 'Machine', 'Submit'].every(title => document.body.innerText.includes(title))"


def wait_for(page: Any, expression: str, seconds: float) -> None:
    """Wait until an expression holds on a page."""
    until = time.monotonic() + seconds
    while not page.value(expression):
        assert time.monotonic() < until, f"not drawn: {page.value('document.body.innerText')}"
        time.sleep(0.5)


def take_form(page: Any, url: str, deployment: str, out: Path) -> None:
    """The form of a deployment, as a person finds it."""
    page.open(f"{url}/deployments/deployment/{deployment}/run", WIDTH, HEIGHT, scheme="dark")
    wait_for(page, IS_DRAWN, WAIT_SECONDS)
    time.sleep(FADE_SECONDS)
    page.picture(out)


def take_map(page: Any, home: Path, out: Path) -> None:
    """The map of the published index, with one of its texts."""
    from PIL import Image

    from pipeline_lib.serve.config import ServeConfig
    from pipeline_lib.serve.server import Service

    with tempfile.TemporaryDirectory() as cache:
        os.environ["CPT_CACHE"] = cache
        with Service(ServeConfig(port=0, timeout_seconds=WAIT_SECONDS), home).in_thread() as url:
            page.open(f"{url}/map", MAP_WIDTH, MAP_HEIGHT)
            wait_for(page, "data !== null", WAIT_SECONDS * 10)
            page.value(f"show({CHOSEN})")
            wait_for(page, "!at('tip').hidden", WAIT_SECONDS)
            page.picture(out)
    shown = Image.open(out).convert("RGB").quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    shown.save(out, optimize=True)


def main() -> None:
    """Take the pictures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", type=Path, default=PROJECT / "docs" / "pictures")
    words.add_argument("--home", type=Path, default=None, help="artifact root whose evaluations are looked at")
    words.add_argument("--look", type=Path, default=Path(), help="folder for their pictures")
    words.add_argument("--map", type=Path, default=None, help="artifact root whose map is taken, and nothing else")
    given = words.parse_args()
    sys.path.insert(0, str(PROJECT / "tests"))
    from browser import browser
    from served import Platform, deployment_named

    if given.map:
        with browser() as page:
            take_map(page, given.map, given.out / "map.png")
        return
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

"""Reports and model cards of this artifact root for a browser of this machine; nothing else is served, and to nobody else."""

from __future__ import annotations

import html
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.orchestrator.metrics import METRICS_TYPE, Metrics
from flows.orchestrator.server import HOST, free_port, port_is_free
from pipeline_lib.runtime.machine import PAGES_FILE
from pipeline_lib.store.files import replace_file

if TYPE_CHECKING:
    from starlette.applications import Starlette

STOP_SECONDS = 5.0
KEY = re.compile(r"[0-9a-f]{8,64}")
HEADERS = {  # a page of a run is text, styles and pictures: a corpus' text can start nothing in it
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def pages_app(home: Path) -> Starlette:
    """Answers GET /reports/..., /cards/KEY of a `card` artifact, /metrics, and / with the names of the reports.

    Paths that lead out of the folder, by dots or by links, are not found; nor are folders. Names of other hosts are refused: a
    page of elsewhere could have given itself this address.
    """
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, HTMLResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    reports = home / "reports"
    reports.mkdir(parents=True, exist_ok=True)

    class Files(StaticFiles):
        def file_response(self, full_path: Any, *args: Any, **kwargs: Any) -> Response:
            response = super().file_response(full_path, *args, **kwargs)
            response.headers.update(HEADERS)
            if Path(full_path).suffix == ".md":  # to be read, not downloaded
                response.headers["Content-Type"] = "text/plain; charset=utf-8"
            return response

    def card(request: Request) -> Response:
        from pipeline_lib.export.card import FILE

        key = request.path_params["key"]
        parts = home / "store" / "card" / "parts"
        found = sorted(parts.glob(f"{key}-*/{FILE}")) if KEY.fullmatch(key) else []
        if not found:
            raise HTTPException(404)
        return FileResponse(found[-1], headers=HEADERS, media_type="text/plain; charset=utf-8")

    def names(_: Request) -> Response:
        found = sorted(html.escape(page.parent.name) for page in reports.glob("*/report.html"))
        items = "".join(
            f'<li><a href="/reports/{html.escape(name)}/report.html">{html.escape(name)}</a></li>' for name in found
        )
        return HTMLResponse(f"<!doctype html><title>Reports</title><ul>{items}</ul>", headers=HEADERS)

    metrics = Metrics(home)

    def figures(_: Request) -> Response:
        return Response(metrics.page(), media_type=METRICS_TYPE)

    routes = [
        Route("/", names),
        Route("/metrics", figures),
        Route("/cards/{key}", card),
        Mount("/reports", Files(directory=reports)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])])


@contextmanager
def pages_server(home: Path, port: int) -> Iterator[str]:
    """The address of the pages for as long as the block lasts; runs of this artifact root link to it.

    Args:
        port: a free one is taken where this one is in use.
    """
    import uvicorn

    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # by name: else answers wait 40 ms
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((HOST, port if port < 2**16 and port_is_free(port) else free_port()))
    listening.listen()  # who asks before the thread is ready waits
    url = f"http://{HOST}:{listening.getsockname()[1]}"
    config = uvicorn.Config(pages_app(home), log_level="warning", access_log=False, lifespan="off", server_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True, name="pages")
    thread.start()
    address = home / PAGES_FILE
    replace_file(address, url.encode())
    try:
        yield url
    finally:
        address.unlink(missing_ok=True)
        server.should_exit = True
        thread.join(STOP_SECONDS)
        listening.close()

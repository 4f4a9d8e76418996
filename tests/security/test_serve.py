"""Requests made from the service's own OpenAPI, valid and not, by schemathesis: none is a fault of the service."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from search_homes import SearchHome

from pipeline_lib.serve.config import ServeConfig
from pipeline_lib.serve.server import Service

CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "negative_data_rejection", "unsupported_method", "missing_required_header"),
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = SearchHome(tmp_path_factory.mktemp("serve") / "home")
    home.publish(extra=30)
    made = Service(ServeConfig(port=0), home.root)
    with made.in_thread():
        yield made


@pytest.mark.parametrize("examples", [8, pytest.param(300, marks=pytest.mark.slow)])
def test_nothing_that_the_openapi_allows_or_forbids_breaks_it(service: Service, examples: int, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{service.url}/openapi.json", "--no-color"]
    bounds = ["--max-examples", str(examples), "--seed", "7", "--checks", ",".join(CHECKS), "--request-timeout", "60"]
    answer = subprocess.run([*command, *bounds], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout[-6000:] + answer.stderr[-2000:]
    page = service.figures.page().decode()
    assert 'status="5' not in page and 'route="/search",status="400"' in page and 'route="/v1/embeddings",status="200"' in page


def test_it_listens_on_loopback_alone(service: Service) -> None:
    assert service._socket.fileno() < 0 or service._socket.getsockname()[0] == "127.0.0.1"
    assert service.url.startswith("http://127.0.0.1:")

"""Pages of `cpt up`: reports and cards are read, and nothing outside their folders, by nobody who names another host."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.orchestrator.pages import pages_server
from flows.orchestrator.server import free_port

KEY = "389f10f03700825fb53a4b34"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    report = home / "reports" / "my run" / "0a1b-2c3d"
    report.mkdir(parents=True)
    (report / "report.html").write_text("<p>a report</p>")
    (report / "model_card.md").write_text("# ü")
    (home / "reports" / "my run" / "report.html").write_text("newest")
    card = home / "store" / "card" / "parts" / f"{KEY}-9e8120c45b5a"
    card.mkdir(parents=True)
    (card / "README.md").write_text("# card")
    (card / "model.safetensors").write_text("weights")
    (home / "secret.txt").write_text("secret")
    (home / "prefect").mkdir()
    (home / "reports2").mkdir()
    (home / "reports2" / "secret.txt").write_text("secret")
    (home / "reports" / "link.txt").symlink_to(home / "secret.txt")
    (home / "reports" / "up").symlink_to(home)
    return home


@pytest.fixture(scope="module")
def pages(home: Path) -> Iterator[str]:
    with pages_server(home, free_port()) as url:
        yield url
    assert not (home / "prefect" / "pages").exists()


def get(pages: str, path: str, host: str = "", method: str = "GET") -> tuple[int, str, dict[str, str]]:
    """The answer to a request whose path goes out as it stands."""
    address = urlsplit(pages)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or address.netloc)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}
    connection.close()
    return found


def test_reports_and_cards_are_read(pages: str) -> None:
    status, text, headers = get(pages, "/reports/my%20run/0a1b-2c3d/report.html")
    assert (status, text) == (200, "<p>a report</p>")
    assert "default-src 'none'" in headers["content-security-policy"]
    for path in ("/reports/my%20run/0a1b-2c3d/model_card.md", f"/cards/{KEY}"):
        status, text, headers = get(pages, path)
        assert (status, text[0], headers["content-type"]) == (200, "#", "text/plain; charset=utf-8")
    assert "/reports/my run/report.html" in get(pages, "/")[1]


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt",
        "/reports/../secret.txt",
        "/reports/%2e%2e/secret.txt",
        "/reports/..%2fsecret.txt",
        "/reports/%2e%2e%2fsecret.txt",
        "/reports/..\\secret.txt",
        "/reports/my%20run/../../secret.txt",
        "/reports/../reports2/secret.txt",
        "/reports//secret.txt",
        "/reports/link.txt",
        "/reports/up/secret.txt",
        "/reports/%00",
        "/reports/%ff",
        "/reports",
        "/reports/",
        "/reports/my%20run",
        "/reports/my%20run/",
        f"/cards/{KEY}/model.safetensors",
        f"/cards/{KEY[:4]}",
        "/cards/*",
        "/cards/..%2f..%2fsecret",
        f"/store/card/parts/{KEY}-9e8120c45b5a/README.md",
        "/current.json",
        "//etc/passwd",
    ],
)
def test_nothing_else_is(pages: str, path: str) -> None:
    status, text, _ = get(pages, path)
    assert status in {307, 400, 404}, text
    assert "secret" not in text
    assert "weights" not in text
    assert "report.html" not in text


def test_an_absolute_path_is_not_found(pages: str, home: Path) -> None:
    assert get(pages, f"/reports/{home}/secret.txt")[0] == 404
    assert get(pages, f"/reports//{home}/secret.txt")[0] == 404


def test_names_of_other_hosts_and_other_methods_are_refused(pages: str) -> None:
    path = "/reports/my%20run/report.html"
    assert get(pages, path, "localhost")[0] == 200
    assert get(pages, path, "evil.example")[0] == 400
    assert get(pages, path, "evil.example:80")[0] == 400
    assert [get(pages, path, method=method)[0] for method in ("POST", "PUT", "DELETE")] == [405, 405, 405]


def test_a_port_in_use_is_passed_over(pages: str, tmp_path: Path) -> None:
    (tmp_path / "prefect").mkdir()
    with pages_server(tmp_path, urlsplit(pages).port or 0) as url:
        assert url != pages
        assert get(url, "/")[0] == 200

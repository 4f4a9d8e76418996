"""The MCP server answers the SDK's own client over stdio, from a real index, and nothing but the protocol is on its output."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from exported_models import Exported

from flows.orchestrator.server import free_port
from pipeline_lib.config.run import IndexConfig
from pipeline_lib.index.index import build_index
from pipeline_lib.search.registry import Candidate, promote
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store

pytest.importorskip("mcp", reason="the SDK is not here: pip install 'cpt-factory[mcp]'")

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

Make = Callable[..., Artifact]
ROOT = Path(__file__).parents[3]
COMMAND = ["-m", "flows.cli", "mcp"]
ABSENT = ("code", "docstring", "draw a hexagon on the canvas", "def hexagon(canvas):\n    canvas.line(6)\n    return canvas")


def publish(store: Store, exported: Artifact, curated: Artifact, name: str) -> None:
    promote(store.root, name, Candidate(exported, build_index(store, exported, curated, IndexConfig(), Exported(exported))))


@pytest.fixture
def home(store: Store, curate: Make, export_model: Make) -> Path:
    publish(store, export_model(), curate(), "planted")
    return store.root


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "CPT_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def asked(home: Path, ask: Callable[[Client], Awaitable[Any]], *options: str) -> Any:
    """What a client gets of a server that it starts."""

    async def run() -> Any:
        server = StdioServerParameters(command=sys.executable, args=[*COMMAND, *options], env=environment(home))
        async with Client(stdio_client(server)) as client:
            return await ask(client)

    return anyio.run(run)


def test_a_client_lists_searches_compares_and_reads(home: Path) -> None:
    async def ask(client: Client) -> dict[str, Any]:
        call = client.call_tool
        found = {"tools": (await client.list_tools()).tools, "status": await call("status", {})}
        found["search"] = await call("search", {"query": "parse an iso date", "kind": "code", "k": 2})
        filters = {"languages": ["en"], "path": "planted/text_*"}
        found["filtered"] = await call("search", {"query": "apples", "filters": filters})
        found["similar"] = await call("similar", {"file": "/opt/checkout/planted/code_1.py", "line": 12, "k": 50})
        found["to_text"] = await call("similar", {"text": "def close(sock):\n    sock.close()\n    return None", "k": 1})
        hit = found["search"].structured_content["hits"][0]
        found["read"] = await call("read", {"id": hit["id"]})
        return found

    found = asked(home, ask)
    assert not any(result.is_error for name, result in found.items() if name != "tools"), found
    assert {tool.name for tool in found["tools"]} == {"search", "similar", "read", "status"}
    assert all("untrusted" in tool.description and tool.annotations.read_only_hint for tool in found["tools"])

    got = {name: result.structured_content for name, result in found.items() if name != "tools"}
    assert got["status"]["served"]["functions"] == 3 and got["status"]["served"]["passages"] == 3
    assert got["status"]["served"]["languages"] == {"python": 3, "en": 3} and got["status"]["names"] == ["planted"]
    assert [hit["kind"] for hit in got["search"]["hits"]] == ["code", "code"] and got["search"]["model"] == "planted"
    assert {hit["path"] for hit in got["filtered"]["hits"]} <= {f"planted/text_{i}.py" for i in range(6)} and got["filtered"]
    assert got["similar"]["like"] == "planted.code_1 at planted/code_1.py:11"
    assert len(got["similar"]["hits"]) == 5 and "planted.code_1" not in {hit["name"] for hit in got["similar"]["hits"]}
    assert got["to_text"]["hits"][0]["name"] == "planted.code_1"
    [text] = got["read"]["texts"]
    assert text["text"].startswith("def ") and not text["is_cut"] and text["next_offset"] is None
    assert json.loads(found["search"].content[0].text) == got["search"], "a client without structured content reads the same"


def test_wrong_calls_are_tool_errors_that_say_what_to_do(home: Path) -> None:
    wrong = [
        ("search", {"query": "x", "k": 1000}, "less than or equal to 50"),
        ("search", {"query": "x" * 4001}, "at most 4000 characters"),
        ("search", {"query": "x", "kind": "image"}, "'code'"),
        ("search", {"query": "  "}, "query is empty"),
        ("search", {"query": "x", "name": "nobody"}, "there is: planted"),
        ("search", {"query": "x", "name": "../../etc"}, "no name of a model"),
        ("search", {"query": "x", "filters": {"languages": ["pythn"]}}, "python"),
        ("similar", {}, "either file and line, or a text"),
        ("similar", {"file": "/etc/passwd", "line": 1}, "no such file in the index"),
        ("similar", {"file": "/srv/planted", "line": 10**30}, "no such file in the index"),
        ("read", {"id": "../../../etc/passwd"}, "pattern"),
        ("read", {"id": "0" * 32}, "search again"),
    ]

    async def ask(client: Client) -> list[Any]:
        return [await client.call_tool(tool, arguments) for tool, arguments, _ in wrong]

    for (tool, arguments, words), result in zip(wrong, asked(home, ask), strict=True):
        assert result.is_error, (tool, arguments)
        assert words in result.content[0].text, (tool, arguments, result.content[0].text)
        assert "Traceback" not in result.content[0].text and "root:" not in result.content[0].text


@pytest.mark.slow
def test_a_pair_that_is_promoted_meanwhile_answers_the_next_call(
    home: Path, store: Store, curate: Make, export_model: Make
) -> None:
    exported = export_model()

    async def ask(client: Client) -> list[str]:
        names = []
        for _ in range(2):
            found = await client.call_tool("search", {"query": "draw a hexagon", "kind": "code", "k": 50})
            names.append([hit["doc"] for hit in found.structured_content["hits"]])
            publish(store, exported, curate([ABSENT] * 3), "planted")
        return names

    before, after = asked(home, ask)
    assert ABSENT[2] not in before and after == [ABSENT[2]]


@pytest.mark.slow
def test_a_home_without_an_index_is_served_and_says_so(tmp_path: Path) -> None:
    async def ask(client: Client) -> Any:
        return await client.call_tool("search", {"query": "x"})

    result = asked(tmp_path, ask)
    assert result.is_error and "run `make demo`" in result.content[0].text


def test_nothing_but_the_protocol_is_on_the_output(home: Path) -> None:
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "search", "arguments": {"query": "socket"}}},
    ]
    sent = "".join(f"{json.dumps(line)}\n" for line in lines) + "not JSON at all\n"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, *COMMAND], env=environment(home), text=True, **pipes) as process:
        assert process.stdin and process.stdout
        process.stdin.write(sent)
        process.stdin.flush()
        answers: dict[Any, Any] = {}
        while 2 not in answers:
            line = json.loads(process.stdout.readline())
            assert line["jsonrpc"] == "2.0"
            answers[line.get("id")] = line
        process.stdin.close()
        rest = process.stdout.read()
    assert process.returncode == 0
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in rest.splitlines())
    assert "search" in answers[1]["result"]["instructions"] and not answers[2]["result"].get("isError")


@pytest.mark.slow
def test_on_loopback_it_speaks_streamable_http(home: Path) -> None:
    port = free_port()
    command = [sys.executable, *COMMAND, "--port", str(port)]
    with subprocess.Popen(command, env=environment(home), stderr=subprocess.DEVNULL) as process:
        try:
            assert found_over_http(f"http://127.0.0.1:{port}/mcp") == "planted.code_1"
            headers = {
                "Host": "evil.example",
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
            }
            hostile = urllib.request.Request(f"http://127.0.0.1:{port}/mcp", b"{}", headers)
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(hostile, timeout=30)
            assert refused.value.code in (403, 421)
        finally:
            process.terminate()


def found_over_http(url: str) -> str:
    """The name of the first function that is like one of the index, once the server answers."""

    async def run() -> str:
        async with Client(url) as client:
            arguments = {"text": "def close(sock):\n    sock.close()\n    return None", "k": 1}
            found = await client.call_tool("similar", arguments)
            return str(found.structured_content["hits"][0]["name"])

    for _ in range(120):
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/", maxsplit=1)[0])), 1).close()
            break
        time.sleep(0.5)
    return anyio.run(run)

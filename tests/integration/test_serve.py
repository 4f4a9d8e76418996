"""The search service as its users meet it: over HTTP, by OpenAI's client, under hostile requests, through swaps and stops."""

from __future__ import annotations

import base64
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from search_homes import SearchHome, ask, serving
from typer.testing import CliRunner

from flows.cli.commands import app as cli
from flows.orchestrator.server import free_port
from pipeline_lib.errors import UserError
from pipeline_lib.search.hits import render_json
from pipeline_lib.search.onnx_encoder import OnnxEncoder
from pipeline_lib.search.query import Searcher
from pipeline_lib.search.registry import in_use
from pipeline_lib.serve.config import ServeConfig
from pipeline_lib.serve.server import Service

PROJECT = Path(__file__).parents[2]
TOLERANCE = 1e-5  # of a vector's numbers and of scores, alone or in a batch: float32's rounding
TOKEN = "t0ken-of-the-test-that-nobody-knows"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> SearchHome:
    made = SearchHome(tmp_path_factory.mktemp("serve") / "home")
    made.publish()
    return made


@pytest.fixture(scope="module")
def service(home: SearchHome) -> Iterator[Service]:
    with serving(home) as service:
        yield service


# ---- search


def test_answers_are_those_of_cpt_search(home: SearchHome, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(home.root))
    for query, kind, k in (("parse a date", "", 3), ("größer 日本語", "text", 2), ("</script>&\"'", "code", 100)):
        words = ["search", query, "--json", "-k", str(k), *(["--kind", kind] if kind else [])]
        printed = CliRunner().invoke(cli, words).stdout
        expected = json.loads(printed)
        by_link = ask(service, f"/search?q={quote(query)}&k={k}" + (f"&kind={kind}" if kind else ""))
        by_post = ask(service, "/search", {"query": query, "k": k} | ({"kind": kind} if kind else {}))
        for status, headers, body in (by_link, by_post):
            assert status == 200 and headers["content-type"] == "application/json"
            assert json.loads(body) == expected and body.decode() == printed.rstrip("\n")


def test_a_batch_answers_as_each_alone(home: SearchHome, service: Service) -> None:
    searcher = Searcher(in_use(home.root))
    queries = [("word " * (n % 40 + 1) + str(n)).strip() for n in range(60)]
    expected = [json.loads(render_json(query, searcher.search(query, k=5))) for query in queries]
    with ThreadPoolExecutor(30) as pool:
        found = list(pool.map(lambda query: json.loads(ask(service, "/search", {"query": query, "k": 5})[2]), queries))
    for one, other in zip(found, expected, strict=True):
        assert one["query"] == other["query"]
        assert [hit["score"] for hit in one["hits"]] == pytest.approx([hit["score"] for hit in other["hits"]], abs=TOLERANCE)
    sizes = {
        line for line in ask(service, "/metrics")[2].decode().splitlines() if line.startswith("cpt_serve_batch_queries_sum")
    }
    count = {
        line for line in ask(service, "/metrics")[2].decode().splitlines() if line.startswith("cpt_serve_batch_queries_count")
    }
    assert float(sizes.pop().split()[1]) > float(count.pop().split()[1]), "nothing was answered together"


def test_texts_of_all_lengths_in_one_pass_have_the_vectors_that_they_have_alone(home: SearchHome) -> None:
    encoder = OnnxEncoder(home.exported.part_folder())
    texts = ["", "a", "word " * 3, "word " * 200, "日本語", *(f"{'x ' * n}end" for n in range(40))]
    for side in ("query", "document"):
        together = encoder.embed(texts, side)
        alone = np.concatenate([encoder.embed([text], side) for text in texts])
        assert np.abs(together - alone).max() < TOLERANCE


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/search", "q"),
        ("/search?q=", "q"),
        ("/search?q=%20%09", "query"),
        ("/search?q=a&k=0", "k"),
        ("/search?q=a&k=101", "k"),
        ("/search?q=a&k=1e3", "k"),
        ("/search?q=a&k=99999999999999999999999999", "k"),
        ("/search?q=a&kind=prose", "kind"),
        ("/search?q=a&kin=code", "kin"),
        (f"/search?q={'a' * 8193}", "q"),
        ("/search?q=a&mode=magic", "mode"),
        ("/search?q=a" + "&language=x" * 21, "language"),
    ],
)
def test_a_wrong_parameter_is_named(service: Service, path: str, param: str) -> None:
    status, _, body = ask(service, path)
    assert (status, json.loads(body)["error"]["param"]) == (400, param)


# ---- OpenAI's shape


def test_openais_own_client_embeds(home: SearchHome, service: Service) -> None:
    from openai import BadRequestError, NotFoundError, OpenAI

    client = OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)
    encoder = OnnxEncoder(home.exported.part_folder())
    texts = ["def close(sock):\n    sock.close()", "größer 日本語", "word " * 300]
    expected = encoder.embed(texts, "document")
    for encoding in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        answer = client.embeddings.create(model="default", input=texts, **encoding)
        assert [one.index for one in answer.data] == [0, 1, 2] and answer.model == "default"
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, encoder.token_ids(texts, "document")))
        found = [np.frombuffer(base64.b64decode(one.embedding), "<f4") if isinstance(one.embedding, str) else one.embedding
                 for one in answer.data]  # fmt: skip
        assert np.abs(np.array(found) - expected).max() < TOLERANCE
    one = client.embeddings.create(model="planted", input=texts[0], extra_body={"input_type": "query"})
    assert np.abs(np.array(one.data[0].embedding) - encoder.embed(texts[:1], "query")[0]).max() < TOLERANCE
    assert np.abs(np.array(one.data[0].embedding) - expected[0]).max() > 10 * TOLERANCE
    assert [model.id for model in client.models.list()] == ["default", "planted"]
    assert client.models.retrieve("planted").owned_by == "cpt"
    assert len(client.embeddings.create(model="default", input="x", dimensions=encoder.dim).data[0].embedding) == encoder.dim
    with pytest.raises(NotFoundError) as missing:
        client.embeddings.create(model="text-embedding-3-small", input="x")
    assert missing.value.code == "model_not_found"
    for wrong in ({"input": []}, {"input": ""}, {"input": [1, 2]}, {"input": "x", "dimensions": 7}, {"input": ["x"] * 2049}):
        with pytest.raises(BadRequestError) as refused:
            client.embeddings.create(model="default", **wrong)  # type: ignore[arg-type]
        assert refused.value.param in ("input", "dimensions")


def test_what_a_client_leaves_null_is_its_default(service: Service) -> None:
    names = ("model", "encoding_format", "input_type", "dimensions", "user")
    found = [json.loads(ask(service, "/v1/embeddings", {"input": "x"} | nulls)[2]) for nulls in ({}, dict.fromkeys(names))]
    assert found[0] == found[1] and found[0]["model"] == "default" and isinstance(found[0]["data"][0]["embedding"], list)


@pytest.mark.parametrize("name", ["../planted", "planted/..", "PLANTED", "\x00", "a" * 200, "_default", ""])
def test_no_name_leads_out_of_the_registry(service: Service, name: str) -> None:
    assert ask(service, "/v1/embeddings", {"input": "x", "model": name})[0] in (400, 404)


# ---- upkeep


def test_health_and_metrics_say_what_is_served(home: SearchHome, service: Service) -> None:
    health = json.loads(ask(service, "/healthz")[2])
    pair = in_use(home.root)
    assert health["ready"] and health["served"]["model_digest"] == pair.model_digest
    assert health["served"]["index_digest"] == pair.index_digest and str(home.root) not in json.dumps(health)
    page = ask(service, "/metrics")[2].decode()
    for name in (
        "requests_total",
        "request_seconds_bucket",
        "batch_queries_bucket",
        "waiting_queries",
        "swaps_total",
        "refused_total",
    ):
        assert f"cpt_serve_{name}" in page
    assert f'model_digest="{pair.model_digest}"' in page and "process_resident_memory_bytes" in page


def test_the_openapi_describes_every_field_and_its_bounds(service: Service) -> None:
    spec = json.loads(ask(service, "/openapi.json")[2])
    assert {"/search", "/v1/embeddings", "/v1/models", "/healthz", "/metrics"} <= set(spec["paths"])
    search = spec["components"]["schemas"]["Search"]["properties"]
    assert (search["k"]["maximum"], search["query"]["maxLength"]) == (100, 8192)
    assert all("description" in field for field in search.values())
    asked = spec["paths"]["/search"]["get"]["parameters"]
    assert all("description" in one for one in asked) and {"q", "k", "kind"} <= {one["name"] for one in asked}


def test_a_token_is_asked_for_and_stands_nowhere(
    home: SearchHome, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CPT_SERVE_TOKEN", TOKEN)
    with serving(home) as service:
        assert ask(service, "/search?q=a")[0] == 401
        assert ask(service, "/search?q=a", headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200
        assert ask(service, f"/search?q=a&token={TOKEN}")[0] == 401
        assert (ask(service, "/")[0], ask(service, "/healthz")[0]) == (200, 200)
        said = ask(service, "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})[2].decode()
    out, err = capfd.readouterr()
    assert TOKEN not in said + out + err


def test_another_host_without_a_token_is_refused(home: SearchHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CPT_SERVE_TOKEN", raising=False)
    with pytest.raises(UserError, match="CPT_SERVE_TOKEN"):
        Service(ServeConfig(host="0.0.0.0", port=0), home.root)


def test_a_port_that_is_taken_is_told(home: SearchHome, service: Service) -> None:
    port = urlsplit(service.url).port
    with pytest.raises(UserError, match=f"port {port} on 127.0.0.1 is in use"):
        Service(ServeConfig(port=port), home.root)


# ---- swaps, stops, kills


def test_pairs_are_swapped_without_a_lost_request(home: SearchHome) -> None:
    home.publish("swapped")
    with serving(home, name="swapped") as service:
        statuses: list[tuple[int, int]] = []
        done = threading.Event()

        def load() -> None:
            while not done.is_set():
                status, _, body = ask(service, "/search", {"query": "number of many", "k": 100})
                statuses.append((status, len(json.loads(body).get("hits", ()))))

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for extra in (5, 11):
            home.publish("swapped", extra)
            until = time.monotonic() + 60
            while statuses[-1:] != [(200, 9 + extra)]:
                assert time.monotonic() < until, statuses[-5:]
                time.sleep(0.05)
        done.set()
        for thread in threads:
            thread.join()
        assert {status for status, _ in statuses} == {200}
        assert {hits for _, hits in statuses} == {9, 14, 20}, "an answer of no pair"
        assert b"cpt_serve_swaps_total 2.0" in ask(service, "/metrics")[2]


def test_nothing_of_the_pair_before_stays_in_memory(home: SearchHome) -> None:
    home.publish("kept")
    with serving(home, name="kept", follow_seconds=0.05) as service:
        for extra in (3, 4):
            before = weakref.ref(service.engine.searcher), weakref.ref(service.engine.searcher.encoder)
            assert ask(service, "/v1/embeddings", {"input": "x"})[0] == ask(service, "/facets")[0] == 200
            home.publish("kept", extra)
            until = time.monotonic() + 60
            while ask(service, "/v1/embeddings", {"input": "x"})[0] == 200 and any(one() is not None for one in before):
                assert time.monotonic() < until, "a searcher or a model that nobody asks any more"
                gc.collect()
                time.sleep(0.05)


class Process:
    """`cpt serve` as a person starts it."""

    def __init__(self, home: Path, *words: str) -> None:
        self.port = free_port()
        began = time.monotonic()
        command = [sys.executable, "-m", "flows.cli", "serve", "--port", str(self.port), *words]
        environment = {**os.environ, "CPT_HOME": str(home)}
        self.process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.url = f"http://127.0.0.1:{self.port}"
        while True:
            assert self.process.poll() is None, self.process.communicate()[0]
            try:
                if ask(self.url, "/healthz/ready")[0] == 200:
                    break
            except OSError:
                time.sleep(0.02)
        self.seconds = time.monotonic() - began

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, out.decode()


def test_a_stop_finishes_what_has_begun(home: SearchHome) -> None:
    served = Process(home.root, "--name", "planted")
    texts = ["word " * 60] * 1500

    def embed() -> int:
        return ask(served.url, "/v1/embeddings", {"input": texts})[0]

    with ThreadPoolExecutor(2) as pool:
        under_way = pool.submit(embed)
        until = time.monotonic() + 30
        while b"cpt_serve_in_flight 2.0" not in ask(served.url, "/metrics")[2]:  # it, and this very request
            assert time.monotonic() < until and not under_way.done()
        code, said = served.end(signal.SIGTERM)
        assert under_way.result() == 200
    assert code == 0 and "every request that was under way is answered" in said and "Traceback" not in said
    with pytest.raises(OSError):
        ask(served.url, "/healthz")


@pytest.mark.slow
def test_a_killed_service_is_ready_again_in_seconds(home: SearchHome) -> None:
    first = Process(home.root, "--name", "planted")
    before = ask(first.url, "/search?q=a")[2]
    assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    again = Process(home.root, "--name", "planted")
    assert ask(again.url, "/search?q=a")[2] == before
    assert again.seconds < 30  # 1.5 s on two idle cores
    assert again.end(signal.SIGINT)[0] == 0

"""Messages get out by webhook and command, in bounded time, raise nothing, and tell no secret."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from webhooks import Webhook, listening

from pipeline_lib.config.notify import NotifyConfig
from pipeline_lib.config.overrides import apply, parse_set
from pipeline_lib.config.run import RunConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.messages import Message, send, without_secrets

MESSAGE = Message("failure", "docs", "the disk is full", "cpt run --preset demo", "retrain", "retrain-docs", "id-1", "extract")
QUICK = {"wait_seconds": 0.5, "backoff_seconds": 0.1, "attempts": 2}


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with listening() as found:
        yield found


def test_a_message_has_run_stage_reason_and_the_next_command(hook: Webhook) -> None:
    assert send(NotifyConfig(webhook=f"{hook.url}/x"), MESSAGE) == []
    (got,) = hook.got
    assert (got["event"], got["name"], got["run"], got["run_id"], got["stage"]) == (
        "failure",
        "docs",
        "retrain-docs",
        "id-1",
        "extract",
    )
    assert (got["reason"], got["next"]) == ("the disk is full", "cpt run --preset demo")
    assert "retrain docs failed in extract" in got["text"] and "cpt run --preset demo" in got["text"]


def test_a_failure_that_passes_is_tried_again_each_time_later(hook: Webhook) -> None:
    hook.answers = ["503", "429"]
    config = NotifyConfig(webhook=hook.url, attempts=3, backoff_seconds=0.2)
    assert send(config, MESSAGE) == []
    assert len(hook.got) == 1
    first, second = (later - earlier for earlier, later in zip(hook.at, hook.at[1:], strict=False))
    assert 0.2 <= first < second and second >= 0.4


@pytest.mark.parametrize("answer", ["404", "elsewhere"])
def test_an_answer_that_stays_is_not_asked_for_again_and_no_redirect_is_followed(hook: Webhook, answer: str) -> None:
    hook.answers = [answer] * 3
    (why,) = send(NotifyConfig(webhook=f"{hook.url}/key", **QUICK), MESSAGE)
    assert "HTTP" in why and hook.paths == ["/key"]


@pytest.mark.parametrize("answer", ["hang", "drip"])
def test_a_webhook_that_hangs_is_given_up_in_time(hook: Webhook, answer: str) -> None:
    hook.answers = [answer] * 3
    began = time.monotonic()
    (why,) = send(NotifyConfig(webhook=f"{hook.url}/s3cr3t-path?token=s3cr3t-query", **QUICK), MESSAGE)
    assert time.monotonic() - began < 5
    assert "s3cr3t" not in why and "127.0.0.1" in why


def test_nobody_there_is_told_without_the_url(hook: Webhook) -> None:
    (why,) = send(NotifyConfig(webhook="http://user:s3cr3t@127.0.0.1:1/s3cr3t", **QUICK), MESSAGE)
    assert "s3cr3t" not in why and "ConnectError" in why


def test_a_url_may_stand_in_the_environment(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", f"{hook.url}/a")
    assert send(NotifyConfig(webhook="$HOOK"), MESSAGE) == []
    assert send(NotifyConfig(webhook="${HOOK}"), MESSAGE) == []
    assert len(hook.got) == 2
    for value in ("", "file:///etc/passwd", "$HOOK"):
        monkeypatch.setenv("HOOK", value)
        (why,) = send(NotifyConfig(webhook="$HOOK"), MESSAGE)
        assert "HOOK" in why and "passwd" not in why


def program(tmp_path: Path, text: str) -> tuple[str, ...]:
    path = tmp_path / "told.py"
    path.write_text(text)
    return (sys.executable, str(path), str(tmp_path / "got.json"))


def test_a_command_gets_json_on_its_input_and_no_shell_sees_it(tmp_path: Path) -> None:
    words = program(tmp_path, "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())")
    message = Message("failure", "docs", "`touch pwned`; $(touch pwned)", "cpt run")
    assert send(NotifyConfig(command=(*words, "$(touch pwned)", "; touch pwned")), message) == []
    assert json.loads((tmp_path / "got.json").read_text())["reason"] == message.reason
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import time; time.sleep(60)", "no end within"),
        ("import sys; sys.exit('password=s3cr3t at https://h.example/s3cr3t/x')", "exit code 1"),
        ("import sys; sys.stdin.close()", ""),
    ],
)
def test_a_command_that_fails_is_told_and_raises_nothing(tmp_path: Path, text: str, says: str) -> None:
    told = send(NotifyConfig(command=program(tmp_path, text), wait_seconds=2.0), MESSAGE)
    assert "s3cr3t" not in str(told)
    assert says in str(told)


def test_a_command_that_is_not_there_is_told(tmp_path: Path) -> None:
    (why,) = send(NotifyConfig(command=(str(tmp_path / "none"),)), MESSAGE)
    assert "cannot be started" in why


def test_a_block_comes_first_and_the_others_where_it_fails(hook: Webhook) -> None:
    told: list[str] = []
    config = NotifyConfig(block="slack-webhook/ops", webhook=hook.url)
    assert send(config, MESSAGE, lambda name, message: told.append(f"{name}: {message.subject}")) == []
    assert told == ["slack-webhook/ops: retrain docs failed in extract"] and hook.got == []

    def broken(*_: Any) -> None:
        raise RuntimeError("Client error for url 'https://hooks.example/services/s3cr3t'")

    (why,) = send(config, MESSAGE, broken)
    assert "s3cr3t" not in why and len(hook.got) == 1


@pytest.mark.parametrize(
    "text",
    [
        "no bucket at s3://AKIA:s3cr3t99@host/x",
        "GET https://host/x?X-Amz-Signature=s3cr3t99&a=b failed",
        "Authorization: Bearer s3cr3t99s3cr3t99",
        '{"password": "s3cr3t99"}',
        "api_key=s3cr3t99",
        "it said of-the-environment-s3cr3t99 and stopped",
    ],
)
def test_reasons_have_no_secrets(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_ACCESS_KEY", "of-the-environment-s3cr3t99")
    assert "s3cr3t99" not in without_secrets(text)


@pytest.mark.parametrize(
    "text", ["shard 3: token 512 of 40,960 tokens is out of range", "what is this? a=b", "s3://bucket/prefix/x.parquet: gone"]
)
def test_words_that_are_no_secrets_stay(text: str) -> None:
    assert without_secrets(text) == text


def test_a_wrong_address_is_refused_and_not_told() -> None:
    for url in ("ftp://u:s3cr3t@h/x", "file:///s3cr3t", "s3cr3t", "http://", "https:///s3cr3t"):
        with pytest.raises(UserError) as caught:
            apply(RunConfig(), parse_set([f"notify.webhook={url}"]))
        assert "s3cr3t" not in str(caught.value)


def test_records_of_a_configuration_have_neither_the_url_nor_a_command_s_arguments() -> None:
    config = RunConfig(notify=NotifyConfig(webhook="https://h.example/s3cr3t?x=s3cr3t", command=("told", "s3cr3t")))
    assert "s3cr3t" not in config.model_dump_json() + repr(config)
    assert config.key_fields() == RunConfig().key_fields()

"""Secrets never reach a message: logins, tokens and webhooks of URLs, and what the environment holds as a secret."""

from __future__ import annotations

import pytest

from pipeline_lib.errors import (
    ContractViolation,
    CorruptArtifact,
    TrainingFailed,
    TransientError,
    UserError,
    has_secret,
    public_name,
    redact_chain,
    redacted,
)

SECRET = "hunter2-hunter2"
KINDS = (UserError, ContractViolation, CorruptArtifact, TransientError, TrainingFailed)


@pytest.mark.parametrize(
    "text",
    [
        f"https://me:{SECRET}@host.org/a.jsonl",
        f"https://{SECRET}@github.com/a/b.git",
        f"http://me:p@{SECRET}@proxy:3128",
        f"postgresql+asyncpg://me:{SECRET}@db:5432/prefect",
        f"see https://host.org/a.jsonl?part=1&token={SECRET} and so on",
        f"https://host.org/a?sv=2020&sig={SECRET}&se=2026",
        f"https://host.org/a?X-Amz-Credential=AK&X-Amz-Signature={SECRET}",
        f"https://host.org/a?api_key={SECRET}",
        "https://host.org/a?v=0123456789abcdefABCD-hunter2-hunter2",
        f"https://hooks.slack.com/services/T0/B0/{SECRET}",
        f"https://discord.com/api/webhooks/1/{SECRET}",
        f"https://outlook.webhook.office.com/a/{SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}'}}",
        f"Proxy-Authorization: Basic {SECRET}",
    ],
)
def test_a_text_loses_its_secret_and_nothing_else(text: str) -> None:
    assert SECRET not in redacted(text)
    assert "***" in redacted(text)
    assert redacted(redacted(text)) == redacted(text)
    assert has_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/prefix/part-*.jsonl.gz",
        "abfs://container@account.dfs.core.windows.net/prefix",
        "git+ssh://git@github.com/a/b.git",
        "https://en.wikipedia.org/w/index.php?title=Key_(music)&oldid=123456",
        "debian:bookworm/commons-io=2.11.0-2#sha256=0123456789abcdef0123456789abcdef",
        "a key = 3 of 12 tokens; train.seed=1",
        "file:///data/a@b/c?d=e.jsonl",
    ],
)
def test_a_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text
    assert public_name(text) == text


def test_what_the_environment_holds_as_a_secret_is_hidden_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "DUMP_PASSWORD", "OPS_WEBHOOK_URL", "GITHUB_PAT"):
        with monkeypatch.context() as patch:
            patch.setenv(name, f"{SECRET}/{name}")
            assert redacted(f"refused: {SECRET}/{name}!") == "refused: ***!"
            assert redacted(f"refused: {SECRET}%2F{name}!") == "refused: ***!"
    monkeypatch.setenv("SHORT_TOKEN", "plain")
    monkeypatch.setenv("TOKEN", "/run/secrets/token")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "disabled")
    assert redacted("plain words are disabled, see /run/secrets/token") == "plain words are disabled, see /run/secrets/token"


def test_a_public_name_is_the_same_whichever_token_opens_the_place() -> None:
    assert public_name("https://me:pw@host.org/a/b.jsonl?token=one") == "https://host.org/a/b.jsonl"
    assert public_name("https://host.org/a/b.jsonl?part=1&token=two#x") == "https://host.org/a/b.jsonl?part=1#x"


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_errors_carry_none(kind: type[Exception]) -> None:
    error = kind(f"https://me:{SECRET}@host.org/a: no answer")
    assert str(error) == "https://***@host.org/a: no answer"
    assert isinstance(error, ValueError | RuntimeError)


class FromFields(Exception):
    """An error as libraries make them: its message comes from fields."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __str__(self) -> str:
        return f"404, url={self.url}"


def test_a_chain_of_errors_carries_none() -> None:
    url = f"https://host.org/a?token={SECRET}"
    try:
        try:
            try:
                raise FromFields(url)
            except FromFields as error:
                raise FileNotFoundError(url) from error
        except FileNotFoundError as error:
            raise RuntimeError(f"listing {url} failed") from error
    except RuntimeError as error:
        redact_chain(error)
        chain: list[BaseException] = [error]
        while (cause := chain[-1].__cause__) is not None:
            chain.append(cause)
        assert [str(one) for one in chain] == [
            "listing https://host.org/a?token=*** failed",
            "https://host.org/a?token=***",
            "FromFields: 404, url=https://host.org/a?token=***",
        ]

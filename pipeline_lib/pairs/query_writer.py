"""Writer of queries: a language model behind an OpenAI-compatible endpoint reads a dump's texts, each once.

    {"query": "...", "document": "-1234567890", "path": "...", "name": "...", "of": "...", "n": 2}

`document` is the text's hash, by which the view `queries` finds it; `of` names the text, the prompt and the model: what has an
answer is not asked again, whichever run it was. Rows of one text stand together, `n` of them; a killed run's last ones are cut
off and asked for again. An answer that is none goes to FILE.bad.jsonl with its reason, and is not asked for again either.

What may pass (a busy server, a broken connection) is tried again, later each time; what stays unanswered is for the next run.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from pipeline_lib.config.queries import QueryWriterConfig
from pipeline_lib.errors import TransientError, UserError, redacted
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of

if TYPE_CHECKING:
    import httpx

BAD_SUFFIX = ".bad.jsonl"
BATCH_ROWS = 1_000
ANSWER_BYTES = 1 << 20  # of one answer; a longer one is none
CHARACTERS_A_TOKEN = 4  # of English and of code, roughly: the estimate's
TOKENS_A_QUERY = 16
LONGEST_WAIT_SECONDS = 60.0  # whatever a server asks for
UNANSWERED_IN_A_ROW = 10  # after which the endpoint is taken to be away
MAY_PASS = (408, 409, 425, 429)
FORGOTTEN = (301, 302, 303, 307, 308, 401, 403, 404, 405)  # the same for every text: the address, the key or the model is wrong
KEY_DIGITS = 24
ROW_STARTS = (b'{"query": ', b'{"reason": ')
WHAT = {"code": "a function", "text": "a passage"}
_MARK = re.compile(r"^\s*(?:[-*\u2022]|\(?\d{1,2}[.):])\s+")
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)


class Text(NamedTuple):
    """A text that queries are wanted for."""

    hash: int
    kind: str
    text: str
    path: str
    name: str


class Bad(NamedTuple):
    """Why an answer is none."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Estimate:
    """What writing will take: texts that have no answer yet, and tokens, roughly."""

    texts: int
    answered: int
    tokens_in: int
    tokens_out: int
    price: float | None

    def sentence(self) -> str:
        """For people."""
        price = "" if self.price is None else f", {self.price:,.2f} in the currency of its prices"
        return (
            f"{self.texts:,} texts to ask about ({self.answered:,} have an answer): some {self.tokens_in:,} tokens in and"
            f" {self.tokens_out:,} out{price}"
        )


@dataclass
class Written:
    """What a run has written: queries, texts with an answer, texts set aside by reason, and texts that stayed unanswered."""

    queries: int = 0
    texts: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0


def estimate(extracted: Artifact, config: QueryWriterConfig, out: Path) -> Estimate:
    """Look through the texts, and ask nobody."""
    done, texts, answered, characters = _answered(out), 0, 0, 0
    for text in texts_of(extracted, config.limit):
        if _key(text, config) in done:
            answered += 1
            continue
        texts += 1
        characters += len(_prompt(text, config))
    tokens = characters // CHARACTERS_A_TOKEN, texts * config.queries_per_text * TOKENS_A_QUERY
    priced = config.price_in is not None or config.price_out is not None
    price = (tokens[0] * (config.price_in or 0) + tokens[1] * (config.price_out or 0)) / 1e6 if priced else None
    return Estimate(texts, answered, *tokens, price)


def texts_of(extracted: Artifact, limit: int | None = None) -> Iterator[Text]:
    """Every y of the dump's pairs once, in the order of the parts; of a sample those with the lowest hashes."""
    paths = extracted.paths("pairs.parquet")
    most: int | None = None
    if limit is not None:
        hashes = [pq.read_table(path, columns=["y_hash"], use_threads=False)["y_hash"].to_numpy() for path in paths]
        lowest = np.unique(np.concatenate([*hashes, np.empty(0, np.int64)]))[:limit]
        most = int(lowest[-1]) if len(lowest) else None
    seen = set[int]()  # 60 bytes a text
    columns = ["y_hash", "kind", "y", "path", "name"]
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
            for row in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                if row[0] not in seen and (most is None or row[0] <= most):
                    seen.add(row[0])
                    yield Text(*row)


def write_queries(extracted: Artifact, config: QueryWriterConfig, out: Path, progress: Progress = silent) -> Written:
    """Ask about every text that has no answer yet, and append what comes.

    Raises:
        UserError: the endpoint knows no such address, model or key.
        TransientError: it does not answer any more; what came is kept, and the same call goes on.
    """
    done = _answered(out)
    left = [text.hash for text in texts_of(extracted, config.limit) if _key(text, config) not in done]
    wanted = set(left)
    texts = (text for text in texts_of(extracted, config.limit) if text.hash in wanted)
    with out.open("a", encoding="utf-8") as good, Path(f"{out}{BAD_SUFFIX}").open("a", encoding="utf-8") as bad:
        writing = _Writing(config, good, bad, len(left), progress)
        asyncio.run(writing.run(texts))
    return writing.written


class _Writing:
    """One run over the texts that are left."""

    def __init__(self, config: QueryWriterConfig, good: IO[str], bad: IO[str], total: int, progress: Progress) -> None:
        self.config, self.good, self.bad, self.total, self.progress = config, good, bad, total, progress
        self.written = Written()
        self._next = 0.0  # when the next request may begin
        self._in_a_row = 0  # texts that stayed unanswered

    async def run(self, texts: Iterator[Text]) -> None:
        import httpx

        key = os.environ.get(self.config.key_variable, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=self.config.concurrency)
        async with httpx.AsyncClient(headers=headers, limits=limits, timeout=self.config.wait_seconds) as client:
            await asyncio.gather(*(self._work(client, texts) for _ in range(self.config.concurrency)))

    async def _work(self, client: httpx.AsyncClient, texts: Iterator[Text]) -> None:
        for text in texts:
            answer = await self._ask(client, text)
            self._take(text, answer if isinstance(answer, Bad | None) else queries_of(answer, self.config))

    def _take(self, text: Text, found: list[str] | Bad | None) -> None:
        """Write what came of a text; at once, so that no other one's rows come between."""
        key, written = _key(text, self.config), self.written
        about = {"document": str(text.hash), "path": text.path, "name": text.name, "of": key}
        if found is None:
            written.unanswered += 1
        elif isinstance(found, Bad):
            written.bad[found.reason] += 1
            self.bad.write(json.dumps({"reason": found.reason, "detail": found.detail, **about}) + "\n")
            self.bad.flush()
        else:
            written.texts += 1
            written.queries += len(found)
            self.good.write("".join(json.dumps({"query": query, **about, "n": len(found)}) + "\n" for query in found))
            self.good.flush()
        done = written.texts + written.bad.total() + written.unanswered
        self.progress(done, self.total, f"{done:,} of {self.total:,} texts, {written.queries:,} queries")

    async def _ask(self, client: httpx.AsyncClient, text: Text) -> bytes | Bad | None:
        """The endpoint's answer; None where it stayed away."""
        import httpx

        url = f"{self.config.endpoint.rstrip('/')}/chat/completions"
        message = {"role": "user", "content": _prompt(text, self.config)}
        body = {"model": self.config.model, "messages": [message], "temperature": self.config.temperature}
        why, wait = "", 0.0
        for attempt in range(self.config.attempts):
            await asyncio.sleep(wait)
            await self._turn()
            wait = self.config.backoff_seconds * 2**attempt
            try:
                # httpx limits each read, and a server that sends a byte a second keeps to that
                async with asyncio.timeout(self.config.wait_seconds), client.stream("POST", url, json=body) as answer:
                    status, data = answer.status_code, await _bounded(answer)
            except (TimeoutError, httpx.HTTPError, OSError) as error:
                why = type(error).__name__
                continue
            if status == 200:
                self._in_a_row = 0
                return Bad("answer_too_large", f"got over {ANSWER_BYTES:,} bytes") if data is None else data
            why = f"HTTP {status}"
            shown = ascii((data or b"")[:200].decode("utf-8", "replace"))
            if status in FORGOTTEN:
                raise UserError(
                    redacted(f"{url}: {why} {shown}: look at the endpoint, the model and {self.config.key_variable}")
                )
            if status < 500 and status not in MAY_PASS:
                return Bad("refused", redacted(f"{why}: {shown}"))
            wait = min(max(wait, _asked_wait(answer)), LONGEST_WAIT_SECONDS)
        self._in_a_row += 1
        if self._in_a_row >= UNANSWERED_IN_A_ROW:
            raise TransientError(
                redacted(
                    f"{url}: {self._in_a_row} texts in a row stayed unanswered ({why}); what came is kept: run the same again"
                )
            )
        return None

    async def _turn(self) -> None:
        """Wait until the rate allows another request."""
        if self.config.requests_per_minute is None:
            return
        now = asyncio.get_running_loop().time()
        begin = max(self._next, now)
        self._next = begin + 60 / self.config.requests_per_minute
        await asyncio.sleep(begin - now)


async def _bounded(answer: httpx.Response) -> bytes | None:
    """The body; None where it is longer than any answer may be."""
    data = b""
    async for piece in answer.aiter_bytes():
        data += piece
        if len(data) > ANSWER_BYTES:
            return None
    return data


def _asked_wait(answer: httpx.Response) -> float:
    try:
        return max(0.0, float(answer.headers.get("retry-after", "0")))
    except ValueError:  # a date
        return 0.0


def queries_of(data: bytes, config: QueryWriterConfig) -> list[str] | Bad:
    """The queries of a chat completion, one a line, or why it holds none."""
    try:
        choice = json.loads(data)["choices"][0]
        content, end = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return Bad("not_a_completion", ascii(f"{type(error).__name__}: {data[:120].decode('utf-8', 'replace')}"))
    if not isinstance(content, str):
        return Bad("no_text", f"got {type(content).__name__} as content, expected a text")
    if end == "length":
        return Bad("cut_short", ascii(content[-80:]))
    lines = (_MARK.sub("", line).strip().strip("\"'`*").strip() for line in _THOUGHT.sub("", content).splitlines())
    found = list(dict.fromkeys(line for line in lines if re.search(r"\w", line) and not line.endswith(":")))
    if not found:
        return Bad("no_query", f"got {content[:80]!a}, expected {config.queries_per_text} lines")
    if any("\0" in line or line.encode("utf-8", "replace") != line.encode("utf-8", "surrogatepass") for line in found):
        return Bad("not_unicode", ascii(content[:80]))
    found = found[: config.queries_per_text]
    longest = max(found, key=lambda line: len(line.split()))
    if len(longest.split()) > config.max_query_words:
        return Bad("query_too_long", f"got {len(longest.split())} words, expected at most {config.max_query_words}")
    return found


def _prompt(text: Text, config: QueryWriterConfig) -> str:
    """The prompt about a text; its own braces stay."""
    filled = config.prompt.replace("{n}", str(config.queries_per_text)).replace("{what}", WHAT.get(text.kind, "a text"))
    return filled.replace("{text}", text.text[: config.max_text_characters].encode("utf-8", "replace").decode())


def _key(text: Text, config: QueryWriterConfig) -> str:
    """Names what an answer depends on: the text, the prompt and the model."""
    rules = (config.model, config.prompt, config.queries_per_text, config.temperature, config.max_text_characters)
    return digest_of([text.hash, text.kind, *rules])[:KEY_DIGITS]


def _answered(out: Path) -> set[str]:
    """Keys of the texts that need not be asked about; what a killed run left half written is cut off."""
    done = _whole_groups(out)
    bad = Path(f"{out}{BAD_SUFFIX}")
    return done | _whole_groups(bad)


def _whole_groups(path: Path) -> set[str]:
    if not path.is_file():
        return set()
    done, at, key, begin, rows = set[str](), 0, "", 0, 0
    with path.open("rb") as stream:
        for line in stream:
            try:
                row: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
                name, n = str(row["of"]), int(row.get("n", 1))
            except (ValueError, KeyError, TypeError, AttributeError):
                if line.endswith(b"\n"):
                    raise UserError(f"{path}: byte {at}: no row of `cpt queries`; give another --out") from None
                if at == 0 and not line.startswith(ROW_STARTS):
                    raise UserError(f"{path}: no file of `cpt queries`; give another --out") from None
                break
            if name != key or rows == n:
                key, begin, rows = name, at, 0
            rows += 1
            at += len(line)
            if rows == n:
                done.add(key)
    keep = at if key in done or not rows else begin
    if keep < path.stat().st_size:
        os.truncate(path, keep)
    return done

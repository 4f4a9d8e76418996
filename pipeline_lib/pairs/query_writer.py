"""Writer of queries: a language model behind an OpenAI-compatible endpoint reads a dump's texts, each once.

    {"query": "...", "document": "-1234567890", "path": "...", "name": "...", "of": "...", "n": 2}

`document` is the text's hash, by which the view `queries` finds it; `of` names the text, the prompt and the model: what has an
answer is not asked again, whichever run it was. Rows of one text stand together, `n` of them; a killed run's last ones are cut
off and asked for again. An answer that is none goes to FILE.bad.jsonl with its reason, and is not asked for again either.

What may pass (a busy server, a broken connection) is tried again, later each time; what stays unanswered is for the next run.
"""

from __future__ import annotations

import asyncio
import fcntl
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
from pipeline_lib.errors import HIDDEN, LEAST_SECRET, TransientError, UserError, redacted
from pipeline_lib.pairs.query_answers import ANSWER_BYTES, Bad, asked_wait, bounded, is_cut, queries_of
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of

if TYPE_CHECKING:
    import httpx

BAD_SUFFIX = ".bad.jsonl"
BATCH_ROWS = 1_000
CHARACTERS_A_TOKEN = 4  # of English and of code, roughly: the estimate's
TOKENS_A_QUERY = 16
LONGEST_WAIT_SECONDS = 60.0  # whatever a server asks for
UNANSWERED_IN_A_ROW = 10  # after which the endpoint is taken to be away
BAD_IN_A_ROW = 10  # before any good answer, after which the endpoint is taken to be none for this
MAY_PASS = (408, 409, 425, 429)
# the same for every text: the address, the key or the model is wrong, or nobody pays; redirects too, which are not followed
FORGOTTEN = (*range(300, 400), 401, 402, 403, 404, 405, 407, 410)
KEY = re.compile(r"[\x21-\x7e]+")  # what a header can hold
KEY_DIGITS = 24
ROW_STARTS = (b'{"query": ', b'{"reason": ')
WHAT = {"code": "a function", "text": "a passage"}


class Text(NamedTuple):
    """A text that queries are wanted for."""

    hash: int
    kind: str
    text: str
    path: str
    name: str


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
    done, texts, answered, characters = _answered(out, cut=False), 0, 0, 0
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
        UserError: the endpoint knows no such address, model or key, or gives no answer to any of the first texts; nothing can
            be written there, or another run writes there.
        TransientError: it does not answer any more; what came is kept, and the same call goes on.
    """
    check_out(out)
    key = key_of(config)
    with out.open("a", encoding="utf-8") as good, Path(f"{out}{BAD_SUFFIX}").open("a", encoding="utf-8") as bad:
        try:
            fcntl.flock(good, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{out}: another run of `cpt queries` writes to it; wait for it, or give another --out") from error
        done = _answered(out)
        left = [text.hash for text in texts_of(extracted, config.limit) if _key(text, config) not in done]
        wanted = set(left)
        texts = (text for text in texts_of(extracted, config.limit) if text.hash in wanted)
        writing = _Writing(config, good, bad, len(left), progress)
        asyncio.run(writing.run(texts, key))
    return writing.written


def check_out(out: Path) -> None:
    """Look whether queries can be written to a file.

    Raises:
        UserError: it is a folder, or there is no folder for it.
    """
    if out.is_dir():
        raise UserError(f"--out {out}: a folder, expected a file in JSON Lines such as {out / 'queries.jsonl'}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.absolute().parent}; make it, or give another --out")


def key_of(config: QueryWriterConfig) -> str:
    """The endpoint's key from the environment, without the line break that a file ends with; empty: none.

    Raises:
        UserError: it is none that a request can carry; the message does not show it.
    """
    key = os.environ.get(config.key_variable, "").strip()
    if key and not KEY.fullmatch(key):
        raise UserError(f"{config.key_variable}: a space, a line break or no ASCII in it, expected a key; set it again")
    return key


class _Writing:
    """One run over the texts that are left."""

    def __init__(self, config: QueryWriterConfig, good: IO[str], bad: IO[str], total: int, progress: Progress) -> None:
        self.config, self.good, self.bad, self.total, self.progress = config, good, bad, total, progress
        self.written = Written()
        self._key = b""
        self._next = 0.0  # when the next request may begin
        self._in_a_row = 0  # texts that stayed unanswered
        self._doubted: list[str] = []  # rows of bad answers while no good one has shown that the endpoint gives any

    async def run(self, texts: Iterator[Text], key: str) -> None:
        import httpx

        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._key = key.encode() if len(key) >= LEAST_SECRET else b""
        limits = httpx.Limits(max_connections=self.config.concurrency)
        async with httpx.AsyncClient(headers=headers, limits=limits, timeout=self.config.wait_seconds) as client:
            await asyncio.gather(*(self._work(client, texts) for _ in range(self.config.concurrency)))
        self._write_bad()

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
            self._doubted.append(json.dumps({"reason": found.reason, "detail": found.detail, **about}) + "\n")
            if written.texts:
                self._write_bad()
            elif len(self._doubted) >= BAD_IN_A_ROW:
                raise UserError(
                    f"{self.config.endpoint}: none of the first {len(self._doubted)} answers holds queries; the last one is"
                    f" {found.reason}: {found.detail}; nothing was set aside: look at the endpoint and the model"
                )
        else:
            self._write_bad()
            written.texts += 1
            written.queries += len(found)
            self.good.write("".join(json.dumps({"query": query, **about, "n": len(found)}) + "\n" for query in found))
            self.good.flush()
        done = written.texts + written.bad.total() + written.unanswered
        self.progress(done, self.total, f"{done:,} of {self.total:,} texts, {written.queries:,} queries")

    def _write_bad(self) -> None:
        self.bad.write("".join(self._doubted))
        self.bad.flush()
        self._doubted.clear()

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
                    status, data = answer.status_code, await bounded(answer)
            except (TimeoutError, httpx.HTTPError, OSError) as error:
                why = type(error).__name__
                continue
            # whoever repeats a request in its answer repeats the key: it goes to no file and no message
            data = data.replace(self._key, HIDDEN.encode()) if data and self._key else data
            if status == 200 and data is not None and is_cut(data):
                why = "answers that end early"
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
            wait = min(max(wait, asked_wait(answer.headers.get("retry-after", ""))), LONGEST_WAIT_SECONDS)
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


def _prompt(text: Text, config: QueryWriterConfig) -> str:
    """The prompt about a text; its own braces stay."""
    filled = config.prompt.replace("{n}", str(config.queries_per_text)).replace("{what}", WHAT.get(text.kind, "a text"))
    return filled.replace("{text}", text.text[: config.max_text_characters].encode("utf-8", "replace").decode())


def _key(text: Text, config: QueryWriterConfig) -> str:
    """Names what an answer depends on: the text, the prompt and the model."""
    rules = (config.model, config.prompt, config.queries_per_text, config.temperature, config.max_text_characters)
    return digest_of([text.hash, text.kind, *rules])[:KEY_DIGITS]


def _answered(out: Path, cut: bool = True) -> set[str]:
    """Keys of the texts that need not be asked about.

    Args:
        cut: whether what a killed run left half written is cut off: by whoever holds the file alone.
    """
    return _whole_groups(out, cut) | _whole_groups(Path(f"{out}{BAD_SUFFIX}"), cut)


def _whole_groups(path: Path, cut: bool) -> set[str]:
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
    if cut and keep < path.stat().st_size:
        os.truncate(path, keep)
    return done

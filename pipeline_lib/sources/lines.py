"""Lines of a file that may have one without an end."""

from __future__ import annotations

import io
from collections.abc import Iterator

from pipeline_lib.sources.safe_open import Refusal


def bounded_lines(stream: io.BufferedReader, max_bytes: int) -> Iterator[bytes | Refusal]:
    """Each line with its newline; one of more than `max_bytes` is passed over, and no more than that of it is held."""
    while line := stream.readline(max_bytes):
        whole = line.endswith(b"\n") or len(line) < max_bytes
        yield line if whole else Refusal("file_too_large", f"a line of more than {max_bytes} bytes")
        while not whole and (rest := stream.readline(max_bytes)):
            whole = rest.endswith(b"\n")

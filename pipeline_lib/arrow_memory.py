"""Where Arrow takes its memory from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa


@contextmanager
def system_memory() -> Iterator[None]:
    """Arrow's memory from the system's allocator: mimalloc, its default, keeps 10 MB at least, and what was freed."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)

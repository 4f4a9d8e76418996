"""Limits of reading: bounds on one text, one file and one process, against bombs and endless files; each can be set."""

from __future__ import annotations

from pydantic import Field

from pipeline_lib.config.base import StageConfig, added


class ReadLimits(StageConfig):
    """Limits on what is read of one file of a dump, beyond which it is refused or cut."""

    max_text_bytes: int = Field(2_000_000, description="Longest text of one record, page or member (bytes).", gt=0)
    max_record_bytes: int | None = added(
        None,
        description="Longest line or record of a file of many, with all that it holds beside its text; null: a multiple of"
        " `max_text_bytes`, 8 times for JSON and Stack Exchange, 16 for CodeSearchNet, 2 for tables (bytes; in arrays of JSON"
        " and in tables characters).",
        gt=0,
    )
    max_expanded_bytes: int | None = Field(
        None, description="Most bytes read of a compressed file, counted after decompression; null: any (bytes).", gt=0
    )
    max_expansion: float = Field(
        1_032.0,
        description="Largest factor by which a compressed file may expand; 1,032 is the most that gzip reaches (times).",
        gt=1,
    )
    free_expansion_bytes: int = Field(
        1024**3, description="Bytes that may come out of any file before `max_expansion` counts (bytes).", gt=0
    )
    max_members: int | None = Field(
        None, description="Most members, records or pages read of one file; null: all (records).", gt=0
    )
    max_refused_members: int = Field(
        10_000, description="Most members of an archive that are refused one by one; it is given up beyond (members).", gt=0
    )
    max_directory_bytes: int = Field(
        32 * 1024**2,
        description="Largest directory of a zip archive: some 300,000 members, which take ten times the memory (bytes).",
        gt=0,
    )
    max_header_bytes: int = Field(
        256 * 1024,
        description="Largest extended header of a tar archive, which holds a long path or attributes, and header of a web"
        " archive's record (bytes).",
        gt=0,
    )
    max_name_characters: int = added(
        4_096, description="Longest path of a member of an archive or a file of a repository (characters).", gt=0
    )
    max_zstd_window_bytes: int = Field(
        128 * 1024**2,
        description="Largest window of a .zst file, which takes as much memory: files of --long=31 ask for 2 GiB (bytes).",
        gt=0,
        le=2**31,
    )
    max_xz_memory_bytes: int = Field(
        128 * 1024**2, description="Most memory that an .xz file may ask for; those of `xz -9` ask for 65 MiB (bytes).", gt=0
    )
    max_depth: int = Field(200, description="Deepest nesting of markup that is followed.", gt=0)
    seconds_per_text: float = Field(
        20.0, description="Longest time to read or parse one text, which is refused as `timeout` beyond it (seconds).", gt=0
    )
    max_timeouts: int = Field(
        10, description="Most texts of one file that may hang; all of it is given up beyond (texts).", gt=0
    )

    def record_bytes(self, times: int) -> int:
        """The longest record of a kind that is mostly up to so many times as long as its text (bytes)."""
        return self.max_record_bytes or self.max_text_bytes * times

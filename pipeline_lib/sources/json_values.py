"""Values of a JSON file that is no JSON Lines: the elements of one array, objects one after the other, or one object of them.

Values are parsed as they come, so that a file of any size is read in bounded memory. A value that is wrong is passed over:
up to its closing bracket where its brackets are balanced, else up to the next place at which an object begins.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from pipeline_lib.sources.decompress import Expanded, Unreadable
from pipeline_lib.sources.first_bytes import head_text
from pipeline_lib.sources.record_fields import USUAL
from pipeline_lib.sources.safe_open import Refusal

_DECODER = json.JSONDecoder()
_SEPARATORS = re.compile(r"[\s,\x1e\ufeff]+")
_BRACKETS = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[{}\[\]]', re.DOTALL)
# where an object begins that may be the next record: nothing inside a string looks like it, for a quote there is escaped
_OBJECT = r"\{\s*\""
_NAMES_A_FIELD = re.compile(r"\s*:\s*")
_KEY = r'"(?:[^"\\]|\\.)*+"\s*:\s*'
_KEYED = rf"{_KEY}\{{"  # where the next record begins in an object of records
_KEYED_LIST = re.compile(rf"{_KEY}\[(?=\s*\{{)")  # in an object of lists of them, such as splits
_LIST_OF_RECORDS = re.compile(r"\[\s*\{")
_PAIRS = {"{": "}", "[": "]"}
_TEXTS = frozenset(USUAL["text"])
# names of the list that holds the records, where a file is one object
_LISTS = "data|rows|records|documents|docs|items|articles|posts|pages|results|examples"
_MARGIN = 256  # an error so near to the end of what was read may be a value that goes on
_LITERAL = 8  # an error so near to the end of the file is that of a literal or an escape that was cut
_BALANCED = 1 << 18  # how far the closing bracket of a wrong value is looked for (characters)
_LINES_TRIED = _VALUES_TRIED = 50
_FEW = 3


def is_by_lines(head: bytes) -> bool:
    """True where the first bytes of a file are those of JSON Lines: one value on each line."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return False  # lines of it are no lines of bytes
    text = head_text(head).lstrip(" \t\r\n")
    first, newline, rest = text.partition("\n")
    if not text.startswith(("{", "[")):
        return not text.startswith("\x1e")
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        if text.startswith("[") or not newline:
            return False
        lines = rest.splitlines()[:_LINES_TRIED]
        return first.rstrip() != "{" and sum(line.startswith("{") for line in lines) * 2 >= len(lines)
    if "\n" in text[:end].rstrip():
        return False
    after = text[end:].lstrip(" \t\r")
    if isinstance(value, dict):
        return bool(after.strip()) and not after.startswith("{")  # one object alone may hold a list of records
    of_records = isinstance(value, list) and value and isinstance(value[0], dict)
    return not of_records and after.startswith("\n") and after.lstrip().startswith("[")


class Values:
    """The values of a stream, in order, each parsed or with the refusal that says why not.

    Args:
        most: longest value (characters); a longer one is refused and none of it is held.
        records: name of the list that holds the records, where the file is one object; empty: one of the usual names.
    """

    def __init__(self, stream: Expanded, most: int, records: str = "") -> None:
        self.stream, self.most, self.records = stream, most, records
        self.decoder: codecs.IncrementalDecoder | None = None
        self.text = ""  # what was read and not passed over
        self.at = 0  # where in it the reading stands
        self.passed = 0  # characters before it
        self.ended = False
        self.broken: Unreadable | None = None
        self.in_list = False
        self.around = False  # an object stands around the list
        self.keyed = False  # records are the values of one object: {"id 1": {"text": ..}, ..}
        self.in_keyed_list = False  # .. or the elements of its lists: {"train": [{"text": ..}, ..], ..}
        self.start = _OBJECT  # how a record begins: with the key that the last one began with, as few objects inside one do
        self.between = ""  # what stood before the value, from the end of a line on: it tells records from what is inside one

    def __iter__(self) -> Iterator[Any | Refusal]:
        self.fill()
        self.enter_list()
        while self.find_value():
            by_key = self.by_key
            value = self.value()
            if not by_key or isinstance(value, dict | list | Refusal):  # a version or the like, beside the records
                yield value
        if self.broken is not None:
            raise self.broken
        if self.in_list:
            raise Unreadable(Refusal("truncated", "the list of records has no end: get the file again", self.place))

    @property
    def place(self) -> int:
        """The character of the file at which the reading stands."""
        return self.passed + self.at

    def fill(self) -> bool:
        """Read more, at least as much as is held; False at the end of the file."""
        self.passed += self.at
        self.text = self.text[self.at :]
        self.at = 0
        parts, wanted = [self.text], max(len(self.text), 1 << 16)
        while wanted > 0 and not self.ended:
            data = self.read()
            self.decoder = self.decoder or codecs.getincrementaldecoder(_encoding(data))("surrogateescape")
            try:
                parts.append(self.decoder.decode(data, final=not data))
            except UnicodeDecodeError as error:  # of UTF-16: a byte of UTF-8 that is none stays as it is, in its record
                raise Unreadable(Refusal("bad_encoding", f"no {error.encoding}: {error.reason}", self.place)) from error
            self.ended = not data
            wanted -= len(parts[-1])
        grew = len(parts) > 1 and any(parts[1:])
        self.text = "".join(parts)
        return grew

    def read(self) -> bytes:
        """The next bytes; none behind a break, which is raised once all values before it are out."""
        try:
            return self.stream.read_some() if self.broken is None else b""
        except Unreadable as error:
            self.broken = error
            return b""

    def enter_list(self) -> None:
        """Go into the list that holds the records, where the file is one object around it."""
        start = len(self.text) - len(self.text.lstrip("\ufeff \t\r\n"))
        if not self.text.startswith("{", start) or not (self.records or self.is_one_object(start)):
            return
        opening = re.compile(rf'"(?:{re.escape(self.records) or _LISTS})"\s*:\s*(?:\[(?=\s*[{{\]])|\{{(?=\s*"))')
        depth = 0
        for token in _BRACKETS.finditer(self.text):
            if depth == 1 and token.group()[0] == '"' and (found := opening.match(self.text, token.start())):
                is_list = found.group()[-1] == "["
                if is_list or self.holds_records(found.end() - 1):
                    self.enter(found.end(), by_key=not is_list)
                    self.around = True
                    return
            depth += (token.group() in _PAIRS) - (token.group() in "}]")
        if not self.records and self.holds_records(start):
            self.enter(start + 1, by_key=True)

    def enter(self, at: int, by_key: bool) -> None:
        """Stand at the first record of a list, or of an object of records."""
        self.at, self.in_list, self.keyed = at, True, by_key
        self.start = self.any_start

    def holds_records(self, start: int) -> bool:
        """True where most values of the one object are objects or lists of them, as far as it was read, and none is a text."""
        of_records = others = 0
        closing: list[str] = []
        for token in _BRACKETS.finditer(self.text, start):
            mark = token.group()
            if len(closing) == 1 and mark[0] == '"' and (colon := _NAMES_A_FIELD.match(self.text, token.end())):
                if mark[1:-1].lower() in _TEXTS and of_records < _FEW:
                    return False  # it is a record; behind some records that field belongs to a damaged one
                if self.text.startswith("{", colon.end()) or _LIST_OF_RECORDS.match(self.text, colon.end()):
                    of_records += 1
                else:
                    others += 1
            if mark in _PAIRS:
                closing.append(_PAIRS[mark])
            elif mark == closing[-1]:  # another one is damage
                closing.pop()
            if not closing or of_records + others > _VALUES_TRIED:
                break
        return of_records > others

    def is_one_object(self, start: int) -> bool:
        """True where the file is one object, as far as it was read, and that is no record itself."""
        try:
            value, end = _DECODER.raw_decode(self.text, start)
        except (ValueError, RecursionError):
            return True  # it goes on, or is cut off
        return not self.text[end:].strip() and not isinstance(value.get("text"), str)

    def find_value(self) -> bool:
        """Stand at the first character of the next value; False at the end of the file."""
        self.between = ""
        while True:
            if found := _SEPARATORS.match(self.text, self.at):
                self.at = found.end()
                self.between += found.group()
            if self.at == len(self.text):
                if not self.fill():
                    return False
                continue
            mark = self.text[self.at]
            if self.around and mark == ("}" if self.keyed else "]") and not self.in_keyed_list:
                return self.leave()
            if self.keyed and self.passed_in_keyed(mark):
                continue
            if mark not in "[]}" or (mark == "[" and self.in_list):
                self.between = self.between[self.between.rfind("\n") :] if "\n" in self.between else ""
                return True
            self.in_list = mark == "[" or (self.in_list and mark == "}")  # a stray brace is what damage left
            self.at += 1

    def passed_in_keyed(self, mark: str) -> bool:
        """Pass over what belongs to an object of records: its brackets, and those of the lists in it with their keys."""
        if self.in_keyed_list:
            if mark != "]":
                return False
            self.at, self.in_keyed_list = self.at + 1, False
        elif mark == '"':
            if len(self.text) - self.at < _MARGIN:
                self.fill()
            if (found := _KEYED_LIST.match(self.text, self.at)) is None:
                return False
            self.at, self.in_keyed_list = found.end(), True
        elif mark in "{}":
            self.at, self.in_list = self.at + 1, mark == "{"
            return True
        else:
            return False
        self.start = self.any_start
        return True

    @property
    def by_key(self) -> bool:
        """True where a value is a key and its record."""
        return self.keyed and not self.in_keyed_list

    def decode(self) -> tuple[Any, int, str]:
        """The value that begins here, where it ends, and the beginning of the next one as a pattern.

        A record of an object of them has its key as `id`, unless it has one.

        Raises:
            ValueError, RecursionError: it is none, or goes on.
        """
        at, before, key = self.at, "", None
        if self.by_key:
            key, at = _DECODER.raw_decode(self.text, at)
            colon = _NAMES_A_FIELD.match(self.text, at)
            if not isinstance(key, str) or colon is None:
                raise json.JSONDecodeError("Expecting a key and its record", self.text, at)
            at, before = colon.end(), _KEY
        value, end = _DECODER.raw_decode(self.text, at)
        if not isinstance(value, dict) or not value:
            return value, end, self.start
        start = rf"{before}\{{\s*{re.escape(json.dumps(next(iter(value)), ensure_ascii=False))}"
        return (value if key is None else {"id": key, **value}), end, start

    def leave(self) -> bool:
        """Pass over what stands behind the list, in the object around it."""
        self.in_list = False
        while not self.ended:
            self.at = len(self.text)
            self.fill()
        return False

    def value(self) -> Any | Refusal:
        """The value that begins here; stands behind it, or where reading can go on."""
        while True:
            try:
                value, end, start = self.decode()
            except (ValueError, RecursionError) as error:
                detail = ascii(str(error))[:200]
                at = getattr(error, "pos", self.at)
                unclosed = detail.startswith("'Unterminated string")
                left = len(self.text) - at  # behind the error
            else:
                length = end - self.at
                self.start = start
                if end == len(self.text) and not isinstance(value, dict | list | str) and self.fill():
                    continue  # 12 may go on as 123
                self.at += length
                if isinstance(value, str) and not self.by_key and _NAMES_A_FIELD.match(self.text, self.at):
                    return self.skip(Refusal("not_json", f"a field outside of a record, at character {self.place}", self.place))
                return value
            goes_on = unclosed or left < _MARGIN
            if goes_on and len(self.text) - self.at > self.most:
                refusal = Refusal("file_too_large", f"a record of more than {self.most} characters", self.place)
                self.skip_to_next()
                return refusal
            if not goes_on or not self.fill():
                refusal = Refusal("not_json", f"{detail}, in the record at character {self.place}", self.place)
                return self.skip(refusal, goes_on and (unclosed or left - _blank_end(self.text) < _LITERAL))

    def skip(self, refusal: Refusal, cut_off: bool = False) -> Refusal:
        """Pass over a wrong value.

        Raises:
            Unreadable: `truncated`, where it is the last one and has no end, or why the stream has none.
        """
        while len(self.text) - self.at < _BALANCED and self.fill():
            pass
        begins = self.record_start()
        if self.text[self.at] in _PAIRS or self.by_key:
            end = self.balanced_end(begins)
            if end > 0:
                self.at = end
                return refusal
            cut_off = cut_off and end == 0 and begins is None
        if cut_off and self.text[self.at] in '{["':
            raise self.broken or Unreadable(
                Refusal("truncated", f"the file ends inside a record: {refusal.detail}", refusal.offset)
            )
        garbage = re.compile(rf"{self.start}|\]\s*\Z") if self.text[self.at] not in '{["' else None
        if garbage and (found := garbage.search(self.text, self.at, self.at + _BALANCED)):
            self.at = found.start()
        else:
            self.skip_to_next()
        return refusal

    def skip_to_next(self) -> None:
        """Go to the next place at which a record seems to begin, or to the end of the file."""
        if (begins := self.record_start()) is not None:
            self.at = begins
            return
        self.start = self.any_start  # the key that was known begins no record here
        following, start = re.compile(rf"{self.before}(?={self.start})"), self.at + 1
        while (found := following.search(self.text, start)) is None:
            self.at = max(self.at, len(self.text) - _MARGIN)
            if not self.fill():
                self.at = len(self.text)
                return
            start = self.at
        self.at = found.end()

    @property
    def any_start(self) -> str:
        """Where a record begins of which nothing is known, as a pattern."""
        return _KEYED if self.by_key else _OBJECT

    @property
    def before(self) -> str:
        """What stands before a record, as a pattern."""
        return re.escape(self.between) if self.between else r"(?:[,}\]]\s*|\n\s*)"

    def record_start(self) -> int | None:
        """Where the next record begins, with the same key as the last one; None where it is not near, or no key is known."""
        if self.start == self.any_start:
            return None
        found = re.compile(rf"{self.before}(?={self.start})").search(self.text, self.at + 1, self.at + _BALANCED)
        return found.end() if found else None

    def balanced_end(self, before: int | None) -> int:
        """Where the brackets of a wrong value are closed and a next value may follow; 0: nowhere; -1: they do not match.

        Args:
            before: where another record begins: what seems to be closed behind stands in strings, for a quote is missing.
        """
        after = re.compile(rf"[\s,]*(?:{self.start}|[\]\x1e{'}' if self.by_key else ''}]|\Z)")
        closing: list[str] = []
        for token in _BRACKETS.finditer(self.text, self.at, before or self.at + _BALANCED):
            mark = token.group()
            if mark in _PAIRS:
                closing.append(_PAIRS[mark])
            elif mark in "}]":
                if not closing or closing.pop() != mark:
                    return -1
                if not closing:
                    return token.end() if after.match(self.text, token.end()) else -1
        return 0


def _blank_end(text: str) -> int:
    return len(text) - len(text.rstrip())


def _encoding(data: bytes) -> str:
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"

"""A command on a terminal of its own, where Ctrl-C goes to every process in the foreground, as it does for people."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from pathlib import Path

PROJECT = Path(__file__).parents[1]
CTRL_C = b"\x03"


class Terminal:
    """A Python program on a pseudo-terminal that is its controlling one."""

    def __init__(self, words: list[str], home: Path) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.home = home
        self.master, slave = os.openpty()

        def lead() -> None:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.child = subprocess.Popen(
            [sys.executable, *words], stdin=slave, stdout=slave, stderr=slave, preexec_fn=lead, cwd=PROJECT,
            env=env | {"CPT_HOME": str(home), "PYTHONPATH": str(PROJECT)},
        )  # fmt: skip
        os.close(slave)
        self.text = ""

    def read(self, seconds: float) -> bool:
        """Take in what was printed; False when the program is gone."""
        waiting = select.poll()  # which has no bound on the number of open files
        waiting.register(self.master, select.POLLIN)
        if not waiting.poll(seconds * 1000):
            return self.child.poll() is None
        try:
            self.text += os.read(self.master, 1 << 16).decode(errors="replace")
        except OSError:  # the last process on the terminal is gone
            return False
        return True

    def until(self, pattern: str, seconds: float = 120) -> None:
        """Wait for these words."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < end and self.read(0.05), f"no {pattern!r} in:\n{self.text[-3000:]}"

    def until_listening(self) -> None:
        """Wait until it answers signals itself: nothing of the program runs before."""
        end = time.monotonic() + 60
        while not _caught(self.child.pid) >> (signal.SIGTERM - 1) & 1:
            assert time.monotonic() < end and self.child.poll() is None
            time.sleep(0.005)

    def wait(self, seconds: float) -> None:
        """Let it run on for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and self.read(min(left, 0.05)):
            pass

    def press_ctrl_c(self) -> None:
        """As the key does."""
        os.write(self.master, CTRL_C)

    def end(self, seconds: float = 120) -> int:
        """The exit code."""
        self.wait(seconds)
        try:
            return self.child.wait(5)
        finally:
            self.child.kill()
            os.close(self.master)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen, without lines that were drawn over."""
        shown = re.sub(r"\r\x1b\[2K|\r", "\n", self.text)
        return [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).split("\n") if line.strip()]

    @property
    def screen(self) -> list[str]:
        """What stands there in the end: lines that were drawn over or erased are gone."""
        rows, row = [""], 0
        for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", self.text):
            if token == "\n":
                row += 1
                rows += [""] * (row == len(rows))
            elif token == "\x1b[1A":
                row -= 1
            elif token == "\x1b[2K":
                rows[row] = ""
            elif token[0] not in "\x1b\r":
                rows[row] += token
        return [line.rstrip() for line in rows if line.strip()]

    def left_behind(self) -> list[str]:
        """Command lines of processes of this home that still run, given a second to end."""
        for _ in range(10):
            if not (found := _of_home(self.home)):
                break
            time.sleep(0.1)
        return found

    def flow_runs(self) -> dict[str, str]:
        """State to message of the flow runs in this home's database."""
        database = self.home / "prefect" / "prefect.db"
        if not database.exists():
            return {}
        query = "SELECT r.state_type, s.message FROM flow_run r LEFT JOIN flow_run_state s ON s.id = r.state_id"
        with sqlite3.connect(database) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'flow_run'").fetchall()
            return dict(connection.execute(query).fetchall()) if tables else {}


def _caught(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"SigCgt:\s*([0-9a-f]+)", status)[1], 16)  # type: ignore[index]


def _of_home(home: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"CPT_HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # gone, or another user's
    return [words for words in found if words]  # a zombie has none

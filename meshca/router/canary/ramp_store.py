"""Where ramps are kept: a port, and the directory of configuration behind it.

Rules: a change is made to what its maker saw, or not at all. Our own writers take turns by a lock on the directory; each file is replaced
as a whole and is durable before it is there. An editor takes no lock: what it saves within the same millisecond is lost, as between two
editors.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from meshca.errors import StoreConflict
from meshca.router.canary.edits import edited, found
from meshca.router.canary.ramp import Canary
from meshca.router.mesh.objects import Origin
from meshca.router.parsing.canary import to_begin


class RampStore(Protocol):
    """Where the router and the command line write what becomes of a ramp."""

    def write(self, origin: Origin, before: Canary, after: Canary) -> None:
        """Put `after` in place of `before`, weights and all; it is there when this returns. Without progress nothing need be there before.

        Raises StoreConflict when something else is there, InvalidInput when it can not be written by a program, OSError.
        """
        ...

    def obstacle(self, origin: Origin) -> str:
        """Why nothing can be written there now; empty when it can."""
        ...


class RampDirectory:
    """The files of a directory; see RampStore."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, origin: Origin, before: Canary, after: Canary) -> None:
        """See RampStore. A symbolic link is followed."""
        with _locked(self._directory):
            path = (self._directory / origin.file).resolve()
            text = path.read_bytes().decode()
            there = found(text, origin)
            if there is None or (there.canary or to_begin(there.http, after.ramp)) != before:
                raise StoreConflict(f"{origin.file}: {origin.label} is not what it was: somebody else changed it")
            _replace(path, edited(text, origin, after))

    def obstacle(self, origin: Origin) -> str:
        """See RampStore."""
        place = (self._directory / origin.file).resolve().parent
        return "" if os.access(place, os.W_OK | os.X_OK) else f"{place} can not be written by the router's user"


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _replace(path: Path, text: str) -> None:
    """Owner and mode stay, as far as we may give them."""
    status = path.stat()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            os.fchmod(file.fileno(), status.st_mode & 0o7777)
            with suppress(PermissionError):
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:  # in words that are the same the next time
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()

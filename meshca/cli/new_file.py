"""A new file, written by the user who asked for it, in a directory that may be anybody's."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from meshca.errors import AlreadyExists

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that appears at the path when the block ends: whole, durable, with mode 0600, in place of nothing, or not at all.

    Whatever its directory's owner does meanwhile with names, only this very file is written and appears. Raises AlreadyExists, OSError.
    """
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    temporary = f".{path.name}.{secrets.token_hex(8)}"
    try:
        with os.fdopen(os.open(temporary, _NEW, 0o600, dir_fd=parent), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.link(f"/proc/self/fd/{file.fileno()}", path.name, dst_dir_fd=parent)  # this file, whatever has its name
    except FileExistsError as error:
        raise AlreadyExists(f"{path} is there already and is not overwritten", str(path)) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=parent)
        os.fsync(parent)
        os.close(parent)

"""The one table that turns what a database says into our errors."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from meshca.errors import InvalidInput, StoreConflict, StoreUnavailable

_REASONS = {
    "SQLITE_BUSY": "another process has it locked",
    "SQLITE_CANTOPEN": "it can not be opened or made",
    "SQLITE_CORRUPT": "it is damaged, restore a backup",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_IOERR": "the disk fails or is full",
    "SQLITE_NOTADB": "it is no SQLite database",
    "SQLITE_READONLY": "the file or its directory is read-only",
}


@contextmanager
def translated(store: str) -> Iterator[None]:
    """Raise StoreConflict, InvalidInput or StoreUnavailable, all naming the store, for whatever the database or the disk raises."""
    try:
        yield
    except IntegrityError as error:
        raise StoreConflict(f"{store} was written by somebody else first: {_said(error)}") from error
    except (DataError, OverflowError, UnicodeError) as error:
        raise InvalidInput(f"{store} can not keep this: {_said(error)}") from error
    except (DBAPIError, PoolTimeoutError, sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"{store} can not be used: {_said(error)}") from error


def _said(error: Exception) -> str:
    """The first line of what the database said, and before it in words what its code means."""
    cause = (error.orig if isinstance(error, DBAPIError) else None) or error
    name = getattr(cause, "sqlite_errorname", "")
    reason = next((f"{words} ({name})" for code, words in _REASONS.items() if name.startswith(code)), "")
    return ": ".join(filter(None, [reason, str(cause).partition("\n")[0]]))

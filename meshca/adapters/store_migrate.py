"""Bring a database to the schema of this version, step by step, in one transaction.

Rules: a database of a newer version is refused and left alone; a failed step leaves the database as it was.
"""

from functools import cache
from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from meshca.errors import CannotStart

# "meshca" in ASCII: what servers that start at once queue for.
_ADVISORY_LOCK = 0x6D6573686361


@cache
def _steps() -> ScriptDirectory:
    directory = Path(__file__).with_name("migrations")
    return ScriptDirectory(directory, version_locations=[directory])


def newest_revision() -> str:
    """The revision that this version works with."""
    return str(_steps().get_current_head())


def check_revision(found: str | None, store: str) -> None:
    """Raise CannotStart unless this version can bring a database at that revision (None: empty) to its own."""
    known = {step.revision for step in _steps().walk_revisions()}
    if found is not None and found not in known:
        raise CannotStart(
            f"{store} has revision {found}, but this version of meshca knows only those up to {newest_revision()}: "
            "run the newer version, or restore a backup of this one"
        )


def migrate(connection: Connection, store: str) -> None:
    """Perform the steps that are missing, in a transaction that the caller commits. `store` is for errors. Raises CannotStart."""
    _wait_for_others(connection)
    found = MigrationContext.configure(connection).get_current_revision()
    check_revision(found, store)
    if found != newest_revision():
        missing = lambda at, _: _steps()._upgrade_revs("head", at)  # noqa: E731, SLF001 - as alembic.command.upgrade does
        with EnvironmentContext(Config(), _steps(), fn=missing) as steps:
            steps.configure(connection=connection)
            steps.run_migrations()


def _wait_for_others(connection: Connection) -> None:
    """Begin a transaction that excludes other writers: SQLite's driver would begin none for DDL."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})

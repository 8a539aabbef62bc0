"""Every adapter of every port, behind one fixture for each port. A home can be opened again, as after a restart."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from meshca.adapters.keys_disk import DiskKeyManager
from meshca.adapters.keys_memory import MemoryKeyManager
from meshca.adapters.store_memory import MemoryStore
from meshca.adapters.store_sql import SqlStore
from meshca.ports import AuditLog, BundleStore, EntryStore, Journal, KeyManager
from tests.support.postgres import find_postgres, running_postgres

Store = MemoryStore | SqlStore
_schemas = (f"test_{number}" for number in itertools.count())


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHome:
    """Where keys live. `open` gives a new key manager over the same keys, if they persist."""

    open: Callable[[], KeyManager]
    persists: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHome:
    """Where a store lives. `open` gives a new store over the same state, if it persists."""

    open: Callable[[], AbstractAsyncContextManager[Store]]
    persists: bool = True


@pytest.fixture(params=["memory", "disk", "encrypted disk"])
def key_home(request: pytest.FixtureRequest, tmp_path: Path) -> KeyHome:
    match request.param:
        case "memory":
            return KeyHome(open=MemoryKeyManager, persists=False)
        case "disk":
            return KeyHome(open=lambda: DiskKeyManager(tmp_path / "keys"))
        case _:
            return KeyHome(open=lambda: DiskKeyManager(tmp_path / "keys", b"correct horse"))


@pytest.fixture
def keys(key_home: KeyHome) -> KeyManager:
    return key_home.open()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    programs = find_postgres()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed")
    with running_postgres(programs) as url:
        yield url


@pytest.fixture
def postgres_url(postgres: str) -> str:
    """An empty schema in the server of the session."""
    schema = next(_schemas)
    engine = create_engine(postgres)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
    engine.dispose()
    return f"{postgres}&options=-csearch_path%3D{schema}"


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store_home(request: pytest.FixtureRequest, tmp_path: Path) -> StoreHome:
    match request.param:
        case "memory":
            return StoreHome(open=lambda: nullcontext(MemoryStore()), persists=False)
        case "sqlite":
            return StoreHome(open=lambda: SqlStore.open(f"sqlite:///{tmp_path}/store.db"))
        case _:
            url = request.getfixturevalue("postgres_url")
            return StoreHome(open=lambda: SqlStore.open(url))


@pytest.fixture
async def store(store_home: StoreHome) -> AsyncIterator[Store]:
    async with store_home.open() as opened:
        yield opened


@pytest.fixture
def entries(store: Store) -> EntryStore:
    return store.entries


@pytest.fixture
def bundles(store: Store) -> BundleStore:
    return store.bundles


@pytest.fixture
def journal(store: Store) -> Journal:
    return store.journal


@pytest.fixture
def audit(store: Store) -> AuditLog:
    return store.audit

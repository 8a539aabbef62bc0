"""What only a server can do to a store: be shared, end connections, be away."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from meshca.adapters.store_schema import METADATA
from meshca.adapters.store_sql import SqlStore
from meshca.errors import AlreadyExists, Refused, StoreConflict, StoreUnavailable
from tests.support.values import entry, link, slots


async def test_servers_that_start_at_once_on_an_empty_database_share_it(postgres_url: str):
    async with AsyncExitStack() as stack:
        stores = await asyncio.gather(*(stack.enter_async_context(SqlStore.open(postgres_url)) for _ in range(4)))

        made = await asyncio.gather(*(store.entries.create(entry("web")) for store in stores), return_exceptions=True)
        saved = await asyncio.gather(*(store.journal.save(slots()) for store in stores), return_exceptions=True)

        assert [getattr(refused, "existing", None) for refused in made].count("web") == 3
        assert {type(refused) for refused in made} == {type(None), AlreadyExists}
        assert sum(isinstance(refused, StoreConflict) for refused in saved) == 3


async def test_a_store_whose_connections_were_ended_is_unavailable_once_and_then_goes_on(postgres_url: str):
    async with SqlStore.open(postgres_url) as store:
        await store.audit.append([link("a", 1)])
        end_all_connections(postgres_url)

        with pytest.raises(StoreUnavailable):
            await store.audit.append([link("a", 2)])

        await store.audit.append([link("a", 2)])
        assert len(await store.audit.read("a", 0, 10)) == 2


async def test_a_server_that_is_away_is_named_without_the_password(tmp_path: Path):
    with pytest.raises(
        StoreUnavailable, match=r"store postgresql\+psycopg://meshca:\*\*\*@/meshca.*can not be used"
    ) as refused:
        async with SqlStore.open(f"postgresql+psycopg://meshca:secret@/meshca?host={tmp_path}"):
            pass
    assert "secret" not in str(refused.value)


async def test_a_copy_of_a_postgresql_store_is_left_to_its_own_tools(postgres_url: str, tmp_path: Path):
    async with SqlStore.open(postgres_url) as store:
        with pytest.raises(Refused, match="pg_dump"):
            await store.backup(tmp_path / "backup")


async def test_the_migrations_make_the_schema(postgres_url: str):
    async with SqlStore.open(postgres_url):
        pass

    engine = create_engine(postgres_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    engine.dispose()


def end_all_connections(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'meshca'"
        assert connection.execute(text(others)).scalar()
    engine.dispose()

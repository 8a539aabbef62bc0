"""The real CA server in memory, without sockets or chores: tests tick it and move its clock by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshca.adapters.keys_memory import MemoryKeyManager
from meshca.adapters.store_memory import MemoryStore
from meshca.config import Config
from meshca.ports import AuditLog
from meshca.server.app import CAServer, Ports
from meshca.telemetry import Telemetry
from tests.support.clock import FakeClock
from tests.support.values import OURS


def memory_ca(
    clock: FakeClock,
    directory: Path,
    *,
    is_gone: Callable[[str], bool] = lambda _: False,
    audit: AuditLog | None = None,
) -> CAServer:
    """A server that has yet to be started. Nothing is written to the directory."""
    store = MemoryStore()
    settings: dict[str, Any] = {
        "admin_socket": directory / "admin.sock",
        "data_dir": directory,
        "sockets": {"web": {"path": directory / "web.sock"}},
    }
    return CAServer(
        config=Config(trust_domain=OURS, **settings),
        ports=Ports(
            keys=MemoryKeyManager(),
            entries=store.entries,
            bundles=store.bundles,
            journal=store.journal,
            audit=audit or store.audit,
            clock=clock,
            is_gone=is_gone,
        ),
        telemetry=Telemetry(version="test"),
    )

"""How the process ends."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from meshca.server.lifetime import outlasting_calls
from tests.support.wait import until

METHOD = "/meshca.test.Slow/Call"


class Slow(grpc.GenericRpcHandler):
    """A call that takes a while to notice that it was cut off."""

    def __init__(self) -> None:
        self.under_way = self.ended = False

    def service(self, _details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(self.call)

    async def call(self, _request: bytes, _context: Any) -> bytes:
        self.under_way = True
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(100):
                await asyncio.sleep(0)
            self.ended = True
        return b""


async def cut_off(handler: Slow, socket: Path) -> None:
    """Serve a call, and stop before it has ended."""
    async with outlasting_calls():
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((handler,))
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            call = channel.unary_unary(METHOD)(b"")
            await until(lambda: handler.under_way)
            await server.stop(0)
            assert await call.code() is not grpc.StatusCode.OK


def test_calls_that_were_cut_off_end_by_themselves_and_print_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    handler = Slow()
    asyncio.run(cut_off(handler, tmp_path / "socket"))
    assert handler.ended
    assert [record.getMessage() for record in caplog.records] == []
    assert "Traceback" not in capfd.readouterr().err

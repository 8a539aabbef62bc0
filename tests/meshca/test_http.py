import asyncio
import logging
import socket

import aiohttp
import pytest

from meshca.errors import CannotStart
from meshca.http_api import METRICS_TYPE, MOST_CONNECTIONS, serve_http

LOOPBACK = "127.0.0.1"
ADVICE = "Set another"


async def get(port: int, path: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{LOOPBACK}:{port}{path}") as response:
        return response.status, response.headers["Content-Type"], await response.text()


async def test_ready_says_in_json_what_fails_and_recovers_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answers = iter([(False, {"checks": {"sign": "cannot sign: disk full"}}), (True, {})])
    async with serve_http(
        address=LOOPBACK, port=0, metrics=lambda: b"m 1\n", ready=lambda: next(answers), advice=ADVICE
    ) as port:
        body = '{"ready": false, "checks": {"sign": "cannot sign: disk full"}}'
        assert await get(port, "/ready") == (503, "application/json; charset=utf-8", body)
        assert await get(port, "/ready") == (200, "application/json; charset=utf-8", '{"ready": true}')
        assert await get(port, "/live") == (200, "text/plain; charset=utf-8", "live\n")
        assert await get(port, "/metrics") == (200, METRICS_TYPE, "m 1\n")
        assert (await get(port, "/"))[0] == 404
    assert [record.message for record in caplog.records] == ["http listens"]
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(port, "/live")


async def test_a_port_that_is_taken_is_refused_with_what_to_do() -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(CannotStart, match=rf"at 127\.0\.0\.1 port {port}: .*in use\. Set another$"):
            async with serve_http(address=LOOPBACK, port=port, metrics=bytes, ready=lambda: (True, {}), advice=ADVICE):
                pass


async def test_an_address_that_is_not_ours_is_refused_by_name() -> None:
    with pytest.raises(CannotStart, match=r"http can not listen at 192\.0\.2\.1 port 0"):
        async with serve_http(address="192.0.2.1", port=0, metrics=bytes, ready=lambda: (True, {}), advice=ADVICE):
            pass


async def test_who_opens_connections_without_end_takes_neither_our_files_nor_the_place_of_a_scrape() -> None:
    async with serve_http(address=LOOPBACK, port=0, metrics=bytes, ready=lambda: (True, {}), advice=ADVICE) as port:
        flood = [await asyncio.open_connection(LOOPBACK, port) for _ in range(2 * MOST_CONNECTIONS)]
        oldest, newest = flood[0], flood[-1]
        assert await oldest[0].read() == b"", "closed by us"
        assert await get(port, "/live") == (200, "text/plain; charset=utf-8", "live\n")
        newest[1].write(b"GET /live HTTP/1.0\r\n\r\n")
        assert b"200 OK" in await newest[0].read()
        for _, writer in flood:
            writer.close()

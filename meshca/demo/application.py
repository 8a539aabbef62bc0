"""The application behind a callee's Envoy: the smallest HTTP/1.1 server that says who called it, and which version it is."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshca.bootstrap import CLIENT_HEADER

SLOW_PATH, SLOW_SECONDS = "/slow", 0.05
_CALLER = re.compile(rb"\r\nx-forwarded-client-cert:[^\r]*URI=([^;,\r]+)", re.IGNORECASE)


@asynccontextmanager
async def running_application(version: str = "v1") -> AsyncIterator[int]:
    """Serve on a port of 127.0.0.1 that the kernel chooses, until the context ends; yields the port."""
    body = f"{version}\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.split(b" ", 2)[1] == SLOW_PATH.encode():
                    await asyncio.sleep(SLOW_SECONDS)
                writer.write(_answer(head, body))
        except (EOFError, OSError):
            pass  # the other side has had enough
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


def _answer(head: bytes, body: bytes) -> bytes:
    caller = _CALLER.search(head)
    identity = b"%s: %s\r\n" % (CLIENT_HEADER.encode(), caller[1]) if caller else b""
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%s\r\n%s" % (len(body), identity, body)

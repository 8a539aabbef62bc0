"""The application behind the backend Envoy: the smallest HTTP/1.1 server that says who called it."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshca.bootstrap import CLIENT_HEADER

_CALLER = re.compile(rb"\r\nx-forwarded-client-cert:[^\r]*URI=([^;,\r]+)", re.IGNORECASE)
_BODY = b"hello from the application\n"


@asynccontextmanager
async def running_application() -> AsyncIterator[int]:
    """Serve on a port of 127.0.0.1 that the kernel chooses, until the context ends; yields the port."""
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            writer.write(_answer(await reader.readuntil(b"\r\n\r\n")))
    except (EOFError, OSError):
        pass  # the other side has had enough
    finally:
        writer.close()


def _answer(head: bytes) -> bytes:
    caller = _CALLER.search(head)
    identity = b"%s: %s\r\n" % (CLIENT_HEADER.encode(), caller[1]) if caller else b""
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%s\r\n%s" % (len(_BODY), identity, _BODY)

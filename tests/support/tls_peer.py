"""A peer over real TLS that is not Envoy: shows whatever certificate a test gives it, and says what came of it."""

import asyncio
import ssl
import tempfile
from pathlib import Path

REQUEST = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"


async def ask(port: int, chain: bytes = b"", key: bytes = b"", request: bytes = REQUEST) -> str:
    """Ask a TLS listener on 127.0.0.1, showing a PEM chain and key (or none). The status line, or `refused`.

    The server's certificate is not looked at: the subject is what the server makes of ours.
    """
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=_context(chain, key))
        try:
            writer.write(request)
            line = await reader.readline()
        finally:
            writer.transport.abort()
    except (ssl.SSLError, ConnectionError):
        return "refused"
    return line.decode().strip() or "refused"


def _context(chain: bytes, key: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if chain:
        with tempfile.TemporaryDirectory() as directory:
            certificate, private = Path(directory, "chain.pem"), Path(directory, "key.pem")
            certificate.write_bytes(chain)
            private.write_bytes(key)
            context.load_cert_chain(certificate, private)
    return context

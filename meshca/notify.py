"""Tells systemd how we are (sd_notify(3)), if it asked: ready, reloading, stopping. Without NOTIFY_SOCKET nothing happens."""

import logging
import os
import socket
from collections.abc import Mapping

from meshca.ports import Clock

logger = logging.getLogger(__name__)


class Notify:
    """What the service manager is told. Never raises: a lost word is logged and must not stop a server that works."""

    def __init__(self, *, clock: Clock, environ: Mapping[str, str] = os.environ) -> None:
        self._clock = clock
        self._address = environ.get("NOTIFY_SOCKET", "")

    def ready(self, status: str = "ready") -> None:
        """We serve; also said when a reload is done. `status` is what `systemctl status` shows."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """SIGHUP came; `ready` follows. Type=notify-reload wants to know when (CLOCK_MONOTONIC)."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={int(self._clock.monotonic() * 1_000_000)}")

    def stopping(self) -> None:
        """We drain and end."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto(message.encode(), address)
        except OSError as error:
            logger.warning("systemd was not told", extra={"said": message, "reason": str(error)})

"""Tells systemd how we are (sd_notify(3)), if it asked: ready, reloading, stopping. Without NOTIFY_SOCKET nothing happens."""

import logging
import os
import socket
from collections.abc import Mapping

from meshca.ports import Clock

logger = logging.getLogger(__name__)

_PATIENCE_MICROSECONDS = 60_000_000


class Notify:
    """What the service manager is told. Never raises: a lost word is logged and must not stop a server that works."""

    def __init__(self, *, clock: Clock, environ: Mapping[str, str] = os.environ) -> None:
        self._clock = clock
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._is_ready = False

    def waiting(self, why: str) -> None:
        """We are not ready yet, and go on trying: do not take us for one that hangs."""
        self._send(f"EXTEND_TIMEOUT_USEC={_PATIENCE_MICROSECONDS}\nSTATUS=not ready: {why}")

    def ready(self, status: str = "ready") -> None:
        """We serve. `status` is what `systemctl status` shows."""
        self._is_ready = True
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """SIGHUP came; `reloaded` follows. Type=notify-reload wants to know when (CLOCK_MONOTONIC)."""
        if self._is_ready:
            self._send(f"RELOADING=1\nMONOTONIC_USEC={int(self._clock.monotonic() * 1_000_000)}")

    def reloaded(self) -> None:
        """The reload is done, and we are as ready as before."""
        if self._is_ready:
            self.ready()

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

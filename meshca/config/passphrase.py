"""Reads the passphrase of the key manager from where the settings say. It is returned as bytes and appears in no text."""

import os
from collections.abc import Mapping
from pathlib import Path

from meshca.config.sections import KeyManager
from meshca.errors import CannotStart

_TOO_OPEN = 0o027
"""Group may read: that is how systemd's credentials look, which an access list guards."""
_MOST_BYTES = 4096


def read_passphrase(settings: KeyManager, environ: Mapping[str, str]) -> bytes | None:
    """Return the passphrase, None if none is configured. Raises CannotStart, naming where it should be."""
    if settings.passphrase_file:
        return _of_file(settings.passphrase_file)
    if settings.passphrase_env:
        if not (found := environ.get(settings.passphrase_env)):
            raise CannotStart(f"key_manager.passphrase_env names {settings.passphrase_env}, which is not set or empty")
        return os.fsencode(found)
    return None


def _of_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            found = file.readline(_MOST_BYTES).rstrip(b"\r\n")
    except OSError as error:
        raise CannotStart(f"key_manager.passphrase_file {path} can not be read: {error.strerror or error}") from error
    if mode & _TOO_OPEN:
        raise CannotStart(
            f"key_manager.passphrase_file {path} is open to others (mode {mode & 0o777:04o}): chmod 0400 it"
        )
    if not found:
        raise CannotStart(f"key_manager.passphrase_file {path} has an empty first line")
    return found

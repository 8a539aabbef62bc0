"""All that this package raises. Types exist only where someone catches them; the admin API maps each to a gRPC status in one table."""

from typing import Literal


class MeshcaError(Exception):
    """Root of everything that meshca raises. The text is for the person who reads it: what was wrong, with the value, and what to do."""


class InvalidInput(MeshcaError):  # noqa: N818 - named for what it is
    """What was asked for can not be: malformed, out of bounds, reserved."""


class NotFound(MeshcaError):  # noqa: N818 - same
    """There is no such entry, bundle, authority or record."""


class AlreadyExists(MeshcaError):  # noqa: N818 - same
    """The same thing is there already. `existing` is its id."""

    def __init__(self, text: str, existing: str) -> None:
        super().__init__(text)
        self.existing = existing


class Refused(MeshcaError):  # noqa: N818 - same
    """The request is well formed, but the state of the CA forbids it (FAILED_PRECONDITION)."""


RefusalReason = Literal[
    "clock", "csr", "issuer_expiring", "issuer_gone", "key_gone", "lint", "mismatch", "no_issuer", "self_test"
]
"""Short stable labels for metrics."""


class IssuanceRefused(Refused):
    """No certificate is signed."""

    def __init__(self, reason: RefusalReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class KeyGone(MeshcaError):  # noqa: N818 - same
    """The key manager holds no key of that id."""


class StoreUnavailable(MeshcaError):  # noqa: N818 - same
    """The store can not be read or written now (full disk, lock, lost connection). What was there before still is."""


class StoreConflict(MeshcaError):  # noqa: N818 - same
    """Somebody else wrote first: read again and decide anew."""


class CannotStart(MeshcaError):  # noqa: N818 - same
    """Start-up found something that must be mended first (configuration, permissions, sockets, a store of a newer version)."""

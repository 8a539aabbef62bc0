"""How a command ends: the exit codes, and the one table from what went wrong to a code and a text. Loads neither grpc nor sqlalchemy."""

from enum import IntEnum
from typing import Self

from meshca.errors import AlreadyExists, CannotStart, InvalidInput, MeshcaError, NotFound
from sds.errors import NotAuthorized, SDSError
from spiffe.errors import SpiffeError, VerificationFailed


class Exit(IntEnum):
    """Exit codes, the same for every command; `meaning` is what docs/cli.md says of it."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        """An integer with its meaning."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "done, or the check passed"
    FAILED = 1, "refused in this state of the server, or the check failed"
    USAGE = 2, "the command line or a file is malformed"
    NOT_FOUND = 3, "there is no such entry, bundle, authority, record or file"
    UNREACHABLE = 4, "no server answers"
    NOT_ALLOWED = 5, "the server, or the file system, does not let you"
    EXISTS = 6, "it is there already"
    INTERNAL = 7, "a bug, of the server or of this program"
    INTERRUPTED = 130, "stopped by Ctrl-C"
    UNREAD = 141, "whoever read its output stopped, such as `head -1`"


class Failure(Exception):  # noqa: N818 - named for what it is
    """The command ends with this code, and says this much on standard error (nothing when it is empty)."""

    def __init__(self, code: Exit, text: str = "") -> None:
        super().__init__(text)
        self.code = code


# From the gRPC status of a call to how the command ends; every other status is INTERNAL.
OF_STATUS = {
    "INVALID_ARGUMENT": (Exit.USAGE, "{}"),
    "OUT_OF_RANGE": (Exit.USAGE, "{}"),
    "NOT_FOUND": (Exit.NOT_FOUND, "{}"),
    "ALREADY_EXISTS": (Exit.EXISTS, "{}"),
    "FAILED_PRECONDITION": (Exit.FAILED, "refused: {}"),
    "ABORTED": (Exit.FAILED, "somebody else changed it at the same moment, try again: {}"),
    "RESOURCE_EXHAUSTED": (Exit.FAILED, "the server is at its limit: {}"),
    "UNIMPLEMENTED": (Exit.FAILED, "this server does not know the request; is it of another version? {}"),
    "PERMISSION_DENIED": (Exit.NOT_ALLOWED, "not allowed: {}"),
    "UNAUTHENTICATED": (Exit.NOT_ALLOWED, "not allowed: {}"),
    "NO_SERVER": (Exit.UNREACHABLE, "{}"),  # not of gRPC: nobody listens at the socket
    "UNAVAILABLE": (Exit.UNREACHABLE, "the server can not answer: {}"),
    "DEADLINE_EXCEEDED": (Exit.UNREACHABLE, "no answer in time: {}"),
    "CANCELLED": (Exit.UNREACHABLE, "the server ended the call, perhaps because it stops: {}"),
}

# From what our own code raises to the code; the first line that fits counts.
_OF_ERROR: tuple[tuple[type[Exception], Exit], ...] = (
    (InvalidInput, Exit.USAGE),
    (NotFound, Exit.NOT_FOUND),
    (AlreadyExists, Exit.EXISTS),
    (CannotStart, Exit.FAILED),
    (MeshcaError, Exit.FAILED),
    (VerificationFailed, Exit.FAILED),
    (SpiffeError, Exit.USAGE),
    (NotAuthorized, Exit.NOT_ALLOWED),
    (SDSError, Exit.FAILED),
    (FileNotFoundError, Exit.NOT_FOUND),
    (PermissionError, Exit.NOT_ALLOWED),
    (OSError, Exit.FAILED),
)


def failure_of_status(status: str, text: str) -> Failure:
    """How a command ends whose call had this gRPC status."""
    code, pattern = OF_STATUS.get(status, (Exit.INTERNAL, f"the server failed ({status}), its log says why: {{}}"))
    return Failure(code, pattern.format(text))


def failure_of(error: Exception) -> Failure | None:
    """How a command ends that raised this; None for what nobody expected. A start that a file prevented ends as that file's error does."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:  # what one task of a group raised
        error = error.exceptions[0]
    if isinstance(error, Failure):
        return error
    cause = error.__cause__ if isinstance(error, CannotStart) and isinstance(error.__cause__, OSError) else error
    code = next((code for kind, code in _OF_ERROR if isinstance(cause, kind)), None)
    if code is None:
        return None
    return Failure(code, _file_text(error) if isinstance(error, OSError) else str(error))


def _file_text(error: OSError) -> str:
    """`path: reason`, without Python's errno."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason

"""Hardens a process that holds keys: no core dumps, no reading of its memory by others of its user, no open files by default.

A process that is not dumpable can still read its own /proc, but others of its user can not read its /proc/<pid>/exe, mem or environ.
"""

import ctypes
import os
import resource

from meshca.errors import CannotStart

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
PRIVATE_UMASK = 0o077


def harden() -> None:
    """Do all of it, before the first key is read. Raises CannotStart if the kernel refuses."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    # A core dump that is piped to a program ignores RLIMIT_CORE (core(5)), so both.
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0 or libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise CannotStart(f"core dumps can not be switched off: {os.strerror(ctypes.get_errno())}")
    os.umask(PRIVATE_UMASK)

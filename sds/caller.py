"""Who is calling, as a frozen value. Pure: the gate and the TLS stack make callers, everybody else only reads them."""

from collections.abc import Callable
from dataclasses import dataclass, field


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixPeer:
    """A process at the other end of a Unix socket, vouched for by the kernel at connect (EP-19).

    `started` is the process's start time in clock ticks since boot (field 22 of /proc/<pid>/stat): with the pid it names one process of
    this boot. `socket` is the configured name of the workload socket that was dialled. `alive` says whether that very process still
    runs (pidfd where the kernel has it, else pid and start time); it takes no part in equality.
    """

    pid: int
    uid: int
    gid: int
    started: int
    socket: str
    alive: Callable[[], bool] = field(default=_always, compare=False, repr=False)

    @property
    def holder(self) -> str:
        """The name of the process in the issuance record: stable over reconnects, unique in this boot.

        uid and gid are part of it: a process that takes on another user (exec of a setuid program, a daemon that drops root) is
        another holder, and what it gets then must not reach connections that it made, and perhaps lent, as the user before.
        """
        return f"unix/{self.pid}/{self.started}/{self.uid}/{self.gid}/{self.socket}"

    def __str__(self) -> str:
        return f"pid {self.pid} (uid {self.uid}, gid {self.gid}) on socket {self.socket!r}"


Caller = UnixPeer

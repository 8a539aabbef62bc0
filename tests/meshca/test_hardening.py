import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from meshca.clock import SystemClock
from meshca.notify import Notify
from tests.support.children import TREE, python

OBSERVE = """
import ctypes, json, os, resource, stat, sys
from pathlib import Path
from meshca.hardening import harden
def seen(name):
    made = Path(sys.argv[1], name)
    made.touch()
    return {
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),  # PR_GET_DUMPABLE
        "mode": stat.S_IMODE(made.stat().st_mode),
        "reads its own": bool(os.listdir("/proc/self/fd")) and bool(Path("/proc/self/exe").readlink()),
    }
os.umask(0o022)
_, hard = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
before = seen("before")
harden()
print(json.dumps([before, seen("after"), resource.getrlimit(resource.RLIMIT_CORE)[1]]))
"""


def test_a_hardened_process_leaves_no_core_and_makes_private_files(tmp_path: Path) -> None:
    done = subprocess.run(python(OBSERVE, tmp_path), cwd=TREE, capture_output=True, text=True, check=True)
    before, after, hard = json.loads(done.stdout)
    assert (before["dumpable"], before["mode"]) == (1, 0o644)
    assert after == {"core": 0, "dumpable": 0, "mode": 0o600, "reads its own": True}
    assert hard == 0  # for good


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_when_we_are_ready_reload_and_stop(tmp_path: Path, *, abstract: bool) -> None:
    address = f"@meshca-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0"))
        notify = Notify(clock=SystemClock(), environ={"NOTIFY_SOCKET": address})
        notify.reloading()
        notify.reloaded()
        notify.waiting("no disk")
        notify.ready("serving 3 sockets")
        notify.reloading()
        notify.reloaded()
        notify.stopping()
        waiting, ready, reloading, reloaded, stopping = (manager.recv(1000).decode() for _ in range(5))
    assert waiting == "EXTEND_TIMEOUT_USEC=60000000\nSTATUS=not ready: no disk", "and nothing of a reload before"
    assert reloaded == "READY=1\nSTATUS=ready"
    assert ready == "READY=1\nSTATUS=serving 3 sockets"
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert int(reloading.rpartition("=")[2]) > 0
    assert stopping == "STOPPING=1"


def test_without_systemd_nothing_happens_and_a_lost_word_is_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notify(clock=SystemClock(), environ={}).ready()
    assert not caplog.records
    Notify(clock=SystemClock(), environ={"NOTIFY_SOCKET": str(tmp_path / "none")}).stopping()
    assert [record.message for record in caplog.records] == ["systemd was not told"]

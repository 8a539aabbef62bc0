"""Real processes of several users, attested by what the kernel and /proc say."""

import asyncio
import ctypes
import grp
import hashlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from meshca.adapters.processes import MOST_GROUPS, Executable, find_process, has_ended
from meshca.adapters.workload_unix import UnixAttestor
from meshca.model import Selector
from meshca.proto import admin_pb2 as pb
from sds.caller import UnixPeer
from sds.errors import NotAuthorized
from sds.peer import Life, read_peer
from tests.support.children import NOBODY, TREE, python
from tests.support.values import selectors
from tests.support.wait import until

PYTHON, CAT, SLEEP, UNSHARE = (
    os.path.realpath(shutil.which(each)) for each in (sys.executable, "cat", "sleep", "unshare")
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="runs children as other users")

DIALLER = """
import os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
os.set_inheritable(connection.fileno(), True)
for command in sys.stdin:
    command = command.split()
    if command[0] == "exec": os.execv(command[1], command[1:])
    if command[0] == "setuid": os.setuid(int(command[1]))
    if command[0] == "name": open("/proc/self/comm", "wb").write(bytes.fromhex(command[1]))
    if command[0] == "fork":
        if os.fork(): os._exit(0)
"""

# Dials, then runs `cat` from a file that was deleted in a mount namespace of a child, but had the victim's name there.
FORGER = """
import ctypes, os, socket, sys
path, victim, program = sys.argv[1:]
connection = socket.socket(socket.AF_UNIX)
connection.connect(path)
os.set_inheritable(connection.fileno(), True)
ours, theirs = socket.socketpair()
uid, gid, libc = os.getuid(), os.getgid(), ctypes.CDLL(None)
if not os.fork():
    CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
    if libc.unshare(CLONE_NEWNS | CLONE_NEWUSER): os._exit(1)
    for name, text in ("uid_map", f"0 {uid} 1"), ("setgroups", "deny"), ("gid_map", f"0 {gid} 1"):
        with open(f"/proc/self/{name}", "w") as file: file.write(text)
    if libc.mount(b"none", os.path.dirname(victim).encode(), b"tmpfs", 0, None): os._exit(1)
    with open(victim, "wb") as file: file.write(open(program, "rb").read())
    os.chmod(victim, 0o755)
    file = os.open(victim, os.O_RDONLY)
    os.unlink(victim)
    ours.close()
    socket.send_fds(theirs, [b"x"], [file])
    theirs.recv(1)  # the names go with the namespace, so it stays as long as the program
    os._exit(0)
theirs.close()
os.set_inheritable(ours.fileno(), True)
files = socket.recv_fds(ours, 1, 1)[1] or sys.exit("not allowed here")
os.execve(files[0], ["cat"], os.environ)
"""

ATTEST_AS_NOBODY = """
import asyncio, concurrent.futures.thread, os, sys
from meshca.adapters.processes import Executable, find_process
from meshca.adapters.workload_unix import UnixAttestor
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(*asyncio.run(UnixAttestor().attest(find_process(int(sys.argv[1])), frozenset())), sep="\\n")
"""


DIAL_SECONDS = 20.0


@dataclass(kw_only=True)
class Child:
    """A process that dialled us, and can be told to become another."""

    process: subprocess.Popen[str]
    peer: UnixPeer
    life: Life

    def tell(self, *words: str) -> None:
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()

    @property
    def runs(self) -> str:
        return str(Path(f"/proc/{self.peer.pid}/exe").readlink())

    async def exec(self, *command: str) -> None:
        """Run another program in the same process."""
        self.tell("exec", *command)
        await until(lambda: self.runs == os.path.realpath(command[0]))


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory for all users. Not one of pytest's: another run of pytest shuts others out of these."""
    with tempfile.TemporaryDirectory(prefix="meshca-public-") as directory:
        path = Path(directory)
        path.chmod(0o777)
        yield path


@pytest.fixture
def dial(public: Path) -> Iterator[Callable[..., Child]]:
    """Start processes that dial."""
    children: list[Child] = []
    path = public / "web.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(DIAL_SECONDS)
    path.chmod(0o777)

    def start(*more: str, script: str = DIALLER, program: str = sys.executable, **identity: object) -> Child:
        command = [program, "-c", script, str(path), *more]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, cwd="/", **identity)
        connection, _ = listener.accept()
        with connection:
            peer, life = read_peer(connection, "web")
        children.append(Child(process=process, peer=peer, life=life))
        return children[-1]

    yield start
    for child in children:
        child.life.close()
        child.process.kill()
        child.process.communicate()
    listener.close()


@pytest.fixture
def attestor() -> UnixAttestor:
    return UnixAttestor()


def texts(found: frozenset[Selector]) -> set[str]:
    return set(map(str, found))


def sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


async def test_a_process_has_uid_gid_their_names_its_path_and_its_socket_but_a_hash_only_if_asked(
    attestor: UnixAttestor, dial: Callable[..., Child]
):
    child = dial()
    found, remarks = await attestor.attest(child.peer, selectors("unix:group:any"))
    uid, gid = os.geteuid(), os.getegid()
    assert texts(found) >= {
        f"unix:uid:{uid}",
        f"unix:gid:{gid}",
        f"unix:user:{pwd.getpwuid(uid).pw_name}",
        f"unix:group:{grp.getgrgid(gid).gr_name}",
        f"unix:path:{PYTHON}",
        "socket:web",
    }
    assert not [each for each in texts(found) if each.startswith("unix:sha256:")]
    assert remarks == ()

    found, _ = await attestor.attest(child.peer, selectors("unix:sha256:ab"))
    assert f"unix:sha256:{sha256(child.runs)}" in texts(found)


@needs_root
async def test_a_process_of_another_user_has_its_supplementary_groups_and_no_name_where_there_is_none(
    attestor: UnixAttestor, dial: Callable[..., Child]
):
    child = dial(program=_python_for_all(), user=54321, group=54322, extra_groups=[NOBODY, 54323])
    found, _ = await attestor.attest(child.peer, selectors("unix:group:any"))
    assert {each for each in texts(found) if "path" not in each} == {
        "socket:web",
        "unix:uid:54321",
        "unix:gid:54322",
        f"unix:gid:{NOBODY}",
        "unix:gid:54323",
        f"unix:group:{grp.getgrgid(NOBODY).gr_name}",
    }


@needs_root
async def test_names_of_groups_are_looked_up_only_if_asked_and_no_more_than_a_thousand_groups_count(
    attestor: UnixAttestor, dial: Callable[..., Child]
):
    child = dial(extra_groups=list(range(100_000, 100_000 + 2 * MOST_GROUPS)))
    found, remarks = await attestor.attest(child.peer, frozenset())
    gids = {int(each.removeprefix("unix:gid:")) for each in texts(found) if each.startswith("unix:gid:")}
    assert gids == {os.getegid(), *range(100_000, 100_000 + MOST_GROUPS)}
    assert not [each for each in texts(found) if each.startswith("unix:group:")]
    assert remarks == (f"it has more than {MOST_GROUPS} groups: the others do not count",)


@needs_root
async def test_uid_and_gid_may_be_as_large_as_the_kernel_has_them(attestor: UnixAttestor, dial: Callable[..., Child]):
    child = dial(program=_python_for_all(), user=2**32 - 2, group=2**31, extra_groups=[2**31 + 1])
    found, _ = await attestor.attest(child.peer, selectors("unix:group:any"))
    assert (child.peer.uid, child.peer.gid) == (2**32 - 2, 2**31)
    assert texts(found) >= {f"unix:uid:{2**32 - 2}", f"unix:gid:{2**31}", f"unix:gid:{2**31 + 1}"}


@pytest.mark.parametrize("name", [b"a\rb", b"a\nUid: 0", b") Z 1", b"\x85\x0b\x0c\x1c: ", b"\xff\xe2\x80\xa8"])
async def test_a_process_may_have_any_name(attestor: UnixAttestor, dial: Callable[..., Child], name: bytes):
    child = dial()
    child.tell("name", name.hex())
    await until(lambda: Path(f"/proc/{child.peer.pid}/comm").read_bytes() == name + b"\n")
    found, remarks = await attestor.attest(child.peer, frozenset())
    assert f"unix:path:{child.runs}" in texts(found)
    assert remarks == ()
    assert not has_ended(child.peer.holder)


async def test_path_and_hash_are_those_of_the_binary_that_runs_now(attestor: UnixAttestor, dial: Callable[..., Child]):
    child = dial()
    await attestor.attest(child.peer, selectors("unix:sha256:ab"))
    await child.exec(CAT)
    found, _ = await attestor.attest(child.peer, selectors("unix:sha256:ab"))
    assert {each for each in texts(found) if each.startswith(("unix:path", "unix:sha256"))} == {
        f"unix:path:{CAT}",
        f"unix:sha256:{sha256(CAT)}",
    }


async def test_a_peer_that_ended_is_nobody_although_its_child_keeps_the_connection(
    attestor: UnixAttestor, dial: Callable[..., Child]
):
    child = dial()
    child.tell("fork")
    await until(lambda: not child.peer.alive())
    with pytest.raises(NotAuthorized, match=f"pid {child.peer.pid} .* has ended"):
        await attestor.attest(child.peer, frozenset())


async def test_a_peer_that_ends_while_it_is_read_is_nobody(attestor: UnixAttestor, dial: Callable[..., Child]):
    child = dial()
    answers = iter([True, False])
    with pytest.raises(NotAuthorized, match="has ended"):
        await attestor.attest(replace(child.peer, alive=lambda: next(answers)), frozenset())


async def test_a_peer_that_runs_something_else_at_each_look_is_refused_in_the_end(
    dial: Callable[..., Child], tmp_path: Path
):
    child = dial()
    program = tmp_path / "program"
    shutil.copy(CAT, program)
    await child.exec(str(program))

    class Overtaken(UnixAttestor):
        """The executable changes whenever it has been hashed."""

        hashed = 0

        def _sha256(self, *arguments: Any) -> str:
            found = super()._sha256(*arguments)
            program.touch()
            self.hashed += 1
            return found

    overtaken = Overtaken()
    with pytest.raises(NotAuthorized, match="changes what it runs"):
        await overtaken.attest(child.peer, selectors("unix:sha256:ab"))
    assert overtaken.hashed == 2


async def test_a_deleted_binary_has_a_hash_but_no_path_and_a_file_that_is_only_named_so_keeps_its_name(
    attestor: UnixAttestor, dial: Callable[..., Child], tmp_path: Path
):
    upgraded, named_so = tmp_path / "program", tmp_path / "other (deleted)"
    for path in (upgraded, named_so):
        shutil.copy(CAT, path)
    one, two = dial(), dial()
    await one.exec(str(upgraded))
    two.process.stdin.write("")
    upgraded.unlink()
    shutil.copy(CAT, upgraded)
    found, remarks = await attestor.attest(one.peer, selectors("unix:sha256:ab"))
    assert f"unix:sha256:{sha256(CAT)}" in texts(found)
    assert not [each for each in texts(found) if each.startswith("unix:path")]
    assert remarks == (
        f"there is no unix:path: '{upgraded}' was deleted or replaced after it had been started: start it again",
    )

    link = tmp_path / "link"
    link.symlink_to(named_so)
    await two.exec(str(link))
    found, _ = await attestor.attest(two.peer, frozenset())
    assert f"unix:path:{named_so}" in texts(found)


@needs_root
async def test_a_program_that_was_deleted_under_anothers_name_in_a_mount_namespace_of_its_own_does_not_get_that_path(
    attestor: UnixAttestor, dial: Callable[..., Child], public: Path
):
    victim = public / "victim"
    shutil.copy(CAT, victim)
    victim.chmod(0o700)
    child = dial(str(victim), CAT, script=FORGER, program=_python_for_all(), user=NOBODY, group=NOBODY, extra_groups=[])
    await until(lambda: child.process.poll() is not None or child.runs == f"{victim} (deleted)")
    if child.process.poll() is not None:
        pytest.skip("user namespaces are not allowed here")
    found, remarks = await attestor.attest(child.peer, frozenset())
    assert not [each for each in texts(found) if each.startswith("unix:path")]
    assert "was deleted or replaced" in remarks[0]


@contextmanager
def silent(directory: Path) -> Iterator[None]:
    """A file system that answers nobody, mounted there until the end."""
    libc = ctypes.CDLL(None)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    mounted = libc.mount(b"silent", bytes(directory), b"fuse", 0, options) == 0
    try:
        if not mounted:
            pytest.skip("nothing may be mounted here")
        yield
    finally:
        os.close(device)  # whoever waits for an answer gets an error now
        libc.umount2(bytes(directory), 2)


@needs_root
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="mounts a file system of ours")
async def test_a_path_that_leads_to_where_no_answer_comes_from_keeps_only_processes_of_that_user_waiting(
    dial: Callable[..., Child], tmp_path: Path
):
    attestor = UnixAttestor(patience=0.1)
    app = tmp_path / "silent" / "app"
    app.parent.mkdir()
    app.touch()
    waiting, served = dial(), dial(program=_python_for_all(), user=NOBODY, group=NOBODY, extra_groups=[])
    script = f"mount --bind {CAT} {app} && exec {app}"
    waiting.tell("exec", UNSHARE, "-m", "sh", "-c", script.replace(" ", "${IFS}"))
    await until(lambda: waiting.runs == str(app) or waiting.process.poll() is not None)
    with silent(app.parent):
        for _ in range(10):  # more than there are threads
            with pytest.raises(TimeoutError, match=f"pid {waiting.peer.pid} .* was not read in 0.1 s"):
                await attestor.attest(waiting.peer, frozenset())
        found, _ = await attestor.attest(served.peer, frozenset())
        assert f"unix:path:{served.runs}" in texts(found)
    _, remarks = await until(lambda: _attested(attestor, waiting))
    assert "is not the file that we see" in remarks[0]


async def _attested(attestor: UnixAttestor, child: Child) -> Any:
    try:
        return await attestor.attest(child.peer, frozenset())
    except TimeoutError:
        return None


@needs_root
@pytest.mark.parametrize("name", [b"sleep", b"\xff \n\x1b[0m"])
async def test_a_process_that_shows_its_own_file_under_another_name_gets_no_path(
    attestor: UnixAttestor, dial: Callable[..., Child], tmp_path: Path, name: bytes
):
    other, link = tmp_path / os.fsdecode(name), tmp_path / "link"
    shutil.copy(SLEEP, other)
    link.symlink_to(other)
    script = f"mount --bind {CAT} {link} && exec {link}"
    child = dial()
    child.tell("exec", UNSHARE, "-m", "sh", "-c", script.replace(" ", "${IFS}"))
    await until(lambda: child.runs == str(other) or child.process.poll() is not None)
    if child.process.poll() is not None:
        pytest.skip("mount namespaces are not allowed here")
    found, remarks = await attestor.attest(child.peer, frozenset())
    assert not [each for each in texts(found) if each.startswith("unix:path")]
    assert f"{str(other)!r} is not the file that we see" in remarks[0]
    assert remarks[0].isprintable()
    assert pb.WhyResponse(remarks=remarks).SerializeToString()


@needs_root
async def test_a_process_that_changed_its_user_keeps_what_the_kernel_said_at_connect_and_no_more(
    attestor: UnixAttestor, dial: Callable[..., Child]
):
    child = dial()
    child.tell("setuid", str(NOBODY))
    await until(lambda: find_process(child.peer.pid).uid == NOBODY)
    found, remarks = await attestor.attest(child.peer, selectors("unix:sha256:ab"))
    assert "unix:uid:0" in texts(found)
    assert f"unix:uid:{NOBODY}" not in texts(found)
    assert not [each for each in texts(found) if each.startswith(("unix:path", "unix:sha256"))]
    assert f"now runs as uid {NOBODY}" in remarks[0]


async def test_a_binary_that_is_too_large_to_hash_has_a_path_and_a_remark(dial: Callable[..., Child]):
    child = dial()
    found, remarks = await UnixAttestor(max_hashed_bytes=10).attest(child.peer, selectors("unix:sha256:ab"))
    assert f"unix:path:{child.runs}" in texts(found)
    assert not [each for each in texts(found) if each.startswith("unix:sha256")]
    assert "above the limit of 10" in remarks[0]


class Slow(UnixAttestor):
    """Takes as long to hash as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def _sha256(self, executable: Executable, question: Any, *more: Any) -> str:
        if question.hashing:
            self.go.wait()
        return super()._sha256(executable, question, *more)


@needs_root
async def test_hashes_under_way_hold_back_nobody_who_needs_none_and_go_on_when_nobody_waits(
    dial: Callable[..., Child], public: Path
):
    slow, wanted = Slow(), selectors("unix:sha256:ab")
    own = public / "own"
    shutil.copy(CAT, own)
    more_than_threads = range(54321, 54330)
    children = [dial(program=_python_for_all(), user=uid) for uid in more_than_threads]
    for child in children:
        await child.exec(str(own))
    waiting = [asyncio.create_task(slow.attest(child.peer, wanted)) for child in children]
    found, _ = await slow.attest(dial().peer, frozenset())
    assert f"unix:path:{PYTHON}" in texts(found)
    for each in waiting[1:]:
        each.cancel()
    slow.go.set()
    found, _ = await waiting[0]
    assert f"unix:sha256:{sha256(CAT)}" in texts(found)
    found, _ = await slow.attest(children[1].peer, wanted)
    assert f"unix:sha256:{sha256(CAT)}" in texts(found)


async def test_an_entry_that_names_an_interpreter_is_remarked_upon(attestor: UnixAttestor, dial: Callable[..., Child]):
    child = dial()
    _, remarks = await attestor.attest(child.peer, selectors(f"unix:path:{child.runs}"))
    assert remarks == (f"{child.runs} is an interpreter: unix:path says nothing of the script that it runs",)
    await child.exec(CAT)
    _, remarks = await attestor.attest(child.peer, selectors(f"unix:path:{child.runs}"))
    assert remarks == ()


@needs_root
def test_an_agent_that_may_not_look_says_so_and_gives_no_path(dial: Callable[..., Child]):
    child = dial()
    command = python(ATTEST_AS_NOBODY, child.peer.pid)
    printed = subprocess.run(command, cwd=TREE, capture_output=True, text=True, check=True).stdout
    assert "uid:0" in printed
    assert "path:" not in printed.splitlines()[0]
    assert f"/proc/{child.peer.pid}/exe cannot be read (Permission denied)" in printed


@pytest.mark.parametrize("name", [b"new\nline", b"not \xff UTF-8"])
async def test_a_path_that_cannot_be_written_as_a_selector_gives_a_remark(
    attestor: UnixAttestor, dial: Callable[..., Child], tmp_path: Path, name: bytes
):
    strange, link = tmp_path / os.fsdecode(name), tmp_path / "link"
    shutil.copy(CAT, strange)
    link.symlink_to(strange)
    child = dial()
    await child.exec(str(link))
    found, remarks = await attestor.attest(child.peer, frozenset())
    assert not [each for each in texts(found) if each.startswith("unix:path")]
    assert "there is no unix:path" in remarks[0]
    assert remarks[0].isprintable()


async def test_a_process_that_never_dialled_is_found_by_its_pid_and_has_no_socket(attestor: UnixAttestor):
    found, _ = await attestor.attest(find_process(os.getpid()), frozenset())
    assert f"unix:path:{PYTHON}" in texts(found)
    assert not [each for each in texts(found) if each.startswith("socket:")]


def test_a_process_that_does_not_run_is_not_found():
    with pytest.raises(NotAuthorized, match="pid 4194305 cannot be seen"):
        find_process(2**22 + 1)


def _python_for_all() -> str:
    """A Python that other users may run; the environment's own may be in a directory of root's."""
    for each in ("/usr/bin/python3", "/usr/local/bin/python3", sys.executable):
        if Path(each).exists():
            return each
    raise AssertionError("no Python")

import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from meshca.cli.exits import Exit
from meshca.cli.reference import REGENERATE, reference
from meshca.clock import SystemClock
from meshca.proto import admin_pb2 as pb
from tests.support.pki import CA
from tests.support.scripted_server import ScriptedServer

ROOT = Path(__file__).parents[3]


def meshca(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meshca", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_help_loads_neither_grpc_nor_sqlalchemy_and_names_every_command():
    script = (
        "import sys\nfrom meshca.cli import COMMANDS, main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    )
    script += "print([m for m in ('grpc', 'sqlalchemy', 'google.protobuf', 'yaml', 'pydantic', 'asyncio') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"
    for command in (
        "up",
        "demo",
        "entry",
        "bundle",
        "svid",
        "authority",
        "audit",
        "store",
        "config",
        "envoy",
        "why",
        "status",
        "health",
    ):
        assert f" {command} " in printed


def test_no_server_says_what_to_do(tmp_path: Path):
    ended = meshca("status", "--admin-socket", str(tmp_path / "none.sock"))
    assert ended.returncode == Exit.UNREACHABLE
    expected = f"error: no meshca server at unix://{tmp_path}/none.sock (No such file or directory): start it with `meshca up`, "
    assert ended.stderr == expected + "or set MESHCA_ADMIN_SOCKET or --admin-socket\n"


def test_a_socket_that_a_dead_server_left_is_no_server(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "admin.sock"))
    ended = meshca("status", MESHCA_ADMIN_SOCKET=str(tmp_path / "admin.sock"))
    assert ended.returncode == Exit.UNREACHABLE
    assert "Connection refused" in ended.stderr


def test_a_path_that_no_socket_can_have_is_told(tmp_path: Path):
    ended = meshca("status", "--admin-socket", "/" + "x" * 200)
    assert (ended.returncode, "AF_UNIX path too long" in ended.stderr) == (Exit.UNREACHABLE, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_socket_that_lets_nobody_in_says_whom_to_be(admin: ScriptedServer, tmp_path: Path):
    os.chmod(admin.path, 0o600)  # noqa: PTH101
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o711)
    command = [
        sys.executable,
        "-c",
        f"import os\nfrom meshca.client import probe\nos.setuid(65534)\nprobe({admin.path!r})",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "does not let you in: ask as root or as the server's user" in ended.stderr


def test_a_wrong_command_line_is_a_usage_error_without_a_traceback():
    for arguments in (
        ["entry", "crate"],
        ["entry", "create"],
        ["authority", "rotate", "--kind", "leaf"],
        ["why", "--pid", "x"],
    ):
        ended = meshca(*arguments)
        assert (ended.returncode, ended.stdout) == (Exit.USAGE, "")
        assert "Traceback" not in ended.stderr


def heed_ctrl_c() -> None:
    """As at a terminal: a test run in the background of a shell ignores SIGINT, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_a_watch_quietly(admin: ScriptedServer):
    forever = iter(lambda: pb.Bundle(trust_domain="mesh.local", sequence=-1), None)
    admin.answers["Bundles.Watch"] = forever
    command = [sys.executable, "-m", "meshca", "bundle", "watch", "--admin-socket", admin.path]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - one call between fork and exec
    ) as child:
        assert child.stdout
        assert child.stdout.readline().startswith("mesh.local")
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    assert (child.returncode, errors) == (Exit.INTERRUPTED, "")


def test_a_reader_who_leaves_early_is_no_error(admin: ScriptedServer):
    admin.answers["Audit.Export"] = iter(lambda: pb.AuditRecord(writer="w", body="x" * 1000), None)
    command = [sys.executable, "-m", "meshca", "audit", "export", "--admin-socket", admin.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stderr
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == ""
    assert child.returncode == Exit.UNREAD


@pytest.mark.parametrize("words", ["entry list", "health", "bundle show", "config show", "--help", "up --help"])
def test_a_reader_who_leaves_before_a_short_answer_is_no_error_either(admin: ScriptedServer, words: str):
    admin.answers["Entries.List"] = pb.EntryList()
    admin.answers["Status.Status"] = pb.StatusResponse()
    admin.answers["Bundles.Get"] = pb.Bundle(trust_domain="mesh.local", x509_authorities=[CA.create("mesh.local").der])
    command = [sys.executable, "-m", "meshca", *words.split()]
    read, write = os.pipe()
    os.close(read)
    environ = {**os.environ, "MESHCA_ADMIN_SOCKET": admin.path}
    ended = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, env=environ)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (Exit.UNREAD, "")


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", ">&- 2>&- <&-"])
def test_a_closed_stream_is_nothing_to_fail_for(admin: ScriptedServer, closed: str):
    admin.answers["Status.Status"] = pb.StatusResponse(ready=True)
    command = f"exec {sys.executable} -m meshca health --admin-socket {admin.path} {closed}"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (Exit.OK, "")


def test_on_a_terminal_of_80_columns_authorities_are_whole(admin: ScriptedServer):
    authority = pb.Authority(id="a" * 40, kind="intermediate", state="prepared", live_leaves=1000)
    authority.not_after.FromDatetime(SystemClock().now() + timedelta(days=364, hours=23))
    admin.answers["Authorities.List"] = pb.AuthorityList(authorities=[authority])
    keyboard, terminal = os.openpty()
    command = [sys.executable, "-m", "meshca", "authority", "list", "--admin-socket", admin.path]
    subprocess.run(command, stdout=terminal, check=True, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"})
    os.close(terminal)
    seen = os.read(keyboard, 65536).decode()
    os.close(keyboard)
    assert seen.splitlines()[1].split() == ["intermediate", "prepared", "a" * 40, "52w22h", "1000"]


def test_a_choice_that_there_is_not_is_refused_in_our_words(tmp_path: Path):
    ended = meshca("entry", "list", "-o", "xml")
    assert ended.returncode == Exit.USAGE
    assert "'xml' is not one of" in ended.stderr
    assert "Value error" not in ended.stderr


def test_a_terminal_sees_each_step_and_what_is_waited_for(admin: ScriptedServer):
    admin.answers["Authorities.Rotate"] = [
        pb.Progress(step=step, text=f"it is {step}") for step in ("prepared", "done")
    ]
    keyboard, terminal = os.openpty()
    command = [sys.executable, "-m", "meshca", "authority", "rotate", "--kind", "root", "--admin-socket", admin.path]
    ended = subprocess.run(command, stdout=terminal, check=False, env={**os.environ, "TERM": "xterm"})
    os.close(terminal)
    seen = os.read(keyboard, 65536).decode()
    os.close(keyboard)
    assert ended.returncode == Exit.OK
    assert (
        seen.index("prepared    it is prepared")
        < seen.index("prepared: it is prepared")
        < seen.index("done: it is done")
    )


@pytest.mark.parametrize(("typed", "offered"), [("meshca aut", "authority"), ("meshca entry cr", "create")])
def test_shells_complete_commands_and_their_subcommands(typed: str, offered: str):
    words = {"_MESHCA_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    assert offered in meshca(**words).stdout.split()


def test_the_reference_in_docs_is_that_of_the_commands():
    written = (ROOT / "docs" / "cli.md").read_text()
    assert written == reference(), f"docs/cli.md is not what the commands say; make it anew with: {REGENERATE}"

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from meshca.cli.exits import Exit
from sds.errors import UNCOVERED
from sds.proto import workload_pb2 as pb
from spiffe.x509svid import X509SVID
from tests.meshca.cli.conftest import Run
from tests.support.children import run_unprivileged
from tests.support.pki import CA, der, key_der
from tests.support.scripted_server import ScriptedServer, scripted_server

ROOT = CA.create("mesh.local")
METHOD = "SpiffeWorkloadAPI.FetchX509SVID"
DENIED = (grpc.StatusCode.PERMISSION_DENIED, UNCOVERED)


def response(*paths: str) -> pb.X509SVIDResponse:
    svids = []
    for path in paths:
        issued = ROOT.intermediate().leaf(uris=[f"spiffe://mesh.local/{path}"])
        spiffe_id, chain, key = f"spiffe://mesh.local/{path}", der(*issued.chain), key_der(issued.key)
        svids.append(pb.X509SVID(spiffe_id=spiffe_id, x509_svid=chain, x509_svid_key=key, bundle=ROOT.der, hint=path))
    return pb.X509SVIDResponse(svids=svids)


@pytest.fixture
def workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with scripted_server(tmp_path / "workload.sock", pb) as server:
        monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", f"unix://{server.path}")
        yield server


def test_fetch_shows_all_svids_and_writes_them_but_prints_no_key(workload: ScriptedServer, run: Run, tmp_path: Path):
    workload.answers[METHOD] = [response("web", "admin")]
    outcome = run("svid", "fetch", "--write", str(tmp_path / "svids"), "-o", "json")
    assert outcome.code == Exit.OK, outcome.err
    assert [(each["uris"], each["hint"]) for each in outcome.json["svids"]] == [
        (["spiffe://mesh.local/web"], "web"),
        (["spiffe://mesh.local/admin"], "admin"),
    ]
    assert "PRIVATE" not in outcome.out
    for index, name in enumerate(("web", "admin")):
        pem = [(tmp_path / "svids" / f"svid.{index}.{kind}").read_bytes() for kind in ("pem", "key")]
        assert str(X509SVID.from_pem(*pem).spiffe_id) == f"spiffe://mesh.local/{name}"


def test_a_caller_without_an_entry_is_not_allowed_and_told_where_to_ask(
    workload: ScriptedServer, run: Run, tmp_path: Path
):
    workload.answers[METHOD] = DENIED
    outcome = run("svid", "fetch", "--write", str(tmp_path / "svids"))
    assert outcome.code == Exit.NOT_ALLOWED
    assert UNCOVERED in outcome.err
    assert not (tmp_path / "svids").exists()
    assert run("svid", "fetch", "--watch").code == Exit.USAGE


def test_no_workload_socket_is_unreachable_and_a_wrong_uri_is_refused(run: Run, tmp_path: Path):
    outcome = run("svid", "fetch", "--socket", str(tmp_path / "none.sock"))
    assert outcome.code == Exit.UNREACHABLE
    assert "none.sock (No such file or directory): start `meshca up`, or set SPIFFE_ENDPOINT_SOCKET" in outcome.err
    outcome = run("svid", "fetch", "--socket", "http://x")
    assert (outcome.code, "http://x" in outcome.err) == (Exit.USAGE, True)


def test_watch_waits_for_the_first_set_and_says_for_what(workload: ScriptedServer, tmp_path: Path):
    scripts = iter([DENIED, [response("web")]])
    workload.answers[METHOD] = lambda _: next(scripts, DENIED)
    command = [sys.executable, "-m", "meshca", "svid", "fetch", "--write", str(tmp_path / "svids"), "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stderr
        assert child.stdout.readline().startswith("spiffe://mesh.local/web  serial ")
        told = [child.stderr.readline() for _ in range(2)]
        child.terminate()
    assert told[0] == f"waiting for SVIDs from unix:{workload.path}, until stopped\n"
    assert told[1].endswith("the files stay as they are, until an entry covers this process\n")
    assert (tmp_path / "svids" / "svid.0.key").exists()


def test_a_server_that_has_nothing_to_give_yet_is_not_taken_for_none(workload: ScriptedServer, run: Run):
    workload.answers[METHOD] = (grpc.StatusCode.UNAVAILABLE, "the first X.509-SVID is still being issued")
    outcome = run("svid", "fetch")
    assert outcome.code == Exit.UNREACHABLE
    assert "the server can not answer" in outcome.err
    assert "still being issued" in outcome.err
    assert "meshca up" not in outcome.err


def test_a_socket_behind_a_directory_that_is_closed_to_us_is_not_allowed(workload: ScriptedServer, tmp_path: Path):
    tmp_path.chmod(0o600)
    code = "import sys\nfrom meshca.cli import main\nsys.stderr = sys.stdout\ntry:\n    main(sys.argv[1:])\n"
    code += "except SystemExit as end:\n    print(end.code.value)"
    said = run_unprivileged(code, "svid", "fetch", "--socket", workload.path)
    tmp_path.chmod(0o700)
    assert said.splitlines()[-1] == str(Exit.NOT_ALLOWED.value)
    assert "does not let you in" in said


def test_a_relative_path_of_a_socket_is_meant_from_here(
    workload: ScriptedServer, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    workload.answers[METHOD] = [response("web")]
    monkeypatch.chdir(tmp_path)
    assert run("svid", "fetch", "--socket", "workload.sock").code == Exit.OK


def test_watch_keeps_the_files_fresh_and_leaves_them_when_all_is_taken_away(workload: ScriptedServer, tmp_path: Path):
    first, second = response("web"), response("web")
    scripts = iter([[first, second], DENIED])
    workload.answers[METHOD] = lambda _: next(scripts, DENIED)
    directory = tmp_path / "svids"
    command = [sys.executable, "-m", "meshca", "svid", "fetch", "--write", str(directory), "--watch", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stderr
        serials = [json.loads(child.stdout.readline())["svids"][0]["serial"] for _ in range(2)]
        assert any("the files stay as they are" in line for line in child.stderr)
        child.terminate()
    pem = [(directory / f"svid.0.{kind}").read_bytes() for kind in ("pem", "key")]
    assert f"{X509SVID.from_pem(*pem).serial:x}" == serials[1] != serials[0]


def test_watch_prints_each_change_as_a_line(workload: ScriptedServer, run: Run):
    scripts: Any = iter([[response("web", "admin")]])
    refused = (grpc.StatusCode.INVALID_ARGUMENT, "the end")
    workload.answers[METHOD] = lambda _: next(scripts, refused)
    outcome = run("svid", "watch")
    assert [line.split()[0] for line in outcome.out.splitlines()] == [
        "spiffe://mesh.local/web",
        "spiffe://mesh.local/admin",
    ]
    assert (outcome.code, "the end" in outcome.err) == (Exit.USAGE, True)

import json
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from meshca.cli.exits import Exit
from meshca.proto import admin_pb2 as pb
from tests.meshca.cli.conftest import Run
from tests.support.scripted_server import ScriptedServer

WEB = pb.Entry(id="web", spiffe_id="spiffe://mesh.local/web", selectors=["unix:uid:1000"])
STATUS = pb.StatusResponse(
    trust_domain="mesh.local",
    ready=True,
    alarms=["root aa11 waits for 1 holder since 20m"],
    behind=[pb.Holder(name="unix/7/99/web", spiffe_ids=["spiffe://mesh.local/web"])],
    holders=2,
    sockets={"web": "/run/web.sock", "admin": "/run/admin.sock"},
    checks=[pb.HealthCheck(name="self-test", healthy=True, text="signed 3 s ago")],
)


def test_status_shows_alarms_first_and_who_is_behind(admin: ScriptedServer, run: Run):
    admin.answers["Status.Status"] = STATUS
    lines = run("status").out.splitlines()
    assert lines[0] == "ALARM: root aa11 waits for 1 holder since 20m"
    assert any(line.startswith("unix/7/99/web") for line in lines)
    document = run("status", "-o", "json").json
    assert document["sockets"] == {"admin": "/run/admin.sock", "web": "/run/web.sock"}
    assert document["behind"][0]["since"] is None


def test_health_exits_0_when_ready_and_1_for_everything_else(admin: ScriptedServer, run: Run):
    admin.answers["Status.Status"] = STATUS
    healthy = run("health", "-o", "json")
    assert (healthy.code, healthy.json["ready"]) == (Exit.OK, True)

    assert run("health").out.splitlines()[:2] == ["ready", "ALARM: root aa11 waits for 1 holder since 20m"]

    admin.answers["Status.Status"] = pb.StatusResponse(checks=[pb.HealthCheck(name="store", text="disk is full")])
    sick = run("health")
    assert (sick.code, sick.out.splitlines()[0]) == (Exit.FAILED, "not ready")
    assert "disk is full" in sick.out
    nobody = run("health", "--admin-socket", "/nonexistent.sock")
    assert nobody.code == Exit.FAILED
    assert "start it with `meshca up`" in nobody.err


def test_why_shows_what_is_granted_and_what_nearly(admin: ScriptedServer, run: Run):
    miss = pb.NearMiss(entry=WEB, missing=["socket:web"])
    admin.answers["Status.Why"] = pb.WhyResponse(caller="pid 7", verdict="nothing: no entry fits", near_misses=[miss])
    outcome = run("why", "--pid", "7")
    assert (outcome.code, outcome.out.splitlines()[0]) == (Exit.FAILED, "nothing: no entry fits")
    assert "socket:web" in outcome.out

    admin.answers["Status.Why"] = pb.WhyResponse(verdict="gets 1", granted=[WEB], selectors=["unix:uid:1000"])
    assert run("why", "--pid", "7").code == Exit.OK


def test_audit_find_narrows_and_shows_the_body_as_it_was_hashed(admin: ScriptedServer, run: Run):
    body = '{"entry":"web","serial":"0a","uid":0}'
    admin.answers["Audit.Find"] = pb.AuditRecordList(
        records=[pb.AuditRecord(writer="w", sequence=3, kind="issued", serial="0a", body=body)]
    )
    options = "--serial 0A:0B --spiffe-id spiffe://a/b --since 2026-01-01T00:00:00Z --kind issued --limit 5"
    outcome = run("audit", "find", *options.split(), "-o", "json")
    sent = admin.request
    assert (sent.serial, sent.spiffe_id, sent.kind, sent.limit) == ("0A:0B", "spiffe://a/b", "issued", 5)
    assert sent.since.ToDatetime(UTC) == datetime(2026, 1, 1, tzinfo=UTC)
    assert outcome.json["records"][0]["body"] == body
    assert "entry=web uid=0" in run("audit", "find").out


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"dns_names": ["a.b", "c.d"], "more": []}, "dns_names=a.b,c.d"),
        ({"certificate_sha256": "0123456789abcdef" * 4, "n": 1}, "certificate_sha256=01234567 n=1"),
        (
            {"old": {"id": "e", "selectors": ["unix:uid:1"]}, "new": {"id": "e", "selectors": ["unix:uid:2", "s:x"]}},
            "old.selectors=unix:uid:1 new.selectors=unix:uid:2,s:x",
        ),
        ({"new": {"id": "e", "ttl": "60s"}, "old": 5}, "new.id=e new.ttl=60s"),
    ],
)
def test_audit_find_tells_names_hashes_and_what_became_of_an_entry(
    admin: ScriptedServer, run: Run, body: dict[str, object], shown: str
):
    record = pb.AuditRecord(writer="w", sequence=3, kind="admin", body=json.dumps(body))
    admin.answers["Audit.Find"] = pb.AuditRecordList(records=[record])
    assert run("audit", "find").out.split("admin", 1)[1].strip() == shown
    record.body = "[" * 100_000
    admin.answers["Audit.Find"] = pb.AuditRecordList(records=[record])
    assert "[[[[" in run("audit", "find").out


def test_audit_find_says_that_nothing_matches_and_fails_where_a_certain_record_was_asked_for(
    admin: ScriptedServer, run: Run
):
    admin.answers["Audit.Find"] = pb.AuditRecordList()
    found = run("audit", "find", "--kind", "refused")
    assert (found.code, found.out, found.err) == (Exit.OK, "", "no record matches\n")
    assert run("audit", "find", "-o", "json").json == {"records": []}
    found = run("audit", "find", "--serial", "0a", "-o", "json")
    assert (found.code, found.json) == (Exit.NOT_FOUND, {"records": []})
    assert found.err == "error: no record of serial number 0a matches\n"


def test_audit_verify_finds_tampering(admin: ScriptedServer, run: Run):
    admin.answers["Audit.Verify"] = pb.VerifyAuditResponse(records=12, head="w:12:ff")
    assert run("audit", "verify", "--head", "w:11:ee", "-o", "json").json == {"records": 12, "head": "w:12:ff"}
    assert admin.request.head == "w:11:ee"
    admin.answers["Audit.Verify"] = (grpc.StatusCode.FAILED_PRECONDITION, "record w:7 was changed")
    assert run("audit", "verify").code == Exit.FAILED


def test_audit_export_prints_a_line_for_each_record_and_prune_says_what_is_left(admin: ScriptedServer, run: Run):
    admin.answers["Audit.Export"] = [pb.AuditRecord(sequence=n) for n in range(3)]
    assert [json.loads(line)["sequence"] for line in run("audit", "export").out.splitlines()] == [0, 1, 2]
    admin.answers["Audit.Prune"] = pb.PruneResponse(removed=5, anchor="w:6:aa")
    assert "w:6:aa" in run("audit", "prune", "--before", "90d").out


PARTS = [pb.BackupPart(content=b"the "), pb.BackupPart(content=b"store")]


def test_a_backup_is_written_by_who_asks_for_it(admin: ScriptedServer, run: Run, tmp_path: Path):
    admin.answers["Status.Backup"] = PARTS
    copy = tmp_path / "copy.db"
    assert run("store", "backup", str(copy), "-o", "json").json == {"path": str(copy), "bytes": 9}
    assert (copy.read_bytes(), copy.stat().st_mode & 0o777) == (b"the store", 0o600)


@pytest.mark.parametrize("beside", ["", "-wal", "-shm", "-journal"])
def test_a_backup_overwrites_nothing(admin: ScriptedServer, run: Run, tmp_path: Path, beside: str):
    taken = tmp_path / f"copy.db{beside}"
    taken.write_text("mine")
    outcome = run("store", "backup", str(tmp_path / "copy.db"))
    assert (outcome.code, str(taken) in outcome.err, admin.requests) == (Exit.EXISTS, True, [])
    assert taken.read_text() == "mine"


def test_a_backup_that_breaks_off_leaves_nothing(admin: ScriptedServer, run: Run, tmp_path: Path):
    (tmp_path / "new").mkdir()
    admin.answers["Status.Backup"] = [*PARTS, (grpc.StatusCode.UNAVAILABLE, "the disk is full")]
    assert run("store", "backup", str(tmp_path / "new" / "copy.db")).code == Exit.UNREACHABLE
    assert list((tmp_path / "new").iterdir()) == []


def test_who_owns_the_directory_of_a_backup_can_not_lead_it_elsewhere(admin: ScriptedServer, run: Run, tmp_path: Path):
    theirs, precious = tmp_path / "theirs", tmp_path / "precious"
    theirs.mkdir()

    def swap(_: object) -> list[pb.BackupPart]:
        (temporary,) = theirs.iterdir()
        temporary.unlink()
        temporary.symlink_to(precious)
        return PARTS

    admin.answers["Status.Backup"] = swap
    assert run("store", "backup", str(theirs / "copy.db")).code == Exit.NOT_FOUND
    assert not precious.exists()
    assert not list(theirs.iterdir())


def test_a_backup_that_appeared_meanwhile_stays(admin: ScriptedServer, run: Run, tmp_path: Path):
    copy = tmp_path / "copy.db"

    def appear(_: object) -> list[pb.BackupPart]:
        copy.write_text("mine")
        return PARTS

    admin.answers["Status.Backup"] = appear
    assert run("store", "backup", str(copy)).code == Exit.EXISTS
    assert copy.read_text() == "mine"
    assert not list(tmp_path.glob(".copy.db*"))


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("INVALID_ARGUMENT", Exit.USAGE),
        ("NOT_FOUND", Exit.NOT_FOUND),
        ("ALREADY_EXISTS", Exit.EXISTS),
        ("FAILED_PRECONDITION", Exit.FAILED),
        ("ABORTED", Exit.FAILED),
        ("PERMISSION_DENIED", Exit.NOT_ALLOWED),
        ("UNAVAILABLE", Exit.UNREACHABLE),
        ("DEADLINE_EXCEEDED", Exit.UNREACHABLE),
        ("INTERNAL", Exit.INTERNAL),
        ("DATA_LOSS", Exit.INTERNAL),
    ],
)
def test_each_status_has_its_exit_code_and_keeps_the_servers_text(
    admin: ScriptedServer, run: Run, status: str, code: Exit
):
    admin.answers["Entries.Get"] = (grpc.StatusCode[status], "the server's own words")
    outcome = run("entry", "show", "x")
    assert (outcome.code, outcome.out) == (code, "")
    assert "the server's own words" in outcome.err
    assert len(outcome.err.splitlines()) == 1

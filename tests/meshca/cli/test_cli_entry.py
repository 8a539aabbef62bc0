import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import yaml

from meshca.cli.entry_file import read_entries
from meshca.cli.exits import Exit
from meshca.errors import InvalidInput
from meshca.proto import admin_pb2 as pb
from tests.meshca.cli.conftest import Run
from tests.support.scripted_server import ScriptedServer

NOW = datetime(2026, 11, 24, tzinfo=UTC)
WEB = pb.Entry(id="web", spiffe_id="spiffe://mesh.local/web", selectors=["unix:uid:1000"], hint="\x1b[31mred")
WEB.ttl.FromSeconds(1800)
WEB.created_at.FromSeconds(1_700_000_000)


def test_create_sends_what_the_options_say_and_prints_the_entry(admin: ScriptedServer, run: Run):
    admin.answers["Entries.Create"] = WEB
    arguments = (
        "--spiffe-id spiffe://mesh.local/web --selector unix:uid:1000 --selector socket:web --ttl 30m --dns web.local"
    )
    more = "--hint main --default --federates-with partner.example --expires 2030-01-01T00:00:00Z --id web --source git"
    outcome = run("entry", "create", *arguments.split(), *more.split(), "-o", "json")

    sent = admin.request.entry
    assert (sent.id, sent.spiffe_id, sent.hint, sent.default, sent.source) == (
        "web",
        "spiffe://mesh.local/web",
        "main",
        True,
        "git",
    )
    assert (list(sent.selectors), list(sent.dns_names)) == (["unix:uid:1000", "socket:web"], ["web.local"])
    assert (sent.ttl.seconds, sent.expires_at.ToJsonString()) == (1800, "2030-01-01T00:00:00Z")
    assert list(sent.federates_with) == ["partner.example"]
    assert outcome.code == Exit.OK
    assert outcome.json == {
        "id": "web",
        "spiffe_id": "spiffe://mesh.local/web",
        "selectors": ["unix:uid:1000"],
        "ttl": 1800,
        "dns_names": [],
        "hint": "\x1b[31mred",
        "default": False,
        "federates_with": [],
        "expires_at": None,
        "source": "",
        "created_at": "2023-11-14T22:13:20Z",
    }


def test_update_names_only_the_fields_that_were_given_and_an_empty_value_takes_one_away(
    admin: ScriptedServer, run: Run
):
    admin.answers["Entries.Update"] = WEB
    run("entry", "update", "web", "--ttl", "", "--dns", "", "--hint", "new", "--no-default")
    assert sorted(admin.request.fields) == ["default", "dns_names", "hint", "ttl"]
    assert admin.request.entry == pb.Entry(id="web", hint="new")

    outcome = run("entry", "update", "web")
    assert (outcome.code, len(admin.requests)) == (Exit.USAGE, 1)
    assert "nothing to change" in outcome.err


def test_lists_come_as_table_json_and_yaml_and_no_control_character_reaches_a_terminal(admin: ScriptedServer, run: Run):
    admin.answers["Entries.List"] = pb.EntryList(entries=[WEB])
    table = run("entry", "list", "--selector", "unix:uid:1000")
    assert admin.request == pb.ListEntriesRequest(selector="unix:uid:1000")
    assert "spiffe://mesh.local/web" in table.out
    assert "30m" in table.out
    assert "\x1b" not in table.out
    assert "\\x1b[31mred" in table.out

    as_json, as_yaml = run("entry", "list", "-o", "json"), run("entry", "list", "-o", "yaml")
    assert as_json.json == yaml.safe_load(as_yaml.out)
    assert as_json.json["entries"][0]["id"] == "web"


def test_what_list_prints_can_be_applied(admin: ScriptedServer, run: Run, tmp_path: Path):
    admin.answers["Entries.List"] = pb.EntryList(
        entries=[pb.Entry(id="a", spiffe_id="spiffe://mesh.local/a", selectors=["unix:uid:1"])]
    )
    for form in ("json", "yaml"):
        file = tmp_path / f"entries.{form}"
        file.write_text(run("entry", "list", "-o", form).out)
        admin.answers["Entries.Apply"] = pb.ApplyEntriesResponse(created=[WEB])
        outcome = run("entry", "apply", "-f", str(file), "--source", "git", "--prune", "--dry-run")
        assert outcome.code == Exit.OK, outcome.err
        expected = list(admin.answers["Entries.List"].entries)
        assert admin.request == pb.ApplyEntriesRequest(source="git", entries=expected, prune=True, dry_run=True)
        assert "created" in outcome.out
        assert "dry run" in outcome.err


def test_entries_that_say_what_runs_but_not_who_runs_it_are_warned_about(
    admin: ScriptedServer, run: Run, tmp_path: Path
):
    def made(name: str, *selectors: str) -> pb.Entry:
        return pb.Entry(id=name, spiffe_id=f"spiffe://mesh.local/{name}", selectors=selectors)

    weak = made("weak", "unix:path:/usr/bin/sleep", f"unix:sha256:{'0' * 64}")
    good = [made(each[:9], "unix:path:/bin/a", each) for each in ("unix:uid:1", "unix:group:a", "socket:path:x")]
    admin.answers["Entries.Create"] = admin.answers["Entries.Update"] = weak
    admin.answers["Entries.Apply"] = pb.ApplyEntriesResponse(created=[weak], updated=good, unchanged=[weak])
    admin.answers["Status.Status"] = pb.StatusResponse(sockets={"path:x": "/run/x"})
    file = tmp_path / "entries.yaml"
    file.write_text("spiffe_id: spiffe://mesh.local/weak\nselectors: [unix:path:/usr/bin/sleep]\n")
    for arguments, times in (
        (("create", "--spiffe-id", weak.spiffe_id, "--selector", weak.selectors[0]), 1),
        (("update", "weak", "--hint", "new"), 1),
        (("apply", "-f", str(file), "-o", "json"), 2),
    ):
        outcome = run("entry", *arguments)
        assert outcome.code == Exit.OK
        assert outcome.err.count("WARNING: any user can become spiffe://mesh.local/weak: ") == times
        assert outcome.err.count("WARNING") == times
        assert "WARNING" not in outcome.out


def test_delete_tells_each_entry_and_can_cut_its_callers_off(admin: ScriptedServer, run: Run):
    admin.answers["Entries.List"] = pb.EntryList(entries=[pb.Entry(id=each) for each in "abc"])
    admin.answers["Entries.Delete"] = pb.DeleteEntryResponse()
    outcome = run("entry", "delete", "a", "b", "a", "--now")
    deleted = [request for name, request in admin.requests if name == "Entries.Delete"]
    assert deleted == [pb.DeleteEntryRequest(id=each, now=True) for each in "ab"]
    assert (outcome.out, outcome.err) == ("", "deleted a\ndeleted b\n")


def test_delete_tells_who_gets_nothing_any_more_and_who_is_still_entitled(admin: ScriptedServer, run: Run):
    admin.answers["Entries.List"] = pb.EntryList(entries=[pb.Entry(id="a")])
    admin.answers["Entries.Delete"] = pb.DeleteEntryResponse(callers=3, denied=1, still_entitled={"b": 2})
    assert run("entry", "delete", "a").err.splitlines() == [
        "deleted a",
        "  processes with an SVID of it: 3; it is not renewed, and lives out its time",
        "  get nothing any more: 1",
        "  still entitled by entry b: 2",
    ]
    assert run("entry", "delete", "a", "--now").err.splitlines()[2:] == [
        "  get nothing any more, and are told to trust nobody: 1",
        "  still entitled by entry b, and so trust whom they trusted: 2",
    ]


def test_delete_of_several_deletes_none_unless_all_are_there(admin: ScriptedServer, run: Run):
    admin.answers["Entries.List"] = pb.EntryList(entries=[pb.Entry(id="a")])
    outcome = run("entry", "delete", "a", "b", "c")
    assert (outcome.code, outcome.err) == (Exit.NOT_FOUND, "error: there is no entry b, c; nothing was deleted\n")
    assert [name for name, _ in admin.requests] == ["Entries.List"]


def test_a_delete_that_fails_half_way_tells_which_were_deleted_and_which_were_not(admin: ScriptedServer, run: Run):
    answers = iter([pb.DeleteEntryResponse(), (grpc.StatusCode.UNAVAILABLE, "the disk is full")])
    admin.answers["Entries.List"] = pb.EntryList(entries=[pb.Entry(id=each) for each in "abc"])
    admin.answers["Entries.Delete"] = lambda _: next(answers)
    outcome = run("entry", "delete", "a", "b", "c")
    assert outcome.code == Exit.UNREACHABLE
    assert outcome.err.splitlines()[:2] == ["deleted a", "not deleted: b, c"]
    assert outcome.err.endswith("the disk is full\n")


def test_prune_without_a_source_and_entries_of_another_source_are_refused(
    admin: ScriptedServer, run: Run, tmp_path: Path
):
    file = tmp_path / "entries.yaml"
    file.write_text("spiffe_id: spiffe://mesh.local/a\nselectors: [unix:uid:1]\nsource: other\n")
    assert "--prune needs --source" in run("entry", "apply", "-f", str(file), "--prune").err
    outcome = run("entry", "apply", "-f", str(file), "--source", "git")
    assert (outcome.code, admin.requests) == (Exit.USAGE, [])
    assert "source other, not of git" in outcome.err


def test_a_refusal_of_the_server_is_one_line_and_an_exit_code(admin: ScriptedServer, run: Run):
    text = "the same entry exists as web"
    admin.answers["Entries.Create"] = (grpc.StatusCode.ALREADY_EXISTS, text)
    outcome = run(
        "entry", "create", "--spiffe-id", "spiffe://mesh.local/web", "--selector", "unix:uid:1000", "-o", "json"
    )
    assert (outcome.code, outcome.out, outcome.err) == (Exit.EXISTS, "", f"error: {text}\n")


def test_a_file_is_read_as_documents_as_a_list_or_as_json():
    documents = "---\nspiffe_id: spiffe://a/x\nselectors: [unix:uid:1]\nttl: 1h\n---\nspiffe_id: spiffe://a/y\nselectors:\n- unix:gid:2\n"
    first, second = read_entries(documents, NOW)
    assert (first.ttl.seconds, list(second.selectors)) == (3600, ["unix:gid:2"])
    content = [
        {
            "spiffe_id": "spiffe://a/x",
            "selectors": ["unix:uid:1"],
            "default": True,
            "expires_at": "2030-01-01T00:00:00Z",
            "ttl": None,
        }
    ]
    assert (
        read_entries(json.dumps(content), NOW)
        == read_entries(json.dumps({"entries": content}), NOW)
        == read_entries(json.dumps(content[0]), NOW)
    )


def test_an_end_in_a_file_is_a_time_or_a_duration_as_on_the_command_line():
    (entry,) = read_entries("spiffe_id: spiffe://a/x\nselectors: [unix:uid:1]\nexpires_at: 2h\n", NOW)
    assert entry.expires_at.ToDatetime(UTC) == NOW + timedelta(hours=2)


def test_no_entries_at_all_must_be_said_and_is_taken_only_where_it_prunes(
    admin: ScriptedServer, run: Run, tmp_path: Path
):
    file = tmp_path / "entries.yaml"
    admin.answers["Entries.Apply"] = pb.ApplyEntriesResponse(deleted=[WEB])
    apply = ("entry", "apply", "-f", str(file), "--source", "git")
    for text in ("", "[]", "entries:\n"):
        file.write_text(text)
        assert run(*apply, "--prune").code == Exit.USAGE, text
    file.write_text("entries: []\n")
    assert run(*apply).code == Exit.USAGE
    assert "deleted" in run(*apply, "--prune").out
    assert admin.request == pb.ApplyEntriesRequest(source="git", prune=True)


def test_yaml_guesses_change_nothing():
    (entry,) = read_entries("spiffe_id: spiffe://a/x\nselectors: [unix:user:no]\nhint: 1e3\nsource: no\n", NOW)
    assert (list(entry.selectors), entry.hint, entry.source) == (["unix:user:no"], "1e3", "no")


def test_all_that_is_wrong_with_a_file_is_told_at_once_with_its_place():
    text = """
spiffe_id: spiffe://a/x
selector: [unix:uid:1]
---
- spiffe_id: spiffe://a
  selectors: [unix:uid:1]
- spiffe_id: spiffe://a/b
  selectors: unix:uid:1
  ttl: soon
  default: maybe
- just text
"""
    with pytest.raises(InvalidInput) as refusal:
        read_entries(text, NOW)
    lines = str(refusal.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "document 1",
        "document 2, entry 1",
        "document 2, entry 2",
        "document 2, entry 2",
        "document 2, entry 2",
        "document 2, entry 3",
    ]
    for expected in [
        "unknown key 'selector': did you mean selectors?",
        "has no path",
        "not a list",
        "'soon'",
        "neither true nor",
        "'just text'",
    ]:
        assert expected in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no entry"),
        ("[]", "no entry"),
        ("spiffe_id: [", "neither YAML nor JSON"),
        ("spiffe_id: a\nspiffe_id: b\n", "key spiffe_id is there twice"),
        ("? [a]\n: b\n", "neither YAML nor JSON|unknown key"),
        ("ttl: [1]\n", "ttl is not one value"),
        ("hint: [1]\n", "hint is not one text"),
        ("selectors: [[1]]\n", "selectors is not a list of texts"),
        ("spiffe_id: spiffe://a/x\nselectors: [unix:uid:1]\nexpires_at: soon\n", "neither a time"),
        ("zzz: 1\n", "known are id, spiffe_id"),
        ("[" * 3000, "nested too deeply|neither YAML nor JSON"),
    ],
)
def test_a_malformed_file_is_refused_with_the_reason(text: str, reason: str):
    with pytest.raises(InvalidInput, match=reason):
        read_entries(text, NOW)

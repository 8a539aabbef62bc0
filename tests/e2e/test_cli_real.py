"""The CLI as its users have it, in processes of its own, against a real server: each group once, with its main refusals."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from meshca.cli.exits import Exit
from meshca.demo.server import Server, running_server
from spiffe import bundle_json
from spiffe.id import TrustDomain
from spiffe.x509svid import X509SVID
from tests.support.command import NO_HTTP
from tests.support.pki import CA
from tests.support.wait import until

UID = os.geteuid()
WEB = "spiffe://mesh.local/web"
MESHCA = (sys.executable, "-m", "meshca")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """A terminal of somebody who has set the two variables that name the server's sockets."""

    server: Server

    def environment(self) -> dict[str, str]:
        sockets = {
            "MESHCA_ADMIN_SOCKET": self.server.admin_socket,
            "SPIFFE_ENDPOINT_SOCKET": f"unix://{self.server.sockets['default']}",
        }
        return {**os.environ, **sockets}

    def __call__(self, *arguments: object, given: str = "") -> Outcome:
        ended = subprocess.run(
            [*MESHCA, *map(str, arguments)],
            input=given,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in ended.stderr
        return Outcome(code=ended.returncode, out=ended.stdout, err=ended.stderr)

    def good(self, *arguments: object, given: str = "") -> Outcome:
        outcome = self(*arguments, given=given)
        assert outcome.code == Exit.OK, outcome.err
        return outcome

    def refusal(self, *arguments: object, given: str = "") -> tuple[int, str]:
        """Its exit code and its one error; nothing may be on standard output."""
        outcome = self(*arguments, given=given)
        assert not outcome.out
        return outcome.code, outcome.err

    @contextmanager
    def staying(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """A command that runs until the body ends."""
        command = [*MESHCA, *map(str, arguments)]
        with subprocess.Popen(
            command, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as child:
            try:
                yield child
            finally:
                child.terminate()

    @contextmanager
    def entry(self, spiffe_id: str, *selectors: str) -> Iterator[str]:
        """An entry while the body runs; its id."""
        options = [f"--selector={each}" for each in selectors]
        made = self.good("entry", "create", "--spiffe-id", spiffe_id, *options, "-o", "json").json["id"]
        try:
            yield made
        finally:
            self.good("entry", "delete", made)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with running_server(tmp_path_factory.mktemp("cli"), ["default"]) as running:
        yield running


@pytest.fixture(scope="module")
def meshca(server: Server) -> Shell:
    return Shell(server=server)


def test_health_and_status_say_that_the_server_is_ready(meshca: Shell):
    health = meshca.good("health", "-o", "json").json
    assert (health["ready"], health["checks"][0]["name"]) == (True, "signing")
    status = meshca.good("status", "-o", "json").json
    assert (status["trust_domain"], status["sockets"]) == (
        "mesh.local",
        {"default": str(meshca.server.sockets["default"])},
    )
    assert "trust domain  mesh.local" in meshca.good("status").out


def test_an_entry_lives_from_create_to_delete(meshca: Shell):
    options = [
        "--spiffe-id",
        "spiffe://mesh.local/db",
        "--selector",
        "unix:uid:77",
        "--ttl",
        "30m",
        "--dns",
        "db.local",
    ]
    made = meshca.good("entry", "create", *options, "-o", "json").json
    assert (made["selectors"], made["ttl"], made["dns_names"]) == (["unix:uid:77"], 1800, ["db.local"])
    code, text = meshca.refusal("entry", "create", *options)
    assert (code, made["id"] in text) == (Exit.EXISTS, True)
    assert meshca.good("entry", "update", made["id"], "--ttl", "", "-o", "json").json == {**made, "ttl": None}
    assert made["id"] in meshca.good("entry", "list", "--selector", "unix:uid:77").out
    assert "spiffe id   spiffe://mesh.local/db" in meshca.good("entry", "show", made["id"]).out
    meshca.good("entry", "delete", made["id"])
    assert meshca.refusal("entry", "show", made["id"])[0] == Exit.NOT_FOUND
    code, text = meshca.refusal("entry", "list", "--spiffe-id", "bad")
    assert (code, "spiffe_id: " in text) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--spiffe-id spiffe://other.org/x --selector unix:uid:1", "not in our trust domain mesh.local"),
        ("--spiffe-id mesh.local/x --selector unix:uid:1", "does not start with spiffe://"),
        ("--spiffe-id spiffe://mesh.local/x --selector uid:1", "no process can have"),
        ("--spiffe-id spiffe://mesh.local/x --selector unix:uid:1 --ttl 400d", "above the 6h"),
        ("--spiffe-id spiffe://mesh.local/x --selector unix:uid:1 --dns a.meshca.internal", "reserved"),
        ("--spiffe-id spiffe://mesh.local/x --selector unix:uid:1 --federates-with p.org", "meshca bundle set"),
        ("--spiffe-id spiffe://mesh.local/x --selector unix:uid:1 --expires 2020-01-01T00:00:00Z", "is past"),
        ("--spiffe-id spiffe://mesh.local/x", "--selector"),
    ],
)
def test_an_entry_that_makes_no_sense_is_a_usage_error(meshca: Shell, options: str, reason: str):
    code, text = meshca.refusal("entry", "create", *options.split())
    assert (code, reason in text) == (Exit.USAGE, True), text


def test_apply_makes_a_source_equal_to_a_file_and_prunes_only_there(meshca: Shell):
    both = "- {id: e1, spiffe_id: spiffe://mesh.local/e1, selectors: ['unix:uid:1001']}\n"
    both += "- {id: e2, spiffe_id: spiffe://mesh.local/e2, selectors: ['unix:uid:1002'], ttl: 30m}\n"
    apply = ("entry", "apply", "-f", "-", "--source", "git", "-o", "json")
    with meshca.entry("spiffe://mesh.local/other", "unix:uid:1003") as other:
        dry = meshca.good(*apply, "--dry-run", given=both).json
        assert ([each["id"] for each in dry["created"]], dry["dry_run"]) == (["e1", "e2"], True)
        assert meshca.refusal("entry", "show", "e1")[0] == Exit.NOT_FOUND
        assert len(meshca.good(*apply, given=both).json["created"]) == 2
        listed = meshca.good("entry", "list", "--source", "git", "-o", "yaml").out
        assert len(meshca.good(*apply, given=listed).json["unchanged"]) == 2
        pruned = meshca.good(*apply, "--prune", given=both.splitlines()[0]).json
        assert [each["id"] for each in pruned["deleted"]] == ["e2"]
        assert meshca.good("entry", "show", other)
    assert meshca.refusal("entry", "apply", "-f", "-", given="- {spiffe_idd: x}")[0] == Exit.USAGE


def test_what_list_prints_changes_nothing_when_it_is_applied(meshca: Shell):
    git = "- {id: g1, spiffe_id: spiffe://mesh.local/g1, selectors: ['unix:uid:1001'], ttl: 30m}\n"
    meshca.good("entry", "apply", "-f", "-", "--source", "git", given=git)
    with meshca.entry("spiffe://mesh.local/hand", "unix:uid:1003") as hand:
        listed = meshca.good("entry", "list", "-o", "yaml").out
        applied = meshca.good("entry", "apply", "-f", "-", "-o", "json", given=listed)
        assert [applied.json[kind] for kind in ("created", "updated", "deleted")] == [[], [], []]
        assert {each["id"] for each in applied.json["unchanged"]} >= {"g1", hand}
        assert applied.err == "made by hand, and left so: 1; --adopt takes them under source apply\n"
        assert meshca.good("entry", "list", "-o", "yaml").out == listed

        edited = listed.replace("hint: ''", "hint: new")
        code, text = meshca.refusal("entry", "apply", "-f", "-", given=edited)
        assert (code, f"is entry {hand}, made by hand" in text) == (Exit.FAILED, True)
        adopted = meshca.good("entry", "apply", "-f", "-", "--adopt", "-o", "json", given=edited).json
        assert {each["source"] for each in adopted["updated"]} == {"apply", "git"}
        mine = "- {spiffe_id: spiffe://mesh.local/g1, selectors: ['unix:uid:1001']}"
        code, text = meshca.refusal("entry", "apply", "-f", "-", "--source", "team", given=mine)
        assert (code, "entry g1 of source 'git', not 'team'" in text) == (Exit.FAILED, True)
    meshca.good("entry", "apply", "-f", "-", "--source", "git", "--prune", given="entries: []")
    assert meshca.refusal("entry", "show", "g1")[0] == Exit.NOT_FOUND


def test_an_entry_for_a_socket_that_there_is_not_is_made_with_a_warning(meshca: Shell):
    options = ["--spiffe-id", WEB, "--selector", "socket:nosuch", "--id", "nosuch"]
    made = meshca.good("entry", "create", *options)
    assert made.err.startswith("the server has no socket 'nosuch' (it has default)")
    assert not meshca.good("entry", "update", "nosuch", "--selector", "socket:default").err
    meshca.good("entry", "delete", "nosuch")


def test_bundles_of_others_are_not_made_of_our_roots_or_of_a_third(meshca: Shell, tmp_path: Path):
    own, third = tmp_path / "own.pem", tmp_path / "third.pem"
    own.write_text(meshca.good("bundle", "show").out)
    third.write_bytes(CA.create("third.org").pem)
    for file, reason in ((own, "has a root of our own, mesh.local"), (third, "says it is of spiffe://third.org")):
        code, text = meshca.refusal("bundle", "set", file, "--trust-domain", "partner.org")
        assert (code, reason in text) == (Exit.FAILED, True), text
    assert "partner.org" not in meshca.good("bundle", "list").out


def test_bundles_are_shown_moved_and_compared(meshca: Shell, tmp_path: Path):
    own, partner = tmp_path / "own.pem", tmp_path / "partner.pem"
    own.write_text(meshca.good("bundle", "show").out)
    partner.write_bytes(CA.create("partner.org").pem)
    document = meshca.good("bundle", "show", "--format", "spiffe").out.encode()
    assert bundle_json.parse(TrustDomain.parse("mesh.local"), document).to_pem() == own.read_bytes()
    assert meshca.good("bundle", "diff", own).out == "same\n"
    assert meshca("bundle", "diff", partner, "-o", "json").code == Exit.FAILED
    assert meshca.refusal("bundle", "set", own, "--trust-domain", "mesh.local")[0] == Exit.FAILED
    meshca.good("bundle", "set", partner, "--trust-domain", "partner.org")
    assert "partner.org" in meshca.good("bundle", "list").out
    options = ["--spiffe-id", WEB, "--selector", "unix:uid:78", "--federates-with", "partner.org", "--id", "federated"]
    meshca.good("entry", "create", *options)
    code, text = meshca.refusal("bundle", "delete", "partner.org")
    assert (code, "--dissociate" in text) == (Exit.FAILED, True)
    meshca.good("bundle", "delete", "partner.org", "--dissociate")
    assert meshca.refusal("bundle", "delete", "partner.org")[0] == Exit.NOT_FOUND
    meshca.good("entry", "delete", "federated")


def test_a_workload_fetches_its_svid_and_anybody_can_judge_it(meshca: Shell, tmp_path: Path):
    code, text = meshca.refusal("svid", "fetch")
    assert (code, "meshca why --pid" in text) == (Exit.NOT_ALLOWED, True)
    directory = tmp_path / "svids"
    with meshca.entry(WEB, f"unix:uid:{UID}"):
        assert WEB in meshca.good("svid", "fetch").out
        meshca.good("svid", "fetch", "--write", directory)
    svid = X509SVID.from_pem(*((directory / f"svid.0.{kind}").read_bytes() for kind in ("pem", "key")))
    assert (directory / "svid.0.key").stat().st_mode & 0o777 == 0o600
    leaf, bundle = directory / "svid.0.pem", directory / "bundle.0.pem"
    shown = meshca.good("svid", "show", leaf, "-o", "json").json["certificates"][0]
    assert (shown["uris"], shown["serial"]) == ([WEB], f"{svid.serial:x}")
    assert meshca.good("svid", "verify", leaf, "--bundle", bundle, "-o", "json").json["spiffe_id"] == WEB
    assert f"PROVED {WEB}" in meshca.good("bundle", "verify", leaf).out
    other = tmp_path / "other.pem"
    other.write_bytes(CA.create("mesh.local").pem)
    judged = meshca("svid", "verify", leaf, "--bundle", other)
    assert (judged.code, "REFUSED" in judged.out) == (Exit.FAILED, True)
    assert meshca.refusal("svid", "verify", bundle)[0] == Exit.USAGE


def test_fetch_keeps_files_fresh_and_watch_says_what_changed(meshca: Shell, tmp_path: Path):
    fetch = ("svid", "fetch", "--write", tmp_path, "--watch", "-o", "json")
    with meshca.entry(WEB, f"unix:uid:{UID}") as entry_id, meshca.staying(*fetch) as kept:
        assert kept.stdout
        assert json.loads(kept.stdout.readline())["svids"][0]["dns_names"] == []
        with meshca.staying("svid", "watch") as watched:
            assert watched.stdout
            assert watched.stdout.readline().startswith(f"{WEB}  serial ")
            why = meshca.good("why", "--pid", watched.pid, "-o", "json").json
            assert ([each["id"] for each in why["granted"]], "socket:default" in why["selectors"]) == ([entry_id], True)
            meshca.good("entry", "update", entry_id, "--dns", "web.local")
            assert watched.stdout.readline().startswith(f"{WEB}  serial ")
        assert json.loads(kept.stdout.readline())["svids"][0]["dns_names"] == ["web.local"]
        leaf = x509.load_pem_x509_certificates((tmp_path / "svid.0.pem").read_bytes())[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["web.local"]


def test_a_deletion_now_says_who_is_still_entitled_and_cuts_off_the_others(meshca: Shell):
    db, selector = "spiffe://mesh.local/db", f"unix:uid:{UID}"
    with meshca.entry(db, selector, "socket:default") as other, meshca.staying("svid", "watch") as watched:
        assert watched.stdout
        assert watched.stdout.readline().startswith(f"{db}  serial ")
        web = meshca.good("entry", "create", "--spiffe-id", WEB, "--selector", selector, "-o", "json").json["id"]
        while WEB not in watched.stdout.readline():
            pass
        told = meshca.good("entry", "delete", "--now", web).err.splitlines()
        assert "  processes with an SVID of it: 1; it is not renewed, and lives out its time" in told
        assert f"  still entitled by entry {other}, and so trust whom they trusted: 1" in told
        assert not any("nothing any more" in line for line in told)


def test_a_watch_without_an_entry_says_so_at_once(meshca: Shell):
    with meshca.staying("svid", "watch") as watched:
        assert watched.stdout
        assert "no registration entry covers this process" in watched.stdout.readline()


async def test_authorities_are_prepared_activated_rotated_and_the_last_is_kept(meshca: Shell):
    def ids(kind: str, state: str) -> list[str]:
        listed = meshca.good("authority", "list", "-o", "json").json["authorities"]
        return [each["id"] for each in listed if (each["kind"], each["state"]) == (kind, state)]

    (root,) = ids("root", "active")
    assert "last usable" in meshca.refusal("authority", "revoke", root)[1]
    for kind in ("intermediate", "root"):
        prepared = meshca.good("authority", "prepare", "--kind", kind, "-o", "json").json["id"]
        code, text = meshca.refusal("authority", "prepare", "--kind", kind)
        assert (code, f"meshca authority activate {prepared}" in text) == (Exit.FAILED, True)
        other = "root" if kind == "intermediate" else "intermediate"
        assert meshca.refusal("authority", "activate", prepared, "--kind", other)[0] == Exit.USAGE
        gone = meshca.good("authority", "revoke", prepared[:8])
        assert gone.out.splitlines()[:3] == [f"id           {prepared}", f"kind         {kind}", "state        revoked"]
        await until(lambda: len(ids("root", "active")) == 1 and not ids("root", "prepared"))
        steps = meshca.good("authority", "rotate", "--kind", kind, "-o", "json").out.splitlines()
        assert [json.loads(step)["step"] for step in (steps[0], steps[-1])] == ["prepared", "done"]
    assert ids("root", "active") != [root]
    revoked = meshca.good("authority", "revoke", *ids("intermediate", "active"), "-o", "json").json
    assert any("the root above it is rotated too" in each for each in revoked["remarks"])
    assert meshca.refusal("authority", "activate", *ids("root", "active"))[0] == Exit.FAILED
    assert meshca.refusal("authority", "taint", "nope")[0] == Exit.NOT_FOUND
    assert meshca.refusal("authority", "taint", ids("root", "active")[0][:7])[0] == Exit.NOT_FOUND


def test_a_minted_svid_is_in_the_record_with_who_asked_for_it(meshca: Shell, tmp_path: Path):
    minted = meshca.good("svid", "mint", "spiffe://mesh.local/minted", "--ttl", "10s", "-o", "json").json
    assert "PRIVATE KEY" in minted["private_key"]
    found = meshca.good("audit", "find", "--spiffe-id", "spiffe://mesh.local/minted", "-o", "json").json["records"]
    assert {(each["kind"], json.loads(each["body"])["holder"]) for each in found} >= {("issued", f"mint/{UID}")}
    serial = found[0]["serial"]
    assert serial[:16] in meshca.good("audit", "find", "--serial", serial).out
    assert meshca.refusal("svid", "mint", "spiffe://other.org/x")[0] == Exit.USAGE
    assert meshca.refusal("svid", "mint", WEB, "--ttl", "9s")[0] == Exit.USAGE
    meshca.good("svid", "mint", "spiffe://mesh.local/minted", "--ttl", "10s", "--write", tmp_path)
    assert (tmp_path / "svid.0.key").exists()


def test_the_record_says_what_was_signed_and_what_became_of_entries(meshca: Shell, tmp_path: Path):
    def bodies(*options: object) -> list[dict[str, Any]]:
        found = meshca.good("audit", "find", *options, "-o", "json").json["records"]
        return [json.loads(each["body"]) for each in found]

    mallory = "spiffe://mesh.local/mallory"
    meshca.good("svid", "mint", mallory, "--ttl", "10s", "--dns", "bank.local", "--write", tmp_path)
    leaf = x509.load_pem_x509_certificates((tmp_path / "svid.0.pem").read_bytes())[0]
    done, intent = bodies("--serial", f"{leaf.serial_number:x}")
    assert intent["dns_names"] == ["bank.local"]
    key = leaf.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
    assert (intent["key_sha256"], done["certificate_sha256"]) == (key, leaf.fingerprint(hashes.SHA256()).hex())
    asked = bodies("--kind", "admin", "--limit", 1)[0]
    assert (asked["operation"], asked["new"]["dns_names"], asked["new"]["ttl"]) == ("svid.mint", ["bank.local"], "10s")

    selected = ("--selector", "unix:uid:4242")
    entry_id = meshca.good("entry", "create", "--spiffe-id", mallory, *selected, "-o", "json").json["id"]
    meshca.good("entry", "update", entry_id, "--selector", "unix:uid:666")
    told = meshca.good("audit", "find", "--kind", "admin", "--limit", 1).out
    assert "old.selectors=unix:uid:4242 new.selectors=unix:uid:666" in told
    meshca.good("entry", "delete", entry_id)
    deleted, updated, created = bodies("--kind", "admin", "--limit", 3)
    assert [each["entry"] for each in (deleted, updated, created)] == [entry_id] * 3
    assert created["new"] == updated["old"]
    assert updated["new"] == deleted["old"] == {**created["new"], "selectors": ["unix:uid:666"]}

    def apply(*hints: str, changes: int) -> list[tuple[str, str]]:
        entries = [{"spiffe_id": f"{mallory}/{n}", "selectors": ["unix:uid:1"], "hint": h} for n, h in enumerate(hints)]
        meshca.good("entry", "apply", "--source", "team", "--prune", "-f", "-", given=json.dumps({"entries": entries}))
        found = bodies("--kind", "admin", "--limit", changes)
        return sorted((each.get("old", {}).get("hint", ""), each.get("new", {}).get("hint", "")) for each in found)

    assert apply("a", "b", changes=2) == [("", "a"), ("", "b")]
    assert apply("c", changes=2) == [("a", "c"), ("b", "")]
    (left,) = meshca.good("entry", "list", "--source", "team", "-o", "json").json["entries"]
    meshca.good("entry", "delete", left["id"])
    meshca.good("audit", "verify")


def test_the_record_proves_itself_and_shows_what_was_cut(meshca: Shell):
    verdict = meshca.good("audit", "verify", "-o", "json").json
    assert len(meshca.good("audit", "export").out.splitlines()) >= verdict["records"] > 0
    meshca.good("audit", "verify", "--head", verdict["head"])
    writer, sequence, digest = verdict["head"].split(":")
    code, text = meshca.refusal("audit", "verify", "--head", f"{writer}:{int(sequence) + 999}:{digest}")
    assert (code, "was cut" in text) == (Exit.FAILED, True)
    for options in (["verify", "--head", "x"], ["find", "--serial", "zz"], ["find", "--since", "yesterday"]):
        assert meshca.refusal("audit", *options)[0] == Exit.USAGE
    assert meshca.good("audit", "prune", "--before", "2020-01-01T00:00:00Z", "-o", "json").json["removed"] == 0
    meshca.good("audit", "verify")


def test_a_backup_is_private_and_a_running_server_is_not_restored(meshca: Shell, tmp_path: Path):
    backup = tmp_path / "store.db"
    assert meshca.good("store", "backup", backup, "-o", "json").json["bytes"] == backup.stat().st_size
    assert backup.stat().st_mode & 0o777 == 0o600
    assert meshca.refusal("store", "backup", backup)[0] == Exit.EXISTS
    assert meshca.refusal("store", "backup", tmp_path / "no" / "store.db")[0] == Exit.USAGE
    code, text = meshca.refusal("store", "restore", backup, "--config", meshca.server.directory / "meshca.toml")
    assert (code, "stop it first" in text) == (Exit.FAILED, True)


def test_why_explains_a_process_that_has_never_connected(meshca: Shell):
    with meshca.entry(WEB, f"unix:uid:{UID}", "socket:default"):
        outcome = meshca("why", "--pid", os.getpid(), "-o", "json")
    assert outcome.code == Exit.FAILED
    assert outcome.json["near_misses"][0]["missing"] == ["socket:default"]
    assert meshca.refusal("why", "--pid", 2**22 + 1)[0] == Exit.NOT_FOUND


def test_a_bootstrap_takes_its_certificates_from_the_socket_in_the_environment(meshca: Shell):
    printed = meshca.good("envoy", "bootstrap", "--inbound", "8443=8080", "--allow", WEB).out
    assert yaml.safe_load(printed)["node"]["cluster"] == "meshca"
    assert f"path: {meshca.server.sockets['default']}" in printed
    assert meshca.refusal("envoy", "bootstrap")[0] == Exit.USAGE


def test_the_admin_socket_of_up_is_that_of_the_file_before_that_of_the_environment(meshca: Shell, tmp_path: Path):
    file = tmp_path / "meshca.toml"
    file.write_text("")
    environment = f'admin_socket = "{meshca.server.admin_socket}"'
    assert environment in meshca.good("config", "show", "--config", file).out
    file.write_text('admin_socket = "/run/of-the-file.sock"')
    assert 'admin_socket = "/run/of-the-file.sock"' in meshca.good("config", "show", "--config", file).out
    file.write_text("nope = 1\n[http]\nprot = 2")
    code, text = meshca.refusal("config", "check", "--config", file)
    assert (code, "2 errors" in text) == (Exit.USAGE, True)


def test_a_second_server_is_told_what_is_taken(meshca: Shell, tmp_path: Path):
    own = ("--data-dir", tmp_path / "fresh" / "data", "--admin-socket", tmp_path / "admin.sock")
    second = ("up", "--config", NO_HTTP, *own)
    code, text = meshca.refusal(*second, "--socket", f"default={meshca.server.sockets['default']}")
    assert (code, text.splitlines()[-1].endswith("a running server listens there")) == (Exit.FAILED, True), text
    code, text = meshca.refusal("up", "--config", meshca.server.directory / "meshca.toml")
    assert (code, "another meshca server runs in" in text) == (Exit.FAILED, True)

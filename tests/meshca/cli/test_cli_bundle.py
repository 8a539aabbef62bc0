import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from meshca.cli.exits import Exit
from meshca.proto import admin_pb2 as pb
from spiffe import bundle_json
from spiffe.bundle import Bundle
from spiffe.id import TrustDomain
from tests.meshca.cli.conftest import Run
from tests.support.pki import CA, der, key_pem, pem
from tests.support.scripted_server import ScriptedServer

OWN, NEXT, FOREIGN = CA.create("mesh.local"), CA.create("mesh.local"), CA.create("partner.example")


def message(*authorities: CA, sequence: int = 7) -> pb.Bundle:
    return pb.Bundle(
        trust_domain=authorities[0].trust_domain,
        x509_authorities=[each.der for each in authorities],
        sequence=sequence,
        digest="ab" * 32,
    )


@pytest.mark.parametrize("form", ["pem", "spiffe", "der"])
def test_a_bundle_that_show_printed_can_be_set_elsewhere(admin: ScriptedServer, run: Run, tmp_path: Path, form: str):
    admin.answers["Bundles.Get"] = admin.answers["Bundles.Set"] = message(OWN, NEXT)
    file = tmp_path / "bundle"
    file.write_bytes(_printed("bundle", "show", "--format", form, "--admin-socket", admin.path))
    outcome = run("bundle", "set", str(file), "--trust-domain", "spiffe://mesh.local")

    assert outcome.code == Exit.OK, outcome.err
    assert list(admin.request.x509_authorities) == [OWN.der, NEXT.der]
    assert (admin.request.trust_domain, admin.request.sequence) == ("mesh.local", 7 if form == "spiffe" else -1)


def _printed(*arguments: str) -> bytes:
    """What a child process prints: bytes, which the in-process runner would decode."""
    return subprocess.run([sys.executable, "-m", "meshca", *arguments], capture_output=True, check=True).stdout


def test_list_says_null_for_what_a_bundle_does_not_say(admin: ScriptedServer, run: Run):
    admin.answers["Bundles.List"] = pb.BundleList(bundles=[message(OWN), message(FOREIGN, sequence=-1)])
    outcome = run("bundle", "list", "-o", "json")
    assert [(b["trust_domain"], b["sequence"], b["refresh_hint"]) for b in outcome.json["bundles"]] == [
        ("mesh.local", 7, None),
        ("partner.example", None, None),
    ]
    assert outcome.json["bundles"][0]["x509_authorities"] == [pem(OWN.certificate).decode()]


def test_diff_tells_what_the_server_has_more_and_less_and_exits_1(admin: ScriptedServer, run: Run, tmp_path: Path):
    file = tmp_path / "bundle.pem"
    file.write_bytes(OWN.pem)
    admin.answers["Bundles.Get"] = message(OWN)
    assert run("bundle", "diff", str(file)).code == Exit.OK

    admin.answers["Bundles.Get"] = message(NEXT)
    outcome = run("bundle", "diff", str(file), "-o", "json")
    assert outcome.code == Exit.FAILED
    assert {name: len(prints) for name, prints in outcome.json.items()} == {"added": 1, "removed": 1}
    assert [line[0] for line in run("bundle", "diff", str(file)).out.splitlines()[1:]] == ["+", "-"]


def test_watch_prints_a_line_for_each_bundle_until_the_server_ends_it(admin: ScriptedServer, run: Run):
    admin.answers["Bundles.Watch"] = [
        message(OWN),
        message(OWN, NEXT, sequence=8),
        (grpc.StatusCode.UNAVAILABLE, "stopping"),
    ]
    outcome = run("bundle", "watch", "-o", "json")
    assert [json.loads(line)["sequence"] for line in outcome.out.splitlines()] == [7, 8]
    assert (outcome.code, outcome.err) == (Exit.UNREACHABLE, "error: the server can not answer: stopping\n")
    assert run("bundle", "watch").out.startswith("mesh.local  sequence 7  ")


def test_delete_tells_which_entries_federate_no_longer(admin: ScriptedServer, run: Run):
    admin.answers["Bundles.Delete"] = pb.DeleteBundleResponse(dissociated_entries=["web"])
    outcome = run("bundle", "delete", "partner.example", "--dissociate")
    assert admin.request == pb.DeleteBundleRequest(trust_domain="partner.example", dissociate=True)
    assert "entry web federates with partner.example no longer" in outcome.err


def test_verify_proves_a_chain_point_by_point_or_refuses_it_with_the_rule(
    admin: ScriptedServer, run: Run, tmp_path: Path
):
    admin.answers["Bundles.List"] = pb.BundleList(bundles=[message(OWN), message(FOREIGN)])
    good, forged = tmp_path / "good.pem", tmp_path / "forged.der"
    good.write_bytes(OWN.intermediate().leaf().chain_pem)
    forged.write_bytes(der(*FOREIGN.leaf(uris=["spiffe://mesh.local/web"]).chain))

    accepted = run("bundle", "verify", str(good))
    assert accepted.code == Exit.OK
    assert accepted.out.splitlines()[-1] == "PROVED spiffe://mesh.local/web"
    assert [line.split(".")[0] for line in accepted.out.splitlines()[:-1]] == [str(n) for n in range(1, 11)]
    assert "not longer than 16 certificates" in accepted.out
    assert "`" not in accepted.out

    refused = run("bundle", "verify", str(forged), "-o", "json")
    assert refused.code == Exit.FAILED
    assert (refused.json["accepted"], refused.json["rule"]) == (False, "X5-30")


def test_svid_verify_needs_no_server(run: Run, tmp_path: Path):
    chain, bundle = tmp_path / "chain.pem", tmp_path / "bundle.json"
    chain.write_bytes(OWN.leaf().chain_pem)
    bundle.write_bytes(bundle_json.render(Bundle.from_pem(TrustDomain("mesh.local"), OWN.pem)))
    assert run("svid", "verify", str(chain), "--bundle", str(bundle)).code == Exit.OK
    foreign = run("svid", "verify", str(chain), "--bundle", str(bundle), "--trust-domain", "partner.example")
    assert (foreign.code, foreign.out.split(":")[0]) == (Exit.FAILED, "REFUSED TB-01")


def test_what_is_no_bundle_is_refused_by_its_name(run: Run, admin: ScriptedServer, tmp_path: Path):
    file = tmp_path / "bundle"
    file.write_text('{"keys": 3}')
    outcome = run("bundle", "set", str(file), "--trust-domain", "partner.example")
    assert outcome.code == Exit.USAGE
    assert "bundle document of partner.example" in outcome.err
    assert (
        run("bundle", "set", str(tmp_path / "none"), "--trust-domain", "x").err
        == f"error: {tmp_path}/none: No such file or directory\n"
    )
    assert run("bundle", "set", str(file), "--trust-domain", "UPPER").code == Exit.USAGE
    assert admin.requests == []


def test_junk_is_told_by_the_name_of_its_file(run: Run, tmp_path: Path):
    junk = tmp_path / "junk"
    junk.write_text("hello\n")
    bundles = "neither PEM, DER nor a SPIFFE bundle document"
    for arguments, words in (
        (["bundle", "set", str(junk), "--trust-domain", "partner.example"], bundles),
        (["svid", "verify", str(junk), "--bundle", str(junk)], "neither PEM nor DER"),
        (["svid", "show", str(junk)], "neither PEM nor DER"),
    ):
        outcome = run(*arguments)
        assert (outcome.code, outcome.err) == (Exit.USAGE, f"error: {junk} is {words}\n")
    junk.write_bytes(b"0\x03junk")
    assert run("svid", "show", str(junk)).err.startswith(f"error: {junk}: DER certificate")


def test_a_dash_is_standard_input_for_whatever_is_read(admin: ScriptedServer, tmp_path: Path):
    admin.answers["Bundles.List"] = pb.BundleList(bundles=[message(OWN)])
    bundle, chain = tmp_path / "bundle.pem", OWN.leaf().chain_pem
    bundle.write_bytes(OWN.pem)
    for arguments in (["svid", "show"], ["svid", "verify", f"--bundle={bundle}"], ["bundle", "verify"]):
        command = [sys.executable, "-m", "meshca", *arguments, "-"]
        environ = {**os.environ, "MESHCA_ADMIN_SOCKET": admin.path}
        ended = subprocess.run(command, input=chain, capture_output=True, check=False, env=environ)
        assert (ended.returncode, b"spiffe://mesh.local/web" in ended.stdout) == (Exit.OK, True), ended.stderr


def test_a_private_key_in_a_bundle_is_refused_loudly_and_goes_nowhere(admin: ScriptedServer, run: Run, tmp_path: Path):
    file = tmp_path / "bundle.pem"
    file.write_bytes(FOREIGN.pem + key_pem(FOREIGN.key))
    outcome = run("bundle", "set", str(file), "--trust-domain", "partner.example")
    assert (outcome.code, admin.requests) == (Exit.USAGE, [])
    assert f"{file} HOLDS A PRIVATE KEY" in outcome.err
    assert "Treat that key as exposed" in outcome.err


@pytest.mark.parametrize(
    ("dates", "said"),
    [
        ({"not_after": datetime(2021, 1, 1, tzinfo=UTC)}, "expired"),
        ({"not_before": datetime(2048, 1, 1, tzinfo=UTC)}, "not yet valid"),
    ],
)
def test_what_is_not_valid_now_is_marked_and_warned_about(
    admin: ScriptedServer, run: Run, tmp_path: Path, dates: dict[str, datetime], said: str
):
    root, file = CA.create("partner.example", **dates), tmp_path / "bundle.pem"
    file.write_bytes(root.pem)
    admin.answers["Bundles.Set"] = message(root)
    outcome = run("bundle", "set", str(file), "--trust-domain", "partner.example")
    assert (outcome.code, f"is {said}: nothing under it is trusted now" in outcome.err) == (Exit.OK, True)
    (shown,) = run("svid", "show", str(file), "-o", "json").json["certificates"]
    assert shown["validity"] == said
    assert said in run("svid", "show", str(file)).out

import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from meshca.cli.exits import Exit
from meshca.proto import admin_pb2 as pb
from spiffe import bundle_json
from spiffe.bundle import Bundle
from spiffe.id import TrustDomain
from tests.meshca.cli.conftest import Run
from tests.support.pki import CA, der, pem
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

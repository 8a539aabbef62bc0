from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from meshca.cli.exits import Exit
from meshca.proto import admin_pb2 as pb
from spiffe.x509svid import X509SVID
from tests.meshca.cli.conftest import Run
from tests.support.pki import CA, der
from tests.support.scripted_server import ScriptedServer

ROOT = CA.create("mesh.local")
BUNDLE = pb.Bundle(trust_domain="mesh.local", x509_authorities=[ROOT.der], sequence=1)


def sign(request: pb.MintRequest) -> pb.MintResponse:
    asked = x509.load_der_x509_csr(request.csr)
    assert asked.is_signature_valid
    assert not asked.subject.rdns
    assert not list(asked.extensions)
    leaf = ROOT.intermediate().leaf(
        uris=[request.spiffe_id], key=asked
    )  # a CSR has a public key, and that is all a leaf needs
    return pb.MintResponse(
        chain=[der(each) for each in leaf.chain], bundle=BUNDLE, remark="recorded as minted by uid 0"
    )


@pytest.mark.parametrize("key_type", ["ec-p256", "ec-p384", "rsa-2048"])
def test_mint_makes_the_key_here_and_writes_a_set_that_fits(
    admin: ScriptedServer, run: Run, tmp_path: Path, key_type: str
):
    admin.answers["SVIDs.Mint"] = sign
    directory = tmp_path / "svid"
    options = ["--ttl", "10m", "--dns", "web.local", "--key-type", key_type, "--write", str(directory)]
    outcome = run("svid", "mint", "spiffe://mesh.local/web", *options)
    assert (outcome.code, outcome.out) == (Exit.OK, "")
    assert outcome.err.startswith("recorded as minted by uid 0\nwrote svid.0.pem, svid.0.key, bundle.0.pem to ")
    assert (admin.request.ttl.seconds, list(admin.request.dns_names)) == (600, ["web.local"])
    svid = X509SVID.from_pem((directory / "svid.0.pem").read_bytes(), (directory / "svid.0.key").read_bytes())
    assert str(svid.spiffe_id) == "spiffe://mesh.local/web"
    assert (
        run("svid", "verify", str(directory / "svid.0.pem"), "--bundle", str(directory / "bundle.0.pem")).code
        == Exit.OK
    )


def test_mint_prints_pem_or_one_document(admin: ScriptedServer, run: Run):
    admin.answers["SVIDs.Mint"] = sign
    printed = run("svid", "mint", "spiffe://mesh.local/web").out
    assert printed.count("BEGIN CERTIFICATE") == 3
    assert printed.count("BEGIN PRIVATE KEY") == 1
    document = run("svid", "mint", "spiffe://mesh.local/web", "-o", "json").json
    assert (
        str(X509SVID.from_pem(document["chain"].encode(), document["private_key"].encode()).spiffe_id)
        == document["spiffe_id"]
    )


@pytest.mark.parametrize("wrong", ["/web", "https://mesh.local/web", "spiffe://Mesh.local/web"])
def test_mint_refuses_an_id_that_is_not_in_full(admin: ScriptedServer, run: Run, wrong: str):
    assert run("svid", "mint", wrong).code == Exit.USAGE
    assert admin.requests == []


def test_show_tells_what_certificates_say_and_which_rule_one_breaks(run: Run, tmp_path: Path):
    file = tmp_path / "chain.pem"
    file.write_bytes(ROOT.intermediate().leaf(dns=["web.local"]).chain_pem)
    leaf, authority = run("svid", "show", str(file), "-o", "json").json["certificates"]
    assert (leaf["kind"], leaf["uris"], leaf["dns_names"], leaf["breaks"]) == (
        "leaf",
        ["spiffe://mesh.local/web"],
        ["web.local"],
        None,
    )
    assert datetime.fromisoformat(leaf["not_after"]) == datetime(2049, 1, 1, tzinfo=UTC)
    assert (authority["kind"], authority["breaks"]) == ("authority", None)
    assert "spiffe://mesh.local/web" in run("svid", "show", str(file)).out

    file.write_bytes(ROOT.leaf(uris=["spiffe://mesh.local/a", "spiffe://mesh.local/b"]).chain_pem)
    assert "no, X5-02" in run("svid", "show", str(file)).out


def test_what_is_no_certificate_is_refused(run: Run, tmp_path: Path):
    file = tmp_path / "garbage"
    file.write_bytes(b"garbage")
    assert run("svid", "show", str(file)).code == Exit.USAGE
    assert run("svid", "show", str(tmp_path / "none")).code == Exit.NOT_FOUND

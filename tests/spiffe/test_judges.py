"""Judges that share no code with us, OpenSSL's command and Python's `ssl`, hear the same cases as our verifier."""

import ssl
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from spiffe import X509SVID, Bundle, BundleSet, TrustDomain, VerificationFailed, verify
from tests.support import pki
from tests.support.pki import CA, NOW, Issued

ROOT = CA.create()
BUNDLES = BundleSet([Bundle.from_pem(TrustDomain("example.org"), ROOT.pem)])


def below(host: str) -> Any:
    return [(x509.NameConstraints([x509.UniformResourceIdentifier(host)], None), True)]


CASES = [
    pytest.param(True, ROOT.leaf, id="a leaf below the root"),
    pytest.param(True, ROOT.intermediate(path_length=0).leaf, id="below an intermediate"),
    pytest.param(True, ROOT.intermediate().intermediate(subject="second").leaf, id="below two"),
    pytest.param(True, lambda: ROOT.leaf(dns=["web.example.org"]), id="DNS names"),
    pytest.param(True, lambda: ROOT.leaf(subject="web"), id="a Subject"),
    pytest.param(
        True, lambda: ROOT.leaf(key_usage={"digital_signature", "key_encipherment"}, key_type="rsa2048"), id="RSA"
    ),
    pytest.param(True, ROOT.intermediate(key_type="p384").leaf, id="P-384"),
    pytest.param(True, ROOT.intermediate(extensions=below("example.org")).leaf, id="within name constraints"),
    pytest.param(True, ROOT.intermediate(subject="root", path_length=0).leaf, id="a self-issued intermediate"),
    pytest.param(False, lambda: ROOT.leaf(not_after=NOW - timedelta(days=1)), id="expired"),
    pytest.param(False, lambda: ROOT.leaf(not_before=NOW + timedelta(days=8000)), id="not yet valid"),
    pytest.param(False, lambda: ROOT.leaf(signing_key=pki.new_key()), id="forged"),
    pytest.param(False, CA.create().leaf, id="below another root of the same name"),
    pytest.param(False, ROOT.intermediate(path_length=0).intermediate(subject="second").leaf, id="too deep"),
    pytest.param(False, ROOT.intermediate(is_ca=False).leaf, id="below a leaf"),
    pytest.param(False, ROOT.intermediate(extensions=below("other.org")).leaf, id="outside name constraints"),
    pytest.param(
        False, lambda: ROOT.leaf(extensions=[(pki.unknown_extension(), True)]), id="unknown critical extension"
    ),
    pytest.param(False, lambda: ROOT.leaf(san_critical=False), id="empty Subject, SAN not critical"),
]


def ours(issued: Issued) -> bool:
    try:
        verify(issued.chain, BUNDLES, NOW)
    except VerificationFailed:
        return False
    return True


def openssl(issued: Issued, directory: Path) -> bool:
    for name, content in [
        ("root", ROOT.pem),
        ("chain", pki.pem(*issued.chain[1:])),
        ("leaf", pki.pem(issued.chain[0])),
    ]:
        (directory / name).write_bytes(content)
    untrusted = ["-untrusted", "chain"] if issued.chain[1:] else []
    at = ["-attime", str(int(NOW.timestamp())), "-x509_strict", "-purpose", "sslclient"]
    command = ["openssl", "verify", *at, "-CAfile", "root", *untrusted, "leaf"]
    return subprocess.run(command, cwd=directory, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize(("legal", "make"), CASES)
def test_openssl_and_we_agree(legal: bool, make: Callable[[], Issued], tmp_path: Path):
    issued = make()

    assert (ours(issued), openssl(issued, tmp_path)) == (legal, legal)


@pytest.mark.parametrize(
    "make", [case.values[1] for case in CASES if case.values[0]], ids=[c.id for c in CASES if c.values[0]]
)
def test_two_ends_shake_hands_with_legal_svids(make: Callable[[], Issued], tmp_path: Path):
    """What X509SVID and Bundle write is what TLS stacks read; each end asks for the other's certificate."""
    issued = make()
    svid = X509SVID.from_pem(issued.chain_pem, issued.key_pem)
    (tmp_path / "svid").write_bytes(svid.chain_pem() + svid.key_pem())
    server, client = (
        context(purpose, tmp_path / "svid") for purpose in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
    )

    seen = shake_hands(server, client)

    assert [verify([x509.load_der_x509_certificate(der), *svid.chain[1:]], BUNDLES, NOW) for der in seen] == [
        svid.spiffe_id
    ] * 2


def context(purpose: int, svid: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(purpose)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(svid)
    made.load_verify_locations(cadata=BUNDLES[TrustDomain("example.org")].to_pem().decode())
    return made


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> list[bytes]:
    """A whole handshake in memory. Returns the peer's leaf as the server and as the client sees it."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up)]
    waiting = list(ends)
    for _ in range(10):
        waiting = [end for end in reversed(waiting) if not is_done(end)]
    assert not waiting
    return [end.getpeercert(binary_form=True) or b"" for end in ends]


def is_done(end: ssl.SSLObject) -> bool:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True

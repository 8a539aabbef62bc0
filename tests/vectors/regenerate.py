"""Golden files with fixed keys and dates, and the seeds of the fuzz corpus: `python -m tests.vectors.regenerate`.

A changed golden file is a changed format: it needs a reason, and a reader who knows. Every signature is deterministic.
"""

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from spiffe import Bundle, TrustDomain, bundle_json
from tests.support import pki
from tests.support.pki import CA, Issued

HERE = Path(__file__).parent
TRUST_DOMAIN = TrustDomain("example.org")


def fixed_key(scalar: int) -> ec.EllipticCurvePrivateKey:
    """A P-256 key that everybody knows."""
    return ec.derive_private_key(scalar, ec.SECP256R1())


def fixed_pki() -> tuple[CA, Issued]:
    """A root, and a leaf below an intermediate, the same each time."""
    root = CA.create(key=fixed_key(1001), serial=1)
    intermediate = root.intermediate(key=fixed_key(1002), serial=2, path_length=0)
    return root, intermediate.leaf(key=fixed_key(1003), serial=3, dns=["web.example.org"])


def golden() -> dict[str, bytes]:
    """The golden files by name."""
    root, leaf = fixed_pki()
    bundle = Bundle(trust_domain=TRUST_DOMAIN, x509_authorities=(root.certificate,), sequence=7)
    return {
        "root.der": root.der,
        "chain.der": pki.der(*leaf.chain),
        "chain.pem": leaf.chain_pem,
        "bundle.json": bundle_json.render(bundle),
        "bundle.digest": bundle.digest.encode() + b"\n",
    }


def corpus() -> dict[str, bytes]:
    """Seeds for the parsers, by file name: the directory says which one. What fuzzing finds is added by hand."""
    return {**_ids(), **_pem(), **_der(), **_bundles()}


def _ids() -> dict[str, bytes]:
    texts = {
        "plain": "spiffe://example.org/web",
        "trust-domain": "spiffe://example.org",
        "slash": "spiffe://example.org/",
        "dots": "spiffe://example.org/a/../b",
        "newline": "spiffe://example.org/web\n",
        "kelvin": "spiffe://\u212a.org/web",
        "port": "spiffe://example.org:/web",
        "userinfo": "spiffe://@example.org/web",
        "ipv6": "spiffe://[::1]/web",
        "percent": "spiffe://example.org/%61",
        "query": "spiffe://example.org/web?",
        "long": "spiffe://example.org/" + "a" * 2028,
    }
    return {f"id/{name}": text.encode() for name, text in texts.items()}


def _pem() -> dict[str, bytes]:
    _, leaf = fixed_pki()
    chain = leaf.chain_pem
    return {
        "pem/chain": chain,
        "pem/cut-off": chain[:-30],
        "pem/with-text": b"# web\n" + chain + b"# end\n",
        "pem/headers-only": b"-----BEGIN CERTIFICATE-----\n" * 3,
        "pem/no-body": b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        "pem/key": pki.key_pem(fixed_key(1003)),
        "pem/crlf": chain.replace(b"\n", b"\r\n"),
        "pem/der": pki.der(*leaf.chain),
    }


def _der() -> dict[str, bytes]:
    root, leaf = fixed_pki()
    chain = pki.der(*leaf.chain)
    return {
        "der/chain": chain,
        "der/root": root.der,
        "der/cut-off": chain[:-1],
        "der/trailing": chain + b"\x00",
        "der/indefinite": b"\x30\x80" + chain[4:],
        "der/huge": b"\x30\x84\xff\xff\xff\xff",
        "der/long-length": b"\x30\x83\x00" + chain[2:],
        "der/empty-sequence": b"\x30\x00" * 17,
        "der/bad-uri": chain.replace(b"spiffe", b"spif\xc3\xa9"),
        "der/key": pki.key_der(fixed_key(1003)),
    }


def _bundles() -> dict[str, bytes]:
    document = golden()["bundle.json"]
    entry = json.loads(document)["keys"][0]
    documents = {
        "plain": document,
        "no-keys": b"{}",
        "empty": b'{"keys":[]}',
        "twice": b'{"keys":[],"keys":[]}',
        "deep": b'{"keys":' * 2000,
        "not-a-number": b'{"keys":[],"spiffe_sequence":NaN}',
        "65-bits": b'{"keys":[],"spiffe_sequence":18446744073709551616}',
        "endless-hint": b'{"keys":[],"spiffe_refresh_hint":1' + b"0" * 99 + b"}",
        "float": b'{"keys":[],"spiffe_sequence":1e3}',
        "surrogate": b'{"keys":[{"use":"\\ud800"}]}',
        "utf-16": '{"keys":[]}'.encode("utf-16"),
        "kty-list": json.dumps({"keys": [{**entry, "kty": []}]}).encode(),
        "x5c-object": json.dumps({"keys": [{**entry, "x5c": {}}]}).encode(),
        "x5c-nested": json.dumps({"keys": [{**entry, "x5c": [[]]}]}).encode(),
    }
    return {f"bundle/{name}": content for name, content in documents.items()}


def main() -> None:
    """Write all files."""
    files = {**golden(), **{f"fuzz/{name}": content for name, content in corpus().items()}}
    for name, content in files.items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()

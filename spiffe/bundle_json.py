"""The SPIFFE bundle document, a JWK Set, read and written (X5-36 to X5-44, TB-02 to TB-18, TB-27).

Rules:
- What we do not know is skipped: members, key types, uses (TB-03, TB-12, TB-18). So are `jwt-svid` and `wit-svid` keys, for now.
- What we know and cannot read is an error for the whole document: half a bundle would drop an authority unseen.
- Written documents are the same bytes for the same bundle: members sorted, authorities in the order of the bundle.
"""

import json
from base64 import b64decode, b64encode, urlsafe_b64encode
from datetime import timedelta
from typing import Any, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from spiffe.bundle import Bundle
from spiffe.certificate import UNREADABLE, PublicKey, strong_key
from spiffe.errors import InvalidBundle
from spiffe.id import TrustDomain

MAX_DOCUMENT_BYTES = 1024 * 1024

_USE = "x509-svid"
_CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_KEY_TYPES = ("EC", "RSA", "OKP")


def parse(trust_domain: TrustDomain, document: bytes | str) -> Bundle:
    """Read the bundle document of a trust domain. The document does not say of whom it is. Raises InvalidBundle."""
    try:
        members = _members(document)
        return Bundle(
            trust_domain=trust_domain,
            x509_authorities=tuple(dict.fromkeys(_authorities(members))),
            sequence=_integer(members, "spiffe_sequence"),
            refresh_hint=_seconds(_integer(members, "spiffe_refresh_hint")),
        )
    except InvalidBundle as error:
        raise InvalidBundle(f"bundle document of {trust_domain}: {error}") from error


def render(bundle: Bundle) -> bytes:
    """Write the bundle document: UTF-8, indented, ending in a newline."""
    members: dict[str, Any] = {"keys": [_entry(certificate) for certificate in bundle.x509_authorities]}
    if bundle.sequence is not None:
        members["spiffe_sequence"] = bundle.sequence
    if bundle.refresh_hint is not None:
        members["spiffe_refresh_hint"] = int(bundle.refresh_hint.total_seconds())
    return (json.dumps(members, indent=2, sort_keys=True) + "\n").encode()


def _entry(certificate: x509.Certificate) -> dict[str, Any]:
    """One JWK per authority: no `kid`, and nothing that no SPIFFE document defines (X5-36 to X5-40, TB-15 to TB-17)."""
    x5c = b64encode(certificate.public_bytes(Encoding.DER)).decode()
    return {"use": _USE, "x5c": [x5c], **_key_members(strong_key(certificate.public_key()))}


def _key_members(key: PublicKey) -> dict[str, str]:
    """The members of RFC 7518 6.2.1 and 6.3.1 and RFC 8037 2 that make up a public key."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        size = (key.curve.key_size + 7) // 8  # coordinates are padded, so that their length tells nothing
        point = key.public_numbers()
        x, y = (_base64url(number.to_bytes(size, "big")) for number in (point.x, point.y))
        return {"kty": "EC", "crv": _CURVE_NAMES[key.curve.name], "x": x, "y": y}
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", "n": _base64url(_minimal(numbers.n)), "e": _base64url(_minimal(numbers.e))}
    return {"kty": "OKP", "crv": "Ed25519", "x": _base64url(key.public_bytes_raw())}


def _minimal(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _base64url(value: bytes) -> str:
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def _members(document: bytes | str) -> dict[str, Any]:
    """The members of the document, which is an object without duplicate names, of bounded size."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise InvalidBundle(f"it has {len(document)} bytes, the limit is {MAX_DOCUMENT_BYTES}")
    try:
        text = document if isinstance(document, str) else document.decode()
        members = json.loads(text, object_pairs_hook=_unique, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise InvalidBundle(f"it is not JSON: {error}") from error
    if not isinstance(members, dict):
        raise InvalidBundle(f"it is not an object but {_shown(members)}")
    return members


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are unique (TB-27): which of two values counts must not depend on the parser."""
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        raise InvalidBundle(f"member {next(n for n in names if names.count(n) > 1)!r} is there twice (TB-27)")
    return members


def _not_json(constant: str) -> NoReturn:
    raise InvalidBundle(f"{constant} is not JSON")


def _integer(members: dict[str, Any], name: str) -> int | None:
    """An integer member, None where it is absent. `true` and 1.0 are not integers."""
    value = members.get(name)
    if name in members and type(value) is not int:
        raise InvalidBundle(f"{name} is not an integer but {_shown(value)} (TB-05, TB-09)")
    return value


def _seconds(count: int | None) -> timedelta | None:
    try:
        return None if count is None else timedelta(seconds=count)
    except OverflowError as error:
        raise InvalidBundle(f"spiffe_refresh_hint is out of range: {count} (TB-09)") from error


def _authorities(members: dict[str, Any]) -> list[x509.Certificate]:
    """The certificates of the entries for X.509-SVIDs. `keys` must be there, and may be empty (TB-11, TB-13)."""
    keys = members.get("keys")
    if not isinstance(keys, list):
        raise InvalidBundle(f"keys is not an array but {_shown(keys)} (TB-11)")
    found = []
    for index, key in enumerate(keys):
        if not isinstance(key, dict):
            raise InvalidBundle(f"keys[{index}] is not an object but {_shown(key)}")
        if _is_authority(key):
            found.append(_authority(key, f"keys[{index}]"))
    return found


def _is_authority(key: dict[str, Any]) -> bool:
    """Whether the entry is for X.509-SVIDs and has a certificate: others are skipped (TB-12, TB-18, X5-42)."""
    return key.get("use") == _USE and key.get("kty") in _KEY_TYPES and key.get("x5c", []) != []


def _authority(key: dict[str, Any], where: str) -> x509.Certificate:
    """The first certificate of `x5c`, no other (X5-39, X5-43); the key members say the same key (RFC 7517 4.7)."""
    x5c = key["x5c"]
    if not isinstance(x5c, list) or not isinstance(x5c[0], str):
        raise InvalidBundle(f"{where}.x5c is not an array of strings but {_shown(x5c)} (X5-39)")
    try:
        certificate = x509.load_der_x509_certificate(b64decode(x5c[0], validate=True))
        expected = _key_members(strong_key(certificate.public_key()))
    except UNREADABLE as error:
        raise InvalidBundle(f"{where}.x5c[0] is not a certificate in standard base64: {error} (X5-39)") from error
    for name, value in expected.items():
        if key.get(name) != value:
            raise InvalidBundle(
                f"{where}.{name} is {_shown(key.get(name))}, its certificate says {value!r} (RFC 7517 4.7)"
            )
    return certificate


def _shown(value: object) -> str:
    """A value as an error may show it: cut where somebody sent a flood."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"  # noqa: PLR2004 - one line of a terminal

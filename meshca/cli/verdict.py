"""Certificates for somebody who wants to know: what each says, whether it is legal, and the verifier's verdict point by point."""

import inspect
import re
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from rich.table import Table

from meshca.cli.exits import Exit, Failure
from meshca.cli.given import Given
from meshca.cli.options import Format
from meshca.cli.output import Json, emit, facts
from meshca.cli.values import printable
from meshca.clock import SystemClock
from meshca.errors import InvalidInput
from spiffe import x509verify
from spiffe.bundle import BundleSet
from spiffe.certificate import UNREADABLE, Fields, check_profile, claimed_id
from spiffe.errors import InvalidSVID, VerificationFailed
from spiffe.profile import LEAF, SIGNING
from spiffe.x509svid import MAX_CERTIFICATES, parse_der_chain, parse_pem_chain

VALID = "valid now"


def read_chain(given: Given) -> tuple[x509.Certificate, ...]:
    """Read a chain, leaf first, in PEM or concatenated DER; keys beside it are not looked at. Raises InvalidInput."""
    if not (given.is_pem or given.is_der):
        raise InvalidInput(f"{given.name} is neither PEM nor DER")
    try:
        return parse_pem_chain(given.content) if given.is_pem else parse_der_chain(given.content)
    except InvalidSVID as error:
        raise InvalidInput(f"{given.name}: {error}") from error


def print_verdict(chain: tuple[x509.Certificate, ...], bundles: BundleSet, output: Format) -> None:
    """Print whether the chain proves its identity now. Raises Failure if it does not."""
    try:
        spiffe_id = x509verify.verify(chain, bundles, SystemClock().now())
    except VerificationFailed as error:
        _print_refusal(error, output)
        raise Failure(Exit.FAILED) from error
    checklist = _checklist()
    verdict: Json = {"accepted": True, "spiffe_id": str(spiffe_id), "checklist": checklist}
    emit(verdict, output, lambda: [*checklist, f"PROVED {spiffe_id}"])


def _print_refusal(error: VerificationFailed, output: Format) -> None:
    verdict: Json = {"accepted": False, "rule": error.rule, "reason": str(error)}
    emit(verdict, output, lambda: f"REFUSED {printable(str(error))}")


def _checklist() -> list[str]:
    """The numbered obligations of the verifier, in its own words, without the marks of its source."""
    words = (inspect.getdoc(x509verify.verify) or "").replace("MAX_CERTIFICATES", f"{MAX_CERTIFICATES} certificates")
    return re.findall(r"^\s*(\d+\. .*)$", words.replace("`", ""), re.MULTILINE)


def describe(certificate: x509.Certificate) -> Json:
    """What one certificate says, as a document; `breaks` names the rule it breaks, null if it is legal as leaf or authority.

    Raises InvalidSVID when it can not even be read.
    """
    try:
        return {**_judged(certificate), **_said(certificate), "validity": validity(certificate, SystemClock().now())}
    except UNREADABLE as error:
        raise InvalidSVID(f"certificate can not be read: {error}") from error


def _said(certificate: x509.Certificate) -> Json:
    return {
        "serial": f"{certificate.serial_number:x}",
        "not_before": certificate.not_valid_before_utc.isoformat().replace("+00:00", "Z"),
        "not_after": certificate.not_valid_after_utc.isoformat().replace("+00:00", "Z"),
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "key": _key_name(certificate.public_key()),
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
    }


def _judged(certificate: x509.Certificate) -> Json:
    try:
        fields = Fields.read(certificate)
    except VerificationFailed as error:
        return {"kind": "", "uris": [], "dns_names": [], "breaks": str(error)}
    constraints, san = fields.extension(x509.BasicConstraints), fields.extension(x509.SubjectAlternativeName)
    authority = bool(constraints and constraints.value.ca)
    return {
        "kind": "authority" if authority else "leaf",
        "uris": fields.uris,
        "dns_names": san.value.get_values_for_type(x509.DNSName) if san else [],
        "breaks": _broken_rule(fields, authority=authority),
    }


def _broken_rule(fields: Fields, *, authority: bool) -> str | None:
    try:
        check_profile(fields, SIGNING if authority else LEAF)
        if not authority:
            claimed_id(fields)
    except VerificationFailed as error:
        return str(error)
    return None


def validity(certificate: x509.Certificate, now: datetime) -> str:
    """Whether the certificate is VALID at this time, by its dates alone; else `expired` or `not yet valid`."""
    if now < certificate.not_valid_before_utc:
        return "not yet valid"
    return "expired" if now > certificate.not_valid_after_utc else VALID


def _key_name(key: object) -> str:
    match key:
        case ec.EllipticCurvePublicKey(curve=curve):
            return f"EC {curve.name}"
        case rsa.RSAPublicKey(key_size=bits):
            return f"RSA {bits}"
        case _:
            return type(key).__name__.removesuffix("PublicKey")


def certificate_table(said: Json) -> Table:
    """What `describe` found, for eyes."""
    legal = {"legal": "yes" if said["breaks"] is None else f"no, {said['breaks']}"}
    return facts((name.replace("_", " "), value) for name, value in {**said, "breaks": None, **legal, "": " "}.items())

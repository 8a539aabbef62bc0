"""Judging a certificate chain for somebody who wants to know why: the verdict of `spiffe.x509verify`, point by point."""

import inspect
import re
from pathlib import Path

from cryptography import x509

from meshca.cli.exits import Exit, Failure
from meshca.cli.options import Format
from meshca.cli.output import Json, emit, printable
from meshca.clock import SystemClock
from spiffe import x509verify
from spiffe.bundle import BundleSet
from spiffe.errors import VerificationFailed
from spiffe.x509svid import parse_der_chain, parse_pem_chain


def read_chain(file: Path) -> tuple[x509.Certificate, ...]:
    """Read a chain, leaf first, in PEM or concatenated DER; keys beside it are not looked at. Raises InvalidSVID, OSError."""
    content = file.read_bytes()
    return parse_pem_chain(content) if b"-----BEGIN" in content else parse_der_chain(content)


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
    """The numbered obligations of the verifier, in its own words."""
    return re.findall(r"^\s*(\d+\. .*)$", inspect.getdoc(x509verify.verify) or "", re.MULTILINE)

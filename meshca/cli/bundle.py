"""`meshca bundle`: trust bundles, shown, moved and compared."""

import sys
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from rich.table import Table

from meshca.cli.exits import Exit, Failure
from meshca.cli.given import Given
from meshca.cli.options import AdminSocket, Format, Output
from meshca.cli.output import Json, document, emit, emit_event, left, remark, rows
from meshca.cli.session import ask
from meshca.cli.verdict import VALID, print_verdict, read_chain, validity
from meshca.client import AdminClient
from meshca.clock import SystemClock
from meshca.errors import InvalidInput
from meshca.proto import admin_pb2 as pb
from spiffe import bundle_json
from spiffe.bundle import Bundle, BundleSet
from spiffe.errors import InvalidBundle
from spiffe.id import TrustDomain

app = typer.Typer(no_args_is_help=True, add_completion=False)

_NO_SEQUENCE = -1


class BundleFormat(StrEnum):
    """How a bundle is written."""

    PEM = "pem"
    SPIFFE = "spiffe"
    DER = "der"


_PARSERS: dict[BundleFormat, Callable[[TrustDomain, bytes], Bundle]] = {
    BundleFormat.PEM: Bundle.from_pem,
    BundleFormat.SPIFFE: bundle_json.parse,
    BundleFormat.DER: Bundle.from_der,
}

Domain = Annotated[str, typer.Option("--trust-domain", help="Whose bundle; else the server's own.", show_default=False)]
File = Annotated[str, typer.Argument(metavar="FILE", help="The bundle; - reads standard input.")]
FileFormat = Annotated[BundleFormat | None, typer.Option("--format", help="Of the file; else it is recognised.")]


@app.command()
def show(
    *,
    form: Annotated[BundleFormat, typer.Option("--format", help="How to write it.")] = BundleFormat.PEM,
    trust_domain: Domain = "",
    socket: AdminSocket = "",
) -> None:
    """Print a bundle, ready for a file."""
    bundle = bundle_of(ask(socket, lambda server: server.bundles.Get(pb.BundleRequest(trust_domain=trust_domain))))
    sys.stdout.buffer.write(write_bundle(bundle, form))
    sys.stdout.buffer.flush()


@app.command("list")
def list_(*, socket: AdminSocket = "", output: Output = Format.TABLE) -> None:
    """List the bundles: the own one and those of federated trust domains."""
    found: pb.BundleList = ask(socket, lambda server: server.bundles.List(pb.Empty()))
    emit({"bundles": [_document(bundle) for bundle in found.bundles]}, output, lambda: _bundle_rows(found))


@app.command("set")
def set_(
    file: File,
    *,
    trust_domain: Annotated[str, typer.Option("--trust-domain", help="Whose bundle this is.")],
    form: FileFormat = None,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Store the bundle of another trust domain, in place of an older one."""
    bundle = read_bundle(TrustDomain.parse(trust_domain), Given.read(file), form)
    stored: pb.Bundle = ask(socket, lambda server: server.bundles.Set(_message(bundle)))
    emit(_document(stored), output, lambda: authority_rows(bundle_of(stored)))
    for each in bundle.x509_authorities:
        if (said := validity(each, SystemClock().now())) != VALID:
            remark(f"the authority {fingerprint(each)[:16]} is {said}: nothing under it is trusted now")


@app.command()
def delete(
    trust_domain: Annotated[str, typer.Argument(help="Whose bundle.")],
    *,
    dissociate: Annotated[bool, typer.Option(help="Also take it out of the entries that federate with it.")] = False,
    socket: AdminSocket = "",
) -> None:
    """Remove the bundle of another trust domain."""
    request = pb.DeleteBundleRequest(trust_domain=trust_domain, dissociate=dissociate)
    outcome: pb.DeleteBundleResponse = ask(socket, lambda server: server.bundles.Delete(request))
    for entry_id in outcome.dissociated_entries:
        remark(f"entry {entry_id} federates with {trust_domain} no longer")
    remark(f"deleted the bundle of {trust_domain}")


@app.command()
def watch(*, trust_domain: Domain = "", socket: AdminSocket = "", output: Output = Format.TABLE) -> None:
    """Print the bundle now, and each newer one, until stopped."""

    async def work(server: AdminClient) -> None:
        async for message in server.bundles.Watch(pb.BundleRequest(trust_domain=trust_domain)):
            emit_event(_document(message), output, _line(message))

    ask(socket, work, within=None)


@app.command()
def diff(
    file: File,
    *,
    trust_domain: Domain = "",
    form: FileFormat = None,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Compare a file with the server's bundle: what the server has more (+) or less (-). Exit 1 if they differ."""
    stored = bundle_of(ask(socket, lambda server: server.bundles.Get(pb.BundleRequest(trust_domain=trust_domain))))
    given = read_bundle(stored.trust_domain, Given.read(file), form)
    added = [fingerprint(each) for each in stored.x509_authorities if each not in given.x509_authorities]
    removed = [fingerprint(each) for each in given.x509_authorities if each not in stored.x509_authorities]
    changes = [("+", each) for each in added] + [("-", each) for each in removed]
    emit({"added": added, "removed": removed}, output, lambda: rows(["", "SHA-256"], changes) if changes else "same")
    if changes:
        raise Failure(Exit.FAILED)


@app.command()
def verify(
    cert: Annotated[
        str, typer.Argument(metavar="CERT", help="A chain, leaf first, in PEM or DER; - reads standard input.")
    ],
    *,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Judge a certificate chain by the server's bundles. Exit 1 if it proves nothing."""
    found: pb.BundleList = ask(socket, lambda server: server.bundles.List(pb.Empty()))
    print_verdict(read_chain(Given.read(cert)), BundleSet(bundle_of(message) for message in found.bundles), output)


def read_bundle(trust_domain: TrustDomain, given: Given, form: BundleFormat | None = None) -> Bundle:
    """Read a bundle in the given format, else in the one that it looks like. Raises InvalidInput."""
    if b"PRIVATE KEY-----" in given.content:
        raise InvalidInput(
            f"{given.name} HOLDS A PRIVATE KEY, and a bundle goes to everybody. Nothing was sent. Treat that key as "
            "exposed: replace it, and whatever it has signed"
        )
    try:
        return _PARSERS[form or _recognised(given)](trust_domain, given.content)
    except InvalidBundle as error:
        raise InvalidInput(f"{given.name}: {error}") from error


def write_bundle(bundle: Bundle, form: BundleFormat) -> bytes:
    """The bundle in a format."""
    match form:
        case BundleFormat.SPIFFE:
            return bundle_json.render(bundle)
        case BundleFormat.PEM:
            return bundle.to_pem()
        case BundleFormat.DER:
            return bundle.to_der()


def _recognised(given: Given) -> BundleFormat:
    if given.is_json:
        return BundleFormat.SPIFFE
    if given.is_pem:
        return BundleFormat.PEM
    if given.is_der:
        return BundleFormat.DER
    raise InvalidInput(f"{given.name} is neither PEM, DER nor a SPIFFE bundle document")


def bundle_of(message: pb.Bundle) -> Bundle:
    """The bundle in a message. Raises InvalidBundle."""
    return Bundle(
        trust_domain=TrustDomain.parse(message.trust_domain),
        x509_authorities=tuple(x509.load_der_x509_certificate(der) for der in message.x509_authorities),
        sequence=None if message.sequence == _NO_SEQUENCE else message.sequence,
        refresh_hint=timedelta(seconds=message.refresh_hint) if message.refresh_hint else None,
    )


def _message(bundle: Bundle) -> pb.Bundle:
    return pb.Bundle(
        trust_domain=str(bundle.trust_domain),
        x509_authorities=[each.public_bytes(Encoding.DER) for each in bundle.x509_authorities],
        sequence=_NO_SEQUENCE if bundle.sequence is None else bundle.sequence,
        refresh_hint=int(bundle.refresh_hint.total_seconds()) if bundle.refresh_hint else 0,
    )


def _document(message: pb.Bundle) -> Json:
    """A bundle as a document: what was not given is null."""
    sequence = None if message.sequence == _NO_SEQUENCE else message.sequence
    return {**document(message), "sequence": sequence, "refresh_hint": message.refresh_hint or None}


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, hex."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _bundle_rows(found: pb.BundleList) -> Table:
    cells = ((b.trust_domain, len(b.x509_authorities), _sequence(b), b.digest[:16]) for b in found.bundles)
    return rows(["TRUST DOMAIN", "AUTHORITIES", "SEQUENCE", "DIGEST"], cells)


def authority_rows(bundle: Bundle) -> Table:
    """The authorities of a bundle as a table."""
    cells = ((fingerprint(each), left(each.not_valid_after_utc)) for each in bundle.x509_authorities)
    return rows(["SHA-256", "ENDS IN"], cells, title=f"bundle of {bundle.trust_domain}")


def _line(message: pb.Bundle) -> str:
    prints = " ".join(fingerprint(each)[:16] for each in bundle_of(message).x509_authorities)
    return f"{message.trust_domain}  sequence {_sequence(message) or '-'}  {prints}"


def _sequence(message: pb.Bundle) -> str:
    return "" if message.sequence == _NO_SEQUENCE else str(message.sequence)

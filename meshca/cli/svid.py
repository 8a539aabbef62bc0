"""`meshca svid`: mint, fetch, look at and verify X.509-SVIDs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from rich.live import Live
from rich.table import Table

from meshca.cli.bundle import bundle_of, read_bundle
from meshca.cli.entry_file import duration
from meshca.cli.exits import Exit, Failure
from meshca.cli.options import AdminSocket, Format, Output, WorkloadSocket, default_workload_socket
from meshca.cli.output import Json, console, emit, emit_event, left, remark, rows, shown
from meshca.cli.session import ask
from meshca.cli.svid_files import file_set, write_set
from meshca.cli.verdict import certificate_table, describe, print_verdict, read_chain
from meshca.errors import InvalidInput
from meshca.model import KeyType
from meshca.proto import admin_pb2 as pb
from sds.workload_client import WorkloadClient, X509Context
from spiffe.bundle import BundleSet
from spiffe.certificate import PrivateKey
from spiffe.id import SpiffeID, TrustDomain
from spiffe.x509svid import X509SVID, spiffe_id_of

app = typer.Typer(no_args_is_help=True)

Cert = Annotated[Path, typer.Argument(metavar="CERT", help="A chain, leaf first, in PEM or DER.")]
Write = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write svid.0.pem, svid.0.key and bundle.0.pem there (0600), all at once."),
]


@app.command()
def mint(
    spiffe_id: Annotated[str, typer.Argument(metavar="SPIFFE_ID", help="In full: spiffe://trust-domain/path.")],
    *,
    ttl: Annotated[str | None, typer.Option(help="Lifetime, such as 1h; else the server's default.")] = None,
    dns: Annotated[list[str] | None, typer.Option(help="DNS name in it (repeatable).")] = None,
    key_type: Annotated[
        KeyType, typer.Option(help="Kind of the key, which is made here and never leaves.")
    ] = KeyType.EC_P256,
    write: Write = None,
    socket: AdminSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Make an SVID without an entry, as an administrator; recorded with your uid. Prints PEM: chain, key, bundle."""
    key = new_key(key_type)
    request = pb.MintRequest(
        spiffe_id=str(SpiffeID.parse(spiffe_id)), dns_names=dns or [], ttl=duration(ttl) if ttl else None, csr=csr(key)
    )
    made: pb.MintResponse = ask(socket, lambda server: server.svids.Mint(request))
    chain = tuple(x509.load_der_x509_certificate(der) for der in made.chain)
    svid = X509SVID(spiffe_id=spiffe_id_of(chain[0]), chain=chain, private_key=key)
    bundles = BundleSet([bundle_of(made.bundle)])
    if made.remark:
        remark(made.remark)
    if write:
        write_set(write, file_set([svid], bundles))
        remark(f"wrote {', '.join(file_set([svid], bundles))} to {write}")
        return
    pem = {name: content.decode() for name, content in file_set([svid], bundles).items()}
    minted = {"spiffe_id": str(svid.spiffe_id), "chain": pem["svid.0.pem"], "private_key": pem["svid.0.key"]}
    emit({**minted, "bundle": pem["bundle.0.pem"]}, output, lambda: "".join(pem.values()).rstrip())


@app.command()
def fetch(
    *,
    write: Write = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and write each newer set.")] = False,
    within: Annotated[float, typer.Option(min=0.1, help="Give up on the first answer after so many seconds.")] = 10,
    socket: WorkloadSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Fetch the own SVIDs over the Workload API, as any workload does; keys are only ever written, never printed."""
    if watch and not write:
        raise InvalidInput("--watch needs --write DIR; `meshca svid watch` shows SVIDs as they change")

    async def work() -> None:
        contexts = _contexts(socket)
        first = await _first(contexts, within)
        if write:
            write_set(write, file_set(first.svids, first.bundles))
        emit(_document(first), output, lambda: _svid_rows(first))
        if write and watch:
            await _keep_fresh(contexts, write, output)

    asyncio.run(work())


async def _keep_fresh(contexts: AsyncIterator[X509Context], write: Path, output: Format) -> None:
    async for context in contexts:
        write_set(write, file_set(context.svids, context.bundles))
        emit_event(_document(context), output, f"wrote {len(context.svids)} SVIDs to {write}")


@app.command()
def show(cert: Cert, *, output: Output = Format.TABLE) -> None:
    """Show what the certificates in a file say, and whether each is legal. Proves nothing."""
    certificates = [describe(each) for each in read_chain(cert)]
    emit({"certificates": certificates}, output, lambda: [certificate_table(each) for each in certificates])


@app.command()
def verify(
    cert: Cert,
    *,
    bundle: Annotated[Path, typer.Option(help="The bundle of its trust domain: PEM, DER or a SPIFFE bundle document.")],
    trust_domain: Annotated[
        str | None, typer.Option(help="Whose bundle it is; else of the leaf's own trust domain.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Judge a certificate chain by a bundle file, without a server. Exit 1 if it proves nothing."""
    chain = read_chain(cert)
    domain = TrustDomain.parse(trust_domain) if trust_domain else spiffe_id_of(chain[0]).trust_domain
    print_verdict(chain, BundleSet([read_bundle(domain, bundle.read_bytes())]), output)


@app.command()
def watch(*, socket: WorkloadSocket = "", output: Output = Format.TABLE) -> None:
    """Show the own SVIDs as they change, until stopped."""
    asyncio.run(
        _watch_live(socket) if output is Format.TABLE and console().is_terminal else _watch_lines(socket, output)
    )


async def _watch_live(socket: str) -> None:
    with Live(console=console(), auto_refresh=False) as live:
        context: X509Context | None = None
        contexts = _contexts(socket)
        following = asyncio.ensure_future(anext(contexts))
        while True:
            done, _ = await asyncio.wait([following], timeout=1)
            if done:
                context = following.result()
                following = asyncio.ensure_future(anext(contexts))
            live.update(_svid_rows(context) if context else "waiting for the first answer", refresh=True)


async def _watch_lines(socket: str, output: Format) -> None:
    async for context in _contexts(socket):
        for svid in context.svids:
            line = f"{svid.spiffe_id}  serial {svid.serial:x}  until {shown(svid.not_after)}"
            emit_event(describe(svid.leaf), output, line)


def _document(context: X509Context) -> Json:
    return {"svids": [describe(svid.leaf) for svid in context.svids]}


def _svid_rows(context: X509Context) -> Table:
    cells = ((s.spiffe_id, f"{s.serial:x}", left(s.not_after), len(s.chain)) for s in context.svids)
    return rows(["SPIFFE ID", "SERIAL", "ENDS IN", "CHAIN"], cells)


def _contexts(socket: str) -> AsyncIterator[X509Context]:
    return WorkloadClient(socket or default_workload_socket()).x509_contexts()


async def _first(contexts: AsyncIterator[X509Context], within: float) -> X509Context:
    try:
        return await asyncio.wait_for(anext(contexts), within)
    except TimeoutError as error:
        raise Failure(
            Exit.UNREACHABLE, f"no SVID within {within:g} s: `meshca why --pid PID` says what is missing"
        ) from error


def new_key(key_type: KeyType) -> PrivateKey:
    """A fresh key of this kind."""
    match key_type:
        case KeyType.EC_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyType.EC_P384:
            return ec.generate_private_key(ec.SECP384R1())
        case _:
            return rsa.generate_private_key(65537, int(key_type.rpartition("-")[2]))


def csr(key: PrivateKey) -> bytes:
    """A request (DER) that proves possession of the key, and says nothing else."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)

"""`meshca svid`: mint, fetch, look at and verify X.509-SVIDs."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from grpc import StatusCode
from rich.console import RenderableType
from rich.live import Live
from rich.table import Table

from meshca.cli.bundle import bundle_of, read_bundle
from meshca.cli.entry_file import duration
from meshca.cli.exits import Exit, Failure, failure_of_status
from meshca.cli.given import Given
from meshca.cli.options import AdminSocket, Format, Output, WorkloadSocket, given_path, workload_endpoint
from meshca.cli.output import Json, console, emit, emit_event, left, remark, rows, shown
from meshca.cli.session import ask
from meshca.cli.svid_files import file_set, write_set
from meshca.cli.values import printable
from meshca.cli.verdict import certificate_table, describe, print_verdict, read_chain
from meshca.client import dial
from meshca.errors import InvalidInput
from meshca.model import KeyType
from meshca.proto import admin_pb2 as pb
from sds.endpoint import VARIABLE, Endpoint
from sds.workload_client import WorkloadAPIError, WorkloadClient, X509Context
from spiffe.bundle import BundleSet
from spiffe.certificate import PrivateKey
from spiffe.id import SpiffeID, TrustDomain
from spiffe.x509svid import X509SVID, spiffe_id_of

app = typer.Typer(no_args_is_help=True, add_completion=False)

Cert = Annotated[
    str, typer.Argument(metavar="CERT", help="A chain, leaf first, in PEM or DER; - reads standard input.")
]
Write = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        parser=given_path,
        help="Write svid.0.pem, svid.0.key and bundle.0.pem there (0600), all at once.",
    ),
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
    files = file_set([svid], bundles)
    if write:
        write_set(write, files)
        remark(f"wrote {', '.join(files)} to {write}")
        return
    pem = {name: content.decode() for name, content in files.items()}
    minted = {"spiffe_id": str(svid.spiffe_id), "chain": pem["svid.0.pem"], "private_key": pem["svid.0.key"]}
    emit({**minted, "bundle": pem["bundle.0.pem"]}, output, lambda: "".join(pem.values()).rstrip())


@app.command()
def fetch(
    *,
    write: Write = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay, wait for the first set, and write each newer one.")
    ] = False,
    within: Annotated[
        float, typer.Option(min=0.1, help="Give up after so many seconds without an answer; not with --watch.")
    ] = 10,
    socket: WorkloadSocket = "",
    output: Output = Format.TABLE,
) -> None:
    """Fetch the own SVIDs over the Workload API, as any workload does; keys are only ever written, never printed."""
    if watch and not write:
        raise InvalidInput("--watch needs --write DIR; `meshca svid watch` shows SVIDs as they change")

    async def work(client: WorkloadClient) -> None:
        if write and watch:
            remark(f"waiting for SVIDs from {workload_endpoint(socket).target}, until stopped")
            await _keep_fresh(client, write, output)
            return
        first = await client.fetch_x509(timeout=within)
        if write:
            _write(write, first)
        emit(_document(first), output, lambda: _svid_rows(first))

    _with_workload_api(socket, work)


async def _keep_fresh(client: WorkloadClient, write: Path, output: Format) -> None:
    """Write each newer set. When all is taken away the last set stays, so that nobody's restart fails for it."""
    async for context in client.x509_contexts():
        if context.denied:
            remark(f"{context.denied}; the files stay as they are, until an entry covers this process")
            continue
        _write(write, context)
        emit_event(_document(context), output, _lines(context))


def _write(directory: Path, context: X509Context) -> None:
    files = file_set([each.svid for each in context.identities], context.bundles)
    write_set(directory, files)
    remark(f"wrote {', '.join(files)} to {directory}")


@app.command()
def show(cert: Cert, *, output: Output = Format.TABLE) -> None:
    """Show what the certificates in a file say, and whether each is legal. Proves nothing."""
    certificates = [describe(each) for each in read_chain(Given.read(cert))]
    emit({"certificates": certificates}, output, lambda: [certificate_table(each) for each in certificates])


@app.command()
def verify(
    cert: Cert,
    *,
    bundle: Annotated[
        str, typer.Option(metavar="FILE", help="The bundle of its trust domain: PEM, DER or a SPIFFE bundle document.")
    ],
    trust_domain: Annotated[
        str | None, typer.Option(help="Whose bundle it is; else of the leaf's own trust domain.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Judge a certificate chain by a bundle file, without a server. Exit 1 if it proves nothing."""
    chain = read_chain(Given.read(cert))
    domain = TrustDomain.parse(trust_domain) if trust_domain else spiffe_id_of(chain[0]).trust_domain
    print_verdict(chain, BundleSet([read_bundle(domain, Given.read(bundle))]), output)


@app.command()
def watch(*, socket: WorkloadSocket = "", output: Output = Format.TABLE) -> None:
    """Show the own SVIDs as they change, until stopped."""
    live = output is Format.TABLE and console().is_terminal
    if not live:
        remark(f"watching {workload_endpoint(socket).target}, until stopped")
    _with_workload_api(socket, _watch_live if live else partial(_watch_lines, output=output))


async def _watch_live(client: WorkloadClient) -> None:
    """A table whose times count down."""
    newest: list[X509Context] = []
    with Live(get_renderable=partial(_newest_rows, newest), console=console(), refresh_per_second=1) as live:
        async for context in client.x509_contexts():
            newest[:] = [context]
            live.refresh()


def _newest_rows(newest: list[X509Context]) -> RenderableType:
    if not newest:
        return "waiting for the first answer"
    return printable(newest[0].denied) or _svid_rows(newest[0])


async def _watch_lines(client: WorkloadClient, *, output: Format) -> None:
    async for context in client.x509_contexts():
        emit_event(_document(context), output, _lines(context))


def _lines(context: X509Context) -> str:
    """A line for each SVID, with the digest of its bundle: one of the two is what has changed."""
    return "\n".join(_line(each.svid, context.bundles) for each in context.identities) or context.denied


def _line(svid: X509SVID, bundles: BundleSet) -> str:
    bundle = bundles.get(svid.spiffe_id.trust_domain)
    trusted = f"  bundle {bundle.digest[:8]} of {len(bundle.x509_authorities)}" if bundle else ""
    return f"{svid.spiffe_id}  serial {svid.serial:x}  until {shown(svid.not_after)}{trusted}"


def _document(context: X509Context) -> Json:
    svids = [{**describe(each.svid.leaf), "hint": each.hint} for each in context.identities]
    return {"svids": svids, "bundles": [str(each) for each in context.bundles], "denied": context.denied or None}


def _svid_rows(context: X509Context) -> Table:
    svids = ((each.svid, each.hint) for each in context.identities)
    cells = ((svid.spiffe_id, f"{svid.serial:x}", left(svid.not_after), hint) for svid, hint in svids)
    return rows(["SPIFFE ID", "SERIAL", "ENDS IN", "HINT"], cells)


def _with_workload_api(socket: str, work: Callable[[WorkloadClient], Coroutine[Any, Any, None]]) -> None:
    """Do some work with the Workload API at this socket. Raises Failure."""
    endpoint = workload_endpoint(socket)
    try:
        asyncio.run(work(WorkloadClient(endpoint)))
    except WorkloadAPIError as error:
        if error.code is StatusCode.UNAVAILABLE:  # which also says a server that has nothing to give yet
            _check_reachable(endpoint)
        raise failure_of_status(error.code.name if error.code else "INTERNAL", str(error)) from error


def _check_reachable(endpoint: Endpoint) -> None:
    """Raise Failure, with what the kernel says, unless somebody listens there and lets us in."""
    path = endpoint.target.removeprefix("unix:")
    try:
        if path != endpoint.target:
            dial(path)
    except PermissionError as error:
        text = f"{endpoint.target} does not let you in: its mode, or that of a directory above it, is for others"
        raise Failure(Exit.NOT_ALLOWED, text) from error
    except OSError as error:
        text = f"no Workload API at {endpoint.target} ({error.strerror or error}): start `meshca up`, or set {VARIABLE}"
        raise Failure(Exit.UNREACHABLE, f"{text} or --socket") from error


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

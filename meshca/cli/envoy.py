"""`meshca envoy`: configuration for an Envoy that takes its certificates from our socket."""

import json
import socket
from typing import Annotated

import typer

from meshca.bootstrap import BootstrapSpec, Inbound, Outbound, RouterLink, Transparent, envoy_bootstrap
from meshca.cli.options import MAX_PORT, Format, WorkloadSocket, address_option, refuse_idle, workload_endpoint
from meshca.cli.output import as_yaml
from meshca.errors import InvalidInput
from meshca.model import ROUTER_PATH
from spiffe.id import SpiffeID, TrustDomain

app = typer.Typer(no_args_is_help=True, add_completion=False)


Inbounds = Annotated[
    list[str] | None,
    typer.Option(metavar="PORT=APP_PORT", help="Take mutual TLS on PORT for the application on APP_PORT (repeatable)."),
]
Allowed = Annotated[
    list[str] | None, typer.Option(metavar="SPIFFE_ID", help="Who may call the inbound ports (repeatable).")
]
Outbounds = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PORT=HOST:PORT@SPIFFE_ID",
        help="Send what comes to 127.0.0.1:PORT over mutual TLS to HOST:PORT, which must be SPIFFE_ID (repeatable).",
    ),
]
Router = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        help="Take listeners, routes and clusters from the routing server there.",
        show_default=False,
    ),
]
Apps = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PORT=APP_PORT",
        help="With --router: the application behind the endpoint's PORT listens on 127.0.0.1:APP_PORT (repeatable).",
    ),
]
SVIDName = Annotated[str, typer.Option(help="SDS name of the own SVID: default, or a SPIFFE ID.")]
BundleName = Annotated[
    str, typer.Option(help="SDS name of the bundle that judges peers: ROOTCA, or spiffe://trust-domain.")
]

_NEEDED = {
    ("router",): ("trust_domain", "address", "outbound_port", "app", "access_log", "transparent"),
    ("transparent",): ("inbound_port", "ipv4_only", "pass_unknown"),
    ("inbound",): ("allow",),
    ("inbound", "outbound"): ("svid", "validation"),
}


@app.callback()
def envoy() -> None:
    """Envoy."""


@app.command()
def bootstrap(
    context: typer.Context,
    *,
    inbound: Inbounds = None,
    allow: Allowed = None,
    outbound: Outbounds = None,
    router: Router = "",
    trust_domain: Annotated[str, typer.Option(help="With --router: whose routing server it must be.")] = "mesh.local",
    address: Annotated[str | None, address_option("With --router: which of its workload's endpoints this is.")] = None,
    outbound_port: Annotated[
        int, typer.Option(min=1, max=MAX_PORT, help="With --router: where the application's calls go in.")
    ] = 15001,
    app: Apps = None,
    access_log: Annotated[
        str,
        typer.Option(
            metavar="PATH", help="With --router: the file for the access log; else standard output.", show_default=False
        ),
    ] = "",
    transparent: Annotated[
        bool,
        typer.Option(
            "--transparent", help="With --router: take what `meshca capture` redirects, by where it was going."
        ),
    ] = False,
    inbound_port: Annotated[
        int,
        typer.Option(
            min=1, max=MAX_PORT, help="With --transparent: where redirected calls to the application come in."
        ),
    ] = 15006,
    ipv4_only: Annotated[
        bool,
        typer.Option(
            "--ipv4-only", help="With --transparent: the host has no IPv6; what is redirected there is refused."
        ),
    ] = False,
    pass_unknown: Annotated[
        bool,
        typer.Option(
            "--pass-unknown",
            help="With --transparent: let calls to where nobody of the mesh is known go on as they are, in plaintext and without an "
            "identity. A service that a policy hides from this workload is unknown to it, too. Else they are refused.",
        ),
    ] = False,
    sds_socket: WorkloadSocket = "",
    svid: SVIDName = "default",
    validation: BundleName = "ROOTCA",
    node_id: Annotated[str, typer.Option(help="Envoy's node id; else the host name.", show_default=False)] = "",
    node_cluster: Annotated[str, typer.Option(help="Envoy's node cluster.")] = "meshca",
    admin_port: Annotated[int, typer.Option(help="Envoy's admin port, on 127.0.0.1.")] = 9901,
    delta: Annotated[bool, typer.Option("--delta", help="Use the incremental protocol.")] = False,
    output: Annotated[Format, typer.Option("--output", "-o", help="yaml or json.")] = Format.YAML,
) -> None:
    """Print a complete Envoy bootstrap: mutual TLS with SVIDs from our socket, peers named exactly.

    With --router the rest comes from the routing server, which must be SPIFFE ID spiffe://TRUST_DOMAIN/meshca/router.
    """
    refuse_idle(context, _NEEDED)
    redirected = Transparent(inbound_port=inbound_port, ipv6=not ipv4_only, passes_unknown=pass_unknown)
    peers = tuple(SpiffeID.parse(text) for text in allow or [])
    spec = BootstrapSpec(
        node_id=node_id or socket.gethostname(),
        node_cluster=node_cluster,
        sds_socket=workload_endpoint(sds_socket).target.removeprefix("unix:"),
        inbound=tuple(_inbound(text, peers, svid, validation) for text in inbound or []),
        outbound=tuple(_outbound(text, svid, validation) for text in outbound or []),
        router=_router(
            router,
            trust_domain=trust_domain,
            address=address or "",
            outbound_port=outbound_port,
            apps=app or [],
            access_log=access_log,
            transparent=redirected if transparent else None,
        )
        if router
        else None,
        admin_port=admin_port,
        delta=delta,
    )
    if not (spec.inbound or spec.outbound or spec.router):
        raise InvalidInput("nothing to proxy: name at least one --inbound, --outbound or --router")
    document = envoy_bootstrap(spec)
    typer.echo(json.dumps(document, indent=2) if output is Format.JSON else as_yaml(document), nl=output is Format.JSON)


_PAIR = "PORT=APP_PORT, such as 8443=8080"
_PEER = "PORT=HOST:PORT@SPIFFE_ID, such as 9001=api.example:8443@spiffe://mesh.local/api"


def _router(
    text: str,
    *,
    trust_domain: str,
    address: str,
    outbound_port: int,
    apps: list[str],
    access_log: str,
    transparent: Transparent | None,
) -> RouterLink:
    host, _, port = text.rpartition(":")
    return RouterLink(
        host=host.strip("[]"),
        port=_port(port, text, "HOST:PORT, such as 127.0.0.1:15010"),
        identity=SpiffeID(TrustDomain(trust_domain), ROUTER_PATH),
        address=address,
        outbound_port=outbound_port,
        app_ports=_app_ports(apps),
        access_log=access_log,
        transparent=transparent,
    )


def _app_ports(apps: list[str]) -> dict[int, int]:
    found: dict[int, int] = {}
    for each in apps:
        outer, _, inner = each.partition("=")
        port = _port(outer, each, _PAIR)
        if port in found:
            raise InvalidInput(
                f"--app {each}: port {port} leads to {found[port]} already; give each endpoint's port once"
            )
        found[port] = _port(inner, each, _PAIR)
    return found


def _inbound(text: str, peers: tuple[SpiffeID, ...], svid: str, validation: str) -> Inbound:
    port, _, app_port = text.partition("=")
    if not peers:
        raise InvalidInput(f"--inbound {text} needs --allow SPIFFE_ID: who may call")
    return Inbound(
        port=_port(port, text, _PAIR),
        app_port=_port(app_port, text, _PAIR),
        peers=peers,
        secret=svid,
        validation=validation,
    )


def _outbound(text: str, svid: str, validation: str) -> Outbound:
    port, _, rest = text.partition("=")
    address, _, peer = rest.partition("@")
    host, _, host_port = address.rpartition(":")
    if not peer:
        raise InvalidInput(f"--outbound {text} names no peer: write PORT=HOST:PORT@SPIFFE_ID")
    return Outbound(
        port=_port(port, text, _PEER),
        host=host.strip("[]"),
        host_port=_port(host_port, text, _PEER),
        peer=SpiffeID.parse(peer),
        secret=svid,
        validation=validation,
    )


def _port(text: str, option: str, written: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidInput(f"{option!r}: {text!r} is not a port; write {written}")
    return int(text)

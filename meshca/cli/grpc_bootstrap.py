"""`meshca grpc`: the bootstrap of a program that speaks xDS itself, through gRPC."""

import ipaddress
import json
import socket
from pathlib import Path
from typing import Annotated, Any

import typer

from meshca.cli.options import address_option, given_path
from meshca.cli.output import remark
from meshca.errors import InvalidInput
from meshca.model import router_names
from spiffe.id import TrustDomain

REFRESH = "1s"
"""How often gRPC looks whether the files have changed: a leaf may live for ten seconds only."""

_FILES = ("certificate_file", "private_key_file", "ca_certificate_file")

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def grpc() -> None:
    """Programs that speak gRPC without a proxy."""


@app.command()
def bootstrap(
    *,
    certs: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            parser=given_path,
            help="Where `meshca svid fetch --watch --write DIR` keeps the SVID.",
            show_default=False,
        ),
    ],
    router: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the routing server is.")] = "127.0.0.1:15010",
    trust_domain: Annotated[str, typer.Option(help="Whose routing server it must be.")] = "mesh.local",
    address: Annotated[str | None, address_option("Which of its workload's endpoints this is, for a server.")] = None,
    node_id: Annotated[str, typer.Option(help="gRPC's node id; else the host name.", show_default=False)] = "",
) -> None:
    """Print the bootstrap (JSON) that GRPC_XDS_BOOTSTRAP names: routes from our routing server, mutual TLS with SVIDs from files.

    gRPC knows the routing server by the name in its certificate, which must lead to it: router.TRUST_DOMAIN.meshca.internal, or, where it
    listens on 127.0.0.1, router.TRUST_DOMAIN.meshca.localhost, which does so by itself.
    """
    host, _, port = router.rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        raise InvalidInput(f"--router {router!r} is not written HOST:PORT, such as 127.0.0.1:15010")
    anywhere, here = router_names(TrustDomain(trust_domain))
    name = here if _is_here(host) else anywhere
    if name == anywhere != host:
        remark(f"gRPC looks for the routing server under {anywhere}: let /etc/hosts or DNS lead that to {host}")
    files = _files(certs.absolute())
    if missing := [Path(files[each]).name for each in _FILES if not Path(files[each]).exists()]:
        remark(
            f"{certs} has no {', '.join(missing)} yet: `meshca svid fetch --watch --write {certs}` makes them and keeps them fresh"
        )
    node = {"id": node_id or socket.gethostname(), "metadata": {"meshca.address": address} if address else {}}
    typer.echo(json.dumps(_document(f"dns:///{name}:{port}", files, node), indent=2))


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _files(directory: Path) -> dict[str, str]:
    """The default SVID, as a set: gRPC reads a key and a certificate that do not fit once more."""
    return {
        "certificate_file": str(directory / "svid.0.pem"),
        "private_key_file": str(directory / "svid.0.key"),
        "ca_certificate_file": str(directory / "bundle.0.pem"),
        "refresh_interval": REFRESH,
    }


def _document(uri: str, files: dict[str, str], node: dict[str, Any]) -> dict[str, Any]:
    from meshca.router.resources.proxyless import SERVER_PREFIX  # noqa: PLC0415 - loads protobuf
    from meshca.router.resources.proxyless_clusters import PROVIDER  # noqa: PLC0415 - same

    credentials = {"type": "tls", "config": files}
    return {
        "xds_servers": [{"server_uri": uri, "channel_creds": [credentials], "server_features": ["xds_v3"]}],
        "node": node,
        "certificate_providers": {PROVIDER: {"plugin_name": "file_watcher", "config": files}},
        "server_listener_resource_name_template": f"{SERVER_PREFIX}%s",
    }

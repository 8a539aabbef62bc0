"""`meshca router`: run the routing server, and judge its configuration before it does."""

# ruff: noqa: PLC0415 - the server loads grpc, the checks do not

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshca.cli.exits import Exit, Failure
from meshca.cli.options import MAX_PORT, Format, Output, WorkloadSocket, workload_endpoint
from meshca.cli.output import emit, remark, rows
from meshca.cli.router_files import Domain, StatusSocket, read_state
from meshca.errors import InvalidInput
from meshca.wording import counted
from spiffe.id import SpiffeID, TrustDomain

if TYPE_CHECKING:
    from meshca.router.explain import Explanation
    from meshca.router.mesh.objects import Problem
    from meshca.router.mesh.state import State

app = typer.Typer(no_args_is_help=True, add_completion=False)

Directory = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="The directory of configuration: *.yaml, *.yml, *.json.", show_default=False),
]


@app.callback()
def router() -> None:
    """Routes in terms of identities: serve them to proxies, and check them before."""


@app.command()
def run(
    *,
    config_dir: Annotated[
        Path, typer.Option("--config-dir", metavar="DIR", help="The directory of configuration; it is watched.")
    ],
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", help="Where proxies dial, by mutual TLS.")
    ] = "127.0.0.1:15010",
    http: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", help="Where to tell /metrics, /live and /ready; else nowhere.")
    ] = "",
    socket: WorkloadSocket = "",
    status_socket: StatusSocket = "",
    domain: Domain = "cluster.local",
) -> None:
    """Serve listeners, routes, clusters and endpoints to proxies, each as far as its identity goes.

    The router is a workload: it needs an entry for spiffe://TRUST_DOMAIN/meshca/router that covers it.
    """
    from meshca import config, logs
    from meshca.clock import SystemClock
    from meshca.hardening import harden
    from meshca.http_api import check_address
    from meshca.router.app import RouterSettings
    from meshca.router.directory import check_directory
    from meshca.router.program import HTTP_ADVICE, serve

    address, port = _place("--listen", listen, "127.0.0.1:15010")
    telling = _place("--http", http, "127.0.0.1:9181") if http else None
    check_directory(config_dir)
    if telling is not None:
        check_address(*telling, HTTP_ADVICE)  # now, and not once there is an identity
    harden()
    logs.configure("console", "info")
    settings = RouterSettings(
        directory=config_dir,
        endpoint=workload_endpoint(socket),
        address=address,
        port=port,
        domain=domain,
        status_socket=Path(status_socket or config.default_router_socket()).absolute(),
        now=SystemClock().now,
    )
    serve(settings, telling)


def _place(option: str, given: str, example: str) -> tuple[str, int]:
    """Address and port. Raises InvalidInput."""
    address, _, port = given.rpartition(":")
    if not (address and port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
        raise InvalidInput(f"{option} {given!r} is not written ADDRESS:PORT, such as {example}")
    return address.strip("[]"), int(port)


@app.command()
def check(
    directory: Directory,
    *,
    trust_domain: Annotated[str, typer.Option(help="The trust domain that service accounts are of.")] = "mesh.local",
    domain: Domain = "cluster.local",
    output: Output = Format.TABLE,
) -> None:
    """Say everything that is wrong with a directory of configuration: file, line and field. Exit 1 if anything is."""
    state = read_state(directory, TrustDomain(trust_domain), domain)
    emit(_document(state), output, lambda: _lines(state))
    if state.problems:
        raise Failure(Exit.FAILED)
    remark(f"{counted(len(state.good), 'object', 'objects')}, all good")


@app.command()
def status(*, status_socket: StatusSocket = "", output: Output = Format.TABLE) -> None:
    """Show the proxies: who each is, how far it is, what it refused and from which objects that came; and all problems."""
    from meshca import config
    from meshca.cli.router_status import ask, tables

    found = ask(Path(status_socket or config.default_router_socket()))
    emit(found, output, lambda: tables(found))


@app.command()
def explain(
    directory: Directory,
    request: Annotated[str, typer.Argument(metavar="HOST[:PORT]/PATH", help="What is asked for.", show_default=False)],
    *,
    caller: Annotated[str, typer.Option("--as", metavar="SPIFFE_ID", help="Who asks.")],
    method: Annotated[str, typer.Option(help="By which method.")] = "GET",
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A header of the request (repeatable).")
    ] = None,
    trust_domain: Annotated[
        str, typer.Option(help="The trust domain that service accounts are of; else that of --as.", show_default=False)
    ] = "",
    domain: Domain = "cluster.local",
    output: Output = Format.TABLE,
) -> None:
    """Say what becomes of a request by what the directory says: which rule, which endpoints, which policies, and why.

    Exit 1 if it goes nowhere, or if anything is wrong with the directory: what is broken takes no part, so the answer may not hold.
    """
    from meshca.router.explain import explain as explained
    from meshca.router.request import Asked
    from meshca.router.resources.worlds import policies_of, world_of

    identity = SpiffeID.parse(caller)
    place, slash, rest = request.partition("/")
    host, colon, port = place.partition(":")
    if not host or (colon and not (port.isascii() and port.isdigit())):
        raise InvalidInput(f"{request!r} is not written HOST[:PORT]/PATH, such as api-server:80/public")
    asked = Asked(
        caller=identity,
        host=host,
        port=int(port) if port else None,
        path=slash + rest or "/",
        method=method,
        headers=dict(map(_header, header or [])),
    )
    own = TrustDomain(trust_domain) if trust_domain else identity.trust_domain
    state = read_state(directory, own, domain)
    found = explained(world_of(state, own), policies_of(state), asked)
    emit(_explanation(found, state), output, lambda: _explanation_tables(found))
    for problem in state.problems:
        remark(f"takes no part: {problem}")
    if state.problems or not found.parts:
        raise Failure(Exit.FAILED)


def _header(written: str) -> tuple[str, str]:
    name, given, value = written.partition("=")
    if not (name and given):
        raise InvalidInput(f"--header {written!r} is not written NAME=VALUE, such as end-user=jason")
    return name.lower(), value


def _explanation(found: "Explanation", state: "State") -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "steps": list(found.steps),
        "parts": [
            {
                "cluster": part.cluster,
                "share": part.share,
                "endpoints": [
                    {"address": each.address, "identity": str(each.identity) if each.identity else None}
                    for each in part.endpoints
                ],
                "policies": [origin.label for origin in part.policies],
            }
            for part in found.parts
        ],
        "problems": [_problem(each) for each in state.problems],
    }


def _explanation_tables(found: "Explanation") -> list[Any]:
    cells = (
        (
            part.cluster,
            f"{part.share:g} %",
            [f"{each.address} as {each.identity or 'anybody'}" for each in part.endpoints],
            [f"{origin.label} ({origin.file}:{origin.line})" for origin in part.policies],
        )
        for part in found.parts
    )
    table = [rows(["CLUSTER", "SHARE", "ENDPOINTS", "POLICIES THERE"], cells)] if found.parts else []
    return [found.verdict, "", *found.steps, "", *table]


def _document(state: "State") -> dict[str, Any]:
    return {
        "objects": len(state.good),
        "problems": [_problem(each) for each in state.problems],
        "warnings": [_problem(each) for each in state.warnings],
    }


def _problem(problem: "Problem") -> dict[str, Any]:
    return {
        "file": problem.file,
        "line": problem.line or None,
        "object": problem.label,
        "field": problem.field,
        "text": problem.text,
    }


def _lines(state: "State") -> list[str]:
    return [*map(str, state.problems), *(f"{each} (a warning)" for each in state.warnings)]

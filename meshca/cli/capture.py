"""`meshca capture`: bring an application's connections to its sidecar without its knowledge."""

import pwd
import shutil
import subprocess
from typing import Annotated

import typer

from meshca.capture import INBOUND_PORT, OUTBOUND_PORT, REMOVAL, Capture, ruleset
from meshca.cli.exits import Exit, Failure
from meshca.cli.output import remark
from meshca.errors import InvalidInput

app = typer.Typer(no_args_is_help=True, add_completion=False)

_NO_RIGHTS = "Operation not permitted"

EnvoyUser = Annotated[
    str,
    typer.Option(
        "--envoy-uid",
        metavar="USER",
        help="Envoy's user, by name or number: never captured, never root.",
        show_default=False,
    ),
]
Apps = Annotated[
    list[str] | None,
    typer.Option(
        "--app",
        metavar="[PORT=]APP_PORT",
        help="Take calls from outside to the application's APP_PORT: to the endpoint's PORT, as in `envoy bootstrap`. Without PORT "
        "the endpoint's port is the application's own, and the calls go in at --inbound-port (repeatable).",
    ),
]
ExcludedUsers = Annotated[
    list[str] | None, typer.Option("--exclude-uid", metavar="USER", help="Leave this user alone (repeatable).")
]
ExcludedPorts = Annotated[
    list[int] | None,
    typer.Option(
        "--exclude-port", metavar="PORT", help="Leave calls to this port alone, beside 53 and 15010 (repeatable)."
    ),
]
ExcludedNetworks = Annotated[
    list[str] | None,
    typer.Option("--exclude-cidr", metavar="CIDR", help="Leave calls to there alone, beside link-local (repeatable)."),
]


@app.command()
def capture(
    *,
    envoy_uid: EnvoyUser = "",
    outbound_port: Annotated[int, typer.Option(help="Where Envoy takes the application's calls.")] = OUTBOUND_PORT,
    inbound_port: Annotated[
        int, typer.Option(help="Where Envoy takes calls to an endpoint's port that is the application's own.")
    ] = INBOUND_PORT,
    app_ports: Apps = None,
    exclude_uid: ExcludedUsers = None,
    exclude_port: ExcludedPorts = None,
    exclude_cidr: ExcludedNetworks = None,
    apply: Annotated[bool, typer.Option("--apply", help="Apply the rules in place of those that are there.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the rules, whether there are any or not.")] = False,
) -> None:
    """Print, apply or remove the nftables rules that bring an application's connections to its Envoy.

    They hold in this network namespace, and take what `meshca envoy bootstrap --transparent` made an Envoy for: all TCP connections that
    leave the host, except those of Envoy's user, to link-local addresses, to DNS and to the router's port 15010; from outside only those
    to the ports of --app.
    """
    if apply and remove:
        raise InvalidInput("--apply and --remove contradict each other: leave one out (--apply replaces what is there)")
    if remove:
        _nft(REMOVAL)
        return
    wanted = Capture(
        envoy_uid=_uid(envoy_uid),
        outbound_port=outbound_port,
        inbound_port=inbound_port,
        apps=_apps(app_ports or []),
        exclude_uids=frozenset(map(_uid, exclude_uid or [])),
        exclude_ports=frozenset(exclude_port or []),
        exclude_cidrs=tuple(exclude_cidr or []),
    )
    if not apply:
        typer.echo(ruleset(wanted), nl=False)
        return
    _nft(ruleset(wanted))
    remark("captured: connections that were there before are not, so start the application anew")


def _uid(written: str) -> int:
    if written.isascii() and written.isdigit():
        return int(written)
    if not written:
        raise InvalidInput("--envoy-uid USER is needed: Envoy's own connections must not come back to it")
    try:
        return pwd.getpwnam(written).pw_uid
    except KeyError as error:
        raise InvalidInput(f"there is no user {written!r} here") from error


def _apps(written: list[str]) -> dict[int, int | None]:
    found: dict[int, int | None] = {}
    for each in written:
        app_port, port = _app(each)
        if app_port in found:
            raise InvalidInput(
                f"--app {each}: calls to {app_port} are taken already; give each of the application's ports once"
            )
        found[app_port] = port
    return found


def _app(written: str) -> tuple[int, int | None]:
    """The application's port, and that of its inbound listener where it has another."""
    outer, given, inner = written.rpartition("=")
    if not all(port.isascii() and port.isdigit() for port in ([outer, inner] if given else [inner])):
        raise InvalidInput(f"--app {written!r} is not written APP_PORT or PORT=APP_PORT, such as 8443=8080")
    port, app_port = int(outer or inner), int(inner)
    return app_port, None if port == app_port else port


def _nft(rules: str) -> None:
    """Have nft do it, all or nothing. Raises Failure."""
    program = shutil.which("nft")
    if program is None:
        raise Failure(
            Exit.FAILED,
            "there is no nft here: install the package nftables, or print the rules and apply them elsewhere",
        )
    done = subprocess.run([program, "-f", "-"], input=rules, text=True, capture_output=True, check=False)
    if _NO_RIGHTS in done.stderr:
        raise Failure(
            Exit.NOT_ALLOWED, "nft may not change rules here: it needs CAP_NET_ADMIN in this network namespace"
        )
    if done.returncode:
        raise Failure(Exit.FAILED, f"nft refused the rules: {done.stderr.strip()}")

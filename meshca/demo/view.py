"""The demo's live view and its summary, as rich renderables. Pure: state in, table out."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from meshca.demo.load import Tally
from meshca.demo.observe import Changes
from meshca.proto import admin_pb2 as pb

WIDTHS = {"SPIFFE ID": len("spiffe://mesh.local/ns/default/sa/frontend")}
STATE_STYLE = {"active": "bold green", "prepared": "cyan", "old": "dim", "tainted": "red"}


def live(
    *,
    now: datetime,
    envoys: Sequence[tuple[str, Changes]],
    authorities: pb.AuthorityList,
    traffic: Mapping[str, Tally],
    rules: Sequence[tuple[str, str, str]],
    step: str,
) -> RenderableType:
    """Everything that a person wants to see at once."""
    return Group(
        Text(f"  {step}", style="italic"),
        Panel(_rules(rules), title="what the YAML asks for, and what is so", border_style="blue"),
        Panel(
            _traffic(traffic),
            title="traffic from frontend to api-server, mutual TLS",
            border_style="red" if any(each.failed for each in traffic.values()) else "green",
        ),
        Panel(_workloads(now, envoys), title="workloads, as their Envoys see themselves", border_style="blue"),
        Panel(_authorities(now, authorities), title="authorities", border_style="blue"),
    )


def _workloads(now: datetime, envoys: Sequence[tuple[str, Changes]]) -> Table:
    table = _table("workload", "SPIFFE ID", "serial", "expires in", "leaves", "roots")
    for name, changes in envoys:
        seen = changes.now
        left = f"{(seen.not_after - now).total_seconds():.0f} s" if seen.not_after else "-"
        trusted = " ".join(sorted(root[:8] for root in seen.roots))
        table.add_row(name, seen.spiffe_id, seen.serial[:12], left, str(changes.leaves + bool(seen.serial)), trusted)
    return table


def _authorities(now: datetime, authorities: pb.AuthorityList) -> Table:
    table = _table("kind", "id", "state", "expires in", "live leaves")
    for each in authorities.authorities:
        state = Text(each.state, style=STATE_STYLE.get(each.state, ""))
        left = each.not_after.ToDatetime(tzinfo=now.tzinfo) - now
        table.add_row(each.kind, each.id[:8], state, f"{left.total_seconds() / 3600:.0f} h", str(each.live_leaves))
    return table


def _traffic(traffic: Mapping[str, Tally]) -> Table:
    table = _table("connections", "requests", "failures", "p50", "p99", "identities seen")
    for name, load in traffic.items():
        failures = Text(str(load.failed), style="bold red" if load.failed else "bold green")
        quantiles = [f"{load.quantile(share) * 1000:.2f} ms" for share in (0.5, 0.99)]
        seen = " ".join(sorted(peer.rpartition("/")[2] for peer in load.peers))
        table.add_row(name, str(load.requests), failures, *quantiles, seen)
    return table


def _rules(rules: Sequence[tuple[str, str, str]]) -> Table:
    table = _table("rule", "asked", "seen")
    for rule in rules:
        table.add_row(*rule)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, expand=True, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold", min_width=WIDTHS.get(column))
    return table

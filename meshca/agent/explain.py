"""Why a process gets what it gets, for `meshca why`: what the gate saw, which entries match, what the nearest lack. Pure."""

from dataclasses import dataclass
from datetime import datetime

from meshca.agent.granting import Outlook, denial
from meshca.agent.workload import Workload
from meshca.matching import NearMiss
from meshca.model import Entry, Selector
from meshca.wording import counted
from sds.caller import UnixPeer

_MOST_MISSES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The answer in parts. `holds` says in words what it holds and what could not be issued, `verdict` all of it in one sentence."""

    caller: str
    selectors: tuple[Selector, ...]
    remarks: tuple[str, ...]
    granted: tuple[Entry, ...]
    near_misses: tuple[NearMiss, ...]
    holds: tuple[str, ...]
    verdict: str


def explain_workload(workload: Workload, outlook: Outlook, now: datetime) -> Explanation:
    """Explain a process that has a stream, or had one."""
    grants = workload.grants.value
    got = ", ".join(str(identity.svid.spiffe_id) for identity in grants.identities)
    waits = "the CA is not ready" if not workload.entries else f"waits for a leaf of {workload.entries[0].spiffe_id}"
    return Explanation(
        caller=str(workload.peer),
        selectors=tuple(sorted(workload.selectors)),
        remarks=workload.remarks,
        granted=workload.entries,
        near_misses=outlook.index.near_misses(workload.selectors, now, _MOST_MISSES),
        holds=(*_leaves(workload), *_setbacks(workload), _bundle(workload)),
        verdict=grants.denied or f"{workload.peer} {f'gets {got}' if got else waits}",
    )


def explain_stranger(
    peer: UnixPeer, selectors: frozenset[Selector], remarks: tuple[str, ...], outlook: Outlook, now: datetime
) -> Explanation:
    """Explain a process that never dialled: what it would get, except for what depends on the socket."""
    entries = outlook.index.entitled(selectors, now)
    misses = outlook.index.near_misses(selectors, now, _MOST_MISSES)
    caller = f"pid {peer.pid} (uid {peer.uid}, gid {peer.gid})"
    would = ", ".join(str(entry.spiffe_id) for entry in entries)
    return Explanation(
        caller=caller,
        selectors=tuple(sorted(selectors)),
        remarks=(*remarks, "it has no connection to a workload socket, so no selector socket:NAME is known"),
        granted=entries,
        near_misses=misses,
        holds=(),
        verdict=f"{caller} would get {would}" if entries else denial(caller, misses),
    )


def _leaves(workload: Workload) -> list[str]:
    return [
        f"{each.svid.spiffe_id}: serial {each.leaf.serial:x} until {each.leaf.not_after:%Y-%m-%d %H:%M:%S}Z, "
        f"held by {workload.holding.streams_with(each.leaf.serial)} of {counted(workload.streams, 'stream', 'streams')}"
        for each in workload.credentials.values()
    ]


def _setbacks(workload: Workload) -> list[str]:
    return [
        f"{entry.spiffe_id}: not issued, {counted(setback.failures, 'time', 'times')}: {setback.text}; "
        f"again at {setback.retry_at:%H:%M:%S}Z"
        for entry in workload.entries
        if (setback := workload.setbacks.get(entry.id)) is not None
    ]


def _bundle(workload: Workload) -> str:
    digest = workload.holding.bundle
    return f"bundle {digest}" if digest else "no bundle that it is known to hold as a whole"

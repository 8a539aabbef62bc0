"""Gets leaves from the CA for workloads that lack them, in batches.

Rules:
- Level-triggered: a batch is composed of what workloads need at that moment, so that nothing is asked for twice or in vain.
- Who is first without a valid leaf is served first.
- One batch at a time; its keys are made, and its leaves read, in a thread. Private keys never leave this process.
- A failure costs nothing but time: see `meshca.agent.renewal`.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from meshca.agent.granting import Credential, Outlook
from meshca.agent.workload import Workload
from meshca.csr import make_csr
from meshca.errors import MeshcaError
from meshca.model import AuthorityKey, Entry, Issued, IssueRequest
from meshca.ports import Authority, Clock
from sds.log_limit import LogLimit
from spiffe.errors import SpiffeError
from spiffe.x509svid import X509SVID

BATCH = 256
"""So many that the CA can group its writes, so few that the first need not wait for the last of thousands."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """One leaf to be issued. The key is made for it and for nothing else."""

    workload: Workload
    entry: Entry
    key: AuthorityKey = field(repr=False)

    def request(self) -> IssueRequest:
        return IssueRequest(entry_id=self.entry.id, csr=make_csr(self.key), holder=self.workload.peer.holder)

    def read(self, outcome: Issued | Exception) -> Credential | Exception:
        """Check what came back before anybody uses it."""
        if isinstance(outcome, Exception):
            return outcome
        try:
            svid = X509SVID(spiffe_id=outcome.leaf.spiffe_id, chain=outcome.chain, private_key=self.key)
            return Credential(leaf=outcome.leaf, svid=svid)
        except SpiffeError as error:
            return error


class Issuing:
    """Issues for workloads that want it. `on_outcome` is called for each workload whose leaf came or failed."""

    def __init__(
        self,
        *,
        authority: Authority,
        clock: Clock,
        make_key: Callable[[], AuthorityKey],
        outlook: Callable[[], Outlook],
        on_outcome: Callable[[Workload], None],
    ) -> None:
        self._authority = authority
        self._clock = clock
        self._make_key = make_key
        self._outlook = outlook
        self._on_outcome = on_outcome
        self._wanting: dict[Workload, None] = {}
        self._wake = asyncio.Event()
        self._log = LogLimit(logger)

    def want(self, workload: Workload) -> None:
        """The workload needs a leaf, or more than one."""
        self._wanting[workload] = None
        self._wake.set()

    async def run(self) -> None:
        """Issue until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while needs := self._take():
                await self._issue(needs)

    def _take(self) -> list[tuple[Workload, Entry]]:
        """The most urgent needs, which count as asked for from now on."""
        outlook, now = self._outlook(), self._clock.now()
        needs = [(workload, entry) for workload in self._wanting for entry in workload.needs(outlook, now)]
        needs.sort(key=lambda need: need[0].urgency(need[1]))
        self._wanting = dict.fromkeys(workload for workload, _ in needs[BATCH:])
        for workload, entry in needs[:BATCH]:
            workload.asked.add(entry.id)
        return needs[:BATCH]

    async def _issue(self, needs: Sequence[tuple[Workload, Entry]]) -> None:
        try:
            outcomes = await self._credentials(needs)
        except MeshcaError as error:
            outcomes = [error] * len(needs)
        finally:
            for workload, entry in needs:
                workload.asked.discard(entry.id)
        for (workload, entry), outcome in zip(needs, outcomes, strict=True):
            self._settle(workload, entry, outcome)

    async def _credentials(self, needs: Sequence[tuple[Workload, Entry]]) -> Sequence[Credential | Exception]:
        orders, requests = await asyncio.to_thread(self._prepare, needs)
        outcomes = await self._authority.issue(requests)
        return await asyncio.to_thread(lambda: [o.read(outcome) for o, outcome in zip(orders, outcomes, strict=True)])

    def _prepare(self, needs: Sequence[tuple[Workload, Entry]]) -> tuple[list[_Order], list[IssueRequest]]:
        orders = [_Order(workload=workload, entry=entry, key=self._make_key()) for workload, entry in needs]
        return orders, [order.request() for order in orders]

    def _settle(self, workload: Workload, entry: Entry, outcome: Credential | Exception) -> None:
        now = self._clock.now()
        if isinstance(outcome, Credential):
            workload.receive(self._outlook(), entry, outcome, now)
        else:
            workload.fail(entry, str(outcome), now)
            self._log.warning(
                "leaf not issued",
                kind=str(outcome),
                peer=str(workload.peer),
                spiffe_id=str(entry.spiffe_id),
                entry=entry.id,
                reason=str(outcome),
                failures=workload.setbacks[entry.id].failures,
            )
        self._on_outcome(workload)

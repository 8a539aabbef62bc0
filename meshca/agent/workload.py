"""One process that asks for its identities: what is known of it, what it gets, what it still needs.

Rules:
- State in one place; each method is one step and none waits. `agent/workloads.py` decides when.
- What was read of the process may only narrow. uid, gid, their names and the socket are the kernel's word at connect and cannot change for
  that connection, so they are never read again; path and sha256 are of the process now, and are read again before each push, but only
  where an entry that matches relies on them.
- A leaf whose entry is gone lives out its time unserved, which is also how a deletion `--now` is known.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from meshca.agent.granting import Credential, Outlook, denial, served
from meshca.agent.holding import Holding, StreamHolding
from meshca.agent.renewal import Setback, due_at, set_back
from meshca.matching import COSTLY, OF_THE_PROGRAM, kind
from meshca.model import Entry, HolderReport, Selector
from sds.caller import UnixPeer
from sds.peer import StartTimeLife
from sds.provider import Grants, Identity
from sds.watch import Latest
from spiffe.id import TrustDomain

_FIRST = datetime.min.replace(tzinfo=UTC)


class Workload:
    """A process, named by its holder. All its streams share its leaves, one for each entry."""

    def __init__(self, caller: UnixPeer, trust_domain: TrustDomain) -> None:
        self.caller = caller
        self.peer = _lasting(caller)
        self.selectors: frozenset[Selector] = frozenset()
        self.remarks: tuple[str, ...] = ()
        self.entries: tuple[Entry, ...] = ()
        self.credentials: dict[str, Credential] = {}
        self.setbacks: dict[str, Setback] = {}
        self.asked: set[str] = set()
        self.streams = 0
        self.ended = False
        self.next_at: datetime | None = None
        self.planned: set[datetime] = set()
        self.grants = Latest(Grants(trust_domain=trust_domain, pending=True))
        self.holding = Holding(caller.holder)
        self._default = ""
        self._read: frozenset[str] = frozenset()

    def attested(
        self, caller: UnixPeer, selectors: frozenset[Selector], remarks: tuple[str, ...], *, read: frozenset[str]
    ) -> None:
        """A connection was made: what was read of the process at that time counts from now on. `read` has the costly kinds that were."""
        self.caller = caller
        self.peer = _lasting(caller)
        self.selectors = selectors
        self.remarks = remarks
        self._read = read

    def narrowed(self, fresh: frozenset[Selector], remarks: tuple[str, ...], *, read: frozenset[str]) -> None:
        """The process was read again: what it no longer has is lost. Costly kinds not read before count if all else is as it was."""
        same = all(kind(each) in COSTLY for each in fresh ^ self.selectors)
        late = frozenset(each for each in fresh if same and kind(each) in read - self._read)
        self.selectors = self.selectors & fresh | late
        self.remarks = remarks
        self._read = read

    def must_be_read(self, candidates: tuple[Entry, ...], outlook: Outlook) -> bool:
        """Whether the process must be looked at again before it is given what these entries say."""
        relied_on = {kind(selector) for entry in candidates for selector in entry.selectors}
        return not self.ended and not (outlook.costly <= self._read and relied_on.isdisjoint(OF_THE_PROGRAM))

    def open(self) -> StreamHolding:
        """One more stream."""
        self.streams += 1
        return self.holding.open()

    def close(self, stream: StreamHolding, monotonic: float) -> None:
        """One stream less."""
        self.streams -= 1
        self.holding.close(stream, monotonic)

    def end(self) -> None:
        """The process has ended: nothing is granted any more, and nobody holds its leaves."""
        self.ended = True
        self.credentials = {}

    def report(self) -> HolderReport | None:
        """What the CA should know that it was not told yet."""
        return HolderReport(holder=self.peer.holder, gone=True) if self.ended else self.holding.report()

    def decide(self, outlook: Outlook, entries: tuple[Entry, ...], now: datetime, monotonic: float) -> None:
        """Set the grants to what these entries give now, by both dials of the clock."""
        self.entries = () if self.ended else entries
        self.credentials = {key: each for key, each in self.credentials.items() if now < each.leaf.not_after}
        self.setbacks = {entry.id: self.setbacks[entry.id] for entry in self.entries if entry.id in self.setbacks}
        self.holding.expire(now, monotonic)
        self.grants.set(self._grants(outlook, now))
        self.next_at = self._next_at(now, monotonic)

    def needs(self, outlook: Outlook, now: datetime) -> tuple[Entry, ...]:
        """The entries to ask a leaf for now: it is missing or stale, somebody listens, and no attempt failed just now."""
        if not self.streams or not outlook.view.active:
            return ()
        return tuple(entry for entry in self.entries if entry.id not in self.asked and self._lacks(outlook, entry, now))

    def urgency(self, entry: Entry) -> datetime:
        """When the process will be without a leaf of this entry: the least is served first."""
        credential = self.credentials.get(entry.id)
        return credential.leaf.not_after if credential is not None else _FIRST

    def receive(self, outlook: Outlook, entry: Entry, credential: Credential, now: datetime) -> None:
        """A leaf was issued. One that is stale as it comes counts as a failure too, lest it be asked for without end."""
        if self.ended:
            return
        self.holding.issued(credential.leaf)
        self.credentials[entry.id] = credential
        if outlook.is_stale(credential, entry, now):
            self.fail(entry, "the leaf that was issued is stale already", now)
        else:
            self.setbacks.pop(entry.id, None)

    def fail(self, entry: Entry, text: str, now: datetime) -> None:
        """No leaf was issued. The one at hand stays, and another try is made later."""
        credential = self.credentials.get(entry.id)
        not_after = credential.leaf.not_after if credential is not None else None
        self.setbacks[entry.id] = set_back(self.setbacks.get(entry.id), now, text, not_after)

    def _grants(self, outlook: Outlook, now: datetime) -> Grants:
        trust_domain = outlook.view.trust_domain
        if self.ended:
            return Grants(trust_domain=trust_domain, denied=f"{self.peer} has ended")
        if not outlook.ready:
            return Grants(trust_domain=trust_domain, pending=True)
        if not self.entries:
            text = denial(str(self.peer), outlook.index.near_misses(self.selectors, now, 1))
            cut_off = not outlook.view.cut_off.isdisjoint(self.credentials)
            return Grants(trust_domain=trust_domain, denied=text, cut_off=cut_off)
        given = served(self.entries, self.credentials, self._default, now)
        self._default = given[0].id if given else self._default
        return Grants(
            trust_domain=trust_domain,
            identities=tuple(Identity(svid=self.credentials[entry.id].svid, hint=entry.hint) for entry in given),
            bundles=outlook.bundles(self.entries),
            pending=not given,
        )

    def _lacks(self, outlook: Outlook, entry: Entry, now: datetime) -> bool:
        setback = self.setbacks.get(entry.id)
        if setback is not None and setback.blocks(now):
            return False
        credential = self.credentials.get(entry.id)
        return credential is None or outlook.is_stale(credential, entry, now)

    def _next_at(self, now: datetime, monotonic: float) -> datetime | None:
        """When time alone will change something."""
        times = [each.leaf.not_after for each in self.credentials.values()]
        times += [entry.expires_at for entry in self.entries if entry.expires_at is not None]
        if self.streams:
            times += [due_at(each.leaf) for each in self.credentials.values()]
            times += [setback.retry_at for setback in self.setbacks.values()]
            if (doubtful_until := self.holding.doubtful_until) is not None:
                times.append(_next_second(now + timedelta(seconds=doubtful_until - monotonic)))
        return min((time for time in times if time > now), default=None)


def _next_second(at: datetime) -> datetime:
    """A little later, so that one wait which is looked at again and again is one time in the timetable."""
    return at.replace(microsecond=0) + timedelta(seconds=1)


def _lasting(caller: UnixPeer) -> UnixPeer:
    """The same process, whose life is asked of pid and start time: that outlives the connection and its pidfd."""
    return replace(caller, alive=StartTimeLife(caller.pid, caller.started).alive)

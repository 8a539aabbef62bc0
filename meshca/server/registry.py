"""Registration entries and federated bundles: what may be said, kept in the store and mirrored in memory.

Rules:
- The store is written first, memory after: a failed write changes nothing.
- Whatever an entry names must make sense here: our trust domain, no reserved path, lifetimes the authorities can carry, known bundles.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from meshca.config import format_duration
from meshca.errors import InvalidInput, NotFound, Refused
from meshca.model import ROUTER_PATH, Entry
from meshca.ports import BundleStore, EntryStore
from meshca.server.applying import Applied, each_of, plan_apply
from meshca.server.entry_rules import check_form, check_words
from spiffe.bundle import Bundle, BundleSet
from spiffe.id import TrustDomain

RESERVED_PATH = "/meshca"


@dataclass(slots=True, kw_only=True)
class Registry:
    """The entries and federated bundles of one trust domain. `on_change` is called after each change, with nothing."""

    trust_domain: TrustDomain
    entry_store: EntryStore
    bundle_store: BundleStore
    longest_ttl: timedelta
    on_change: Callable[[], None]
    _by_id: dict[str, Entry] = field(default_factory=dict, init=False)
    bundles: BundleSet = field(default_factory=BundleSet, init=False)
    cut_off: frozenset[str] = field(default=frozenset(), init=False)

    async def load(self) -> None:
        """Read all of it from the store."""
        self._by_id = {entry.id: entry for entry in await self.entry_store.entries()}
        self.bundles = BundleSet(await self.bundle_store.bundles())
        self.on_change()

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, in the store's order."""
        return tuple(self._by_id.values())

    def find(self, entry_id: str) -> Entry | None:
        """The entry of that id, None where there is none."""
        return self._by_id.get(entry_id)

    def get(self, entry_id: str) -> Entry:
        """The entry of that id. Raises NotFound."""
        entry = self.find(entry_id)
        if entry is None:
            raise NotFound(f"there is no entry {entry_id!r}; `meshca entry list` shows those there are")
        return entry

    async def create(self, entry: Entry) -> Entry:
        """Add an entry. Raises InvalidInput, AlreadyExists."""
        self.check(entry)
        await self.entry_store.create(entry)
        self._keep([entry])
        return entry

    async def update(self, entry: Entry) -> Entry:
        """Replace the entry of that id. Raises InvalidInput, NotFound, AlreadyExists."""
        self.get(entry.id)
        self.check(entry)
        await self.entry_store.update(entry)
        self._keep([entry])
        return entry

    async def delete(self, entry_id: str, *, now: bool) -> Entry:
        """Remove an entry; with `now`, its callers are also told to trust nobody. Raises NotFound."""
        entry = self.get(entry_id)
        await self.entry_store.delete(entry_id)
        if now:
            self.cut_off |= {entry_id}
        self._keep([], [entry])
        return entry

    async def expire(self, now: datetime) -> tuple[Entry, ...]:
        """Remove the entries whose time is over, and return them."""
        over = tuple(entry for entry in self.entries if not entry.is_live(now))
        if over:
            await self.entry_store.apply((), [entry.id for entry in over])
            self._keep([], over)
        return over

    async def apply(
        self, wanted: Sequence[Entry], source: str, *, prune: bool, dry_run: bool, adopt: bool = False
    ) -> Applied:
        """Make the entries those wanted, see `plan_apply`, all or nothing. Raises as that and `create` do, a line for each bad one."""
        check_words("source", source)
        each_of(wanted, self.check)
        plan = plan_apply(self.entries, wanted, source, prune=prune, adopt=adopt)
        if not dry_run and (plan.created or plan.updated or plan.deleted):
            put = [*plan.created, *plan.updated]
            await self.entry_store.apply(put, [entry.id for entry in plan.deleted])
            self._keep(put, plan.deleted)
        return plan

    def check_bundle(self, bundle: Bundle) -> None:
        """Raise Refused for the bundle of our own domain, InvalidInput for one without authorities."""
        self._check_foreign(bundle.trust_domain)
        if not bundle.x509_authorities:
            raise InvalidInput(
                f"the bundle of {bundle.trust_domain} has no X.509 authorities: to stop trusting it, use `meshca bundle delete`"
            )

    async def set_bundle(self, bundle: Bundle) -> Bundle:
        """Keep a federated trust domain's bundle. Raises as `check_bundle` does."""
        self.check_bundle(bundle)
        await self.bundle_store.set(bundle)
        self.bundles = self.bundles.with_bundle(bundle)
        self.on_change()
        return bundle

    def federating(self, trust_domain: TrustDomain, *, dissociate: bool) -> tuple[Entry, ...]:
        """The entries that stop federating with a domain when its bundle is deleted. Raises NotFound; Refused where that was not said."""
        self._check_foreign(trust_domain)
        if self.bundles.get(trust_domain) is None:
            raise NotFound(f"there is no bundle of {trust_domain}; `meshca bundle list` shows those there are")
        users = tuple(entry for entry in self.entries if trust_domain in entry.federates_with)
        if users and not dissociate:
            names = ", ".join(entry.id for entry in users[:5])
            raise Refused(
                f"entries federate with {trust_domain} ({names}; {len(users)} in all): say --dissociate to take it out of them"
            )
        return users

    async def delete_bundle(self, trust_domain: TrustDomain, *, dissociate: bool) -> tuple[Entry, ...]:
        """Stop trusting a domain; return the entries that no longer federate with it. Raises NotFound, Refused."""
        users = self.federating(trust_domain, dissociate=dissociate)
        changed = [replace(entry, federates_with=entry.federates_with - {trust_domain}) for entry in users]
        await self.entry_store.apply(changed, ())
        await self.bundle_store.delete(trust_domain)
        self.bundles = self.bundles.without(trust_domain)
        self._keep(changed)
        return tuple(changed)

    def _keep(self, put: Iterable[Entry], delete: Iterable[Entry] = ()) -> None:
        """Mirror what the store has taken, in its order."""
        kept = self._by_id.copy()
        for entry in delete:
            kept.pop(entry.id, None)
        kept |= {entry.id: entry for entry in put}
        self.cut_off -= kept.keys()  # one that is there again may be deleted again, and more gently
        self._by_id = dict(sorted(kept.items(), key=lambda item: (item[1].created_at, item[0])))
        self.on_change()

    def check(self, entry: Entry) -> None:
        """Raise InvalidInput unless this server can serve the entry."""
        if entry.spiffe_id.trust_domain != self.trust_domain:
            raise InvalidInput(f"{entry.spiffe_id} is not in our trust domain {self.trust_domain}")
        path = entry.spiffe_id.path
        if not entry.is_router and (path == RESERVED_PATH or path.startswith(RESERVED_PATH + "/")):
            raise InvalidInput(
                f"{entry.spiffe_id}: paths below {RESERVED_PATH} are reserved for meshca itself; only {ROUTER_PATH} can be given"
            )
        if entry.ttl is not None and entry.ttl > self.longest_ttl:
            raise InvalidInput(
                f"ttl {format_duration(entry.ttl)} is above the {format_duration(self.longest_ttl)} that an intermediate can carry"
            )
        check_form(entry)
        for trust_domain in sorted(entry.federates_with):
            if self.bundles.get(trust_domain) is None:
                raise InvalidInput(
                    f"no bundle of {trust_domain} is known: add it first with `meshca bundle set --trust-domain {trust_domain}`"
                )

    def _check_foreign(self, trust_domain: TrustDomain) -> None:
        """Our own bundle follows from our authorities and from nothing else."""
        if trust_domain == self.trust_domain:
            raise Refused(
                f"{trust_domain} is our own trust domain: its bundle follows from `meshca authority`, nobody sets it"
            )

"""What a caller gets out of the CA's view: decisions only, no clock and no I/O.

Rules:
- Bundles follow the view at once; identities follow their leaves.
- The default identity stays with the entry that had it until a new default entry has its leaf; while there is neither, nothing is
  granted, since the next identity would pass for the default (WA-72).
- A leaf that is not valid, or that names what its entry no longer says, is not served.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509

from meshca.agent.renewal import due
from meshca.matching import EntryIndex, NearMiss, costly
from meshca.model import Entry, Leaf, View
from spiffe.bundle import BundleSet
from spiffe.id import TrustDomain
from spiffe.x509svid import X509SVID


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A leaf of ours with its key: the record of it, and the SVID."""

    leaf: Leaf
    svid: X509SVID
    dns_names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Read the names once; they are compared at each decision."""
        san = self.svid.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        object.__setattr__(self, "dns_names", frozenset(san.get_values_for_type(x509.DNSName)))

    def serves(self, entry: Entry, now: datetime) -> bool:
        """Whether it may be handed out for the entry."""
        return self.svid.spiffe_id == entry.spiffe_id and now < self.leaf.not_after


class Outlook:
    """The CA's view, made quick to ask. Made anew for each view, except for the index where the entries are the same."""

    def __init__(self, view: View, before: "Outlook | None" = None) -> None:
        self.view = view
        same = before is not None and before.view.entries == view.entries
        self.index: EntryIndex = before.index if before is not None and same else EntryIndex(view.entries)
        self.costly = costly(self.index.wanted)
        self._bundles: dict[frozenset[TrustDomain], BundleSet] = {}
        own = view.bundles.get(view.trust_domain)
        self._roots = frozenset(map(_key_id, own.x509_authorities)) if own else frozenset()

    def bundles(self, entries: Iterable[Entry]) -> BundleSet:
        """The own bundle and those that the entries federate with, none of them empty. Equal sets are one object."""
        domains = frozenset({self.view.trust_domain}.union(*(entry.federates_with for entry in entries)))
        if domains not in self._bundles:
            known = (self.view.bundles.get(domain) for domain in domains)
            self._bundles[domains] = BundleSet(
                bundle for bundle in known if bundle is not None and bundle.x509_authorities
            )
        return self._bundles[domains]

    @property
    def ready(self) -> bool:
        """Whether there is a CA at all: before, nobody is denied anything."""
        return bool(self.bundles(()))

    def is_stale(self, credential: Credential, entry: Entry, now: datetime) -> bool:
        """Whether the entry's leaf is to be replaced: half its life is over, its names or its authority changed.

        Or it is not valid yet: the clock was ahead when it was issued.
        """
        leaf = credential.leaf
        outdated = leaf.spiffe_id != entry.spiffe_id or credential.dns_names != frozenset(entry.certified_names)
        early = now < credential.svid.leaf.not_valid_before_utc
        return outdated or early or due(leaf, now) or self._must_be_replaced(leaf)

    def _must_be_replaced(self, leaf: Leaf) -> bool:
        """Not while the authority to be left is still the one that signs: then a new leaf would be as the old one.

        A root that was dropped by force is not there to be left any more, but whoever shows a leaf below it is refused by all.
        """
        if leaf.intermediate_id == self.view.active or not self._roots:
            return False
        return leaf.root_id not in self._roots or not self.view.replace.isdisjoint((leaf.intermediate_id, leaf.root_id))


def _key_id(authority: x509.Certificate) -> str:
    """The id of an authority: its subject key identifier in hex."""
    return x509.SubjectKeyIdentifier.from_public_key(authority.public_key()).digest.hex()


def served(
    entries: tuple[Entry, ...], credentials: Mapping[str, Credential], default: str, now: datetime
) -> tuple[Entry, ...]:
    """The entries whose leaves are handed out, the default first. `default` is the id of the entry that was the default so far."""
    ready = [entry for entry in entries if entry.id in credentials and credentials[entry.id].serves(entry, now)]
    if not ready or ready[0] == entries[0]:
        return tuple(ready)
    ready.sort(key=lambda entry: entry.id != default)
    return tuple(ready) if ready[0].id == default else ()


def denial(caller: str, misses: tuple[NearMiss, ...]) -> str:
    """Why a caller gets nothing, in a sentence."""
    nearest = f"the nearest, {misses[0]}" if misses else "there are no entries"
    return f"{caller} matches no entry; {nearest}"

"""Trust bundles over the admin API. Our own follows from the authorities; only foreign ones are set and deleted."""

from collections.abc import AsyncIterator
from typing import Any

from meshca.errors import NotFound, Refused
from meshca.model import View
from meshca.proto import admin_pb2 as pb
from meshca.proto import admin_pb2_grpc as rpc
from meshca.server.convert import bundle_message, bundle_of, parsed
from meshca.server.registry import Registry
from meshca.server.wish import Asked
from sds.watch import Latest
from spiffe.bundle import Bundle
from spiffe.certificate import Fields
from spiffe.id import SpiffeID, TrustDomain


def check_foreign(bundle: Bundle, ours: Bundle) -> None:
    """Raise Refused for a bundle that would let one trust domain speak with the keys of another: most likely it is the wrong file."""
    if bundle.trust_domain == ours.trust_domain:
        return  # refused by whoever keeps bundles
    our_keys = [authority.public_key() for authority in ours.x509_authorities]
    for authority in bundle.x509_authorities:
        if authority.public_key() in our_keys:
            raise Refused(f"the bundle of {bundle.trust_domain} has a root of our own, {ours.trust_domain}")
        for uri in Fields.read(authority).uris:
            if uri.startswith("spiffe://") and SpiffeID.parse(uri).trust_domain != bundle.trust_domain:
                raise Refused(f"the bundle of {bundle.trust_domain} has a root that says it is of {uri}")


class BundleAPI(rpc.BundlesServicer):
    """The Bundles service."""

    def __init__(self, *, registry: Registry, view: Latest[View], asked: Asked) -> None:
        self._registry = registry
        self._view = view
        self._asked = asked

    async def Get(self, request: pb.BundleRequest, context: Any) -> pb.Bundle:  # noqa: N802, ARG002 - the proto names it
        """One bundle; our own when no trust domain is named."""
        return bundle_message(self._bundle(self._view.value, request.trust_domain))

    async def List(self, request: pb.Empty, context: Any) -> pb.BundleList:  # noqa: N802, ARG002 - same
        """All bundles, by trust domain."""
        return pb.BundleList(bundles=[bundle_message(bundle) for bundle in self._view.value.bundles.values()])

    async def Set(self, request: pb.Bundle, context: Any) -> pb.Bundle:  # noqa: N802 - same
        """Add or replace a foreign bundle."""
        async with self._asked("bundle.set", context) as wish:
            bundle = bundle_of(request)
            check_foreign(bundle, self._bundle(self._view.value, ""))
            self._registry.check_bundle(bundle)
            await wish.record(trust_domain=str(bundle.trust_domain), digest=bundle.digest)
            return bundle_message(await self._registry.set_bundle(bundle))

    async def Delete(self, request: pb.DeleteBundleRequest, context: Any) -> pb.DeleteBundleResponse:  # noqa: N802 - same
        """Stop trusting a foreign domain."""
        async with self._asked("bundle.delete", context) as wish:
            trust_domain = parsed(TrustDomain.parse, request.trust_domain, "trust_domain")
            self._registry.federating(trust_domain, dissociate=request.dissociate)
            await wish.record(trust_domain=str(trust_domain), dissociate=request.dissociate)
            changed = await self._registry.delete_bundle(trust_domain, dissociate=request.dissociate)
        return pb.DeleteBundleResponse(dissociated_entries=[entry.id for entry in changed])

    async def Watch(self, request: pb.BundleRequest, context: Any) -> AsyncIterator[pb.Bundle]:  # noqa: N802, ARG002 - same
        """The bundle now, then each newer one; ends with NOT_FOUND when it is deleted."""
        last: Bundle | None = None
        async for view in self._view.watch():
            bundle = self._bundle(view, request.trust_domain)
            if bundle != last:
                yield bundle_message(bundle)
            last = bundle

    def _bundle(self, view: View, name: str) -> Bundle:
        trust_domain = parsed(TrustDomain.parse, name, "trust_domain") if name else view.trust_domain
        bundle = view.bundles.get(trust_domain)
        if bundle is None:
            raise NotFound(f"there is no bundle of {trust_domain}; `meshca bundle list` shows those there are")
        return bundle
